//! Shows that bodies pass as they come, and that a slow end holds the other back instead of filling memory.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use daypass_testbed::raw::wait_for;
use daypass_testbed::stalls::Stalls;
use serde_json::json;

use crate::stage::{PATIENCE, Stage};

/// What daypass may grow by while a body passes that is many times as large.
const ROOM: u64 = 24 << 20;

/// A look that took so long, where 5 ms are meant, shows a machine that is short of time.
const STALL: Duration = Duration::from_millis(20);

#[tokio::test(flavor = "multi_thread")]
async fn events_arrive_one_by_one() {
    let stage = Stage::signed_in(|setup, _| setup).await;
    let active = ("daypass_streams_active", [("route", "private")]);
    let sent = [0, 1, 2, 3, 4]
        .map(|index| format!("id: {index}\ndata: tick {index}\n\n"))
        .concat();
    // A machine that stands still for as long as lies between two lets them come as one; then, and only then, it is done again.
    let stalls = Stalls::watch(Vec::new());
    for _ in 0..5 {
        stalls.longest();
        stage.wait_for_metric(active.0, &active.1, 0.0);
        let call = stage.client.get(stage.daypass.url("/sse?ms=100"));
        let began = Instant::now();
        let mut events = call
            .header("accept", "text/event-stream")
            .stream()
            .await
            .expect("a stream");
        assert_eq!(events.status, 200);
        assert_eq!(events.headers["content-type"], "text/event-stream");
        assert_eq!(events.headers["cache-control"], "private, no-cache");
        let (mut pieces, mut text) = (0, String::new());
        while text.len() < sent.len() {
            let piece = events.next().await.expect("no error").expect("an event");
            pieces += 1;
            text.push_str(std::str::from_utf8(&piece).expect("text"));
        }
        assert!(text.starts_with(&sent), "{text}");
        // Sent over 400 ms: had they been collected, they would have come as one piece.
        assert!(
            began.elapsed() >= Duration::from_millis(300),
            "{:?}",
            began.elapsed()
        );
        stage.wait_for_metric(active.0, &active.1, 1.0);
        if pieces == 5 {
            return;
        }
        let stall = stalls.longest();
        assert!(stall >= STALL, "collected ({stall:?}): {pieces} pieces");
    }
    panic!("this machine is too slow to tell");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_the_upstreams_stream() {
    let stage = Stage::signed_in(|setup, _| setup).await;
    let mut stream = TcpStream::connect(stage.daypass.public()).expect("connected");
    let request = format!(
        "GET /sse?ms=20 HTTP/1.1\r\nHost: {}\r\nCookie: {}\r\n\r\n",
        stage.daypass.authority(),
        stage.cookie()
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let mut some = [0; 256];
    stream.read_exact(&mut some).expect("events");
    drop(stream);
    let ended = wait_for(PATIENCE, || {
        (stage.echo.ended_streams().len() == 1).then_some(())
    });
    assert!(ended.is_some(), "the upstream sends to nobody");
    let gauge = wait_for(PATIENCE, || {
        (stage.daypass.metric("daypass_streams_active", &[]) < 0.1).then_some(())
    });
    assert!(gauge.is_some(), "the stream is counted for ever");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_holds_the_upstream_back() {
    let stage = Stage::signed_in(|setup, _| setup).await;
    let before = stage.daypass.resident_bytes();
    let mut streams: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut stream = TcpStream::connect(stage.daypass.public()).expect("connected");
            stream.set_read_timeout(Some(PATIENCE)).expect("set");
            let request = format!(
                "GET /big?bytes=50000000 HTTP/1.1\r\nHost: {}\r\nCookie: {}\r\nConnection: close\r\n\r\n",
                stage.daypass.authority(),
                stage.cookie()
            );
            stream.write_all(request.as_bytes()).expect("sent");
            let mut some = [0; 1024];
            stream.read_exact(&mut some).expect("a start");
            stream
        })
        .collect();
    // Eight clients that read nothing for a while, 400 MB waiting: the pipes fill, and then the upstream must wait.
    let mut highest = 0;
    for _ in 0..50 {
        highest = highest.max(stage.daypass.resident_bytes());
        std::thread::sleep(Duration::from_millis(10));
    }
    let grown = highest.saturating_sub(before);
    assert!(grown < ROOM, "grown by {} KiB", grown >> 10);
    // And a reader that goes on gets all of it.
    let mut rest = 0;
    let mut buffer = vec![0; 1 << 20];
    let first = &mut streams[0];
    loop {
        match first.read(&mut buffer).expect("no error") {
            0 => break,
            count => rest += count,
        }
    }
    assert!(rest > 49_999_000, "{rest} bytes came");
    let grown = stage.daypass.resident_bytes().saturating_sub(before);
    assert!(grown < ROOM, "grown by {} KiB", grown >> 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_upload_passes_without_being_kept() {
    const LENGTH: usize = 100_000_000;
    let stage =
        Stage::signed_in(|setup, _| setup.set("routes.1.limits", json!({"body": "200MiB"}))).await;
    let before = stage.daypass.resident_bytes();
    let mut stream = TcpStream::connect(stage.daypass.public()).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    let head = format!(
        "POST /a HTTP/1.1\r\nHost: {}\r\nCookie: {}\r\nContent-Length: {LENGTH}\r\nConnection: close\r\n\r\n",
        stage.daypass.authority(),
        stage.cookie()
    );
    stream.write_all(head.as_bytes()).expect("sent");
    let piece = vec![b'x'; 1_000_000];
    let mut highest = 0;
    for index in 0..LENGTH / piece.len() {
        stream.write_all(&piece).expect("sent");
        if index == 0 {
            // The header travels before the body is whole.
            let seen = wait_for(PATIENCE, || stage.echo.last());
            assert!(seen.is_some_and(|seen| seen.body_sha256.is_empty()));
        }
        highest = highest.max(stage.daypass.resident_bytes());
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(
        stage.arrived("upload").expect("it arrived").body_length,
        LENGTH
    );
    let grown = highest.saturating_sub(before);
    assert!(grown < ROOM, "grown by {} KiB", grown >> 10);
}
