//! Shows that siblings go on when the holder of the lease is killed or frozen, and what that costs (REFRESH-36).
//!
//! What must hold, by the moment at which the holder dies:
//!
//! | holder dies | token presented | session |
//! |---|---|---|
//! | with the lease, before the call | once, by a sibling | lives |
//! | during the call, before the provider acted | twice, the second time not as reuse | lives |
//! | during the call, after the provider acted | twice, the second time as reuse | lives with a grace period, else ends |
//! | after it stored the answer | once | lives |
//!
//! The third row is the loss window: from the provider's commit to ours. Siblings ask within the lease's life (10 s).

use std::time::{Duration, Instant};

use daypass_testbed::provider::{Endpoint, Fault, Rotation};
use daypass_testbed::raw::wait_for;

use super::rig::{PATIENCE, Person, Rig, assert_refused, assert_unavailable, counted};

/// Life of a lease that nobody renews.
const LEASE: Duration = Duration::from_secs(10);
/// A lease that lapsed is remembered for so long.
const LINGER: Duration = Duration::from_secs(300);

impl Rig {
    /// Starts a refresh on a replica in the background; returns when the provider was asked.
    fn set_off(&self, person: &Person, replica: usize) {
        let asked = self.calls();
        let call = self.call(person, replica, "/orders");
        tokio::spawn(call.send());
        tokio::task::block_in_place(|| self.wait_for_calls(asked + 1));
        assert!(
            self.redis
                .ttl(&person.lease())
                .is_some_and(|left| left > LINGER && left <= LINGER + LEASE)
        );
    }

    /// Lets the lease of a holder that is no more run out now: nothing is shown by waiting for it in every test.
    fn age_lease(&self, person: &Person) {
        let left = self.redis.ttl(&person.lease());
        assert!(left.is_some_and(|left| left > LINGER), "{left:?}");
        let lapsed = LINGER.as_millis().to_string();
        self.redis.command(&["PEXPIRE", &person.lease(), &lapsed]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn siblings_take_over_from_a_killed_and_from_a_frozen_holder_within_the_lease() {
    // All at once, because this one waits for the leases to run out by themselves.
    let grace = Rotation::Grace(Duration::from_secs(60));
    let mut rig = Rig::with(
        3,
        |settings| settings.rotation = grace,
        |setup| setup.set("provider.timeout", "1s"),
    );
    let before_call = rig.expired().await;
    let unprocessed = rig.expired().await;
    let processed = rig.expired().await;
    let frozen = rig.expired().await;
    rig.echo.forget();
    // What a holder leaves behind that dies between lease and call: nobody's owner mark.
    let nobody = "h0123456789abcdef";
    rig.redis
        .command(&["SET", &before_call.lease(), nobody, "PX", "310000"]);
    for (person, replica, fault) in [
        (&unprocessed, 0, Fault::Stall),
        (&processed, 0, Fault::StallAnswer),
        (&frozen, 1, Fault::StallAnswer),
    ] {
        rig.provider.fault(Endpoint::Refresh, fault);
        rig.set_off(person, replica);
    }
    rig.fleet[0].kill();
    rig.fleet[1].freeze();
    let began = Instant::now();
    let people = [&before_call, &unprocessed, &processed, &frozen];
    // Nobody steals a lease that lives: the token is presented by no one else as yet.
    for person in people {
        assert_unavailable(&rig.get(person, 2).await, "provider_unavailable", "held");
    }
    assert_eq!(rig.calls(), 3);
    for person in people {
        let deadline = LEASE + PATIENCE;
        while rig.get(person, 2).await.status != 200 {
            assert!(began.elapsed() < deadline, "nobody takes over");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(rig.generation(person), Some(1));
    }
    assert!(
        began.elapsed() >= Duration::from_secs(6),
        "the lease was respected"
    );
    // One presentation more of each token. Of the two that the provider had processed it is reuse, which is inherent.
    assert_eq!((rig.calls(), rig.provider.reused()), (7, 2));
    assert!(rig.provider.presentations().iter().all(|count| *count <= 2));
    assert_eq!(
        counted(
            &rig.fleet[2],
            "daypass_token_refreshes_total",
            &[("result", "success")]
        ),
        4
    );
    // The frozen one comes to and hears the answer it waited for. It is too late: it uses what the sibling has stored.
    rig.fleet[1].thaw();
    rig.provider.release();
    let awake = wait_for(PATIENCE, || {
        let superseded = [("result", "superseded")];
        let count = counted(&rig.fleet[1], "daypass_token_refreshes_total", &superseded);
        (count == 1).then_some(())
    });
    assert!(awake.is_some(), "it notices");
    assert_eq!(rig.generation(&frozen), Some(1), "and overwrites nothing");
    for person in people {
        for replica in [1, 2] {
            assert_eq!(rig.get(person, replica).await.status, 200);
        }
    }
    // Back from the dead, with nothing in its memory.
    rig.fleet[0].restart();
    rig.fleet[0].wait_ready();
    for person in people {
        assert_eq!(rig.get(person, 0).await.status, 200);
    }
    assert_eq!(rig.calls(), 7);
    assert_eq!(rig.provider.active_grants(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_provider_forgives_a_killed_holder_only_what_it_had_not_done_yet() {
    let mut rig = Rig::with(2, |_| {}, |setup| setup.set("provider.timeout", "1s"));
    let (unprocessed, processed, stored) = (
        rig.expired().await,
        rig.expired().await,
        rig.expired().await,
    );
    assert_eq!(rig.get(&stored, 0).await.status, 200);
    for (person, fault) in [
        (&unprocessed, Fault::Stall),
        (&processed, Fault::StallAnswer),
    ] {
        assert_eq!(rig.session(person, 1).await.status, 200);
        rig.provider.fault(Endpoint::Refresh, fault);
        rig.set_off(person, 0);
    }
    rig.fleet[0].kill();
    rig.age_lease(&unprocessed);
    rig.age_lease(&processed);
    assert_eq!(rig.get(&stored, 1).await.status, 200);
    assert_eq!(rig.provider.reused(), 0);
    rig.until(&unprocessed, 1, 200).await;
    assert_eq!((rig.calls(), rig.provider.reused()), (4, 0));
    // The loss window: the provider has rotated, and the new token died with the process.
    let answer = rig.until(&processed, 1, 401).await;
    assert_refused(&answer, "revoked", "rotated and lost");
    assert_eq!((rig.calls(), rig.provider.reused()), (5, 1), "inherent");
    assert_eq!(
        (rig.generation(&processed), rig.generation(&unprocessed)),
        (None, Some(1))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_holder_that_wakes_to_a_rejection_ends_nothing() {
    let mut rig = Rig::with(2, |_| {}, |setup| setup);
    let person = rig.expired().await;
    rig.echo.forget();
    let late = [Fault::Stall, Fault::oauth("invalid_grant")];
    rig.provider.faults(Endpoint::Refresh, late);
    rig.set_off(&person, 0);
    rig.fleet[0].freeze();
    rig.provider.release();
    rig.age_lease(&person);
    rig.until(&person, 1, 200).await;
    rig.fleet[0].thaw();
    rig.assert_refreshes("superseded", 1);
    for replica in 0..2 {
        assert_eq!(rig.get(&person, replica).await.status, 200);
    }
    rig.assert_renewed(&person);
    assert_eq!((rig.calls(), rig.provider.reused()), (2, 0));
    assert_eq!(
        (rig.refreshes("rejected"), rig.generation(&person)),
        (0, Some(1))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_while_its_holder_is_frozen_is_not_thrown_away() {
    // REFRESH-09: patience is over when it wakes, and the answer has long been there.
    let mut rig = Rig::with(
        2,
        |_| {},
        |setup| {
            let setup = setup.set("provider.timeout", "3s");
            setup.set("provider.refresh_patience", "3s")
        },
    );
    let people = rig.all_expired(8).await;
    rig.echo.forget();
    for _ in &people {
        rig.provider.fault(Endpoint::Refresh, Fault::StallAnswer);
    }
    let calls = people.iter().map(|person| rig.call(person, 0, "/orders"));
    let waiting: Vec<_> = calls.map(|call| tokio::spawn(call.send())).collect();
    tokio::task::block_in_place(|| rig.wait_for_calls(8));
    rig.fleet[0].freeze();
    rig.provider.release();
    tokio::time::sleep(Duration::from_secs(4)).await;
    rig.fleet[0].thaw();
    for request in waiting {
        let _ = request.await.expect("an end, of whatever kind");
    }
    for person in &people {
        rig.until(person, 1, 200).await;
    }
    assert_eq!((rig.calls(), rig.provider.reused()), (8, 0));
    rig.assert_refreshes("success", 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_told_to_go_finishes_its_refresh_first() {
    // REFRESH-35.
    let mut rig = Rig::with(2, |_| {}, |setup| setup);
    let person = rig.expired().await;
    rig.echo.forget();
    rig.provider.fault(Endpoint::Refresh, Fault::StallAnswer);
    rig.ask_and_leave(&person, 0).await;
    rig.fleet[0].term();
    let draining = rig.fleet[0].wait_for_log(&["draining"], PATIENCE);
    assert!(draining.is_some(), "it has heard");
    rig.provider.release();
    let status = rig.fleet[0].wait_exit(PATIENCE).expect("it ends");
    assert!(status.success(), "{status:?}");
    assert_eq!(rig.generation(&person), Some(1), "stored before it went");
    assert_eq!(rig.get(&person, 1).await.status, 200);
    rig.assert_renewed(&person);
    assert_eq!((rig.calls(), rig.provider.reused()), (1, 0));
}
