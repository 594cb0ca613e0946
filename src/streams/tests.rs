//! Follows sessions of a store in memory, with a clock that is told the time.

use std::task::Waker;

use futures_util::FutureExt;
use tokio::time::{Instant, advance};

use super::*;
use crate::clock::{ManualClock, SharedClock};
use crate::config::model;
use crate::metrics::StreamEnd;
use crate::session::testing::{START, config, session_at, tokens};
use crate::session::{LeaseAnswer, Lookup};

struct Rig {
    streams: Streams,
    sessions: Sessions,
    clock: Arc<ManualClock>,
    metrics: Arc<Metrics>,
}

fn rig() -> Rig {
    rig_with(&config(model::Store::Memory { entries: 100 }))
}

fn rig_with(config: &model::Session) -> Rig {
    let (clock, metrics) = (ManualClock::at(START), Arc::new(Metrics::new().unwrap()));
    let shared: SharedClock = Arc::clone(&clock) as SharedClock;
    let sessions = Sessions::open(config, shared.clone(), metrics.clone()).unwrap();
    let streams = Streams::new(sessions.clone(), shared, metrics.clone());
    Rig {
        streams,
        sessions,
        clock,
        metrics,
    }
}

impl Rig {
    async fn session(&self) -> SessionId {
        self.sessions.create(session_at(START)).await.unwrap()
    }

    /// Lets time pass for both clocks.
    async fn pass(&self, time: Duration) {
        self.clock.advance(time);
        advance(time).await;
    }

    fn closed(&self, reason: StreamEnd) -> bool {
        let text = String::from_utf8(self.metrics.encode().unwrap()).unwrap();
        text.contains(&format!(
            "daypass_streams_closed_total{{reason=\"{}\"}} 1",
            reason.label()
        ))
    }
}

async fn lives(watch: &mut Watch) -> crate::session::Found {
    match watch.next(None).await {
        Step::Lives(found) => found,
        other => panic!("{other:?}"),
    }
}

async fn over(watch: &mut Watch) -> StreamEnd {
    loop {
        if let Step::Over(why) = watch.next(None).await {
            return why;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_logout_is_noticed_at_once_and_a_refresh_is_none() {
    let rig = rig();
    let id = rig.session().await;
    let mut watch = Watch::new(&rig.streams, id.clone(), Bond::Token);
    assert_eq!(lives(&mut watch).await.session.generation, 0);
    assert!(watch.next(None).now_or_never().is_none(), "nothing to tell");
    let lease = match rig.sessions.lease(&id, 0).await.unwrap() {
        LeaseAnswer::Granted(lease) => lease,
        other => panic!("{other:?}"),
    };
    rig.sessions
        .commit(&id, &lease, &tokens(1, START))
        .await
        .unwrap();
    assert_eq!(lives(&mut watch).await.session.generation, 1);
    let began = Instant::now();
    rig.sessions.delete(&id).await.unwrap();
    assert_eq!(over(&mut watch).await, StreamEnd::Revoked);
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_end_before_the_first_look_is_noticed() {
    let rig = rig();
    let id = rig.session().await;
    let mut watch = Watch::new(&rig.streams, id.clone(), Bond::Token);
    rig.sessions.delete(&id).await.unwrap();
    assert_eq!(over(&mut watch).await, StreamEnd::Revoked);
}

#[tokio::test(start_paused = true)]
async fn an_open_stream_is_no_use_and_requests_are() {
    // The idle time-out is an hour.
    let rig = rig();
    let id = rig.session().await;
    let mut watch = Watch::new(&rig.streams, id.clone(), Bond::Token);
    lives(&mut watch).await;
    rig.pass(Duration::from_secs(3500)).await;
    // Another request of the same browser.
    assert!(matches!(
        rig.sessions.load(&id).await.unwrap(),
        Lookup::Found(_)
    ));
    rig.pass(Duration::from_secs(200)).await;
    let found = lives(&mut watch).await;
    assert_eq!(
        found.idle_expires_at,
        Some(START.plus(Duration::from_secs(3500 + 3600)))
    );
    rig.pass(Duration::from_secs(3401)).await;
    assert_eq!(over(&mut watch).await, StreamEnd::Idle);
}

#[tokio::test(start_paused = true)]
async fn the_lifetime_ends_what_is_in_use() {
    let rig = rig();
    let mut session = session_at(START);
    session.expires_at = START.plus(Duration::from_secs(90));
    let id = rig.sessions.create(session).await.unwrap();
    let mut watch = Watch::new(&rig.streams, id, Bond::Token);
    lives(&mut watch).await;
    let limit = Instant::now() + Duration::from_secs(5);
    assert!(matches!(watch.next(Some(limit)).await, Step::Quiet));
    assert_eq!(Instant::now(), limit, "at the caller's time");
    rig.pass(Duration::from_secs(91)).await;
    assert_eq!(over(&mut watch).await, StreamEnd::Expired);
}

/// REFRESH-29
#[tokio::test(start_paused = true)]
async fn without_a_refresh_token_what_shows_the_token_ends_with_it() {
    let rig = rig();
    let mut session = session_at(START);
    let mut last = tokens(0, START);
    last.refresh = None;
    session.tokens = Arc::new(last);
    let id = rig.sessions.create(session).await.unwrap();
    let mut shows = Watch::new(&rig.streams, id.clone(), Bond::Token);
    let mut shows_none = Watch::new(&rig.streams, id, Bond::Session);
    lives(&mut shows).await;
    // Five seconds before its end it is shown no more.
    rig.pass(Duration::from_secs(294)).await;
    lives(&mut shows).await;
    rig.pass(Duration::from_millis(1050)).await;
    assert_eq!(over(&mut shows).await, StreamEnd::Expired);
    lives(&mut shows_none).await;
}

#[tokio::test(start_paused = true)]
async fn only_what_lasts_is_watched() {
    let rig = rig();
    let riders = Riders::default();
    let id = rig.session().await;
    drop(riders.mount(&rig.streams, id.clone(), Bond::Token, None));
    assert!(riders.look() && riders.look());

    let seat = riders.mount(&rig.streams, id.clone(), Bond::Token, None);
    assert!(riders.look(), "once is not twice");
    rig.sessions.delete(&id).await.unwrap();
    advance(Duration::from_secs(1)).await;
    assert_eq!(seat.ended(), None, "nobody watched yet");
    // Now it is watched, and what happened before is seen.
    assert!(riders.look());
    advance(Duration::from_millis(1)).await;
    tokio::task::yield_now().await;
    assert_eq!(seat.ended(), Some(StreamEnd::Revoked));
    assert!(riders.is_cut() && rig.closed(StreamEnd::Revoked));
    // Whoever does not heed it loses the connection, a few looks later.
    assert!((0..10).any(|_| !riders.look()));
}

#[tokio::test(start_paused = true)]
async fn what_is_open_when_its_session_ends_is_cut_off_however_new_it_is() {
    let rig = rig();
    let attending = rig.streams.clone();
    let attending = tokio::spawn(async move { attending.attend().await });
    tokio::task::yield_now().await;
    let (over, other) = (rig.session().await, rig.session().await);
    let (riders, neighbour) = (Riders::default(), Riders::default());
    let seat = riders.mount(&rig.streams, over.clone(), Bond::Token, None);
    let stays = neighbour.mount(&rig.streams, other, Bond::Token, None);
    rig.sessions.delete(&over).await.unwrap();
    // Let in before the end, and on its way to its place.
    let late = riders.mount(
        &rig.streams,
        over,
        Bond::Token,
        Some(Arc::new(Cut::default())),
    );
    for _ in 0..10 {
        tokio::time::sleep(MOMENT / 5).await;
    }
    assert_eq!(
        [&seat, &late, &stays].map(Seat::ended),
        [Some(StreamEnd::Revoked), Some(StreamEnd::Revoked), None]
    );
    assert_eq!(rig.streams.0.connections.all().len(), 2);
    drop((seat, late, stays, riders, neighbour));
    tokio::task::yield_now().await;
    assert!(rig.streams.0.connections.all().is_empty(), "nobody is kept");
    attending.abort();
}

#[tokio::test(start_paused = true)]
async fn a_cut_hits_only_the_one_it_is_meant_for() {
    let rig = rig();
    let riders = Riders::default();
    let (one, two) = (rig.session().await, rig.session().await);
    let cuts = [Arc::new(Cut::default()), Arc::new(Cut::default())];
    let first = riders.mount(
        &rig.streams,
        one.clone(),
        Bond::Token,
        Some(cuts[0].clone()),
    );
    let second = riders.mount(&rig.streams, two, Bond::Token, Some(cuts[1].clone()));
    first.watch();
    second.watch();
    rig.sessions.delete(&one).await.unwrap();
    for _ in 0..3 {
        tokio::task::yield_now().await;
    }
    let mut context = std::task::Context::from_waker(Waker::noop());
    assert!(cuts[0].poll(&mut context) && !cuts[1].poll(&mut context));
    assert!(!riders.is_cut(), "the connection goes on");
    assert_eq!(
        (first.ended(), second.ended()),
        (Some(StreamEnd::Revoked), None)
    );
    // The next one in its place is another.
    drop(first);
    let third = riders.mount(&rig.streams, rig.session().await, Bond::Token, None);
    assert_eq!(third.ended(), None);
}

#[tokio::test(start_paused = true)]
async fn a_cut_that_comes_after_the_whole_answer_leaves_the_connection() {
    // RFC 9112 §9.3: what is kept alive takes the next request, and the client may have sent it.
    let rig = rig();
    let riders = Riders::default();
    for (name, answered) in [("answered", true), ("in the middle", false)] {
        let id = rig.session().await;
        let seat = riders.mount(&rig.streams, id.clone(), Bond::Token, None);
        seat.watch();
        rig.sessions.delete(&id).await.unwrap();
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        assert!(riders.is_cut() && seat.ended().is_some(), "{name}");
        if answered {
            seat.answered();
        } else {
            drop(seat);
        }
        assert_eq!(riders.is_cut(), !answered, "{name}");
        let next = riders.mount(&rig.streams, rig.session().await, Bond::Token, None);
        assert_eq!(riders.is_cut(), !answered, "{name}: the next request");
        next.answered();
    }
}

#[tokio::test(start_paused = true)]
async fn streams_of_events_are_bounded_by_session() {
    let rig = rig();
    let (one, two) = (rig.session().await, rig.session().await);
    let mut held: Vec<_> = (0..LISTENERS_OF_ONE)
        .map(|_| rig.streams.listen(&one).expect("room"))
        .collect();
    assert!(rig.streams.listen(&one).is_none());
    assert!(rig.streams.listen(&two).is_some(), "others have room");
    held.pop();
    held.push(rig.streams.listen(&one).expect("room again"));
    drop(held);
    let listeners = rig.streams.0.listeners.lock();
    assert!(listeners.by_session.is_empty() && listeners.count == 0);
}

/// As [`rig`], over a Redis of its own and in real time.
fn rig_in(redis: &crate::session::testing::RedisServer, patience: Duration) -> Rig {
    let config = model::Session {
        max_staleness: patience,
        ..redis.config()
    };
    rig_with(&config)
}

#[tokio::test]
async fn an_outage_of_the_store_ends_nothing_until_patience_does() {
    let mut redis = crate::session::testing::RedisServer::start();
    let patience = Duration::from_secs(3);
    let rig = rig_in(&redis, patience);
    let id = rig.session().await;
    let mut watch = Watch::new(&rig.streams, id, Bond::Token);
    lives(&mut watch).await;
    // Back in time.
    redis.signal("STOP");
    let limit = Instant::now() + patience * 2 / 3;
    while let Step::Lives(_) = watch.next(Some(limit)).await {}
    assert!(Instant::now() >= limit, "still open while nothing is known");
    redis.signal("CONT");
    // Not back. Patience counts from when the store last told.
    let good = loop {
        let good = Instant::now();
        // Longer than a session is taken for true without a word of the store.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        watch.look_now();
        if !lives(&mut watch).await.stale {
            break good;
        }
    };
    redis.kill();
    assert_eq!(over(&mut watch).await, StreamEnd::StoreUnavailable);
    let took = good.elapsed();
    assert!(
        took >= patience && took < patience * 4,
        "within patience and not much more: {took:?}"
    );
}

#[tokio::test]
async fn a_stream_that_begins_in_an_outage_ends_with_the_patience_of_the_others() {
    let redis = crate::session::testing::RedisServer::start();
    let patience = Duration::from_secs(6);
    let rig = rig_in(&redis, patience);
    let id = rig.session().await;
    let mut early = Watch::new(&rig.streams, id.clone(), Bond::Token);
    lives(&mut early).await;
    redis.signal("STOP");
    let began = Instant::now();
    tokio::time::sleep(patience * 3 / 5).await;
    let mut late = Watch::new(&rig.streams, id, Bond::Token);
    assert!(lives(&mut late).await.stale, "served on");
    assert_eq!(over(&mut late).await, StreamEnd::StoreUnavailable);
    let took = began.elapsed();
    assert!(took < patience * 3 / 2, "a patience of its own: {took:?}");
}

/// A page that listens is told nothing that an outage would forbid, and of no end that is none.
#[tokio::test]
async fn who_is_patient_waits_for_the_store_however_long_it_takes() {
    let mut redis = crate::session::testing::RedisServer::start();
    let patience = Duration::from_secs(1);
    let rig = rig_in(&redis, patience);
    let id = rig.session().await;
    let Lookup::Found(found) = rig.sessions.peek(&id).await.unwrap() else {
        panic!("just made");
    };
    let mut watch = Watch::patient(&rig.streams, id.clone(), Bond::Session, found);
    let mut strict = Watch::new(&rig.streams, id.clone(), Bond::Session);
    lives(&mut watch).await;
    lives(&mut strict).await;
    redis.signal("STOP");
    assert_eq!(over(&mut strict).await, StreamEnd::StoreUnavailable);
    let limit = Instant::now() + patience * 2;
    loop {
        match watch.next(Some(limit)).await {
            Step::Lives(_) => {}
            Step::Quiet => break,
            Step::Over(why) => panic!("{why:?}"),
        }
    }
    redis.signal("CONT");
    lives(&mut watch).await;
    rig.sessions.delete(&id).await.unwrap();
    assert_eq!(over(&mut watch).await, StreamEnd::Revoked);
    // What is over by the clock needs no store to tell.
    let id = rig.session().await;
    let Lookup::Found(found) = rig.sessions.peek(&id).await.unwrap() else {
        panic!("just made");
    };
    let mut watch = Watch::patient(&rig.streams, id, Bond::Session, found);
    lives(&mut watch).await;
    redis.kill();
    rig.clock.advance(Duration::from_secs(13 * 3600));
    watch.look_now();
    assert_eq!(over(&mut watch).await, StreamEnd::Expired);
}

#[tokio::test]
async fn a_lifetime_that_is_over_needs_no_store_to_tell() {
    let mut redis = crate::session::testing::RedisServer::start();
    let rig = rig_in(&redis, Duration::from_secs(60));
    let id = rig.session().await;
    let mut watch = Watch::new(&rig.streams, id, Bond::Token);
    lives(&mut watch).await;
    redis.kill();
    rig.clock.advance(Duration::from_secs(13 * 3600));
    watch.look_now();
    assert_eq!(over(&mut watch).await, StreamEnd::Expired);
}
