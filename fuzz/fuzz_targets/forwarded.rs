//! Searches for forwarding headers that crash the reader, or that an untrusted peer gets past it.
//!
//! Lines of the input are `name: value` fields.
#![no_main]

use std::net::IpAddr;

use daypass::web::forwarded::{Client, apply};
use daypass::web::headers::strip_hop_by_hop;
use daypass::web::trace::{RequestId, Trace};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut fields = HeaderMap::new();
    for line in input.split(|byte| *byte == b'\n').take(64) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(&line[..colon]),
            HeaderValue::from_bytes(line[colon + 1..].trim_ascii()),
        ) {
            fields.append(name, value);
        }
    }
    let net = [ipnet()];
    for peer in [None, Some("10.0.0.1"), Some("203.0.113.9")] {
        let peer: Option<IpAddr> = peer.map(|text| text.parse().expect("an address"));
        let mut headers = fields.clone();
        let client = Client::of(peer, &net, &headers, true);
        apply(
            &mut headers,
            &client,
            true,
            HeaderValue::from_static("shop.example.com"),
        );
        strip_hop_by_hop(&mut headers, false);
        Trace::of(&headers).apply(&mut headers);
        assert!((1..=64).contains(&RequestId::of(&headers, client.trusted).as_str().len()));
        for name in ["x-forwarded-proto", "x-forwarded-host", "traceparent"] {
            assert_eq!(headers.get_all(name).iter().count(), 1, "{name}");
        }
        assert!(!headers.contains_key("connection") && !headers.contains_key("upgrade"));
        if client.trusted {
            continue;
        }
        assert_eq!(client.ip, peer.unwrap_or(IpAddr::from([0, 0, 0, 0])));
        assert!(client.proto_https && client.host.is_none());
        for (name, value) in &headers {
            let folded = name
                .as_str()
                .replace(|byte: char| !byte.is_ascii_alphanumeric(), "-");
            let ours = match name.as_str() {
                "x-forwarded-for" => peer.is_some_and(|peer| *value == *peer.to_string()),
                "x-forwarded-proto" => value == "https",
                "x-forwarded-host" => value == "shop.example.com",
                _ => false,
            };
            assert!(
                ours || !(folded.starts_with("x-forwarded-")
                    || folded.starts_with("x-original-")
                    || ["forwarded", "x-forwarded", "x-real-ip", "x-rewrite-url"]
                        .contains(&&*folded)),
                "{name}"
            );
        }
    }
});

fn ipnet() -> ipnet::IpNet {
    "10.0.0.0/8".parse().expect("a network")
}
