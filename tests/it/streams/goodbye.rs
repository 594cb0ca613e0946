//! Shows that a WebSocket is closed as RFC 6455 wants it wherever that can be told, and cut off where it cannot.

use std::time::Duration;

use daypass_testbed::client::tungstenite::Message;
use daypass_testbed::client::{Client, WebSocketStream};
use daypass_testbed::pki::Authority;
use daypass_testbed::raw::{self, Sink};
use futures_util::{SinkExt as _, StreamExt as _};
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;
use tokio::net::TcpStream;

use crate::stage::{PATIENCE, Stage};

/// A WebSocket of a test.
pub(super) struct Socket(pub(super) WebSocketStream<TcpStream>);

impl Socket {
    /// Sends a message and gets it back.
    pub(super) async fn echoes(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.expect("sent");
        let back = self.0.next().await.expect("open").expect("a message");
        assert_eq!(back, Message::text(text));
    }

    /// The close frame it ends with; `None` when it just ends.
    pub(super) async fn last(&mut self) -> Option<(u16, String)> {
        let frame = async {
            loop {
                match self.0.next().await {
                    Some(Ok(Message::Close(frame))) => return frame,
                    Some(Ok(_)) => {}
                    _ => return None,
                }
            }
        };
        let frame = tokio::time::timeout(PATIENCE, frame).await;
        let frame = frame.expect("an end")?;
        Some((frame.code.into(), frame.reason.as_str().to_owned()))
    }
}

/// Jane's WebSocket at `/ws`, which has been used.
pub(super) async fn open(stage: &Stage) -> Socket {
    let origin = stage.daypass.url("");
    let url = stage.daypass.url("/ws");
    let socket = stage.client.websocket(&url, &[("origin", &origin)]).await;
    let mut socket = Socket(socket.expect("a WebSocket"));
    socket.echoes("hello").await;
    socket
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_closes_websockets_properly() {
    let stage = Stage::signed_in(|setup, _| setup).await;
    let mut sockets = [open(&stage).await, open(&stage).await];
    stage.wait_for_metric("daypass_streams_active", &[("route", "private")], 2.0);
    stage.sign_out_elsewhere().await;
    for socket in &mut sockets {
        assert_eq!(
            socket.last().await,
            Some((1008, "session revoked".to_owned()))
        );
        // The client's own close frame finds someone to read it, and then the connection ends without a reset.
        let end = tokio::time::timeout(PATIENCE, socket.0.next()).await;
        assert!(matches!(end, Ok(None)), "{end:?}");
    }
    stage.wait_for_metric("daypass_streams_active", &[], 0.0);
    stage.wait_for_metric(
        "daypass_streams_closed_total",
        &[("reason", "revoked")],
        2.0,
    );
    stage.wait_for_access("/ws", "revoked");
    let ended = raw::wait_for(PATIENCE, || {
        (stage.echo.ended_streams().len() == 2).then_some(())
    });
    assert!(ended.is_some(), "the upstream's end is closed, too");
}

/// What the upstream has sent when the session ends decides what fits after it.
#[tokio::test(flavor = "multi_thread")]
async fn no_close_frame_is_put_into_the_middle_of_another() {
    macro_rules! upstream {
        ($sent:literal) => {
            Sink::start(concat!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", $sent).as_bytes())
        };
    }
    let close = b"\x88\x11\x03\xf0session revoked";
    // name, upstream, what it sent after its head, whether a close frame follows
    let rows = [
        ("nothing", upstream!(""), "", true),
        ("a frame", upstream!("\x02\x02hi"), "\x02\x02hi", true),
        ("half a frame", upstream!("\x02\x05hi"), "\x02\x05hi", false),
        ("half a header", upstream!("\x02"), "\x02", false),
        ("a close frame", upstream!("\x08\x00"), "\x08\x00", false),
    ];
    let stage = Stage::signed_in(|setup, _| {
        rows.iter().enumerate().fold(setup, |setup, (index, row)| {
            setup.route_first(json!({"name": format!("row{index}"), "path": format!("/row{index}"), "upstream": row.1.url()}))
        })
    })
    .await;
    let address = stage.daypass.public();
    let threads: Vec<_> = (0..rows.len())
        .map(|index| {
            let request = format!(
                "GET /row{index} HTTP/1.1\r\nHost: {0}\r\nOrigin: http://{0}\r\nCookie: {1}\r\nConnection: Upgrade\r\n\
                 Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                stage.daypass.authority(),
                stage.cookie()
            );
            std::thread::spawn(move || raw::exchange(address, request.as_bytes(), PATIENCE))
        })
        .collect();
    #[expect(clippy::cast_precision_loss, reason = "five")]
    stage.wait_for_metric("daypass_streams_active", &[], rows.len() as f64);
    // The frames follow their heads within a moment.
    tokio::time::sleep(Duration::from_millis(300)).await;
    stage.sign_out_elsewhere().await;
    for (thread, (name, _, sent, closes)) in threads.into_iter().zip(&rows) {
        let answer = thread.join().expect("no panic");
        assert!(answer.closed, "{name}: still open");
        let text = answer.bytes;
        let body = text.windows(4).position(|window| window == b"\r\n\r\n");
        let body = &text[body.expect("a head") + 4..];
        let wanted = [sent.as_bytes(), if *closes { close } else { &[] }].concat();
        assert_eq!(body, wanted, "{name}");
    }
}

/// The cut comes below TLS, the close frame from above it.
#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_over_tls_is_closed_properly() {
    use std::io::{Read as _, Write as _};

    let authority = Authority::new();
    let certificate = authority.issue(&["localhost", "127.0.0.1"]);
    let mut stage = Stage::new(|setup, _| setup.tls(&certificate));
    stage.client = Client::trusting(&authority.pem);
    stage.sign_in().await;
    let mut roots = rustls::RootCertStore::empty();
    let pem = rustls::pki_types::CertificateDer::from_pem_slice(authority.pem.as_bytes());
    roots
        .add(pem.expect("a certificate"))
        .expect("an authority");
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "localhost".try_into().expect("a name");
    let session = rustls::ClientConnection::new(std::sync::Arc::new(config), name);
    let socket = std::net::TcpStream::connect(stage.daypass.public()).expect("connected");
    socket.set_read_timeout(Some(PATIENCE)).expect("set");
    let mut stream = rustls::StreamOwned::new(session.expect("a session"), socket);
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: {0}\r\nOrigin: https://{0}\r\nCookie: {1}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        stage.daypass.authority(),
        stage.cookie()
    );
    stream.write_all(request.as_bytes()).expect("sent");
    stage.wait_for_metric("daypass_streams_active", &[], 1.0);
    let out = stage.client.post(stage.daypass.url("/oauth2/logout/local"));
    let out = out.header("sec-fetch-site", "same-origin").send().await;
    assert_eq!(out.expect("an answer").status, 204);
    let mut answer = Vec::new();
    // Whether TLS is closed as it should be is another matter.
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.starts_with(b"HTTP/1.1 101"));
    assert!(
        answer.ends_with(b"\x88\x11\x03\xf0session revoked"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}
