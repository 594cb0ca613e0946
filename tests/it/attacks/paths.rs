//! Shows that the path that decides is the path that arrives, however it is spelt.

use serde_json::json;

use crate::stage::{Stage, assert_jane, assert_nobody};

/// What must become of a target.
#[derive(Debug, Clone, Copy)]
enum Want {
    /// Goes to a public route: arrives as this, with nobody's identity.
    Public(&'static str),
    /// Goes to the session route: 401 for strangers, arrives as this for Jane.
    Private(&'static str),
    /// Is refused with this status for everybody, and nothing arrives.
    Refused(u16),
    /// One of our own endpoints answers: nothing arrives.
    Own,
}

use Want::{Own, Private, Public, Refused};

#[expect(clippy::too_many_lines, reason = "a table of rows")]
#[tokio::test(flavor = "multi_thread")]
async fn one_path_decides_and_travels() {
    let rows: &[(&str, &[u8], Want)] = &[
        // What needs no change arrives as it is.
        ("plain public", b"/public/a", Public("/public/a")),
        ("plain private", b"/a", Private("/a")),
        ("query untouched", b"/a?x=%2f%2e/../&&y=;#", Refused(400)),
        (
            "query with everything",
            b"/a?x=%2f%2e/..//&&=|y;%zz",
            Private("/a?x=%2f%2e/..//&&=|y;%zz"),
        ),
        ("empty query", b"/a?", Private("/a?")),
        (
            "needful escape",
            b"/public/%3Fa%20b",
            Public("/public/%3Fa%20b"),
        ),
        // Dot segments (PATH-01).
        ("raw dots", b"/public/../a", Private("/a")),
        ("raw dots back in", b"/a/../public/b", Public("/public/b")),
        ("raw dot", b"/./a/./b/.", Private("/a/b/")),
        ("dots at the end", b"/public/..", Private("/")),
        ("encoded dots", b"/public/%2e%2e/a", Private("/a")),
        ("encoded dots, upper", b"/public/%2E%2E/a", Private("/a")),
        ("half encoded dots", b"/public/.%2e/a", Private("/a")),
        ("dots with encoded slash", b"/public/..%2fa", Refused(400)),
        (
            "dots with encoded backslash",
            b"/public/..%5ca",
            Refused(400),
        ),
        ("dots with backslash", b"/public/..\\a", Refused(400)),
        (
            "double-encoded dots stay data",
            b"/public/%252e%252e/a",
            Public("/public/%252e%252e/a"),
        ),
        (
            "double-encoded slash stays data",
            b"/public/..%252fa",
            Public("/public/..%252fa"),
        ),
        ("dots above the root", b"/../a", Refused(400)),
        (
            "encoded dots above the root",
            b"/public/%2e%2e/%2e%2e/a",
            Refused(400),
        ),
        ("dots with parameters", b"/public/..;/a", Refused(400)),
        (
            "dots with encoded parameters",
            b"/public/..%3b/a",
            Refused(400),
        ),
        (
            "three dots are a name",
            b"/public/.../a",
            Public("/public/.../a"),
        ),
        ("overlong dot", b"/public/%c0%ae%c0%ae/a", Refused(400)),
        ("overlong slash", b"/public/..%c0%afa", Refused(400)),
        (
            "full-width dots stay data",
            b"/public/%EF%BC%8E%EF%BC%8E/a",
            Public("/public/%EF%BC%8E%EF%BC%8E/a"),
        ),
        // Slashes.
        ("double slash", b"//public//a", Public("/public/a")),
        ("double slash before private", b"//a", Private("/a")),
        (
            "looks like an authority",
            b"//evil.example/public",
            Private("/evil.example/public"),
        ),
        ("encoded slash", b"/public%2fa", Refused(400)),
        ("encoded slash, upper", b"/public%2Fa", Refused(400)),
        ("backslash", b"/public\\a", Refused(400)),
        ("encoded backslash", b"/public%5Ca", Refused(400)),
        ("slash-dot-slash", b"/public/.//../a", Private("/a")),
        // Bytes that servers cut at.
        ("encoded NUL", b"/public%00/a", Refused(400)),
        ("encoded NUL at the end", b"/a%00.css", Refused(400)),
        ("raw NUL", b"/public\0/a", Refused(400)),
        ("encoded CR LF", b"/public/%0d%0aX-User:evil", Refused(400)),
        ("encoded tab", b"/public/%09", Refused(400)),
        ("encoded DEL", b"/public/%7f", Refused(400)),
        ("C1 control", b"/public/%C2%85", Refused(400)),
        ("fragment", b"/public#/a", Refused(400)),
        (
            "fragment to pass an exemption (REG-03)",
            b"/a#/public",
            Refused(400),
        ),
        (
            "fragment after an exempt ending (REG-03)",
            b"/a#.css",
            Refused(400),
        ),
        (
            "encoded fragment is data",
            b"/a%23/public",
            Private("/a%23/public"),
        ),
        (
            "encoded question mark is data",
            b"/a%3f/public",
            Private("/a%3F/public"),
        ),
        // Escapes.
        ("needless escape", b"/%70ublic/%61", Public("/public/a")),
        ("needless escape, private", b"/%61", Private("/a")),
        (
            "lower-case escape",
            b"/public/%c3%a9",
            Public("/public/%C3%A9"),
        ),
        ("bad escape", b"/public/%zz", Refused(400)),
        ("cut escape", b"/public/%2", Refused(400)),
        ("lone percent", b"/public/%", Refused(400)),
        ("IIS escape", b"/public/%u002e%u002e/a", Refused(400)),
        ("raw UTF-8", b"/public/\xc3\xa9", Public("/public/%C3%A9")),
        ("raw bytes that are no UTF-8", b"/public/\xff", Refused(400)),
        (
            "escaped bytes that are no UTF-8",
            b"/public/%ff",
            Refused(400),
        ),
        ("surrogate", b"/public/%ED%A0%80", Refused(400)),
        // Parameters: some servers cut them, some do not, so no reading may lead elsewhere.
        (
            "parameters on an exempt segment",
            b"/public;x/a",
            Refused(404),
        ),
        (
            "parameters that hide an exemption",
            b"/a;/public",
            Private("/a;/public"),
        ),
        (
            "parameters within public",
            b"/public/a;v=1",
            Public("/public/a;v=1"),
        ),
        ("parameters within private", b"/a;v=1", Private("/a;v=1")),
        (
            "parameters on a denied path",
            b"/internal;x/a",
            Refused(404),
        ),
        (
            "encoded parameters on a denied path",
            b"/internal%3bx",
            Refused(404),
        ),
        // Exemptions that others had by query, ending or case.
        (
            "exempt prefix is whole segments",
            b"/publicity",
            Private("/publicity"),
        ),
        (
            "exempt prefix is case-sensitive",
            b"/PUBLIC/a",
            Private("/PUBLIC/a"),
        ),
        (
            "exempt by query (REG-02)",
            b"/a?/public/x.css",
            Private("/a?/public/x.css"),
        ),
        (
            "exempt ending by query (REG-02)",
            b"/a?x=/styles/a.css",
            Private("/a?x=/styles/a.css"),
        ),
        ("exempt ending", b"/styles/a.css", Public("/styles/a.css")),
        (
            "exempt ending is anchored",
            b"/styles/a.css/b",
            Private("/styles/a.css/b"),
        ),
        (
            "exempt ending is anchored before",
            b"/b/styles/a.css",
            Private("/b/styles/a.css"),
        ),
        (
            "exempt ending by line break",
            b"/styles/a.css%0a/b",
            Refused(400),
        ),
        (
            "exempt ending by parameter",
            b"/b;/styles/a.css",
            Private("/b;/styles/a.css"),
        ),
        (
            "exempt ending by dots",
            b"/styles/../a.css",
            Private("/a.css"),
        ),
        ("exempt exactly", b"/health", Public("/health")),
        (
            "exempt exactly, not below",
            b"/health/a",
            Private("/health/a"),
        ),
        (
            "exempt exactly, not with a slash",
            b"/health/",
            Private("/health/"),
        ),
        (
            "exempt exactly, after cleaning",
            b"/a/..//health",
            Public("/health"),
        ),
        // Denied routes.
        ("denied", b"/internal", Refused(403)),
        ("denied below", b"/internal/a", Refused(403)),
        ("denied by dots", b"/public/../internal", Refused(403)),
        ("denied by escapes", b"/%69nternal", Refused(403)),
        ("denied with double slash", b"//internal//a", Refused(403)),
        // Our own endpoints are never forwarded.
        ("own endpoint", b"/oauth2/session", Own),
        ("own endpoint by dots", b"/public/../oauth2/session", Own),
        ("own endpoint by escapes", b"/%6fauth2/%73ession", Own),
        ("own unknown endpoint", b"/oauth2/nothing", Refused(404)),
        (
            "own endpoint spelt with parameters",
            b"/oauth2;x/session",
            Private("/oauth2;x/session"),
        ),
        // Forms of target.
        (
            "absolute-form",
            b"http://@HOST@/public/a?b",
            Public("/public/a?b"),
        ),
        (
            "absolute-form, private",
            b"http://@HOST@/a?b",
            Private("/a?b"),
        ),
        (
            "absolute-form with dots",
            b"http://@HOST@/public/../a",
            Private("/a"),
        ),
        ("absolute-form without path", b"http://@HOST@", Private("/")),
        (
            "absolute-form without path, query",
            b"http://@HOST@?/public",
            Private("/?/public"),
        ),
        (
            "absolute-form, no UTF-8",
            b"http://@HOST@/public/\xff",
            Refused(400),
        ),
        ("no slash", b"public/a", Refused(400)),
        ("asterisk", b"*", Refused(400)),
        ("authority-form", b"@HOST@", Refused(400)),
        ("empty", b"", Refused(400)),
        // The parser escapes what it can: what decides is still what travels.
        ("spaces", b"/public /a", Private("/public%20/a")),
    ];
    let stage = Stage::signed_in(|setup, upstream| {
        setup
            .route_first(json!({"name": "internal", "path_prefix": "/internal", "access": "deny"}))
            .route_first(json!({"name": "health", "path": "/health", "access": "public", "upstream": upstream}))
            .route_first(json!({"name": "styles", "path_regex": "/styles/[^/]+\\.css", "access": "public", "upstream": upstream}))
    })
    .await;
    let mut wrong = Vec::new();
    for (row, target, want) in rows {
        for (who, cookie) in [("stranger", ""), ("Jane", "Cookie: @COOKIE@\r\n")] {
            let answer = stage.raw_get(target, cookie);
            let seen = stage.arrived(row);
            let status = answer.status().unwrap_or(0);
            let arrived = seen.as_ref().map(|seen| seen.target.as_str());
            let good = match want {
                Private(_) if who == "stranger" => status == 401 && arrived.is_none(),
                Public(path) | Private(path) => status == 200 && arrived == Some(path),
                Refused(code) => status == *code && arrived.is_none(),
                Own => matches!(status, 200 | 401) && arrived.is_none(),
            };
            if !good || !answer.closed {
                wrong.push(format!(
                    "{row} ({who}): want {want:?}, got {status}, arrived {arrived:?}, closed {}",
                    answer.closed
                ));
                continue;
            }
            match (&seen, want) {
                (Some(seen), Public(_)) => assert_nobody(row, seen),
                (Some(seen), _) => assert_jane(row, seen),
                _ => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn very_long_paths_are_refused_and_do_no_harm() {
    let stage = Stage::signed_in(|setup, _| setup).await;
    for (row, target) in [
        ("9 KiB", format!("/public/{}", "a".repeat(9 * 1024))),
        ("many dots", format!("/public{}", "/..".repeat(4 * 1024))),
        ("many slashes", format!("/public{}", "/".repeat(20 * 1024))),
        (
            "escapes that grow",
            format!("/public/{}", "\u{7f}".repeat(4 * 1024)),
        ),
    ] {
        let answer = stage.raw_get(target.as_bytes(), "");
        assert_eq!(answer.status(), Some(400), "{row}");
        assert!(stage.arrived(row).is_none(), "{row}");
    }
    let long = format!("/public/{}", "a".repeat(7 * 1024));
    assert_eq!(stage.raw_get(long.as_bytes(), "").status(), Some(200));
    assert_eq!(stage.arrived("7 KiB").expect("it arrived").target, long);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_routes_exempts_a_request() {
    // PATH-03, HDR-02, REG-01, REG-04: no header, probe or method is a way in.
    let stage = Stage::new(|setup, _| setup);
    for (row, line) in [
        (
            "spoofed X-Forwarded-Uri (REG-01)",
            "X-Forwarded-Uri: /public/a",
        ),
        ("spoofed X-Original-URL", "X-Original-URL: /public/a"),
        ("spoofed X-Rewrite-URL", "X-Rewrite-URL: /public/a"),
        ("spoofed X-Original-URI", "X-Original-URI: /public/a"),
        ("spoofed X-Forwarded-Method", "X-Forwarded-Method: OPTIONS"),
        ("spoofed X-Forwarded-Prefix", "X-Forwarded-Prefix: /public"),
        ("method override", "X-HTTP-Method-Override: OPTIONS"),
        ("probe (REG-04)", "User-Agent: kube-probe/1.30"),
        (
            "probe of a load balancer (REG-04)",
            "User-Agent: GoogleHC/1.0",
        ),
        ("preflight", "Access-Control-Request-Method: GET"),
        (
            "bearer of one's own",
            "Authorization: Bearer eyJhbGciOiJub25lIn0.e30.",
        ),
        ("basic", "Authorization: Basic YWRtaW46YWRtaW4="),
        ("identity of one's own", "X-User: 248289761001"),
    ] {
        for method in ["GET", "HEAD", "OPTIONS", "POST", "PROPFIND"] {
            let request = format!(
                "{method} /a HTTP/1.1\r\nHost: @HOST@\r\n{line}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            let answer = stage.raw(request.as_bytes());
            assert_eq!(
                answer.status(),
                Some(401),
                "{row}, {method}: {}",
                answer.text()
            );
            assert!(stage.arrived(row).is_none(), "{row}, {method}");
        }
    }
}
