//! Shows that nobody is sent elsewhere: FLOW-16, REG-08, and the corpus of open redirects.

use proptest::prelude::*;

use super::*;
use crate::web::host::origin;

fn parse(candidate: &str) -> Option<String> {
    let current = origin("https://shop.example.com");
    let ours = [
        current.clone(),
        origin("https://admin.example.com:8443"),
        origin("http://localhost:8080"),
    ];
    ReturnTo::parse(candidate, &current, &ours, "/oauth2").map(ReturnTo::into_string)
}

#[test]
fn our_own_places_are_kept() {
    for (name, candidate, want) in [
        ("root", "/", "/"),
        ("path", "/orders/7", "/orders/7"),
        (
            "path and query",
            "/search?q=a&r=https://evil.example/",
            "/search?q=a&r=https://evil.example/",
        ),
        ("empty query", "/a?", "/a?"),
        ("fragment is dropped", "/a?b=c#d", "/a?b=c"),
        ("backslash in a query", "/a?b=\\\\c", "/a?b=%5C%5Cc"),
        ("canonical form", "/a/./b//%63", "/a/b/c"),
        ("raw UTF-8", "/caf\u{e9}?q=\u{e9}", "/caf%C3%A9?q=%C3%A9"),
        ("colon and at sign in a path", "/@user:x", "/@user:x"),
        (
            "absolute, current origin",
            "https://shop.example.com/a?b",
            "/a?b",
        ),
        ("absolute, without path", "https://shop.example.com", "/"),
        (
            "absolute, default port",
            "https://shop.example.com:443/a",
            "/a",
        ),
        ("absolute, case", "HTTPS://Shop.Example.COM/A", "/A"),
        (
            "another origin of ours",
            "https://admin.example.com:8443/a?b#c",
            "https://admin.example.com:8443/a?b",
        ),
        (
            "another, without path",
            "http://localhost:8080?x",
            "http://localhost:8080/?x",
        ),
        (
            "name that starts like ours",
            "/oauth2x/login",
            "/oauth2x/login",
        ),
    ] {
        assert_eq!(parse(candidate).as_deref(), Some(want), "{name}");
    }
}

#[test]
fn our_endpoints_are_no_place_to_return_to() {
    for candidate in [
        "/oauth2",
        "/oauth2/login",
        "/oauth2/callback?code=x",
        "/oauth2/logout",
        "/./oauth2/login",
        "/x/../oauth2/login",
        "/%6fauth2/login",
        "/oauth2/%6cogin?redirect=/oauth2/login",
        "https://shop.example.com/oauth2/login",
        "https://admin.example.com:8443/oauth2/login",
    ] {
        assert_eq!(parse(candidate), None, "{candidate}");
    }
}

/// One JSON string a line, so that control characters can be written.
#[test]
fn the_corpus_of_open_redirects_is_refused() {
    let corpus = include_str!("../../../tests/corpus/open_redirects.txt");
    let mut rows = 0;
    for (at, line) in corpus.lines().enumerate() {
        if line.is_empty() || line.starts_with("# ") {
            continue;
        }
        let candidate: String =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("line {}: {error}", at + 1));
        assert_eq!(parse(&candidate), None, "line {}: {candidate:?}", at + 1);
        rows += 1;
    }
    assert!(rows >= 60, "{rows} rows");
}

#[test]
fn over_long_targets_are_refused() {
    let just = format!("/{}", "a".repeat(MAX_RETURN_TO - 1));
    assert_eq!(parse(&just), Some(just.clone()));
    assert_eq!(parse(&format!("{just}a")), None);
    // Grows beyond the limit when escaped.
    assert_eq!(
        parse(&format!("/{}", "é".repeat(MAX_RETURN_TO / 2 - 1))),
        None
    );
}

proptest! {
    /// Whatever is let through leads to one of ours when a browser resolves it, and is let through again unchanged.
    #[test]
    fn what_is_kept_resolves_to_us(
        start in prop_oneof![
            Just(""), Just("/"), Just("//"), Just("/\\"), Just("/./"), Just("/%2e//"), Just("https:"), Just("https://"),
            Just("https://shop.example.com"), Just("https://shop.example.com@"), Just("http://localhost:8080/"),
        ],
        rest in prop_oneof![
            "[/\\\\.@:?#%a-c0-9 \\t;]{0,16}",
            ".{0,16}",
            "(/|\\.|\\.\\.|%2e|%2f|%5c|evil\\.example|@|:){0,8}",
        ],
    ) {
        let candidate = format!("{start}{rest}");
        if let Some(kept) = parse(&candidate) {
            let base = Url::parse("https://shop.example.com/oauth2/callback").unwrap();
            let url = base.join(&kept).unwrap();
            prop_assert!(
                ["https://shop.example.com", "https://admin.example.com:8443", "http://localhost:8080"]
                    .contains(&url.origin().ascii_serialization().as_str()),
                "{} led to {}", candidate, url
            );
            prop_assert!(!kept.contains('\\') && !kept.contains("/../") && !kept.starts_with("//"));
            prop_assert!(kept.bytes().all(|byte| byte.is_ascii_graphic()), "{}", kept);
            prop_assert_eq!(parse(&kept), Some(kept));
        }
    }
}
