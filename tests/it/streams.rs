//! Shows that what flows goes on flowing, in both directions and over every kind of connection.

mod flow;
mod sockets;
mod tls;
mod websocket;

/// Each `101` of a quick upstream races with the end of the request's empty body; all hundred must stay open.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_websockets_stay_open() {
    use futures_util::{SinkExt as _, StreamExt as _};

    let stage = Stage::new();
    let client = stage.signed_in().await;
    let origin = stage.daypass.url("");
    for turn in 0..100 {
        let mut socket = client
            .websocket(&stage.daypass.url("/ws"), &[("origin", &origin)])
            .await
            .expect("a WebSocket");
        let said = tungstenite::Message::text(format!("turn {turn}"));
        socket.send(said.clone()).await.expect("open for writing");
        let heard = socket.next().await.expect("open for reading");
        assert_eq!(heard.expect("no reset"), said, "turn {turn}");
    }
}
