//! Plays reads, news and logouts in every order that matters.

use super::super::testing::{START, session, tokens};
use super::super::{SessionId, Tokens};
use super::*;
use crate::secret::AccessToken;

fn cache(entries: usize) -> Cache {
    Cache::new(entries, Arc::default(), Arc::new(Metrics::new().unwrap()))
}

fn key() -> RecordKey {
    SessionId::generate().record_key()
}

/// A cache that is kept true, and a session in it.
fn trusted() -> (Cache, RecordKey) {
    let (cache, key) = (cache(100), key());
    cache.trust().establish(Instant::now());
    cache.keep(&cache.ticket(key), Arc::new(session()), None);
    (cache, key)
}

fn fresh(cache: &Cache, key: RecordKey) -> Option<u64> {
    let entry = cache.fresh(key, Instant::now())?;
    Some(entry.session.generation)
}

#[test]
fn what_was_read_is_served_until_news_come() {
    let (cache, key) = trusted();
    assert_eq!(fresh(&cache, key), Some(0));
    assert!(cache.forget(key).is_some());
    assert_eq!(fresh(&cache, key), None);
    assert!(cache.forget(key).is_none());
}

#[test]
fn a_read_that_raced_is_used_once_and_not_kept() {
    type News = fn(&Cache, RecordKey);
    let news: [(&str, News); 3] = [
        ("a push, or a logout here", |cache, key| {
            drop(cache.forget(key));
        }),
        ("everything was flushed", |cache, _| cache.flush()),
        ("a commit here", |cache, key| {
            cache.written(&cache.ticket(key), &Arc::new(session()), None);
        }),
    ];
    for (name, news) in news {
        let (cache, key) = (cache(100), key());
        cache.trust().establish(Instant::now());
        let ticket = cache.ticket(key);
        // Redis has answered the read; before the answer is here, news of a later change are.
        news(&cache, key);
        let entry = cache.keep(&ticket, Arc::new(session()), None);
        assert_eq!(entry.session.generation, 0, "{name}: handed out");
        assert_eq!(fresh(&cache, key), None, "{name}: not kept");
        // The next one is kept.
        cache.keep(&cache.ticket(key), Arc::new(session()), None);
        assert_eq!(fresh(&cache, key), Some(0), "{name}");
    }
}

#[test]
fn a_read_during_which_trust_was_lost_is_not_believed() {
    let (cache, key) = (cache(100), key());
    let start = Instant::now();
    cache.trust().establish(start);
    let ticket = cache.ticket(key);
    cache.trust().lose();
    cache.keep(&ticket, Arc::new(session()), None);
    assert_eq!(fresh(&cache, key), None);
    cache.trust().establish(Instant::now());
    assert_eq!(fresh(&cache, key), None, "nor after a reconnect");
    cache.keep(&cache.ticket(key), Arc::new(session()), None);
    assert_eq!(fresh(&cache, key), Some(0), "but after a read of its own");
}

#[test]
fn a_commit_replaces_what_it_was_made_over_unless_news_came() {
    let (cache, key) = trusted();
    let next = Arc::new(session().with_tokens(tokens(1, START)));
    let (ticket, reading) = (cache.ticket(key), cache.ticket(key));
    cache.written(&ticket, &next, None);
    assert_eq!(fresh(&cache, key), Some(1));
    cache.keep(&reading, Arc::new(session()), None);
    assert_eq!(fresh(&cache, key), Some(1), "never back to the one before");

    let ticket = cache.ticket(key);
    cache.forget(key);
    cache.written(&ticket, &next, None);
    assert_eq!(fresh(&cache, key), None, "logged out meanwhile");

    let (cache, key) = trusted();
    let ticket = cache.ticket(key);
    cache.forget(key);
    cache.keep(&cache.ticket(key), Arc::new(session()), None);
    cache.written(&ticket, &next, None);
    assert_eq!(fresh(&cache, key), None, "who knows: read it");
}

#[test]
fn what_was_written_here_is_held_on_to_until_others_write() {
    type Write = fn(&Cache, RecordKey);
    let writes: [(&str, Write); 5] = [
        ("a commit", |cache, key| {
            cache.written(&cache.ticket(key), &Arc::new(session()), None);
        }),
        ("a login", |cache, key| {
            drop(cache.forget(key));
            let ends = START.plus(Duration::from_secs(60));
            cache.written(&cache.ticket(key), &Arc::new(session()), Some(ends));
        }),
        ("an extension of the idle time", |cache, key| {
            cache.about_to_write(key);
        }),
        ("a commit of which the news came first", |cache, key| {
            let ticket = cache.ticket(key);
            cache.news(key);
            cache.written(&ticket, &Arc::new(session()), None);
            // They may have been of something else, and its own be still to come.
            assert_eq!(fresh(cache, key), None);
        }),
        ("a commit of what was not cached", |cache, key| {
            cache.forget(key);
            cache.written(&cache.ticket(key), &Arc::new(session()), None);
            assert_eq!(fresh(cache, key), None, "its end is not known");
        }),
    ];
    let limit = Duration::from_secs(60);
    for (name, write) in writes {
        let (cache, key) = trusted();
        write(&cache, key);
        let now = Instant::now();
        let served = fresh(&cache, key).is_some();
        assert_eq!(cache.stale(key, now, limit).is_some(), served, "{name}");
        let (_, dropped) = cache.news(key).expect("it is there");
        assert!(!dropped, "{name}: its own news");
        assert_eq!(fresh(&cache, key), None, "{name}: read it");
        assert!(cache.stale(key, Instant::now(), limit).is_none(), "{name}");
        assert!(cache.held(key).is_some(), "{name}: its tokens are known");
        let (_, dropped) = cache.news(key).expect("it is there");
        assert!(
            dropped && cache.held(key).is_none(),
            "{name}: another's doing"
        );
    }
    // What was only read goes with the first news.
    let (cache, key) = trusted();
    assert!(cache.news(key).is_some_and(|(_, dropped)| dropped));
    assert_eq!(cache.len(), 0);
}

#[test]
fn staleness_counts_from_when_an_entry_was_last_known_true() {
    let (cache, key) = trusted();
    let read = Instant::now();
    let limit = Duration::from_secs(30);
    let stale = |after: u64| {
        let now = read + Duration::from_secs(after);
        cache.stale(key, now, limit).is_some()
    };
    assert!(stale(29) && !stale(30));
    cache.trust().beat(read + Duration::from_secs(10));
    assert!(stale(39) && !stale(40), "proven ten seconds after its read");
    cache.trust().lose();
    assert!(stale(39) && !stale(40));
    assert!(
        cache.stale(key, read, Duration::ZERO).is_none(),
        "0 = fail closed"
    );
    cache.forget(key);
    assert!(!stale(1), "what was dropped is gone for good");
}

#[test]
fn an_entry_is_over_at_the_end_of_its_lifetime_or_record() {
    let entry = |ends_at| cache(10).keep(&cache(10).ticket(key()), Arc::new(session()), ends_at);
    let second = Duration::from_secs(1);
    let life = session().expires_at;
    for (name, ends_at, now, over) in [
        ("within both", Some(START.plus(second)), START, false),
        ("idle", Some(START.plus(second)), START.plus(second), true),
        ("no TTL", None, life.minus(second), false),
        ("no TTL, lifetime over", None, life, true),
        ("stretched", Some(life.plus(second)), life, true),
    ] {
        assert_eq!(entry(ends_at).is_over(now), over, "{name}");
    }
}

#[test]
fn it_is_bounded_by_entries_and_by_bytes() {
    let small = Arc::new(session());
    assert_eq!(pages(&small), 1);
    let mut big = session();
    big.tokens = Arc::new(Tokens {
        access: AccessToken::new("x".repeat(38 * 1024)),
        ..tokens(0, START)
    });
    let big = Arc::new(big);
    assert_eq!(pages(&big), 10);
    for (session, most) in [(&small, 100), (&big, 10)] {
        let cache = cache(100);
        for _ in 0..1000 {
            cache.keep(&cache.ticket(key()), Arc::clone(session), None);
        }
        assert!(
            (most / 2..=most).contains(&cache.len()),
            "{} of at most {most}",
            cache.len()
        );
    }
}

#[test]
fn sessions_in_use_survive_a_scan() {
    let cache = cache(200);
    let used: Vec<_> = (0..50).map(|_| key()).collect();
    cache.trust().establish(Instant::now());
    for key in &used {
        cache.keep(&cache.ticket(*key), Arc::new(session()), None);
        fresh(&cache, *key);
    }
    // Many that are seen once, as after a crawl with old cookies.
    for _ in 0..10 {
        for _ in 0..200 {
            cache.keep(&cache.ticket(key()), Arc::new(session()), None);
        }
        for key in &used {
            cache.held(*key);
            cache.fresh(*key, Instant::now());
        }
    }
    let left = used.iter().filter(|key| cache.held(**key).is_some());
    assert!(left.count() >= 45);
}

#[test]
fn the_estimate_counts_what_is_big() {
    let base = bytes(&session());
    let mut claims = serde_json::Map::new();
    claims.insert(
        "groups".into(),
        (0..100).map(|n| format!("group-{n:04}")).collect(),
    );
    let mut grouped = session();
    grouped.claims = Arc::new(claims.into());
    assert!(bytes(&grouped) > base + 100 * 10);
}
