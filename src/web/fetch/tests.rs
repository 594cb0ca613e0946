//! Shows who is redirected and who is refused: FLOW-22, FLOW-23, RESP-01..06, CSRF-01..04.

use super::*;
use crate::web::host::origin;

fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(*name, http::HeaderValue::from_static(value));
    }
    map
}

const CHROME: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8";

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn only_top_level_page_loads_are_navigations() {
    use Kind::{Navigation, Other};
    for (name, method, fields, want) in [
        (
            "page load (RESP-01)",
            Method::GET,
            &[
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-dest", "document"),
                ("accept", CHROME),
            ][..],
            Navigation,
        ),
        (
            "page load by HEAD",
            Method::HEAD,
            &[
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-dest", "document"),
            ],
            Navigation,
        ),
        (
            "mode alone",
            Method::GET,
            &[("sec-fetch-mode", "navigate")],
            Navigation,
        ),
        (
            "form post (RESP-05)",
            Method::POST,
            &[
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-dest", "document"),
            ],
            Other,
        ),
        (
            "iframe (RESP-06)",
            Method::GET,
            &[
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-dest", "iframe"),
                ("accept", CHROME),
            ],
            Other,
        ),
        (
            "object",
            Method::GET,
            &[("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "object")],
            Other,
        ),
        (
            "fetch() (RESP-02)",
            Method::GET,
            &[
                ("sec-fetch-mode", "cors"),
                ("sec-fetch-dest", "empty"),
                ("accept", "text/html"),
            ],
            Other,
        ),
        (
            "same-origin fetch",
            Method::GET,
            &[("sec-fetch-mode", "same-origin"), ("accept", "text/html")],
            Other,
        ),
        (
            "image",
            Method::GET,
            &[("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")],
            Other,
        ),
        (
            "metadata twice",
            Method::GET,
            &[("sec-fetch-mode", "navigate"), ("sec-fetch-mode", "cors")],
            Other,
        ),
        (
            "WebSocket",
            Method::GET,
            &[
                ("sec-fetch-mode", "websocket"),
                ("upgrade", "websocket"),
                ("connection", "Upgrade"),
            ],
            Other,
        ),
        (
            "upgrade without metadata",
            Method::GET,
            &[("upgrade", "websocket"), ("accept", CHROME)],
            Other,
        ),
        (
            "prefetch (FLOW-23)",
            Method::GET,
            &[
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-dest", "document"),
                ("sec-purpose", "prefetch;prerender"),
            ],
            Other,
        ),
        (
            "old browser (RESP-03)",
            Method::GET,
            &[("accept", CHROME)],
            Navigation,
        ),
        (
            "old browser's XHR (RESP-03)",
            Method::GET,
            &[("accept", CHROME), ("x-requested-with", "XMLHttpRequest")],
            Other,
        ),
        ("curl", Method::GET, &[("accept", "*/*")], Other),
        ("no Accept", Method::GET, &[], Other),
        (
            "API client",
            Method::GET,
            &[("accept", "application/json, text/html;q=0.5")],
            Other,
        ),
        (
            "old browser's form post",
            Method::POST,
            &[("accept", CHROME)],
            Other,
        ),
    ] {
        assert_eq!(kind(&method, &map(fields)), want, "{name}");
    }
}

#[test]
fn html_is_preferred_when_named_and_not_below_json() {
    for (accept, want) in [
        (CHROME, true),
        ("text/html", true),
        ("TEXT/HTML;Q=0.1", true),
        ("text/html;q=0", false),
        ("text/html;q=0.000", false),
        ("application/json", false),
        ("application/json;q=0.9, text/html", true),
        ("application/json, text/html;q=0.9", false),
        ("text/html, application/json", true),
        (
            "text/html;level=1;q=0.4, application/problem+json;q=0.5",
            false,
        ),
        ("*/*", false),
        ("text/*", false),
        ("text/html;q=2", false),
        ("text/html;q=abc", false),
        ("text/html;q=0.", false),
        ("text/htmlx", false),
        ("", false),
    ] {
        assert_eq!(prefers_html(&map(&[("accept", accept)])), want, "{accept}");
    }
    // Several fields are one list (RFC 9110 §5.3).
    assert!(!prefers_html(&map(&[
        ("accept", "text/html;q=0.1"),
        ("accept", "application/json")
    ])));
}

/// RESP-02, RESP-05, RESP-06
#[test]
fn pages_are_for_people_whatever_a_script_accepts() {
    for (name, mode, want) in [
        ("no Fetch Metadata", &[][..], true),
        ("a page, a frame, a form", &["navigate"], true),
        ("fetch()", &["cors"], false),
        ("fetch() at home", &["same-origin"], false),
        ("an image", &["no-cors"], false),
        ("a socket", &["websocket"], false),
        ("said twice", &["navigate", "navigate"], false),
    ] {
        let mut fields = vec![("accept", "text/html")];
        fields.extend(mode.iter().map(|mode| ("sec-fetch-mode", *mode)));
        assert_eq!(wants_page(&map(&fields)), want, "{name}");
    }
    assert!(!wants_page(&map(&[("sec-fetch-mode", "navigate")])));
}

#[test]
fn prefetches_are_known_by_their_purpose() {
    for (name, value, want) in [
        ("sec-purpose", "prefetch", true),
        ("sec-purpose", "prefetch;prerender", true),
        ("sec-purpose", "prefetch;anonymous-client-ip", true),
        ("purpose", "prefetch", true),
        ("x-moz", "prefetch", true),
        ("purpose", "prefetching", false),
        ("sec-purpose", "", false),
    ] {
        assert_eq!(is_prefetch(&map(&[(name, value)])), want, "{name}: {value}");
    }
    assert!(!is_prefetch(&map(&[])));
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn cross_site_requests_are_refused() {
    let ours = [
        origin("https://shop.example.com"),
        origin("https://admin.example.com:8443"),
    ];
    let allowed = CrossSite::Origins(vec![origin("https://partner.example")]);
    let deny = CrossSite::Deny;
    let post = Method::POST;
    for (name, method, fields, is_upgrade, allowed, want) in [
        (
            "same origin (CSRF-02)",
            &post,
            &[
                ("sec-fetch-site", "same-origin"),
                ("origin", "https://shop.example.com"),
            ][..],
            false,
            &deny,
            false,
        ),
        (
            "typed by the user (CSRF-02)",
            &post,
            &[("sec-fetch-site", "none")],
            false,
            &deny,
            false,
        ),
        (
            "cross site",
            &post,
            &[
                ("sec-fetch-site", "cross-site"),
                ("origin", "https://evil.example"),
            ],
            false,
            &deny,
            true,
        ),
        (
            "sibling subdomain (CSRF-04)",
            &post,
            &[
                ("sec-fetch-site", "same-site"),
                ("origin", "https://x.example.com"),
            ],
            false,
            &deny,
            true,
        ),
        (
            "another origin of ours",
            &post,
            &[
                ("sec-fetch-site", "same-site"),
                ("origin", "https://admin.example.com:8443"),
            ],
            false,
            &deny,
            false,
        ),
        (
            "cross site, no origin",
            &post,
            &[("sec-fetch-site", "cross-site")],
            false,
            &deny,
            true,
        ),
        (
            "unknown site value",
            &post,
            &[("sec-fetch-site", "sideways")],
            false,
            &deny,
            true,
        ),
        (
            "two site values",
            &post,
            &[
                ("sec-fetch-site", "same-origin"),
                ("sec-fetch-site", "cross-site"),
            ],
            false,
            &deny,
            true,
        ),
        (
            "site values in one field",
            &post,
            &[("sec-fetch-site", "same-origin, none")],
            false,
            &deny,
            true,
        ),
        (
            "origin of ours",
            &post,
            &[("origin", "https://shop.example.com")],
            false,
            &deny,
            false,
        ),
        (
            "foreign origin",
            &post,
            &[("origin", "https://evil.example")],
            false,
            &deny,
            true,
        ),
        (
            "null origin",
            &post,
            &[("origin", "null")],
            false,
            &deny,
            true,
        ),
        (
            "null origin with a good referer",
            &post,
            &[("origin", "null"), ("referer", "https://shop.example.com/")],
            false,
            &deny,
            true,
        ),
        (
            "other scheme",
            &post,
            &[("origin", "http://shop.example.com")],
            false,
            &deny,
            true,
        ),
        (
            "other port",
            &post,
            &[("origin", "https://shop.example.com:8443")],
            false,
            &deny,
            true,
        ),
        (
            "prefix of ours",
            &post,
            &[("origin", "https://shop.example.com.evil.example")],
            false,
            &deny,
            true,
        ),
        (
            "two origins",
            &post,
            &[
                ("origin", "https://shop.example.com"),
                ("origin", "https://evil.example"),
            ],
            false,
            &deny,
            true,
        ),
        (
            "referer of ours",
            &post,
            &[("referer", "https://shop.example.com/form?x")],
            false,
            &deny,
            false,
        ),
        (
            "foreign referer",
            &post,
            &[("referer", "https://evil.example/https://shop.example.com/")],
            false,
            &deny,
            true,
        ),
        (
            "referer with user information",
            &post,
            &[("referer", "https://shop.example.com@evil.example/")],
            false,
            &deny,
            true,
        ),
        (
            "junk referer",
            &post,
            &[("referer", "about:blank")],
            false,
            &deny,
            true,
        ),
        ("no browser", &post, &[], false, &deny, false),
        (
            "allowed origin",
            &post,
            &[
                ("sec-fetch-site", "cross-site"),
                ("origin", "https://partner.example"),
            ],
            false,
            &allowed,
            false,
        ),
        (
            "not the allowed one",
            &post,
            &[("origin", "https://evil.example")],
            false,
            &allowed,
            true,
        ),
        (
            "allowed altogether",
            &post,
            &[("origin", "https://evil.example")],
            false,
            &CrossSite::Allow,
            false,
        ),
        (
            "DELETE",
            &Method::DELETE,
            &[("origin", "https://evil.example")],
            false,
            &deny,
            true,
        ),
        (
            "PATCH",
            &Method::PATCH,
            &[("origin", "https://evil.example")],
            false,
            &deny,
            true,
        ),
        (
            "GET is safe",
            &Method::GET,
            &[
                ("sec-fetch-site", "cross-site"),
                ("origin", "https://evil.example"),
            ],
            false,
            &deny,
            false,
        ),
        (
            "WebSocket from elsewhere",
            &Method::GET,
            &[
                ("origin", "https://evil.example"),
                ("sec-fetch-site", "cross-site"),
            ],
            true,
            &deny,
            true,
        ),
        (
            "WebSocket, origin alone",
            &Method::GET,
            &[("origin", "https://evil.example")],
            true,
            &deny,
            true,
        ),
        (
            "WebSocket of ours",
            &Method::GET,
            &[("origin", "https://shop.example.com")],
            true,
            &deny,
            false,
        ),
        (
            "WebSocket over HTTP/2",
            &Method::CONNECT,
            &[("origin", "https://evil.example")],
            true,
            &deny,
            true,
        ),
    ] {
        let got = cross_site(method, &map(fields), is_upgrade, &ours, allowed);
        assert_eq!(got, want, "{name}");
    }
    let made_up = Method::from_bytes(b"get").unwrap();
    assert!(
        cross_site(
            &made_up,
            &map(&[("origin", "https://evil.example")]),
            false,
            &ours,
            &deny
        ),
        "methods have case, and an unknown one is not safe"
    );
}

#[test]
fn a_request_for_a_page_that_says_nothing_may_come_from_anywhere() {
    let html = ("accept", "text/html,*/*;q=0.8");
    for (name, fields, want) in [
        ("an old browser without referrer", &[html][..], true),
        ("a script", &[("accept", "*/*")], false),
        ("a program", &[], false),
        (
            "a page of ours",
            &[html, ("referer", "https://shop.example.com/")],
            false,
        ),
        ("Fetch Metadata", &[html, ("sec-fetch-site", "none")], false),
        ("Origin", &[html, ("origin", "null")], false),
    ] {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.insert(*name, value.parse().unwrap());
        }
        assert_eq!(may_come_from_anywhere(&headers), want, "{name}");
    }
}
