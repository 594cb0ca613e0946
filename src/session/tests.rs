//! Holds both stores to the same promises, and Redis to its deadlines.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::testing::{
    Odd, RedisServer, START, config, odd_proxy, session_at, store_at, takes_less_than, tokens,
};
use super::*;
use crate::clock::{Clock, ManualClock, SharedClock, SystemClock};
use crate::config::model;
use crate::metrics::Metrics;

mod cached;
mod conformance;
mod connections;
mod fleet;
mod moves;
mod outages;
mod redis;
mod twins;

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new().unwrap())
}

fn memory_config(entries: usize) -> model::Session {
    config(model::Store::Memory { entries })
}

fn memory() -> (Sessions, Arc<ManualClock>, Arc<Metrics>) {
    let (clock, metrics) = (ManualClock::at(START), metrics());
    let shared: SharedClock = Arc::clone(&clock) as SharedClock;
    let sessions = Sessions::open(&memory_config(1000), shared, Arc::clone(&metrics)).unwrap();
    (sessions, clock, metrics)
}

fn found(lookup: Result<Lookup, StoreError>) -> Found {
    match lookup.unwrap() {
        Lookup::Found(found) => found,
        Lookup::Missing(gone) => panic!("missing: {gone:?}"),
    }
}

fn missing(lookup: Result<Lookup, StoreError>) -> Gone {
    match lookup.unwrap() {
        Lookup::Found(_) => panic!("still there"),
        Lookup::Missing(gone) => gone,
    }
}

fn granted(answer: Result<LeaseAnswer, StoreError>) -> Lease {
    match answer.unwrap() {
        LeaseAnswer::Granted(lease) => lease,
        other => panic!("not granted: {other:?}"),
    }
}

/// The value of a series in the exposition text.
fn metric(metrics: &Metrics, series: &str) -> f64 {
    let text = String::from_utf8(metrics.encode().unwrap()).unwrap();
    text.lines()
        .find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
        .unwrap_or_else(|| panic!("no series {series}"))
}

async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !check().await {
        assert!(start.elapsed() < Duration::from_secs(10), "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn the_absolute_lifetime_ends_a_session_that_is_in_use() {
    // SESS-03.
    let (sessions, clock, metrics) = memory();
    let mut session = session_at(START);
    session.expires_at = START.plus(Duration::from_secs(5400));
    let id = sessions.create(session).await.unwrap();
    for _ in 0..3 {
        clock.advance(Duration::from_secs(1700));
        let idle = found(sessions.load(&id).await).idle_expires_at.unwrap();
        assert!(idle <= START.plus(Duration::from_secs(5400)));
    }
    clock.advance(Duration::from_secs(300));
    assert_eq!(missing(sessions.load(&id).await), Gone::Expired);
    assert_eq!(missing(sessions.load(&id).await), Gone::Expired);
    let ends = metric(&metrics, r#"daypass_session_ends_total{reason="expired"}"#);
    assert!((ends - 1.0).abs() < f64::EPSILON, "counted once");
    assert_eq!(sessions.held(), 0);
}

#[tokio::test]
async fn idle_time_counts_from_the_last_use_and_peeking_is_no_use() {
    // SESS-03, SESS-10.
    let (sessions, clock, metrics) = memory();
    let id = sessions.create(session_at(START)).await.unwrap();
    clock.advance(Duration::from_secs(3599));
    let idle_end = found(sessions.load(&id).await).idle_expires_at.unwrap();
    assert_eq!(idle_end, clock.now().plus(Duration::from_secs(3600)));
    clock.advance(Duration::from_secs(3599));
    assert_eq!(
        found(sessions.peek(&id).await).idle_expires_at,
        Some(idle_end)
    );
    clock.advance(Duration::from_secs(1));
    assert_eq!(missing(sessions.load(&id).await), Gone::Idle);
    let ends = metric(&metrics, r#"daypass_session_ends_total{reason="idle"}"#);
    assert!((ends - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn without_idle_time_out_only_the_lifetime_counts() {
    let (clock, metrics) = (ManualClock::at(START), metrics());
    let mut config = memory_config(10);
    config.idle_timeout = None;
    let sessions = Sessions::open(&config, clock.clone(), metrics).unwrap();
    let id = sessions.create(session_at(START)).await.unwrap();
    clock.advance(Duration::from_secs(11 * 3600));
    assert_eq!(found(sessions.load(&id).await).idle_expires_at, None);
}

#[tokio::test]
async fn memory_is_bounded_and_forgets_the_dead() {
    let (clock, metrics) = (ManualClock::at(START), metrics());
    let sessions = Sessions::open(&memory_config(100), clock.clone(), metrics).unwrap();
    for _ in 0..1000 {
        sessions.create(session_at(START)).await.unwrap();
    }
    assert!(sessions.held() <= 100);
    clock.advance(Duration::from_secs(3601));
    sessions.create(session_at(clock.now())).await.unwrap();
    assert_eq!(sessions.held(), 1, "idle ones were purged");
}

#[tokio::test]
async fn a_reload_changes_keys_and_idle_time_but_not_the_kind_of_store() {
    let (sessions, clock, _) = memory();
    let id = sessions.create(session_at(START)).await.unwrap();
    let mut config = memory_config(500);
    config.idle_timeout = Some(Duration::from_secs(10));
    sessions.reconfigure(&config).unwrap();
    clock.advance(Duration::from_secs(11));
    assert_eq!(missing(sessions.load(&id).await), Gone::Idle);

    config.store = model::Store::Redis(Box::new(store_at("redis://127.0.0.1/")));
    assert!(sessions.reconfigure(&config).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_races_a_logout_never_brings_the_session_back() {
    // REFRESH-34, and PRODUCT §4: a session never comes back.
    let (sessions, _clock, _) = memory();
    for _ in 0..200 {
        let id = sessions.create(session_at(START)).await.unwrap();
        let lease = granted(sessions.lease(&id, 0).await);
        let (committer, logout) = (sessions.clone(), sessions.clone());
        let (one, two) = (id.clone(), id.clone());
        let commit = tokio::spawn(async move {
            committer
                .commit(&one, &lease, &tokens(1, START))
                .await
                .unwrap()
        });
        let delete = tokio::spawn(async move { logout.delete(&two).await.unwrap() });
        let (commit, deleted) = (commit.await.unwrap(), delete.await.unwrap().unwrap());
        match commit {
            CommitAnswer::Stored(_) => {
                assert_eq!(deleted.generation, 1, "logout sees what to revoke");
            }
            CommitAnswer::Gone => assert_eq!(deleted.generation, 0),
            other => panic!("{other:?}"),
        }
        assert_eq!(missing(sessions.load(&id).await), Gone::Revoked);
    }
}

#[test]
fn a_token_that_is_no_header_value_makes_none() {
    for (name, token, ok) in [
        ("a JWT", "eyJ.eyJ.c2ln", true),
        (
            "every graphic character",
            "!#$%&'()*+,-./:;<=>?@[]^_`{|}~\"",
            true,
        ),
        ("a space", "a b", false),
        ("a line break", "a\r\nx: y", false),
        ("not ASCII", "é", false),
        ("nothing", "", false),
    ] {
        let value = bearer(&AccessToken::new(token));
        assert_eq!(value.is_some(), ok, "{name}");
        assert!(
            value.as_ref().is_none_or(HeaderValue::is_sensitive),
            "{name}"
        );
        let (kept, header) = with_bearer(AccessToken::new(token));
        assert_eq!((kept.expose(), &header), (token, &value), "{name}: shared");
        assert!(header.is_none_or(|v| v.is_sensitive()), "{name}");
    }
}

#[test]
fn debug_tells_neither_who_nor_any_token() {
    let id = SessionId::generate();
    let text = format!("{:?} {id:?} {:?}", session_at(START), memory().0);
    for secret in ["alice", "sid-1", "at-0", "rt-0", "id-0", id.expose()] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
}
