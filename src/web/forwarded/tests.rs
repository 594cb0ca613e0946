//! Shows that only trusted peers are believed: HDR-01, HDR-04, HDR-05, REG-01.

use super::*;

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_bytes(value.as_bytes()).unwrap(),
        );
    }
    map
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn nets() -> Vec<IpNet> {
    vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn the_client_is_the_rightmost_hop_that_is_not_trusted() {
    for (name, peer, fields, want) in [
        (
            "untrusted peer is itself (HDR-01)",
            "203.0.113.9",
            &[("x-forwarded-for", "127.0.0.1")][..],
            "203.0.113.9",
        ),
        (
            "trusted peer names the client",
            "10.0.0.1",
            &[("x-forwarded-for", "198.51.100.7")],
            "198.51.100.7",
        ),
        (
            "forged hop on the left (HDR-04)",
            "10.0.0.1",
            &[("x-forwarded-for", "127.0.0.1, 198.51.100.7")],
            "198.51.100.7",
        ),
        (
            "trusted hops are skipped",
            "10.0.0.1",
            &[(
                "x-forwarded-for",
                "127.0.0.1, 198.51.100.7, 10.0.0.2,10.0.0.3",
            )],
            "198.51.100.7",
        ),
        (
            "several fields are one list",
            "10.0.0.1",
            &[
                ("x-forwarded-for", "198.51.100.7"),
                ("x-forwarded-for", "10.0.0.2"),
            ],
            "198.51.100.7",
        ),
        (
            "all hops trusted",
            "10.0.0.1",
            &[("x-forwarded-for", "10.0.0.3, 10.0.0.2")],
            "10.0.0.3",
        ),
        (
            "junk stops the walk",
            "10.0.0.1",
            &[("x-forwarded-for", "198.51.100.7, unknown, 10.0.0.2")],
            "10.0.0.2",
        ),
        (
            "junk at the end",
            "10.0.0.1",
            &[("x-forwarded-for", "198.51.100.7, _hidden")],
            "10.0.0.1",
        ),
        ("no field", "10.0.0.1", &[], "10.0.0.1"),
        (
            "port",
            "10.0.0.1",
            &[("x-forwarded-for", "198.51.100.7:4711")],
            "198.51.100.7",
        ),
        (
            "IPv6",
            "fd00::1",
            &[("x-forwarded-for", "2001:db8::7")],
            "2001:db8::7",
        ),
        (
            "IPv6 in brackets with port",
            "fd00::1",
            &[("x-forwarded-for", "[2001:db8::7]:4711")],
            "2001:db8::7",
        ),
        (
            "mapped peer",
            "::ffff:10.0.0.1",
            &[("x-forwarded-for", "198.51.100.7")],
            "198.51.100.7",
        ),
        (
            "mapped hop",
            "10.0.0.1",
            &[("x-forwarded-for", "198.51.100.7, ::ffff:10.0.0.2")],
            "198.51.100.7",
        ),
        (
            "mapped untrusted peer",
            "::ffff:203.0.113.9",
            &[],
            "203.0.113.9",
        ),
        (
            "underscore alias is not read",
            "10.0.0.1",
            &[("x_forwarded_for", "127.0.0.1")],
            "10.0.0.1",
        ),
        (
            "Forwarded",
            "10.0.0.1",
            &[(
                "forwarded",
                "for=127.0.0.1, for=198.51.100.7;proto=https, for=10.0.0.2",
            )],
            "198.51.100.7",
        ),
        (
            "Forwarded, IPv6",
            "10.0.0.1",
            &[("forwarded", "For=\"[2001:db8::7]:4711\"")],
            "2001:db8::7",
        ),
        (
            "Forwarded, comma in quotes",
            "10.0.0.1",
            &[("forwarded", "for=198.51.100.7;by=\"a, for=127.0.0.1\"")],
            "198.51.100.7",
        ),
        (
            "Forwarded, twice in one",
            "10.0.0.1",
            &[("forwarded", "for=198.51.100.7;for=127.0.0.1")],
            "10.0.0.1",
        ),
        (
            "Forwarded, obfuscated",
            "10.0.0.1",
            &[("forwarded", "for=_gazonk")],
            "10.0.0.1",
        ),
        (
            "X-Forwarded-For before Forwarded",
            "10.0.0.1",
            &[
                ("forwarded", "for=127.0.0.1"),
                ("x-forwarded-for", "198.51.100.7"),
            ],
            "198.51.100.7",
        ),
    ] {
        let client = Client::of(Some(ip(peer)), &nets(), &map(fields), false);
        assert_eq!(client.ip, ip(want), "{name}");
    }
}

#[test]
fn proto_and_host_come_from_the_connection_or_a_trusted_peer() {
    for (name, peer, fields, tls, https, host) in [
        ("plain", "203.0.113.9", &[][..], false, false, None),
        ("TLS", "203.0.113.9", &[], true, true, None),
        (
            "untrusted claims (HDR-05)",
            "203.0.113.9",
            &[
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "evil.example"),
            ],
            false,
            false,
            None,
        ),
        (
            "trusted claims",
            "10.0.0.1",
            &[
                ("x-forwarded-proto", "https"),
                ("x-forwarded-host", "Shop.Example.com:443"),
            ],
            false,
            true,
            Some("shop.example.com:443"),
        ),
        (
            "trusted says http",
            "10.0.0.1",
            &[("x-forwarded-proto", "http")],
            true,
            false,
            None,
        ),
        (
            "nearest of a list",
            "10.0.0.1",
            &[
                ("x-forwarded-proto", "http, https"),
                ("x-forwarded-host", "evil.example, shop.example.com"),
            ],
            false,
            true,
            Some("shop.example.com"),
        ),
        (
            "unknown proto",
            "10.0.0.1",
            &[("x-forwarded-proto", "gopher")],
            true,
            true,
            None,
        ),
        (
            "junk host",
            "10.0.0.1",
            &[("x-forwarded-host", "shop.example.com@evil.example")],
            false,
            false,
            None,
        ),
        (
            "Forwarded",
            "10.0.0.1",
            &[(
                "forwarded",
                "for=1.2.3.4;proto=https;host=\"shop.example.com:443\"",
            )],
            false,
            true,
            Some("shop.example.com:443"),
        ),
    ] {
        let client = Client::of(Some(ip(peer)), &nets(), &map(fields), tls);
        assert_eq!(
            (client.proto_https, client.host.as_deref()),
            (https, host),
            "{name}"
        );
    }
}

#[test]
fn unix_peers_are_trusted_only_when_told_so() {
    let fields = map(&[("x-forwarded-for", "198.51.100.7")]);
    let client = Client::of(None, &nets(), &fields, false);
    assert_eq!((client.ip, client.trusted), (UNKNOWN, false));
    let trusted = ["0.0.0.0/32".parse().unwrap()];
    let client = Client::of(None, &trusted, &fields, false);
    assert_eq!((client.ip, client.trusted), (ip("198.51.100.7"), true));
}

fn applied(peer: Option<&str>, fields: &[(&str, &str)]) -> Vec<String> {
    let mut map = map(fields);
    let client = Client::of(peer.map(ip), &nets(), &map, true);
    apply(
        &mut map,
        &client,
        client.proto_https,
        HeaderValue::from_static("shop.example.com"),
    );
    let mut out: Vec<String> = map
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    out.sort_unstable();
    out
}

#[test]
fn upstreams_hear_of_the_client_from_us_alone() {
    let forged = [
        ("x-forwarded-for", "127.0.0.1"),
        ("X-Forwarded-For", "127.0.0.2"),
        ("x_forwarded_for", "127.0.0.1"),
        ("x.forwarded-proto", "http"),
        ("x-forwarded-uri", "/assets/x"),
        ("x-forwarded-method", "OPTIONS"),
        ("x-forwarded-access-token", "x"),
        ("x-forwarded", "for=x"),
        ("forwarded", "for=127.0.0.1"),
        ("x-real-ip", "127.0.0.1"),
        ("x_real_ip", "127.0.0.1"),
        ("x-original-url", "/admin"),
        ("x-original-uri", "/admin"),
        ("x-rewrite-url", "/admin"),
        ("accept", "*/*"),
        ("x-forwardedness", "mine"),
    ];
    assert_eq!(
        applied(Some("203.0.113.9"), &forged),
        [
            "accept: */*",
            "x-forwarded-for: 203.0.113.9",
            "x-forwarded-host: shop.example.com",
            "x-forwarded-proto: https",
            "x-forwardedness: mine",
        ],
        "untrusted (HDR-01, REG-01)"
    );
    assert_eq!(
        applied(
            Some("10.0.0.1"),
            &[
                ("x-forwarded-for", "198.51.100.7"),
                ("x-forwarded-for", "10.0.0.2"),
                ("x_forwarded_for", "127.0.0.1"),
                ("x-forwarded-port", "443"),
                ("x-forwarded-proto", "http"),
                ("forwarded", "for=198.51.100.7"),
            ]
        ),
        [
            "forwarded: for=198.51.100.7, for=10.0.0.1",
            "x-forwarded-for: 198.51.100.7, 10.0.0.2, 10.0.0.1",
            "x-forwarded-host: shop.example.com",
            "x-forwarded-port: 443",
            "x-forwarded-proto: http",
        ],
        "trusted: appended to (HDR-04)"
    );
    assert_eq!(
        applied(Some("fd00::1"), &[("forwarded", "for=198.51.100.7")]),
        [
            "forwarded: for=198.51.100.7, for=\"[fd00::1]\"",
            "x-forwarded-for: fd00::1",
            "x-forwarded-host: shop.example.com",
            "x-forwarded-proto: https",
        ],
        "IPv6 is quoted (HDR-04)"
    );
    assert_eq!(
        applied(None, &[("x-forwarded-for", "127.0.0.1")]),
        [
            "x-forwarded-host: shop.example.com",
            "x-forwarded-proto: https"
        ],
        "an untrusted Unix peer has no address to tell"
    );
}

#[test]
fn addresses_are_written_as_everywhere() {
    let numbers = [0, 1, 9, 10, 19, 99, 100, 109, 110, 199, 200, 255];
    for a in numbers {
        for b in numbers {
            let ip = Ipv4Addr::new(a, b, b, a).into();
            assert_eq!(Text::of(ip).as_bytes(), ip.to_string().as_bytes());
        }
    }
    for ip in ["::", "fd00::1", "2001:db8:1111:2222:3333:4444:5555:6666"] {
        let text = Text::of(ip.parse().expect("an address"));
        assert_eq!(text.as_bytes(), ip.as_bytes());
    }
}
