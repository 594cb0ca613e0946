//! Searches for a `Cookie` field that gets our cookie past the stripper, or costs another cookie.
//!
//! Lines of the input are fields, as HTTP/2 splits them.
#![no_main]

use daypass::web::cookie;
use http::header::{COOKIE, HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

const OURS: &[&str] = &["__Host-daypass", "__Host-daypass-login"];

fuzz_target!(|input: &[u8]| {
    let mut headers = HeaderMap::new();
    for line in input.split(|byte| *byte == b'\n').take(64) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(COOKIE, value);
        }
    }
    let others = |headers: &HeaderMap| -> Vec<Vec<u8>> {
        let pairs = headers.get_all(COOKIE).iter();
        let pairs = pairs.flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
        pairs
            .map(<[u8]>::trim_ascii)
            .filter(|pair| !pair.is_empty())
            // What even a careless reader would take for ours is no business of this check.
            .filter(|pair| {
                !contains_ours(pair.split(|byte| *byte == b'=').next().unwrap_or_default())
            })
            .map(<[u8]>::to_vec)
            .collect()
    };
    let before = others(&headers);
    cookie::strip(&mut headers, OURS);
    assert_eq!(others(&headers), before, "other cookies stay");
    assert!(headers.get_all(COOKIE).iter().count() <= 1);
    for ours in OURS {
        assert_eq!(cookie::find(&headers, ours).count(), 0, "ours are gone");
    }
    for field in headers.get_all(COOKIE) {
        for pair in field.as_bytes().split(|byte| *byte == b';') {
            let name = pair
                .split(|byte| *byte == b'=')
                .next()
                .unwrap_or_default()
                .trim_ascii();
            assert!(
                !OURS
                    .iter()
                    .any(|ours| name.eq_ignore_ascii_case(ours.as_bytes()))
            );
        }
    }
    let stripped = headers.clone();
    cookie::strip(&mut headers, OURS);
    assert_eq!(headers, stripped, "stripping twice is stripping once");
    let _ = cookie::names_cookie(input, OURS);
});

fn contains_ours(name: &[u8]) -> bool {
    let lower = name.to_ascii_lowercase();
    lower
        .windows(b"__host-daypass".len())
        .any(|window| window == b"__host-daypass")
}
