//! Shows how every ending of a call is sorted, and what is trusted.

use std::io::{Read as _, Write as _};

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;

use super::super::tests::server::{Reply as Scripted, Server};
use super::super::tests::{NOW, config};
use super::*;
use crate::clock::ManualClock;

fn caller(server: &Server) -> Caller {
    let metrics = Arc::new(Metrics::new().unwrap());
    Caller::new(&config(&server.url()), ManualClock::at(NOW), metrics).unwrap()
}

async fn post(caller: &Caller, url: &Url, within: Duration) -> Result<Claims, Failed> {
    let mut form = Form::default();
    form.set("refresh_token", "t");
    let request = Request {
        endpoint: Endpoint::Token,
        url,
        within,
        authorization: None,
        form: Some(form),
    };
    caller.call(request, Reply::json).await
}

/// What the caller of a token call learns: the sort of the error, and whether the provider may have acted.
fn outcome(result: Result<Claims, Failed>) -> (&'static str, String) {
    match result {
        Ok(_) => ("ok", String::new()),
        Err(Failed { result, error, .. }) => (
            result.label(),
            match error {
                CallError::Unavailable { acted, .. } => format!("acted: {acted:?}"),
                CallError::Unusable { reason, .. } => reason.to_owned(),
                CallError::RateLimited { retry_after } => format!("{retry_after:?}"),
                CallError::OAuth { code } => code,
                CallError::Metadata(text) => text,
            },
        ),
    }
}

/// Name, what the provider says, how the call ends, and the detail of it.
type Row<'a> = (&'a str, Scripted, &'a str, &'a str);

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn every_ending_of_a_call_is_sorted() {
    // REFRESH-13, REFRESH-16, REFRESH-19, REFRESH-22, REFRESH-23.
    let html = |status| Scripted::new(status, "text/html", "<h1>Sorry</h1>");
    let error = |status, code: &str| Scripted::json(&json!({"error": code})).status(status);
    let good = || Scripted::json(&json!({"access_token": "t"}));
    let moved = |status| html(status).header("location", "/elsewhere");
    let long = "x".repeat(100);
    let no = "acted: No";
    let maybe = "acted: Perhaps";
    // Those who are to wait in vain get little time, and ask when nobody else does: a busy machine changes nothing.
    let in_vain = [
        (
            "400 stalled",
            error(400, "invalid_grant").stalled(),
            "timeout",
            no,
        ),
        ("stalled", good().stalled(), "timeout", no),
        ("late", good().after(Duration::from_secs(15)), "timeout", no),
    ];
    let rows = [
        ("an answer", good(), "ok", ""),
        (
            "vague type",
            Scripted::new(200, "text/plain", "{}"),
            "ok",
            "",
        ),
        (
            "invalid_grant",
            error(400, "invalid_grant"),
            "client_error",
            "invalid_grant",
        ),
        (
            "invalid_client",
            error(401, "invalid_client"),
            "client_error",
            "invalid_client",
        ),
        (
            "an error with 200",
            error(200, "bad_refresh_token"),
            "client_error",
            "bad_refresh_token",
        ),
        (
            "a long error",
            error(400, &long),
            "client_error",
            &long[..64],
        ),
        (
            "a hostile error",
            error(400, "a\r\nb\"\\ü"),
            "client_error",
            "ab",
        ),
        ("an empty error", error(400, ""), "client_error", no),
        (
            "temporarily_unavailable",
            error(400, "temporarily_unavailable"),
            "server_error",
            no,
        ),
        (
            "server_error",
            error(400, "server_error"),
            "server_error",
            no,
        ),
        (
            "a list is no error",
            Scripted::json(&json!(["invalid_grant"])).status(400),
            "client_error",
            no,
        ),
        ("HTML 400", html(400), "client_error", no),
        ("HTML 404", html(404), "client_error", no),
        ("408", html(408), "timeout", no),
        ("500", html(500), "server_error", no),
        ("503", html(503), "server_error", no),
        ("a gateway's 502", html(502), "server_error", no),
        ("a gateway's 504", html(504), "server_error", no),
        (
            "500 with a grant error",
            error(500, "invalid_grant"),
            "server_error",
            no,
        ),
        ("503 cut short", html(503).cut_short(), "server_error", no),
        ("429", html(429), "rate_limited", "None"),
        (
            "429 with a time",
            html(429).header("retry-after", "7"),
            "rate_limited",
            "Some(7s)",
        ),
        ("302 is not followed", moved(302), "invalid", no),
        ("307 is not followed", moved(307), "invalid", no),
        ("HTML 200", html(200), "invalid", no),
        (
            "no JSON",
            Scripted::new(200, "application/json", "{"),
            "invalid",
            no,
        ),
        ("no object", Scripted::json(&json!([1])), "invalid", no),
        (
            "XML",
            Scripted::new(200, "application/xml", "{}"),
            "invalid",
            no,
        ),
        ("cut short", good().cut_short(), "connection", maybe),
        ("no answer", Scripted::silent(), "connection", maybe),
        (
            "too large",
            Scripted::new(200, "application/json", vec![b' '; 1_048_577]),
            "invalid",
            no,
        ),
    ];
    let server = Server::start().await;
    let caller = caller(&server);
    let ask = async |n: usize, (name, reply, result, detail): Row<'_>, within: Duration| {
        let path = format!("/{n}");
        server.always(&path, reply);
        let url = Url::parse(&format!("{}{path}", server.url())).unwrap();
        let got = outcome(post(&caller, &url, within).await);
        assert_eq!(got, (result, detail.to_owned()), "{name}");
        assert_eq!(server.received(&path).len(), 1, "{name}: sent once");
    };
    let (count, patience) = (rows.len(), Duration::from_secs(10));
    let calls = rows.into_iter().enumerate();
    futures_util::future::join_all(calls.map(|(n, row)| ask(n, row, patience))).await;
    let calls = in_vain.into_iter().enumerate();
    let little = Duration::from_secs(1);
    futures_util::future::join_all(calls.map(|(n, row)| ask(count + n, row, little))).await;
    assert!(server.received("/elsewhere").is_empty(), "META-04");
}

#[tokio::test]
async fn only_endpoints_that_take_a_form_speak_of_grants() {
    let server = Server::start().await;
    let error = json!({"error": "invalid_grant"});
    server.always("/jwks", Scripted::json(&error).status(400));
    let request = Request {
        endpoint: Endpoint::Jwks,
        url: &Url::parse(&format!("{}/jwks", server.url())).unwrap(),
        within: Duration::from_secs(10),
        authorization: None,
        form: None,
    };
    let result = caller(&server).call(request, Reply::json).await;
    let want = ("client_error", "acted: No".to_owned());
    assert_eq!(outcome(result), want);
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    // META-04: no Content-Length to go by.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
    let endless = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (mut stream, _) = listener.accept().await.unwrap();
        assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
        let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n";
        stream.write_all(head).await.unwrap();
        while stream.write_all(&[b' '; 8192]).await.is_ok() {}
    });
    let server = Server::start().await;
    let result = post(&caller(&server), &url, Duration::from_secs(5)).await;
    assert_eq!(outcome(result), ("invalid", "acted: No".to_owned()));
    endless.await.unwrap();
}

#[tokio::test]
async fn nothing_was_sent_when_there_was_no_connection() {
    // REFRESH-22: such a call may be repeated freely.
    let server = Server::start().await;
    let caller = caller(&server);
    // Nobody listens on it, and nobody else can.
    let held = tokio::net::TcpSocket::new_v4().unwrap();
    held.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let port = held.local_addr().unwrap().port();
    for (name, url, result) in [
        ("refused", format!("http://127.0.0.1:{port}/"), "connection"),
        (
            "no such host",
            "http://nowhere.invalid/".to_owned(),
            "connection",
        ),
        (
            "no TLS there",
            server.url().replace("http", "https"),
            "timeout",
        ),
    ] {
        let url = Url::parse(&url).unwrap();
        // Whoever answers for names may be slow.
        let within = Duration::from_secs(if result == "timeout" { 2 } else { 30 });
        let got = outcome(post(&caller, &url, within).await);
        assert_eq!(got, (result, "acted: Unasked".to_owned()), "{name}");
    }
}

#[tokio::test]
async fn a_private_authority_is_trusted_only_where_it_is_configured() {
    // META-05.
    crate::oidc::crypto::install();
    let certificate = include_bytes!("../../../tests/fixtures/test-only-localhost.pem");
    let key = include_bytes!("../../../tests/fixtures/test-only-localhost.key.pem");
    let authority = include_bytes!("../../../tests/fixtures/test-only-ca.pem");
    let server_config = Arc::new(
        rustls::ServerConfig::builder_with_provider(Arc::new(
            rustls::crypto::ring::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate).unwrap()],
            PrivateKeyDer::from_pem_slice(key).unwrap(),
        )
        .unwrap(),
    );
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let tls = rustls::ServerConnection::new(Arc::clone(&server_config)).unwrap();
            let mut tls = rustls::StreamOwned::new(tls, stream);
            let mut request = [0; 4096];
            if tls.read(&mut request).is_ok() {
                let head = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
                let _ = tls.write_all(head);
                tls.conn.send_close_notify();
                let _ = tls.flush();
            }
        }
    });
    let trusting = Some(authority.to_vec());
    let wanted = "its TLS certificate is not trusted";
    for (name, ca_pem, host, want) in [
        ("trusted", trusting.clone(), "localhost", None),
        ("unknown authority", None, "localhost", Some(wanted)),
        ("another name", trusting, "127.0.0.2", Some(wanted)),
    ] {
        let mut config = config("https://localhost");
        config.ca_pem = ca_pem;
        let metrics = Arc::new(Metrics::new().unwrap());
        let caller = Caller::new(&config, ManualClock::at(NOW), metrics).unwrap();
        let url = Url::parse(&format!("https://{host}:{port}/")).unwrap();
        let reason = match post(&caller, &url, Duration::from_secs(5)).await {
            Ok(_) => None,
            Err(failed) => match failed.error {
                CallError::Unavailable { reason, acted } => {
                    assert_eq!(acted, Acted::Unasked, "{name}");
                    Some(reason)
                }
                other => panic!("{name}: {other}"),
            },
        };
        assert_eq!(reason, want, "{name}");
    }
}
