//! Shows that a client cannot speak under names that are ours, nor name our words away, on any kind of route.

use serde_json::json;

use crate::stage::{JANE, Stage, assert_jane, assert_nobody};

/// Lines a client may send to be taken for somebody else, or to take away what we add.
const LINES: &[(&str, &str)] = &[
    ("plain", "X-User: evil\r\n"),
    ("lower case", "x-user: evil\r\n"),
    ("mixed case", "X-uSeR: evil\r\n"),
    ("underscore (REG-07)", "X_User: evil\r\n"),
    ("dot", "X.User: evil\r\n"),
    (
        "copies",
        "X-User: evil\r\nX-User: 248289761001\r\nx-user: evil\r\n",
    ),
    (
        "copies in several spellings",
        "X-User: evil\r\nX_User: evil\r\nX.User: evil\r\nx_USER: evil\r\n",
    ),
    ("empty", "X-User:\r\n"),
    ("spaces", "X-User:    evil   \r\n"),
    (
        "all of them",
        "X-Name: evil\r\nX_Email: evil\r\nx.groups: admin\r\nX-Groups: admin\r\n",
    ),
    (
        "Connection names the identity (PROXY-02)",
        "Connection: x-user\r\nX-User: evil\r\n",
    ),
    (
        "Connection names all of ours",
        "Connection: x-user, x-name, x-email, x-groups, authorization\r\n",
    ),
    (
        "Connection names in other case",
        "Connection: X-USER, AUTHORIZATION\r\n",
    ),
    (
        "Connection names with underscores",
        "Connection: x_user\r\nX_User: evil\r\n",
    ),
    (
        "Connection names the token",
        "Connection: authorization\r\n",
    ),
    ("Connection names the cookie", "Connection: cookie\r\n"),
    (
        "Connection names odd ones",
        "Connection: keep-alive, te, x-user, x_user, x.user\r\n",
    ),
    (
        "Connection twice",
        "Connection: x-user\r\nConnection: authorization\r\n",
    ),
    (
        "Keep-Alive names",
        "Keep-Alive: x-user\r\nProxy-Connection: authorization\r\n",
    ),
    ("trailer names", "Trailer: x-user\r\n"),
    ("latin-1 value", "X-User: \u{e9}vil\r\n"),
];

#[tokio::test(flavor = "multi_thread")]
async fn identity_is_what_we_say_it_is() {
    let stage = Stage::signed_in(|setup, upstream| {
        setup.route_first(json!({
            "name": "optional", "path_prefix": "/optional", "access": "optional", "upstream": upstream,
        }))
    })
    .await;
    for (row, lines) in LINES {
        let answer = stage.raw_get(b"/a", &format!("{lines}Cookie: @COOKIE@\r\n"));
        // Naming the cookie or the host away may be refused; what is forwarded is Jane's.
        match (answer.status(), stage.arrived(row)) {
            (Some(200), Some(seen)) => assert_jane(row, &seen),
            other => panic!("{row}, session: {other:?} {}", answer.text()),
        }
        for (path, cookie) in [
            ("/public/a", "Cookie: @COOKIE@\r\n"),
            ("/public/a", ""),
            ("/optional/a", ""),
        ] {
            let answer = stage.raw_get(path.as_bytes(), &format!("{lines}{cookie}"));
            assert_eq!(
                answer.status(),
                Some(200),
                "{row}, {path}: {}",
                answer.text()
            );
            let seen = stage
                .arrived(row)
                .unwrap_or_else(|| panic!("{row}, {path}"));
            assert_nobody(row, &seen);
            assert_eq!(seen.header("cookie"), None, "{row}, {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_authorization_reaches_public_routes_only() {
    let stage = Stage::signed_in(|setup, upstream| {
        setup
            .route_first(json!({
                "name": "optional", "path_prefix": "/optional", "access": "optional", "upstream": upstream,
            }))
            .route_first(json!({
                "name": "raw-token", "path_prefix": "/raw", "upstream": upstream, "token": {"header": "x-access.token"},
            }))
            .route_first(json!({
                "name": "no-token", "path_prefix": "/none", "upstream": upstream, "token": {"kind": "none"},
            }))
    })
    .await;
    for (row, line) in [
        ("bearer", "Authorization: Bearer evil\r\n"),
        ("other case", "aUTHORIZATION: Bearer evil\r\n"),
        (
            "copies",
            "Authorization: Bearer evil\r\nAuthorization: Basic evil\r\n",
        ),
        (
            "our own header",
            "X-Access-Token: evil\r\nX_Access_Token: evil\r\nX-Access.Token: evil\r\nAuthorization: evil\r\n",
        ),
    ] {
        let with_cookie = format!("{line}Cookie: @COOKIE@\r\n");
        for (path, lines) in [
            ("/a", &*with_cookie),
            ("/raw/a", &*with_cookie),
            ("/none/a", &*with_cookie),
            ("/optional/a", line),
            ("/optional/a", &*with_cookie),
        ] {
            let answer = stage.raw_get(path.as_bytes(), lines);
            assert_eq!(
                answer.status(),
                Some(200),
                "{row}, {path}: {}",
                answer.text()
            );
            let seen = stage
                .arrived(row)
                .unwrap_or_else(|| panic!("{row}, {path}"));
            let tokens = seen.header_all("authorization");
            assert!(
                tokens.iter().all(|token| !token.contains("evil")),
                "{row}, {path}"
            );
            let raw: Vec<_> = seen
                .headers
                .iter()
                .filter(|(name, _)| crate::stage::folded(name) == "x-access-token")
                .collect();
            if path == "/raw/a" {
                assert_eq!(raw.len(), 1, "{row}: {raw:?}");
                assert!(
                    raw[0].0 == "x-access.token" && raw[0].1.starts_with("eyJ"),
                    "{row}"
                );
                assert!(tokens.is_empty(), "{row}");
            }
        }
    }
    // On a public route the client speaks for itself.
    let answer = stage.raw_get(b"/public/a", "Authorization: Basic b3duOm93bg==\r\n");
    assert_eq!(answer.status(), Some(200));
    let seen = stage.arrived("public").expect("it arrived");
    assert_eq!(seen.header_all("authorization"), ["Basic b3duOm93bg=="]);
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_cannot_name_away_what_others_rely_on() {
    let stage = Stage::signed_in(|setup, upstream| {
        setup
            .set("routes.1.headers.request.set", json!({"x-ours": "set"}))
            .set("routes.1.upstream", upstream)
    })
    .await;
    for (row, nominated) in [
        ("host", "host"),
        ("forwarded-for", "x-forwarded-for"),
        ("forwarded-host", "x-forwarded-host"),
        ("forwarded-proto", "x-forwarded-proto"),
        ("request id", "x-request-id"),
        ("trace", "traceparent"),
        ("set by the route", "x-ours"),
        ("length", "content-length"),
        ("type", "content-type"),
        ("parameters", "x-user;q=1"),
        ("quotes", "\"x-user\""),
        ("nothing", ", ,"),
        ("many", "a, b, c, d, e, f, g, h, i, j, k, l, m, n"),
    ] {
        let request = format!(
            "POST /a HTTP/1.1\r\nHost: @HOST@\r\nCookie: @COOKIE@\r\nConnection: close, {nominated}\r\nContent-Type: text/x-kept\r\nContent-Length: 4\r\n\r\nbody"
        );
        let answer = stage.raw(request.as_bytes());
        match (answer.status(), stage.arrived(row)) {
            // A message that would lose its way or its end may be refused.
            (Some(400), None) => {}
            (Some(200), Some(seen)) => {
                assert_jane(row, &seen);
                assert_eq!(
                    seen.header("host"),
                    Some(&*stage.daypass.authority()),
                    "{row}"
                );
                assert_eq!(seen.header("x-ours"), Some("set"), "{row}");
                assert_eq!(seen.body_length, 4, "{row}");
                for name in [
                    "x-forwarded-for",
                    "x-forwarded-host",
                    "x-forwarded-proto",
                    "x-request-id",
                    "traceparent",
                ] {
                    assert_eq!(seen.header_all(name).len(), 1, "{row}: {name}");
                }
            }
            other => panic!("{row}: {other:?} {}", answer.text()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_cannot_split_a_request() {
    // HDR-06: whatever a user may write into a profile arrives as one printable value, or not at all.
    let stage = Stage::new(|setup, _| {
        setup.set(
            "routes.1.claims_to_headers",
            json!({
                "x-user": "sub", "x-crlf": "crlf", "x-list": "list", "x-object": "object", "x-null": "null",
                "x-deep": "deep.er.est", "x-dotted": "urn:x.y", "x-number": "number", "x-bool": "bool",
                "x-long": "long", "x-umlaut": "umlaut", "x-percent": "percent", "x-empty-list": "empty_list", "x-space": "space",
            }),
        )
    });
    stage.provider.configure(|settings| {
        settings.users.insert(
            "jane".to_owned(),
            json!({
                "sub": JANE, "crlf": "a\r\nX-User: evil\r\n\r\nGET /evil HTTP/1.1\r\n", "list": ["a,b", "c\nd", 1, true, null],
                "object": {"x": 1}, "null": null, "deep": {"er": {"est": "found"}}, "urn:x.y": "dotted", "number": 12.5, "bool": false,
                "long": "x".repeat(10_000), "umlaut": "J\u{fc}rgen \u{1f600}", "percent": "100%25", "empty_list": [], "space": " lead and trail ",
            }),
        );
    });
    stage.sign_in().await;
    let answer = stage.raw_get(b"/a", "Cookie: @COOKIE@\r\n");
    assert_eq!(answer.status(), Some(200), "{}", answer.text());
    let seen = stage.arrived("claims").expect("it arrived");
    for (name, want) in [
        ("x-user", Some(JANE)),
        (
            "x-crlf",
            Some("a%0D%0AX-User: evil%0D%0A%0D%0AGET /evil HTTP/1.1%0D%0A"),
        ),
        ("x-list", Some("a%2Cb,c%0Ad,1,true")),
        ("x-object", None),
        ("x-null", None),
        ("x-deep", Some("found")),
        ("x-dotted", Some("dotted")),
        ("x-number", Some("12.5")),
        ("x-bool", Some("false")),
        ("x-long", None),
        ("x-umlaut", Some("J%C3%BCrgen %F0%9F%98%80")),
        ("x-percent", Some("100%2525")),
        ("x-empty-list", None),
        ("x-space", Some("%20lead and trail%20")),
    ] {
        assert_eq!(
            seen.header_all(name),
            want.into_iter().collect::<Vec<_>>(),
            "{name}"
        );
    }
}
