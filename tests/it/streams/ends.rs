//! Shows that whatever is open ends with the session it rides on, and that nothing else ends it.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use daypass_testbed::client::Streaming;
use daypass_testbed::client::tungstenite::Message;
use daypass_testbed::echo::Echo;
use daypass_testbed::provider::{Endpoint, Provider};
use daypass_testbed::redis::Redis;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;

use super::goodbye::{Socket, open};
use crate::stage::{PATIENCE, Stage};

const CLOSED: &str = "daypass_streams_closed_total";

async fn events(stage: &Stage, path: &str) -> Streaming {
    let call = stage.client.get(stage.daypass.url(path));
    let mut events = call
        .header("accept", "text/event-stream")
        .stream()
        .await
        .expect("a stream");
    assert_eq!(events.status, 200);
    events.next().await.expect("no error").expect("an event");
    events
}

/// Reads to the end, whichever it is; `true` when it was a proper one.
async fn rest(mut stream: Streaming) -> bool {
    let all = async {
        loop {
            match stream.next().await {
                Ok(Some(_)) => {}
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("an end")
}

/// SESS-12: over both stores.
#[tokio::test(flavor = "multi_thread")]
async fn a_logout_ends_event_streams_and_tells_the_upstream() {
    let redis = Redis::start();
    for in_redis in [false, true] {
        let stage = Stage::signed_in(
            |setup, _| {
                if in_redis { setup.redis(&redis) } else { setup }
            },
        )
        .await;
        let stream = events(&stage, "/sse?ms=20").await;
        let public = events(&stage, "/public/../sse?ms=20").await;
        stage.wait_for_metric("daypass_streams_active", &[("route", "private")], 2.0);
        stage.sign_out_elsewhere().await;
        assert!(!rest(stream).await, "cut off in the middle, not ended");
        assert!(!rest(public).await);
        stage.wait_for_metric(CLOSED, &[("reason", "revoked")], 2.0);
        stage.wait_for_metric("daypass_streams_active", &[], 0.0);
        stage.wait_for_access("/sse", "revoked");
        let ended = daypass_testbed::raw::wait_for(PATIENCE, || {
            (stage.echo.ended_streams().len() == 2).then_some(())
        });
        assert!(ended.is_some(), "the upstream sends to nobody");
    }
}

/// REFRESH-29: what is open ends with the session that requests see.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_refresh_token_all_that_shows_the_token_ends_with_it() {
    let provider = Provider::with(|settings| {
        settings.refresh_tokens = false;
        settings.access_ttl = Duration::from_secs(4);
    });
    let stage = Stage::with(provider, Echo::start(), |setup, upstream| {
        setup.route_first(
            json!({"name": "bare", "path_prefix": "/bare", "upstream": upstream,
            "rewrite_prefix": "/sse", "token": {"kind": "none"}}),
        )
    });
    stage.sign_in().await;
    let stream = events(&stage, "/sse?ms=20").await;
    let mut bare = events(&stage, "/bare?ms=20").await;
    let mut page = events(&stage, "/oauth2/session/events").await;
    let url = stage.daypass.url("/oauth2/session");
    let told = stage.client.get(&url).send().await.expect("an answer");
    assert_eq!(told.status, 200);

    assert!(!rest(stream).await, "cut off in the middle");
    stage.wait_for_metric(CLOSED, &[("reason", "expired")], 2.0);
    let mut text = String::new();
    while let Some(piece) = page.next().await.expect("a proper end") {
        text.push_str(&String::from_utf8_lossy(&piece));
    }
    let (_, last) = text.split_once("event: ended").expect("the end is told");
    assert!(last.contains(r#""reason":"expired""#), "{text}");
    for path in ["/oauth2/session", "/oauth2/session/events", "/a"] {
        let refused = stage.client.get(stage.daypass.url(path));
        let refused = refused.send().await.expect("an answer");
        let reason = refused.json()["reason"].clone();
        assert_eq!((refused.status, reason), (401, json!("expired")), "{path}");
    }
    let refresh = stage.client.post(format!("{url}/refresh"));
    let refresh = refresh.header("sec-fetch-site", "same-origin").send().await;
    let refresh = refresh.expect("an answer");
    assert_eq!(
        (refresh.status, &refresh.json()["reason"]),
        (401, &json!("expired"))
    );
    // Where no token is shown, none is missed.
    bare.next().await.expect("no error").expect("an event");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_strangers_and_of_other_sessions_go_on() {
    let stage = Stage::signed_in(|setup, upstream| {
        setup.route_first(json!({"name": "open", "path": "/sse", "access": "public", "upstream": upstream}))
            .route_first(json!({"name": "either", "path": "/ws", "access": "optional", "upstream": upstream}))
    })
    .await;
    let mut public = events(&stage, "/sse?ms=20").await;
    let origin = stage.daypass.url("");
    let stranger = daypass_testbed::client::Client::new();
    let url = stage.daypass.url("/ws");
    let socket = stranger.websocket(&url, &[("origin", &origin)]).await;
    let mut anonymous = Socket(socket.expect("a WebSocket"));
    let mut janes = open(&stage).await;
    // The same person at another browser.
    let other = Stage {
        client: daypass_testbed::client::Client::new(),
        ..stage
    };
    other.sign_in().await;
    let mut elsewhere = open(&other).await;
    other.sign_out_elsewhere().await;
    assert_eq!(
        elsewhere.last().await,
        Some((1008, "session revoked".to_owned()))
    );
    for socket in [&mut anonymous, &mut janes] {
        socket.echoes("still here").await;
    }
    public.next().await.expect("no error").expect("an event");
}

/// The response has not begun: there is still room for an answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waits_is_refused_when_its_session_ends() {
    let stage = Stage::signed_in(|setup, _| setup).await;
    let poll = tokio::spawn(stage.client.get(stage.daypass.url("/poll?ms=60000")).send());
    let arrived = daypass_testbed::raw::wait_for(PATIENCE, || stage.echo.last());
    assert!(arrived.is_some());
    let began = Instant::now();
    stage.sign_out_elsewhere().await;
    let answer = poll.await.expect("no panic").expect("an answer");
    assert_eq!(answer.status, 401);
    assert_eq!(answer.json()["reason"], "revoked");
    assert!(began.elapsed() < PATIENCE);
    stage.wait_for_metric(CLOSED, &[("reason", "revoked")], 1.0);
    stage.wait_for_access("/poll", "revoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_nobody_reads_ends_too() {
    const ALL: usize = 500_000_000;
    let stage = Stage::signed_in(|setup, _| setup).await;
    let mut stream = TcpStream::connect(stage.daypass.public()).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    let request = format!(
        "GET /big?bytes={ALL} HTTP/1.1\r\nHost: {}\r\nCookie: {}\r\n\r\n",
        stage.daypass.authority(),
        stage.cookie()
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let mut buffer = vec![0; 1 << 20];
    let mut got = stream.read(&mut buffer).expect("a start");
    stage.sign_out_elsewhere().await;
    stage.wait_for_metric(CLOSED, &[("reason", "revoked")], 1.0);
    stage.wait_for_access("/big", "revoked");
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        got += count;
    }
    assert!(got < ALL, "all {got} bytes came");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refreshed_token_disturbs_nothing() {
    let provider = Provider::with(|settings| settings.access_ttl = Duration::from_secs(2));
    let stage = Stage::with(provider, Echo::start(), |setup, _| {
        setup.set("session.refresh_before", "1s")
    });
    stage.sign_in().await;
    let mut socket = open(&stage).await;
    let mut stream = events(&stage, "/sse?ms=20").await;
    for turn in 1..=2 {
        let before = stage.provider.count(Endpoint::Refresh);
        let refreshed = || async {
            let answer = stage.client.get(stage.daypass.url("/a")).send().await;
            assert_eq!(answer.expect("an answer").status, 200);
            stage.provider.count(Endpoint::Refresh) > before
        };
        let deadline = Instant::now() + PATIENCE;
        while !refreshed().await {
            assert!(Instant::now() < deadline, "no refresh");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        socket.echoes(&format!("turn {turn}")).await;
        stream.next().await.expect("no error").expect("an event");
    }
    stage.wait_for_metric(CLOSED, &[], 0.0);
}

/// The client sends more than the upstream takes: the tunnel is stuck, and ends all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_tunnel_ends_too() {
    let upstream = TcpListener::bind("127.0.0.1:0").expect("bound");
    let url = format!("http://{}", upstream.local_addr().expect("an address"));
    std::thread::spawn(move || {
        let (mut stream, _) = upstream.accept().expect("a connection");
        let mut head = [0; 4096];
        let _ = stream.read(&mut head);
        let _ = stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        // Reads nothing more, until the other end is gone.
        std::thread::sleep(Duration::from_secs(60));
        let _ = stream.shutdown(Shutdown::Both);
    });
    let stage = Stage::signed_in(|setup, _| {
        setup.route_first(json!({"name": "deaf", "path": "/deaf", "upstream": url}))
    })
    .await;
    let mut stream = TcpStream::connect(stage.daypass.public()).expect("connected");
    let request = format!(
        "GET /deaf HTTP/1.1\r\nHost: {0}\r\nOrigin: http://{0}\r\nCookie: {1}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        stage.daypass.authority(),
        stage.cookie()
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let mut head = [0; 12];
    stream.read_exact(&mut head).expect("an answer");
    assert_eq!(&head, b"HTTP/1.1 101");
    let flood = std::thread::spawn(move || {
        let frame = vec![0; 1 << 16];
        let began = Instant::now();
        stream
            .set_write_timeout(Some(Duration::from_millis(200)))
            .expect("set");
        loop {
            match stream.write(&frame) {
                Ok(_) => {}
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock) => {}
                Err(_) => return began.elapsed(),
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    stage.sign_out_elsewhere().await;
    stage.wait_for_metric(CLOSED, &[("reason", "revoked")], 1.0);
    let took = flood.join().expect("no panic");
    assert!(took < PATIENCE, "{took:?}");
    stage.wait_for_metric("daypass_streams_active", &[], 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_no_use_of_the_session_and_requests_are() {
    let stage = Stage::signed_in(|setup, _| setup.set("session.idle_timeout", "5s")).await;
    let mut socket = open(&stage).await;
    let began = Instant::now();
    // Requests keep it: longer than the idle time-out, with messages all the time.
    while began.elapsed() < Duration::from_secs(6) {
        let answer = stage.client.get(stage.daypass.url("/a")).send().await;
        assert_eq!(answer.expect("an answer").status, 200);
        socket.echoes("busy").await;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    // Messages alone do not.
    let busy = async {
        loop {
            if socket.0.send(Message::text("busy")).await.is_err() {
                break None;
            }
            match socket.0.next().await {
                Some(Ok(Message::Close(frame))) => break frame,
                Some(Ok(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
                _ => break None,
            }
        }
    };
    let frame = tokio::time::timeout(PATIENCE, busy).await.expect("an end");
    let frame = frame.expect("a close frame");
    assert_eq!(
        (u16::from(frame.code), frame.reason.as_str()),
        (1008, "session idle")
    );
    stage.wait_for_metric(CLOSED, &[("reason", "idle")], 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_lifetime_ends_what_is_in_use() {
    let stage = Stage::signed_in(|setup, _| {
        setup
            .set("session.lifetime", "3s")
            .set("session.idle_timeout", "0")
    })
    .await;
    let mut socket = open(&stage).await;
    let stream = events(&stage, "/sse?ms=20").await;
    assert_eq!(
        socket.last().await,
        Some((1008, "session expired".to_owned()))
    );
    assert!(!rest(stream).await);
    stage.wait_for_metric(CLOSED, &[("reason", "expired")], 2.0);
    stage.wait_for_access("/ws", "expired");
}
