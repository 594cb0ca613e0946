//! Shows TLS and HTTP/2 on both sides: ALPN, trailers, concurrent streams, private authorities, new certificates, client certificates.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use daypass_testbed::client::Client;
use daypass_testbed::echo::Echo;
use daypass_testbed::pki::Authority;
use daypass_testbed::provider::Provider;
use serde_json::json;

use crate::stage::{PATIENCE, Stage, assert_jane};

/// A stage whose listener speaks TLS, with Jane signed in over it.
async fn secure(authority: &Authority) -> Stage {
    let certificate = authority.issue(&["localhost", "127.0.0.1"]);
    let mut stage = Stage::new(|setup, _| setup.tls(&certificate));
    stage.client = Client::trusting(&authority.pem);
    stage.sign_in().await;
    stage
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_signs_in_over_http2() {
    let authority = Authority::new();
    let stage = secure(&authority).await;
    let answer = stage
        .client
        .get(stage.daypass.url("/a?b"))
        .send()
        .await
        .expect("an answer");
    assert_eq!(
        (answer.status, format!("{:?}", answer.version)),
        (200, "HTTP/2.0".to_owned())
    );
    let seen = stage.arrived("HTTP/2").expect("it arrived");
    assert_jane("HTTP/2", &seen);
    assert_eq!(seen.target, "/a?b");
    // Spoken to the upstream is HTTP/1.1, which wants a Host (RFC 9113 §8.3.1).
    assert_eq!(seen.header_all("host"), [&*stage.daypass.authority()]);
    assert_eq!(seen.header_all("x-forwarded-proto"), ["https"]);
    let jar = stage.client.jar();
    let cookie = jar
        .find("__Host-daypass")
        .expect("a cookie for this host only");
    assert!(
        cookie.secure && cookie.http_only && !cookie.subdomains,
        "{}",
        cookie.line
    );
    assert!(jar.refused().is_empty(), "{:?}", jar.refused());
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_gives_no_other_way_in() {
    let authority = Authority::new();
    let stage = secure(&authority).await;
    let cookie = stage.cookie();
    let get = |path: &str| {
        let url = stage.daypass.url(path);
        stage
            .client
            .get(url)
            .without_cookies()
            .header("cookie", &cookie)
    };
    for (row, call, want) in [
        // COOKIE-11: fields that HTTP/2 splits are one.
        (
            "split cookies",
            get("/a").header("cookie", "a=1").header("cookie", "b=2"),
            200,
        ),
        (
            "foreign identity",
            get("/a")
                .header("x-user", "evil")
                .header("x_user", "evil")
                .header("x.user", "evil"),
            200,
        ),
        (
            "foreign token",
            get("/a")
                .header("authorization", "Bearer evil")
                .header("authorization", "Basic evil"),
            200,
        ),
        ("te", get("/a").header("te", "trailers"), 200),
        ("dots", get("/public").target("/public/../a"), 200),
        ("encoded slash", get("/a").target("/public%2f..%2fa"), 400),
        (
            "another Host than :authority (PROXY-09)",
            get("/a").header("host", "evil.example"),
            400,
        ),
        (
            "70 KiB of header",
            get("/a").header("x-huge", "a".repeat(70 * 1024)),
            431,
        ),
        (
            "no session",
            stage.client.get(stage.daypass.url("/a")).without_cookies(),
            401,
        ),
        (
            "TRACE",
            stage
                .client
                .request(http::Method::TRACE, stage.daypass.url("/a")),
            405,
        ),
    ] {
        // A stream may be reset instead of answered: it is refused, all the same.
        let status = call.send().await.map_or(0, |answer| answer.status);
        let seen = stage.arrived(row);
        if want == 200 {
            assert_eq!(status, 200, "{row}");
            assert_jane(row, seen.as_ref().expect(row));
        } else {
            assert!(status == want || status == 0, "{row}: {status}");
            assert!(seen.is_none(), "{row}");
        }
        if row == "split cookies" {
            assert_eq!(seen.expect(row).header_all("cookie"), ["a=1; b=2"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_share_a_connection_and_trailers_pass() {
    let (authority, provider, echo) = (Authority::new(), Provider::start(), Echo::start());
    let certificate = authority.issue(&["localhost", "127.0.0.1"]);
    let h2c = echo.h2c_url();
    let mut stage = Stage::with(provider, echo, |setup, _| {
        setup.tls(&certificate).route_first(
            json!({"name": "grpc", "path_prefix": "/grpc", "upstream": h2c, "rewrite_prefix": "/"}),
        )
    });
    stage.client = Client::trusting(&authority.pem);
    stage.sign_in().await;
    // As gRPC: POST, `te: trailers`, and the result in the trailers.
    let call = stage
        .client
        .post(stage.daypass.url("/grpc/trailers"))
        .header("te", "trailers");
    let call = call
        .header("content-type", "application/grpc")
        .body("message");
    let answer = call.send().await.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.text(), "body");
    assert_eq!(answer.trailers.expect("trailers")["x-trailer"], "last");
    let seen = stage.arrived("gRPC").expect("it arrived");
    assert!(seen.bearer().is_some(), "gRPC");
    assert_eq!(
        (&*seen.version, seen.header("te")),
        ("HTTP/2.0", Some("trailers"))
    );
    assert_eq!(seen.authority.as_deref(), Some(&*stage.daypass.authority()));
    // Forty at once, each of which waits: one after the other they would take 8 s.
    let began = Instant::now();
    let calls: Vec<_> = (0..40)
        .map(|_| tokio::spawn(stage.client.get(stage.daypass.url("/grpc/a?ms=200")).send()))
        .collect();
    for call in calls {
        assert_eq!(
            call.await.expect("no panic").expect("an answer").status,
            200
        );
    }
    assert!(
        began.elapsed() < Duration::from_secs(6),
        "{:?}",
        began.elapsed()
    );
    let peers: BTreeSet<_> = stage
        .echo
        .requests()
        .iter()
        .filter_map(|seen| seen.peer)
        .collect();
    // Streams of one connection; a few more where they were opened before the first was ready.
    assert!(
        peers.len() < 20,
        "{} connections for 40 streams",
        peers.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_are_spoken_to_over_tls_and_only_if_it_is_them() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let echo = Echo::with_tls(&authority.issue(&["localhost"]));
    let url = echo.tls_url();
    let by_address = url.replace("localhost", "127.0.0.1");
    let own = echo.h2c_url();
    let stage = Stage::with(Provider::start(), echo, |setup, _| {
        let tls = |url: &str, tls: serde_json::Value| json!({"url": url, "tls": tls});
        let ca = authority.file();
        let upstreams = json!({
            "own-ca": tls(&url, json!({"ca_file": ca})),
            "http1": {"url": url, "protocol": "h1", "tls": {"ca_file": ca}},
            "named": tls(&by_address, json!({"ca_file": ca, "server_name": "localhost"})),
            "wrong-name": tls(&url, json!({"ca_file": ca, "server_name": "shop.example.com"})),
            "no-name": tls(&by_address, json!({"ca_file": ca})),
            "wrong-ca": tls(&url, json!({"ca_file": stranger.file()})),
            "system-ca": {"url": url},
            "plain": {"url": url.replace("https", "http")},
            "h2c": {"url": own},
        });
        let names: Vec<String> = upstreams
            .as_object()
            .expect("an object")
            .keys()
            .cloned()
            .collect();
        let setup = setup.set("upstreams", upstreams);
        names.iter().fold(setup, |setup, name| {
            setup.route_first(
                json!({"name": name, "path_prefix": format!("/{name}"), "upstream": name}),
            )
        })
    });
    stage.sign_in().await;
    for (row, want) in [
        ("own-ca", Some("HTTP/2.0")),
        ("wrong-name", None),
        ("named", Some("HTTP/2.0")),
        ("wrong-ca", None),
        ("http1", Some("HTTP/1.1")),
        ("no-name", None),
        ("system-ca", None),
        ("h2c", Some("HTTP/2.0")),
        ("plain", None),
        // Once more: a connection that one of them keeps is not another's.
        ("wrong-ca", None),
        ("wrong-name", None),
        ("own-ca", Some("HTTP/2.0")),
    ] {
        let answer = stage
            .client
            .get(stage.daypass.url(&format!("/{row}")))
            .send()
            .await
            .expect(row);
        let seen = stage.arrived(row);
        assert_eq!(
            answer.status,
            if want.is_some() { 200 } else { 502 },
            "{row}: {}",
            answer.text()
        );
        assert_eq!(seen.as_ref().map(|seen| &*seen.version), want, "{row}");
    }
    let failed = stage
        .daypass
        .metric("daypass_upstream_errors_total", &[("reason", "tls")]);
    assert!(failed >= 4.0, "{failed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_taken_up_without_dropping_anything() {
    let (old, new) = (Authority::new(), Authority::new());
    let stage = secure(&old).await;
    let mut events = stage
        .client
        .get(stage.daypass.url("/sse?ms=20"))
        .stream()
        .await
        .expect("a stream");
    let next = new.issue(&["localhost", "127.0.0.1"]);
    let files = old.issue(&["localhost", "127.0.0.1"]);
    std::fs::write(&files.cert_file, &next.cert_pem).expect("written");
    std::fs::write(&files.key_file, &next.key_pem).expect("written");
    stage.daypass.hup();
    let began = Instant::now();
    loop {
        // A connection of its own each time.
        let answer = Client::trusting(&new.pem)
            .get(stage.daypass.url("/public/a"))
            .send()
            .await;
        if let Ok(answer) = answer {
            assert_eq!(answer.status, 200);
            break;
        }
        assert!(
            began.elapsed() < PATIENCE,
            "the new certificate is not shown:\n{}",
            stage.daypass.log()
        );
    }
    assert!(
        Client::trusting(&old.pem)
            .get(stage.daypass.url("/public/a"))
            .send()
            .await
            .is_err()
    );
    // What was open goes on, and so does its connection.
    for _ in 0..5 {
        events.next().await.expect("no error").expect("an event");
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
    // A key that does not fit changes nothing.
    std::fs::write(&files.key_file, &files.key_pem).expect("written");
    let before = stage
        .daypass
        .metric("daypass_config_reloads_total", &[("result", "rejected")]);
    stage.daypass.hup();
    let rejected = daypass_testbed::raw::wait_for(PATIENCE, || {
        let now = stage
            .daypass
            .metric("daypass_config_reloads_total", &[("result", "rejected")]);
        (now > before).then_some(())
    });
    assert!(rejected.is_some(), "{}", stage.daypass.log());
    let answer = Client::trusting(&new.pem)
        .get(stage.daypass.url("/public/a"))
        .send()
        .await;
    assert_eq!(answer.expect("an answer").status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_client_certificate_nothing_is_heard() {
    let (servers, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let certificate = servers.issue(&["localhost", "127.0.0.1"]);
    let stage = Stage::new(|setup, _| {
        setup
            .tls(&certificate)
            .set("listen.tls.client_ca_file", json!(clients.file()))
    });
    let get = async |client: Client| {
        let answer = client.get(stage.daypass.url("/public/a")).send().await;
        answer.ok().map(|answer| answer.status)
    };
    assert_eq!(get(Client::trusting(&servers.pem)).await, None);
    let stranger = strangers.issue(&["client.example"]);
    assert_eq!(
        get(Client::with_certificate(&servers.pem, &stranger)).await,
        None
    );
    assert!(stage.arrived("without").is_none());
    let known = clients.issue(&["client.example"]);
    assert_eq!(
        get(Client::with_certificate(&servers.pem, &known)).await,
        Some(200)
    );
    assert!(stage.arrived("with").is_some());
}
