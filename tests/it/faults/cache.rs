//! Shows with three replicas what sessions in their caches are worth: as soon over as elsewhere, and good for an outage.

use std::time::{Duration, Instant};

use daypass_testbed::daypass::Daypass;
use daypass_testbed::raw::wait_for;

use super::rig::{PATIENCE, Person, Rig, assert_refused, assert_unavailable};

const TRACKING: &str = "daypass_session_cache_tracking";
const REQUESTS: &str = "daypass_session_cache_requests_total";

fn looked_up(replica: &Daypass, result: &str) -> f64 {
    replica.metric(REQUESTS, &[("result", result)])
}

/// Redis tells this replica of changes.
fn tracked(replica: &Daypass) {
    let told = wait_for(PATIENCE, || {
        (replica.metric(TRACKING, &[]) > 0.5).then_some(())
    });
    assert!(told.is_some(), "{}", replica.log());
}

/// Has the session in this replica's cache, and shows that it is served from there.
async fn cached(rig: &Rig, person: &Person, replica: usize) {
    let deadline = Instant::now() + PATIENCE;
    let hits = || looked_up(&rig.fleet[replica], "hit");
    assert_eq!(rig.get(person, replica).await.status, 200);
    tracked(&rig.fleet[replica]);
    let before = hits();
    while hits() < before + 1.0 {
        assert_eq!(rig.get(person, replica).await.status, 200);
        assert!(Instant::now() < deadline, "replica {replica} has no hits");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_counts_on_every_replica() {
    let rig = Rig::new();
    let (leaves, stays) = (rig.sign_in().await, rig.sign_in().await);
    for replica in 0..3 {
        cached(&rig, &leaves, replica).await;
        cached(&rig, &stays, replica).await;
    }
    // Another tab that has not heard of it, or a thief: the cookie is still shown.
    let thief = leaves.client.twin();
    assert_eq!(rig.log_out(&leaves, 0).await.status, 204);
    let began = Instant::now();
    for replica in 0..3 {
        let ask = async || {
            let call = thief.get(rig.fleet[0].url("/orders"));
            let sent = call.via(rig.fleet[replica].public()).send().await;
            sent.expect("an answer")
        };
        while ask().await.status != 401 {
            assert!(began.elapsed() < PATIENCE, "replica {replica} serves on");
        }
        // And stays so.
        assert_refused(&ask().await, "revoked", &format!("replica {replica}"));
    }
    assert!(began.elapsed() < Duration::from_secs(5));
    for replica in 0..3 {
        assert_eq!(rig.get(&stays, replica).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cached_sessions_outlive_an_outage_for_max_staleness() {
    // PRODUCT §7.
    const LIMIT: Duration = Duration::from_secs(4);
    for name in ["down", "frozen"] {
        let mut rig = Rig::with(2, |_| {}, |s| s.set("session.max_staleness", "4s"));
        let (fresh, expired) = (rig.sign_in().await, rig.expired().await);
        cached(&rig, &fresh, 0).await;
        // Known to replica 0, too: `session` asks for no token.
        assert_eq!(rig.session(&expired, 0).await.status, 200);
        if name == "down" {
            rig.redis.kill();
        } else {
            rig.redis.pause();
        }
        let began = Instant::now();
        let mut took = Vec::new();
        while took.len() < 5 {
            let before = looked_up(&rig.fleet[0], "stale");
            let asked = Instant::now();
            let answer = rig.get(&fresh, 0).await;
            let waited = asked.elapsed();
            if looked_up(&rig.fleet[0], "stale") > before {
                took.push(waited);
            }
            assert_eq!(answer.status, 200, "{name}: {}", answer.text());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // A defect would have all of them wait for the store, a machine that stands still one or two.
        took.sort();
        assert!(took[2] < Duration::from_millis(450), "{name}: {took:?}");
        // The session lives, and there is no token for it now: REFRESH-37.
        let answer = rig.get(&expired, 0).await;
        assert_unavailable(&answer, "store_unavailable", name);
        // Another replica does not know it.
        let answer = rig.get(&fresh, 1).await;
        assert_unavailable(&answer, "store_unavailable", name);

        let answer = rig.until(&fresh, 0, 503).await;
        assert_unavailable(&answer, "store_unavailable", name);
        let lasted = began.elapsed();
        assert!(
            lasted + Duration::from_secs(2) > LIMIT,
            "{name}: over after {lasted:?}"
        );
        if name == "down" {
            rig.redis.restart();
        } else {
            rig.redis.resume();
        }
        for replica in 0..2 {
            rig.until(&fresh, replica, 200).await;
            rig.until(&expired, replica, 200).await;
        }
        assert_eq!((rig.calls(), rig.provider.reused()), (1, 0), "{name}");
        cached(&rig, &fresh, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_while_nobody_was_told_is_seen_after_the_reconnect() {
    let rig = Rig::with(2, |_| {}, |setup| setup);
    let (leaves, stays) = (rig.sign_in().await, rig.sign_in().await);
    for person in [&leaves, &stays] {
        cached(&rig, person, 1).await;
    }
    // All connections go at once, and the record right after: nobody was there to be told.
    rig.redis
        .command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    rig.redis.command(&["DEL", &leaves.record]);
    let answer = rig.until(&leaves, 1, 401).await;
    assert_refused(&answer, "revoked", "deleted while cut off");
    assert_eq!(rig.until(&stays, 1, 200).await.status, 200);
}
