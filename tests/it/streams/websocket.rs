//! Shows that WebSockets pass both ways with a session, and not without.

use daypass_testbed::client::Client;
use daypass_testbed::client::tungstenite::Message;
use daypass_testbed::raw::wait_for;
use futures_util::{SinkExt as _, StreamExt as _};

use crate::stage::{PATIENCE, Stage, assert_jane};

#[tokio::test(flavor = "multi_thread")]
async fn messages_pass_both_ways() {
    let stage = Stage::signed_in(|setup, _| setup).await;
    let origin = stage.daypass.url("");
    let url = stage.daypass.url("/ws?room=1");
    let mut socket = stage
        .client
        .websocket(
            &url,
            &[("origin", &origin), ("sec-websocket-protocol-x", "kept")],
        )
        .await
        .expect("a WebSocket");
    let seen = stage.arrived("handshake").expect("it arrived");
    assert_jane("handshake", &seen);
    assert_eq!(seen.target, "/ws?room=1");
    assert_eq!(seen.header("upgrade"), Some("websocket"));
    assert_eq!(seen.header("cookie"), None);
    assert_eq!(seen.header("sec-websocket-protocol-x"), Some("kept"));
    for message in [
        Message::text("hello"),
        Message::text("x".repeat(200_000)),
        Message::binary(vec![0_u8, 255, 13, 10, 13, 10]),
        Message::text(""),
    ] {
        socket.send(message.clone()).await.expect("sent");
        let back = socket.next().await.expect("open").expect("a message");
        assert!(
            back == message,
            "{} bytes came back as {}",
            message.len(),
            back.len()
        );
    }
    let active = || {
        stage
            .daypass
            .metric("daypass_streams_active", &[("route", "private")])
    };
    assert!((active() - 1.0).abs() < 0.1);
    socket.close(None).await.expect("closed");
    drop(socket);
    assert!(wait_for(PATIENCE, || (active() < 0.1).then_some(())).is_some());
    assert!(
        wait_for(PATIENCE, || (stage.echo.ended_streams().len() == 1)
            .then_some(()))
        .is_some()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_get_no_socket() {
    let stage = Stage::signed_in(|setup, _| setup).await;
    let url = stage.daypass.url("/ws");
    let stranger = Client::new()
        .websocket(&url, &[])
        .await
        .expect_err("no socket");
    // Not a redirect: no WebSocket client would follow it to a login page.
    assert_eq!(stranger.status, Some(401));
    let foreign = stage
        .client
        .websocket(&url, &[("origin", "https://evil.example")])
        .await;
    assert_eq!(foreign.expect_err("no socket").status, Some(403));
    assert!(stage.arrived("refused").is_none());
    let public = stage.daypass.url("/public/ws");
    // The upstream's own refusal passes as it is: it has no socket there.
    let refused = Client::new()
        .websocket(&public, &[])
        .await
        .expect_err("no socket");
    assert_eq!(refused.status, Some(200));
}

/// Each `101` of a quick upstream races with the end of the request's empty body; all hundred must stay open.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_websockets_stay_open() {
    let stage = Stage::signed_in(|setup, _| setup).await;
    let origin = stage.daypass.url("");
    for turn in 0..100 {
        let mut socket = stage
            .client
            .websocket(&stage.daypass.url("/ws"), &[("origin", &origin)])
            .await
            .expect("a WebSocket");
        let said = Message::text(format!("turn {turn}"));
        socket.send(said.clone()).await.expect("open for writing");
        let heard = socket.next().await.expect("open for reading");
        assert_eq!(heard.expect("no reset"), said, "turn {turn}");
    }
}
