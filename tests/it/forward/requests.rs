//! Shows what reaches the upstream on each kind of route.

use daypass_testbed::provider::{AccessTokenForm, claims};
use daypass_testbed::raw::{Sink, exchange};
use serde_json::json;

use crate::stage::{JANE, PATIENCE, Stage, assert_jane};

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_route_shows_its_token() {
    let stage = Stage::signed_in(|setup, upstream| {
        let route = |name: &str, access: &str, token: serde_json::Value| {
            json!({
                "name": name, "path_prefix": format!("/{name}"), "access": access, "upstream": upstream, "token": token,
            })
        };
        setup
            .route_first(route("optional", "optional", json!({})))
            .route_first(route("access", "session", json!({"kind": "access"})))
            .route_first(route("id", "session", json!({"kind": "id"})))
            .route_first(route("none", "session", json!({"kind": "none"})))
            .route_first(route("access-in", "session", json!({"kind": "access", "header": "x-token"})))
            .route_first(route("id-in", "session", json!({"kind": "id", "header": "x-token"})))
    })
    .await;
    for (path, signed_in, header, typ) in [
        ("/public", false, "", ""),
        ("/public", true, "", ""),
        ("/optional", false, "", ""),
        ("/optional", true, "authorization", "at+jwt"),
        ("/access", true, "authorization", "at+jwt"),
        ("/id", true, "authorization", "JWT"),
        ("/none", true, "", ""),
        ("/access-in", true, "x-token", "at+jwt"),
        ("/id-in", true, "x-token", "JWT"),
    ] {
        let row = format!("{path}, signed in: {signed_in}");
        let cookie = if signed_in {
            "Cookie: @COOKIE@\r\n"
        } else {
            ""
        };
        let answer = stage.raw_get(path.as_bytes(), cookie);
        assert_eq!(answer.status(), Some(200), "{row}: {}", answer.text());
        let seen = stage.arrived(&row).expect(&row);
        for name in ["authorization", "x-token"] {
            let values = seen.header_all(name);
            assert_eq!(
                values.len(),
                usize::from(name == header),
                "{row}: {name}: {values:?}"
            );
            let Some(value) = values.first() else {
                continue;
            };
            let token = if name == "authorization" {
                value.strip_prefix("Bearer ").expect("a bearer token")
            } else {
                value
            };
            assert_eq!(claims(token).expect("a JWT")["sub"], JANE, "{row}");
            let head = token.split('.').next().unwrap_or_default();
            let head: serde_json::Value = serde_json::from_slice(&decode(head)).expect("JSON");
            assert_eq!(head["typ"].as_str().unwrap_or("JWT"), typ, "{row}");
        }
    }
}

fn decode(text: &str) -> Vec<u8> {
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = text.chars().filter_map(|c| alphabet.find(c));
    let (mut out, mut held, mut width) = (Vec::new(), 0_usize, 0);
    for six in bits {
        held = (held << 6) | six;
        width += 6;
        if width >= 8 {
            width -= 8;
            out.push(u8::try_from(held >> width & 0xff).expect("one byte"));
        }
    }
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opaque_token_is_shown_as_it_is() {
    let stage = Stage::new(|setup, _| setup);
    stage
        .provider
        .configure(|settings| settings.access_token = AccessTokenForm::Opaque);
    stage.sign_in().await;
    assert_eq!(
        stage.raw_get(b"/a", "Cookie: @COOKIE@\r\n").status(),
        Some(200)
    );
    let token = stage.arrived("opaque").expect("it arrived");
    let token = token.bearer().expect("a token").to_owned();
    assert!(stage.provider.issued_secrets().contains(&token));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_we_add_is_there_once() {
    let stage = Stage::signed_in(|setup, _| setup).await;
    for (row, path, lines) in [
        ("session", "/a", "Cookie: @COOKIE@\r\n"),
        ("public", "/public/a", ""),
        (
            "old trace",
            "/a",
            "Cookie: @COOKIE@\r\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\ntracestate: a=1\r\n",
        ),
        (
            "bad trace",
            "/a",
            "Cookie: @COOKIE@\r\ntraceparent: 00-00000000000000000000000000000000-00f067aa0ba902b7-01\r\ntracestate: a=1\r\n",
        ),
        (
            "two traces",
            "/a",
            "Cookie: @COOKIE@\r\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4737-00f067aa0ba902b7-01\r\n",
        ),
    ] {
        let answer = stage.raw_get(path.as_bytes(), lines);
        assert_eq!(answer.status(), Some(200), "{row}: {}", answer.text());
        let seen = stage.arrived(row).expect(row);
        assert_eq!(seen.header_all("x-forwarded-for"), ["127.0.0.1"], "{row}");
        assert_eq!(seen.header_all("x-forwarded-proto"), ["http"], "{row}");
        assert_eq!(
            seen.header_all("x-forwarded-host"),
            [&*stage.daypass.authority()],
            "{row}"
        );
        assert_eq!(
            seen.header_all("host"),
            [&*stage.daypass.authority()],
            "{row}"
        );
        let id = seen.header_all("x-request-id").join(",");
        assert_eq!(id.len(), 32, "{row}: {id}");
        // The answer names the same id, so that a user can quote it.
        assert!(
            answer.text().contains(&format!("x-request-id: {id}")),
            "{row}"
        );
        let trace = seen.header_all("traceparent");
        assert!(trace.len() == 1 && trace[0].len() == 55, "{row}: {trace:?}");
        let parts: Vec<_> = trace[0].split('-').collect();
        assert_ne!(parts[1], "0".repeat(32), "{row}");
        if row == "old trace" {
            assert_eq!(parts[1], "4bf92f3577b34da6a3ce929d0e0e4736", "{row}");
            assert_eq!(seen.header_all("tracestate"), ["a=1"], "{row}");
        } else {
            assert!(seen.header("tracestate").is_none(), "{row}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_sends_arrives_unless_it_is_ours() {
    let stage = Stage::signed_in(|setup, _| setup).await;
    let lines = "Accept: a\r\nAccept: b\r\nX-Empty:\r\nX-Latin: caf\u{e9}\r\nUser-Agent: test/1\r\nunder_score: 1\r\nRange: bytes=0-3\r\n\
        If-None-Match: \"x\"\r\nAccept-Encoding: gzip\r\nKeep-Alive: 5\r\nTE: gzip\r\n\
        Proxy-Authorization: Basic eDp5\r\nProxy-Connection: keep-alive\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nX-Hop: 1\r\nConnection: x-hop, upgrade, http2-settings\r\nCookie: @COOKIE@\r\n";
    let answer = stage.raw_get(b"/a", lines);
    assert_eq!(answer.status(), Some(200), "{}", answer.text());
    let seen = stage.arrived("all").expect("it arrived");
    assert_jane("all", &seen);
    for (name, want) in [
        ("accept", vec!["a", "b"]),
        ("x-empty", vec![""]),
        ("x-latin", vec!["caf\u{e9}"]),
        ("user-agent", vec!["test/1"]),
        ("under_score", vec!["1"]),
        ("range", vec!["bytes=0-3"]),
        ("if-none-match", vec!["\"x\""]),
        ("accept-encoding", vec!["gzip"]),
        // Of one connection only (PROXY-01).
        ("keep-alive", vec![]),
        ("te", vec![]),
        ("proxy-authorization", vec![]),
        ("proxy-connection", vec![]),
        ("upgrade", vec![]),
        ("http2-settings", vec![]),
        ("x-hop", vec![]),
    ] {
        assert_eq!(seen.header_all(name), want, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_sets_and_removes_request_headers() {
    let stage = Stage::signed_in(|setup, upstream| {
        setup.route_first(json!({
            "name": "changed", "path_prefix": "/changed", "upstream": upstream,
            "headers": {"request": {"set": {"x-tenant": "acme", "accept-language": "en"}, "remove": ["user-agent", "x-secret"]}},
        }))
    })
    .await;
    let lines = "X-Tenant: evil\r\nX_Tenant: evil\r\nAccept-Language: de\r\nUser-Agent: x\r\nX-Secret: 1\r\nX-Secret: 2\r\nCookie: @COOKIE@\r\n";
    assert_eq!(stage.raw_get(b"/changed", lines).status(), Some(200));
    let seen = stage.arrived("changed").expect("it arrived");
    assert_eq!(seen.header_all("x-tenant"), ["acme"]);
    assert_eq!(seen.header_all("accept-language"), ["en"]);
    for gone in ["x_tenant", "user-agent", "x-secret"] {
        assert!(seen.header(gone).is_none(), "{gone}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_request_line_travels_byte_for_byte() {
    let sink = Sink::start(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    let stage = Stage::new(|setup, _| setup.set("routes.0.upstream", sink.url()));
    let host = stage.daypass.authority();
    for (row, target, want) in [
        ("plain", &b"/public/a"[..], &b"/public/a"[..]),
        (
            "query with everything",
            b"/public?a=%2f..%2F|{}&&=%zz^`\\;[]:@!$'()*,",
            b"/public?a=%2f..%2F|{}&&=%zz^`\\;[]:@!$'()*,",
        ),
        (
            "query in UTF-8",
            b"/public?q=\xc3\xa9",
            b"/public?q=\xc3\xa9",
        ),
        ("query marks", b"/public??a?b", b"/public??a?b"),
        ("empty query", b"/public?", b"/public?"),
        ("empty query, path changed", b"//public?", b"/public?"),
        ("absolute-form", b"/public?a", b"/public?a"),
        ("path changed", b"/./public/%61?b=%61", b"/public/a?b=%61"),
    ] {
        let before = sink.received().len();
        let mut request = b"GET ".to_vec();
        if row == "absolute-form" {
            request.extend(format!("http://{host}").bytes());
        }
        request.extend(target);
        request.extend(format!(" HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").bytes());
        let answer = exchange(stage.daypass.public(), &request, PATIENCE);
        assert_eq!(answer.status(), Some(200), "{row}: {}", answer.text());
        let received = sink.received();
        assert_eq!(received.len(), before + 1, "{row}");
        let line = received[before]
            .split(|byte| *byte == b'\r')
            .next()
            .unwrap_or_default();
        let want = [b"GET ", want, b" HTTP/1.1"].concat();
        assert_eq!(
            String::from_utf8_lossy(line),
            String::from_utf8_lossy(&want),
            "{row}"
        );
        assert_eq!(line, want, "{row}");
    } // What is no URI in any reading is refused, not mended.
    for (row, query) in [
        ("latin-1", &b"q=\xe9"[..]),
        ("quotation mark", b"q=\""),
        ("bracket", b"q=<"),
    ] {
        let before = sink.received().len();
        let answer = stage.raw_get(&[b"/public?", query].concat(), "");
        assert_eq!(answer.status(), Some(400), "{row}: {}", answer.text());
        assert_eq!(sink.received().len(), before, "{row}");
    }
}
