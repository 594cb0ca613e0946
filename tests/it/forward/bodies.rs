//! Shows that bodies, their limits and their absence pass as they should, and that connections are used again.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use daypass_testbed::raw::Sink;
use http::Method;
use serde_json::json;

use crate::stage::{PATIENCE, Stage};

#[tokio::test(flavor = "multi_thread")]
async fn bodies_beyond_the_limit_are_refused() {
    let stage = Stage::signed_in(|setup, upstream| {
        setup.route_first(json!({
            "name": "small", "path_prefix": "/small", "upstream": upstream, "limits": {"body": "1KiB"},
        }))
    })
    .await;
    let with_length =
        |length: usize| format!("Content-Length: {length}\r\n\r\n{}", "x".repeat(length));
    let chunked = |sizes: &[usize]| {
        let chunk = |&size: &usize| format!("{size:x}\r\n{}\r\n", "x".repeat(size));
        let chunks = sizes.iter().map(chunk).collect::<Vec<_>>().concat();
        format!("Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")
    };
    for (index, (row, body, want)) in [
        ("length at the limit", with_length(1024), Some(1024)),
        ("length beyond", with_length(1025), None),
        (
            "length far beyond, body not sent",
            "Content-Length: 99999999999\r\n\r\n".to_owned(),
            None,
        ),
        (
            "length beyond 32 bits",
            "Content-Length: 4294967297\r\n\r\n".to_owned(),
            None,
        ),
        ("chunks at the limit", chunked(&[1000, 24]), Some(1024)),
        ("one chunk beyond", chunked(&[1025]), None),
        ("many chunks beyond", chunked(&[100; 11]), None),
        ("last chunk beyond", chunked(&[1000, 24, 1]), None),
    ]
    .into_iter()
    .enumerate()
    {
        let request = format!(
            "POST /small?{index} HTTP/1.1\r\nHost: @HOST@\r\nCookie: @COOKIE@\r\nConnection: close\r\n{body}"
        );
        let answer = stage.raw(request.as_bytes());
        assert_eq!(
            answer.statuses(),
            [if want.is_some() { 200 } else { 413 }],
            "{row}: {}",
            answer.text()
        );
        assert!(answer.closed, "{row}");
        let seen = stage.echo.requests();
        let whole: Vec<_> = seen
            .iter()
            .filter(|seen| seen.target == format!("/small?{index}") && !seen.body_sha256.is_empty())
            .map(|seen| seen.body_length)
            .collect();
        assert_eq!(whole, want.into_iter().collect::<Vec<_>>(), "{row}");
    }
    assert!(
        stage
            .daypass
            .metric("daypass_denied_total", &[("reason", "too_large")])
            >= 5.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stops_coming_is_told_so_and_let_go() {
    let stage = Stage::signed_in(|setup, upstream| {
        setup.route_first(json!({
            "name": "upload", "path_prefix": "/upload", "upstream": upstream, "limits": {"timeout": "1s"},
        }))
    })
    .await;
    for (row, body) in [
        ("length, nothing sent", "Content-Length: 10\r\n\r\n"),
        ("length, half sent", "Content-Length: 10\r\n\r\n12345"),
        ("chunks", "Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n"),
    ] {
        let request =
            format!("POST /upload HTTP/1.1\r\nHost: @HOST@\r\nCookie: @COOKIE@\r\n{body}");
        let answer = stage.raw(request.as_bytes());
        assert_eq!(answer.statuses(), [408], "{row}: {}", answer.text());
        assert!(answer.text().contains(r#""reason":"too_slow""#), "{row}");
        assert!(answer.closed, "{row}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_without_body_and_partial_ones_pass() {
    let stage = Stage::signed_in(|setup, _| setup).await;
    for (method, path, status) in [
        (Method::HEAD, "/a", 200),
        (Method::HEAD, "/status/404", 404),
        (Method::GET, "/status/304", 304),
        (Method::GET, "/status/204", 204),
        (Method::DELETE, "/status/204", 204),
        (Method::GET, "/status/206", 206),
        (Method::GET, "/status/418", 418),
        (Method::GET, "/status/500", 500),
        (Method::GET, "/status/503", 503),
        (Method::GET, "/status/401", 401),
        (Method::GET, "/status/301", 301),
        (Method::OPTIONS, "/a", 200),
        (Method::PATCH, "/a", 200),
    ] {
        // One connection for all: a body that should not be there would be taken for the next answer.
        let answer = stage
            .client
            .request(method.clone(), stage.daypass.url(path))
            .send()
            .await;
        let answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        assert_eq!(answer.status, status, "{method} {path}");
        let bodiless = method == Method::HEAD || matches!(status, 204 | 304);
        assert_eq!(answer.body.is_empty(), bodiless, "{method} {path}");
        let seen = stage.arrived(path).expect(path);
        assert_eq!(seen.method, method.as_str(), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_for_100_is_told_to_go_on() {
    let stage = Stage::signed_in(|setup, _| setup).await;
    let mut stream = TcpStream::connect(stage.daypass.public()).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    let head = format!(
        "POST /a HTTP/1.1\r\nHost: {}\r\nCookie: {}\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n",
        stage.daypass.authority(),
        stage.cookie()
    );
    stream.write_all(head.as_bytes()).expect("sent");
    let mut interim = [0; 12];
    stream.read_exact(&mut interim).expect("an interim answer");
    assert_eq!(&interim, b"HTTP/1.1 100");
    stream.write_all(b"hello").expect("sent");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).expect("the answer");
    assert!(rest.contains("HTTP/1.1 200"), "{rest}");
    assert_eq!(stage.arrived("100").expect("it arrived").body_length, 5);
    // Who may not come in is told so before sending the body.
    let request = "POST /a HTTP/1.1\r\nHost: @HOST@\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n";
    let answer = stage.raw(request.as_bytes());
    assert_eq!(answer.statuses(), [401], "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_concerns_the_upstreams_connection_stays_there() {
    let sink = Sink::start(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close, x-hop, set-cookie\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\nProxy-Authenticate: Basic\r\nProxy-Connection: close\r\n\
          Upgrade: h2c\r\nTrailer: x\r\nSet-Cookie: a=b\r\nX-Kept: 1\r\nServer: upstream\r\n\r\nok",
    );
    let stage = Stage::new(|setup, _| setup.set("routes.0.upstream", sink.url()));
    let answer = stage
        .client
        .get(stage.daypass.url("/public"))
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.text(), "ok");
    for gone in [
        "keep-alive",
        "x-hop",
        "proxy-authenticate",
        "proxy-connection",
        "upgrade",
    ] {
        assert_eq!(answer.header(gone), None, "{gone}");
    }
    assert!(!answer.header_all("connection").join(",").contains("x-hop"));
    for (kept, value) in [
        ("x-kept", "1"),
        ("server", "upstream"),
        ("set-cookie", "a=b"),
    ] {
        assert_eq!(answer.header_all(kept), [value], "{kept}");
    }
    // The client's connection is its own: it goes on.
    let again = stage
        .client
        .get(stage.daypass.url("/public"))
        .send()
        .await
        .expect("an answer");
    assert_eq!(again.text(), "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_the_upstream_are_used_again() {
    let stage = Stage::signed_in(|setup, _| setup).await;
    for index in 0..300 {
        let path = if index % 3 == 0 { "/public/a" } else { "/a" };
        let call = stage.client.get(stage.daypass.url(path));
        let call = if index % 7 == 0 {
            call.header("connection", "close")
        } else {
            call
        };
        assert_eq!(call.send().await.expect("an answer").status, 200);
    }
    let seen = stage.echo.requests();
    let connections: BTreeSet<_> = seen.iter().filter_map(|seen| seen.peer).collect();
    assert_eq!(seen.len(), 300);
    // ≥ 99 % reused (PRODUCT §10).
    assert!(
        connections.len() <= 3,
        "{} connections for 300 requests",
        connections.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_refused_early_does_no_harm() {
    let stage = Stage::signed_in(|setup, _| setup).await;
    let call = stage
        .client
        .post(stage.daypass.url("/early"))
        .body(vec![b'x'; 4 << 20]);
    // Either the answer or a cut connection, but never a hang; and the next request is served.
    if let Ok(answer) = call.timeout(PATIENCE).send().await {
        assert!(matches!(answer.status, 413 | 502), "{}", answer.status);
    }
    assert_eq!(
        stage
            .client
            .get(stage.daypass.url("/a"))
            .send()
            .await
            .expect("an answer")
            .status,
        200
    );
}
