//! Shows that no spelling, copy or nomination gets a field past us: HDR-03, HDR-06, PROXY-01, PROXY-02, REG-07.

use proptest::prelude::*;
use serde_json::json;

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

fn names(map: &HeaderMap) -> Vec<&str> {
    let mut names: Vec<&str> = map.keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    names
}

fn owned(names: &[&'static str]) -> Owned {
    let names: Vec<HeaderName> = names
        .iter()
        .map(|name| HeaderName::from_static(name))
        .collect();
    Owned::new(&names)
}

#[test]
fn every_spelling_of_an_owned_name_is_owned() {
    let owned = owned(&["x-user", "authorization", "x-user-groups"]);
    for (name, header, want) in [
        ("itself", "x-user", true),
        ("case", "X-User", true),
        ("underscore (REG-07)", "x_user", true),
        ("dot", "x.user", true),
        ("mixed", "X_User-Groups", true),
        ("other separators fold to _ in CGI", "x!user", true),
        ("no separator", "xuser", false),
        ("longer", "x-user-id", false),
        ("shorter", "x-use", false),
        ("doubled separator", "x--user", false),
        ("authorization", "AUTHORIZATION", true),
        ("proxy's own", "proxy-authorization", false),
    ] {
        let header = HeaderName::from_bytes(header.as_bytes()).unwrap();
        assert_eq!(owned.is_owned(&header), want, "{name}");
    }
}

#[test]
fn owned_names_go_in_all_spellings_and_copies() {
    let mut map = map(&[
        ("x-user", "a"),
        ("x-user", "b"),
        ("X_USER", "c"),
        ("x.user", "d"),
        ("accept", "*/*"),
    ]);
    owned(&["x-user"]).strip(&mut map);
    assert_eq!(names(&map), ["accept"]);
}

#[test]
fn long_names_are_owned_too() {
    let long = "x-".to_owned() + &"a".repeat(100);
    let name = HeaderName::from_bytes(long.as_bytes()).unwrap();
    let owned = Owned::new([&name]);
    assert!(owned.is_owned(&name));
    assert!(!owned.is_owned(&HeaderName::from_bytes(&long.as_bytes()[..99]).unwrap()));
}

#[test]
fn hop_by_hop_fields_go() {
    for (name, fields, upgrade, want) in [
        (
            "the fixed ones (PROXY-01)",
            &[
                ("connection", "keep-alive"),
                ("keep-alive", "timeout=5"),
                ("proxy-connection", "keep-alive"),
                ("proxy-authorization", "Basic x"),
                ("proxy-authenticate", "Basic"),
                ("te", "deflate"),
                ("upgrade", "h2c"),
                ("http2-settings", "AAMAAABkAAQ"),
                ("accept", "*/*"),
            ][..],
            false,
            &["accept"][..],
        ),
        (
            "nominated ones, over several fields",
            &[
                ("connection", "x-one, X-Two"),
                ("connection", ",x-three,"),
                ("x-one", "1"),
                ("x-two", "2"),
                ("x-three", "3"),
                ("x-four", "4"),
            ],
            false,
            &["x-four"],
        ),
        (
            "nominations cannot take essentials (PROXY-02)",
            &[
                (
                    "connection",
                    "host, cookie, authorization, x-forwarded-for, x-forwarded-proto, content-length, \
                     transfer-encoding, set-cookie, cache-control, sec-fetch-site, origin",
                ),
                ("host", "h"),
                ("cookie", "a=b"),
                ("authorization", "Bearer x"),
                ("x-forwarded-for", "1.2.3.4"),
                ("x-forwarded-proto", "https"),
                ("content-length", "1"),
                ("transfer-encoding", "chunked"),
                ("set-cookie", "a=b"),
                ("cache-control", "private"),
                ("sec-fetch-site", "cross-site"),
                ("origin", "https://evil.example"),
            ],
            false,
            &[
                "authorization",
                "cache-control",
                "content-length",
                "cookie",
                "host",
                "origin",
                "sec-fetch-site",
                "set-cookie",
                "transfer-encoding",
                "x-forwarded-for",
                "x-forwarded-proto",
            ],
        ),
        (
            "WebSocket keeps what it needs",
            &[
                ("connection", "keep-alive, Upgrade, sec-websocket-key"),
                ("upgrade", "websocket"),
                ("sec-websocket-key", "x"),
            ],
            true,
            &["connection", "sec-websocket-key", "upgrade"],
        ),
        (
            "no Connection without Upgrade",
            &[("connection", "upgrade")],
            true,
            &[],
        ),
        (
            "gRPC keeps te: trailers",
            &[("te", "trailers, deflate")],
            false,
            &["te"],
        ),
        (
            "junk nominations do no harm",
            &[("connection", "a b, \u{7f}x, close"), ("accept", "*/*")],
            false,
            &["accept"],
        ),
    ] {
        // A DEL cannot stand in a value: such a field cannot arrive.
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| (*name, value.replace('\u{7f}', "")))
            .collect();
        let fields: Vec<_> = fields.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let mut map = map(&fields);
        strip_hop_by_hop(&mut map, upgrade);
        assert_eq!(names(&map), want, "{name}");
        if map.contains_key(TE) {
            assert_eq!(map[TE], "trailers", "{name}");
        }
        if map.contains_key(CONNECTION) {
            assert_eq!(map[CONNECTION], "upgrade", "{name}");
        }
    }
}

#[test]
fn claims_become_values_that_say_one_thing() {
    for (name, claim, want) in [
        ("text", json!("jane@example.com"), Some("jane@example.com")),
        (
            "text with comma and space",
            json!("Doe, Jane"),
            Some("Doe, Jane"),
        ),
        (
            "CR LF (HDR-06)",
            json!("a\r\nx-admin: 1"),
            Some("a%0D%0Ax-admin: 1"),
        ),
        ("NUL and tab", json!("a\0b\tc"), Some("a%00b%09c")),
        ("non-ASCII", json!("Zoë"), Some("Zo%C3%AB")),
        (
            "percent, else not invertible",
            json!("50%2C"),
            Some("50%252C"),
        ),
        (
            "space at the ends is not trimmed away",
            json!(" admin "),
            Some("%20admin%20"),
        ),
        ("only space", json!("  "), Some("%20%20")),
        ("empty", json!(""), Some("")),
        (
            "two addresses in one stay one (REG-05)",
            json!("a@evil.com@corp.com"),
            Some("a@evil.com@corp.com"),
        ),
        ("number", json!(42), Some("42")),
        ("bool", json!(true), Some("true")),
        ("list", json!(["a", "b", 3, false]), Some("a,b,3,false")),
        (
            "comma in an element",
            json!(["a,admin", "b"]),
            Some("a%2Cadmin,b"),
        ),
        (
            "null elements are absent (OIDC-18)",
            json!([null, "a", null]),
            Some("a"),
        ),
        ("null", json!(null), None),
        ("object", json!({"a": 1}), None),
        ("list with an object", json!(["a", {}]), None),
        ("nested list", json!([["a"]]), None),
        ("empty list", json!([]), None),
        ("list of null", json!([null]), None),
    ] {
        let got = claim_value(&claim.into());
        assert_eq!(
            got.as_ref().map(|value| value.to_str().unwrap()),
            want,
            "{name}"
        );
    }
}

#[test]
fn over_long_claims_have_no_value() {
    assert!(claim_value(&json!("a".repeat(MAX_CLAIM)).into()).is_some());
    assert!(claim_value(&json!("a".repeat(MAX_CLAIM + 1)).into()).is_none());
    assert!(claim_value(&json!("é".repeat(MAX_CLAIM / 2)).into()).is_none());
    assert!(claim_value(&json!(vec!["group"; 2000]).into()).is_none());
}

proptest! {
    #[test]
    fn lists_split_back_into_their_elements(elements in proptest::collection::vec(".{0,12}", 1..6)) {
        let value = claim_value(&json!(elements).into()).unwrap();
        let text = value.to_str().unwrap();
        let back: Vec<String> = text
            .split(',')
            .map(|part| percent_encoding::percent_decode_str(part).decode_utf8().unwrap().into_owned())
            .collect();
        prop_assert_eq!(back, elements);
    }

    #[test]
    fn no_respelling_survives(separators in proptest::collection::vec("[-_.!#$&'*+^`|~]", 2), upper in any::<bool>()) {
        let spelling = format!("x{}user{}id", separators[0], separators[1]);
        let spelling = if upper { spelling.to_uppercase() } else { spelling };
        let mut map = map(&[(&spelling, "admin")]);
        owned(&["x-user-id"]).strip(&mut map);
        prop_assert!(map.is_empty());
    }
}
