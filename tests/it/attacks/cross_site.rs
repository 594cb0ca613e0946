//! Shows that another site cannot make a browser act with the session, unless the route says so.

use serde_json::json;

use crate::stage::{Stage, assert_jane, assert_nobody};

/// Where the browser says that the request comes from.
struct From {
    row: &'static str,
    lines: &'static str,
    /// Passes with `cross_site: deny`, the default.
    denied_passes: bool,
    /// Passes with `cross_site: [https://partner.example]`.
    partner_passes: bool,
}

const fn from(
    row: &'static str,
    lines: &'static str,
    denied_passes: bool,
    partner_passes: bool,
) -> From {
    From {
        row,
        lines,
        denied_passes,
        partner_passes,
    }
}

/// CSRF-02, CSRF-04, WS-01.
const ORIGINS: &[From] = &[
    from(
        "same origin",
        "Sec-Fetch-Site: same-origin\r\nOrigin: @ORIGIN@\r\n",
        true,
        true,
    ),
    from(
        "same origin, no metadata",
        "Origin: @ORIGIN@\r\n",
        true,
        true,
    ),
    from(
        "same origin by referer",
        "Referer: @ORIGIN@/page\r\n",
        true,
        true,
    ),
    from("typed by the user", "Sec-Fetch-Site: none\r\n", true, true),
    from("no browser", "", true, true),
    from(
        "cross site",
        "Sec-Fetch-Site: cross-site\r\nOrigin: https://evil.example\r\n",
        false,
        false,
    ),
    from(
        "cross site, no origin",
        "Sec-Fetch-Site: cross-site\r\n",
        false,
        false,
    ),
    from(
        "sibling sub-domain",
        "Sec-Fetch-Site: same-site\r\nOrigin: http://sub.127.0.0.1\r\n",
        false,
        false,
    ),
    from(
        "sibling, no origin",
        "Sec-Fetch-Site: same-site\r\n",
        false,
        false,
    ),
    from(
        "foreign origin, no metadata",
        "Origin: https://evil.example\r\n",
        false,
        false,
    ),
    from("null origin", "Origin: null\r\n", false, false),
    from(
        "null origin, cross site",
        "Origin: null\r\nSec-Fetch-Site: cross-site\r\n",
        false,
        false,
    ),
    from("other port", "Origin: http://127.0.0.1:1\r\n", false, false),
    from(
        "other scheme",
        "Origin: https@ORIGIN-REST@\r\n",
        false,
        false,
    ),
    from(
        "our origin as a prefix",
        "Origin: @ORIGIN@.evil.example\r\n",
        false,
        false,
    ),
    from(
        "our origin with path",
        "Origin: @ORIGIN@/x\r\n",
        false,
        false,
    ),
    from(
        "two origins",
        "Origin: @ORIGIN@\r\nOrigin: https://evil.example\r\n",
        false,
        false,
    ),
    from(
        "two origins in one",
        "Origin: @ORIGIN@, https://evil.example\r\n",
        false,
        false,
    ),
    from("empty origin", "Origin:\r\n", false, false),
    from(
        "two sites",
        "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Site: same-origin\r\n",
        false,
        false,
    ),
    from(
        "two sites in one",
        "Sec-Fetch-Site: same-origin, cross-site\r\n",
        false,
        false,
    ),
    from("unknown site", "Sec-Fetch-Site: friendly\r\n", false, false),
    from(
        "foreign referer",
        "Referer: https://evil.example/@ORIGIN@\r\n",
        false,
        false,
    ),
    from(
        "foreign referer with our name as user",
        "Referer: http://127.0.0.1@evil.example/\r\n",
        false,
        false,
    ),
    from(
        "partner",
        "Sec-Fetch-Site: cross-site\r\nOrigin: https://partner.example\r\n",
        false,
        true,
    ),
    from(
        "partner, no metadata",
        "Origin: https://partner.example\r\n",
        false,
        true,
    ),
    from(
        "partner's sub-domain",
        "Origin: https://x.partner.example\r\n",
        false,
        false,
    ),
    from(
        "partner in plain text",
        "Origin: http://partner.example\r\n",
        false,
        false,
    ),
];

const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

async fn stage() -> Stage {
    Stage::signed_in(|setup, upstream| {
        let route = |name: &str, access: &str, cross_site: serde_json::Value| {
            json!({
                "name": name, "path_prefix": format!("/{name}"), "access": access, "upstream": upstream,
                "cross_site": cross_site, "rewrite_prefix": "/",
            })
        };
        setup
            .route_first(route("partner", "session", json!(["https://partner.example"])))
            .route_first(route("allow", "session", json!("allow")))
            .route_first(route("optional", "optional", json!("deny")))
            .route_first(route("deny", "session", json!("deny")))
    })
    .await
}

fn fill(stage: &Stage, lines: &str) -> String {
    let origin = stage.daypass.url("");
    let rest = origin.strip_prefix("http").unwrap_or_default();
    lines
        .replace("@ORIGIN@", &origin)
        .replace("@ORIGIN-REST@", rest)
}

#[tokio::test(flavor = "multi_thread")]
async fn unsafe_methods_need_our_own_site() {
    let stage = stage().await;
    let mut wrong = Vec::new();
    for from in ORIGINS {
        let lines = fill(&stage, from.lines);
        for (path, passes) in [
            ("/a", from.denied_passes),
            ("/deny/a", from.denied_passes),
            ("/optional/a", from.denied_passes),
            ("/partner/a", from.partner_passes),
            ("/allow/a", true),
        ] {
            for method in ["POST", "DELETE", "BREW"] {
                let request = format!(
                    "{method} {path} HTTP/1.1\r\nHost: @HOST@\r\nCookie: @COOKIE@\r\n{lines}Content-Length: 0\r\nConnection: close\r\n\r\n"
                );
                let answer = stage.raw(request.as_bytes());
                let seen = stage.arrived(from.row);
                let want = if passes { 200 } else { 403 };
                if answer.status() != Some(want) || seen.is_some() != passes {
                    wrong.push(format!(
                        "{}, {method} {path}: want {want}, got {:?}, arrived {}",
                        from.row,
                        answer.status(),
                        seen.is_some()
                    ));
                }
                if want == 403 && !answer.text().contains("cross_site") {
                    wrong.push(format!("{}: no reason: {}", from.row, answer.text()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn websocket_handshakes_need_our_own_site() {
    let stage = stage().await;
    let mut wrong = Vec::new();
    for from in ORIGINS {
        let lines = fill(&stage, from.lines);
        for (path, passes) in [
            ("/ws", from.denied_passes),
            ("/optional/ws", from.denied_passes),
            ("/partner/ws", from.partner_passes),
            ("/allow/ws", true),
        ] {
            // Firefox names more than one token in Connection.
            for upgrade in [
                UPGRADE,
                &UPGRADE.replace("Connection: U", "Connection: keep-alive, U"),
            ] {
                let request = format!(
                    "GET {path} HTTP/1.1\r\nHost: @HOST@\r\nCookie: @COOKIE@\r\n{lines}{upgrade}\r\n"
                );
                // An open tunnel says nothing: what came back by then is the answer.
                let filled = request
                    .replace("@HOST@", &stage.daypass.authority())
                    .replace("@COOKIE@", &stage.cookie());
                let status = handshake(&stage, &filled);
                let seen = stage.arrived(from.row);
                let want = if passes { 101 } else { 403 };
                if status != Some(want) || seen.is_some() != passes {
                    wrong.push(format!(
                        "{}, {path}: want {want}, got {status:?}, arrived {}",
                        from.row,
                        seen.is_some()
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Status of the answer to a handshake; the connection is given up then.
fn handshake(stage: &Stage, request: &str) -> Option<u16> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(stage.daypass.public()).ok()?;
    stream.set_read_timeout(Some(crate::stage::PATIENCE)).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut line = [0; 12];
    stream.read_exact(&mut line).ok()?;
    std::str::from_utf8(&line[9..]).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_ride_on_the_cookie_may_come_from_anywhere() {
    let stage = stage().await;
    let foreign = "Sec-Fetch-Site: cross-site\r\nOrigin: https://evil.example\r\n";
    // Safe methods change nothing, so links and images work.
    for method in ["GET", "HEAD", "OPTIONS"] {
        let request = format!(
            "{method} /a HTTP/1.1\r\nHost: @HOST@\r\nCookie: @COOKIE@\r\n{foreign}Connection: close\r\n\r\n"
        );
        assert_eq!(
            stage.raw(request.as_bytes()).status(),
            Some(200),
            "{method}"
        );
        assert_jane(method, &stage.arrived(method).expect(method));
    }
    // Public routes know no session, and optional ones none without the cookie.
    for (row, path, cookie) in [
        ("public", "/public/a", "Cookie: @COOKIE@\r\n"),
        ("optional without cookie", "/optional/a", ""),
        (
            "optional with a dead cookie",
            "/optional/a",
            "Cookie: daypass=junk\r\n",
        ),
    ] {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: @HOST@\r\n{cookie}{foreign}Content-Length: 0\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(stage.raw(request.as_bytes()).status(), Some(200), "{row}");
        assert_nobody(row, &stage.arrived(row).expect(row));
    }
    // A stranger's handshake is refused for want of a session.
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: {}\r\n{UPGRADE}\r\n",
        stage.daypass.authority()
    );
    assert_eq!(handshake(&stage, &request), Some(401));
    assert!(stage.arrived("stranger").is_none());
}
