//! Listens as a page does, over a wire in memory and with a clock that is told the time.

use futures_util::FutureExt;
use pingora::http::ResponseHeader;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::advance;

use super::*;
use crate::clock::ManualClock;
use crate::metrics::Metrics;
use crate::session::testing::{START, session_at};
use crate::session::{Lookup, Sessions};

struct Rig {
    clock: Arc<ManualClock>,
    sessions: Sessions,
    streams: Streams,
    id: SessionId,
    events: Events,
    exchange: Exchange,
    page: DuplexStream,
}

/// A page that has begun to listen; `room` bytes fit between it and us.
async fn rig(room: usize) -> Rig {
    let config = Arc::new(crate::rp::fakes::config(Vec::new()));
    let clock = ManualClock::at(START);
    let shared: SharedClock = clock.clone();
    let metrics = Arc::new(Metrics::new().unwrap());
    let sessions = Sessions::open(&config.session, shared.clone(), metrics.clone()).unwrap();
    let streams = Streams::new(sessions.clone(), shared.clone(), metrics);
    let id = sessions.create(session_at(START)).await.unwrap();
    let Lookup::Found(found) = sessions.peek(&id).await.unwrap() else {
        panic!("just made");
    };
    let (mut page, wire) = tokio::io::duplex(room);
    page.write_all(b"GET / HTTP/1.1\r\nHost: shop.example.com\r\n\r\n")
        .await
        .unwrap();
    let mut exchange = Exchange::new_h1(Box::new(wire));
    exchange.read_request().await.unwrap();
    let head = ResponseHeader::build(200, None).unwrap();
    let write = exchange.write_response_header(Box::new(head), false);
    let read = async {
        let mut got = Vec::new();
        while !got.ends_with(b"\r\n\r\n") {
            got.push(page.read_u8().await.unwrap());
        }
    };
    tokio::join!(write, read).0.unwrap();
    let head = http::Request::new(()).into_parts().0;
    let events = Events::new(&config, &streams, &shared, &head, id.clone(), found).unwrap();
    Rig {
        clock,
        sessions,
        streams,
        id,
        events,
        exchange,
        page,
    }
}

impl Rig {
    /// Lets time pass, second by second, while the stream goes on; what the page got meanwhile, or how the stream ended.
    async fn pass(&mut self, seconds: u64) -> Result<String, pingora::Result<End>> {
        let mut got = Vec::new();
        for _ in 0..seconds {
            self.clock.advance(Duration::from_secs(1));
            advance(Duration::from_secs(1)).await;
            for _ in 0..4 {
                if let Some(end) = self.events.follow(&mut self.exchange).now_or_never() {
                    return Err(end);
                }
            }
            let mut buffer = [0; 4096];
            while let Some(read) = self.page.read(&mut buffer).now_or_never() {
                got.extend_from_slice(&buffer[..read.unwrap()]);
            }
        }
        Ok(String::from_utf8(got).unwrap())
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_has_a_pulse() {
    let mut rig = rig(4096).await;
    // `follow` is begun anew for each second here, so the beats are counted from its beginning.
    let follow = rig.events.follow(&mut rig.exchange);
    let mut buffer = [0; 64];
    let began = Instant::now();
    let listen = async {
        for beat in 1..=4_u32 {
            let count = rig.page.read(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..count], b":\n\n", "a comment is no event");
            assert_eq!(
                began.elapsed().as_secs(),
                HEARTBEAT.as_secs() * u64::from(beat)
            );
        }
    };
    tokio::select! {
        end = follow => panic!("{end:?}"),
        () = listen => {}
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_is_announced_taken_back_and_comes() {
    let mut rig = rig(4096).await;
    // The idle time-out is an hour; it is announced two minutes ahead.
    let quiet = rig.pass(3479).await.expect("goes on");
    assert!(!quiet.contains("event:"), "{quiet}");
    let told = rig.pass(2).await.expect("goes on");
    assert!(told.contains("event: expiring\nid: "), "{told}");
    assert!(told.contains("\"idle_expires_in_seconds\":1"), "{told}");
    assert!(!told.contains("at-0"), "never a token");
    let quiet = rig.pass(60).await.expect("goes on");
    assert!(!quiet.contains("event:"), "told once: {quiet}");
    // The user does something in another tab.
    rig.sessions.load(&rig.id).await.unwrap();
    rig.events.watch.look_now();
    let told = rig.pass(1).await.expect("goes on");
    assert!(told.contains("event: refreshed\n"), "{told}");
    // And then nothing any more.
    let told = rig.pass(3599 - 60).await.expect("goes on");
    assert_eq!(told.matches("event: expiring\n").count(), 1, "{told}");
    assert!(matches!(
        rig.pass(120).await,
        Err(Ok(End::Session(StreamEnd::Idle)))
    ));
    let last = rig.events.ended(StreamEnd::Idle);
    assert_eq!(
        last,
        "event: ended\ndata: {\"active\":false,\"reason\":\"idle\",\"login_url\":\"/oauth2/login\"}\n\n"
    );
}

#[tokio::test(start_paused = true)]
async fn a_page_that_does_not_read_is_let_go() {
    let mut rig = rig(64).await;
    // Its room fills with heartbeats; from then on it has ten seconds.
    let follow = timeout(
        Duration::from_secs(3600),
        rig.events.follow(&mut rig.exchange),
    );
    let error = follow.await.expect("an end").expect_err("no proper one");
    assert_eq!(*error.etype(), ErrorType::WriteTimedout);
}

#[tokio::test(start_paused = true)]
async fn a_page_that_leaves_and_a_process_that_ends_end_the_stream() {
    let mut rig = rig(4096).await;
    rig.streams.drain();
    let end = rig.events.follow(&mut rig.exchange).await;
    assert!(matches!(end, Ok(End::Drain)));
    let text = going_away();
    let retry = text
        .strip_prefix("retry: ")
        .and_then(|rest| rest.lines().next());
    let retry: u16 = retry.expect("a hint").parse().expect("a number");
    assert!((500..500 + RETRY).contains(&retry));

    let mut rig = self::rig(4096).await;
    drop(rig.page);
    let error = rig.events.follow(&mut rig.exchange).await;
    assert_eq!(
        *error.expect_err("gone").etype(),
        ErrorType::ConnectionClosed
    );
}
