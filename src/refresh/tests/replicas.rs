//! Shows the same across processes: three replicas on one real Redis, and what its failures do.

use futures_util::FutureExt as _;

use super::*;
use crate::session::testing::takes_less_than;

/// Replicas on one Redis, with a session whose token has expired.
pub(super) struct Fleet {
    pub(super) server: RedisServer,
    pub(super) replicas: Vec<Replica>,
    pub(super) idp: Arc<Idp>,
    pub(super) id: SessionId,
}

impl Fleet {
    pub(super) async fn new(count: usize, lease: Duration) -> Self {
        let server = RedisServer::start();
        let clock: SharedClock = Arc::new(SystemClock);
        let replicas: Vec<_> = (0..count)
            .map(|_| Replica::new(&server.config(), &clock, lease))
            .collect();
        let mut session = session_at(clock.now());
        let mut tokens = (*session.tokens).clone();
        tokens.refreshed_at = clock.now().minus(Duration::from_secs(300));
        tokens.expires_at = clock.now();
        session.tokens = Arc::new(tokens);
        let id = replicas[0].sessions.create(session).await.unwrap();
        let idp = Arc::new(Idp::new(clock));
        Self {
            server,
            replicas,
            idp,
            id,
        }
    }

    pub(super) fn one(&self) -> &Replica {
        &self.replicas[0]
    }

    /// Lets another have the lease before its first holder takes it again: until they present the token, the `calls`th
    /// time that anybody does.
    pub(super) async fn hand_over(&self, calls: usize) {
        let lease = self.server.cli(&["KEYS", "daypass:l:*"]);
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while self.idp.calls() < calls {
            assert!(std::time::Instant::now() < deadline, "not called");
            self.server.cli(&["EVAL", TAKE, "2", &lease, "first"]);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.server.cli(&["DEL", "first"]);
    }
}

/// Takes the lease from whoever had it when it was first run, and from nobody else.
const TAKE: &str = "local lease = redis.call('GET', KEYS[1])
if not lease then return end
redis.call('SETNX', KEYS[2], lease)
if lease == redis.call('GET', KEYS[2]) then redis.call('DEL', KEYS[1]) end";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_make_one_call() {
    // REFRESH-01: 3 replicas, 100 parallel requests each, strict rotation.
    let fleet = Fleet::new(3, Sessions::LEASE).await;
    let gate = fleet.idp.stall();
    let mut requests = Vec::new();
    for replica in &fleet.replicas {
        requests.extend(replica.requests(100, &fleet.id, &fleet.idp).await);
    }
    until("called", || fleet.idp.calls() == 1).await;
    gate.add_permits(1);
    for request in requests {
        assert_eq!(access(&request.await.unwrap().unwrap()), "at-1");
    }
    assert_eq!((fleet.idp.calls(), fleet.idp.reused()), (1, 0));
    let counted = |label| fleet.replicas.iter().map(|r| r.counted(label)).sum::<f64>();
    assert!(close(counted("success"), 1.0));
    assert!(counted("superseded") > 1.5, "the other two learn of it");
    assert_eq!(
        fleet.server.cli(&["KEYS", "daypass:l:*"]),
        "",
        "the lease is released"
    );
}

#[tokio::test]
async fn a_holder_that_died_is_replaced_when_its_lease_runs_out() {
    let fleet = Fleet::new(1, Duration::from_millis(300)).await;
    let start = std::time::Instant::now();
    // Killed between lease and call: it will neither renew nor release.
    let died = fleet.one().sessions.lease(&fleet.id, 0).await.unwrap();
    assert!(matches!(died, LeaseAnswer::Granted(_)));
    let session = fleet.one().usable(&fleet.id, &fleet.idp).await.unwrap();
    assert_eq!(access(&session), "at-1");
    let waited = start.elapsed();
    assert!(
        waited > Duration::from_millis(200) && waited < Duration::from_secs(4),
        "{waited:?}"
    );
}

#[tokio::test]
async fn one_replicas_failure_makes_the_others_pause() {
    let fleet = Fleet::new(2, Sessions::LEASE).await;
    // For longer than a machine stands still between the two.
    let retry_after = Some(Duration::from_secs(60));
    fleet
        .idp
        .act(Act::Fail(CallError::RateLimited { retry_after }));
    for replica in &fleet.replicas {
        let refused = replica.usable(&fleet.id, &fleet.idp).await;
        assert!(matches!(refused, Err(RefreshError::Unavailable { .. })));
    }
    assert_eq!(fleet.idp.calls(), 1);
}

#[tokio::test]
async fn without_the_store_no_token_is_presented() {
    // REFRESH-37.
    let enough = Duration::from_millis(500);
    takes_less_than(enough, async || {
        let mut fleet = Fleet::new(1, Sessions::LEASE).await;
        let found = fleet.one().found(&fleet.id).await;
        fleet.server.kill();
        let start = std::time::Instant::now();
        let usable = fleet
            .one()
            .refresher
            .usable_from(&fleet.id, &found, &fleet.idp, WINDOW)
            .await;
        let took = start.elapsed();
        assert!(matches!(usable, Err(RefreshError::Store)), "{usable:?}");
        assert_eq!(fleet.idp.calls(), 0);
        took
    })
    .await;
}

#[tokio::test]
async fn a_store_that_fails_after_a_lost_answer_makes_everyone_pause() {
    // Or else the next request would present a token for the third time that may have been spent by the first.
    let mut fleet = Fleet::new(1, Sessions::LEASE).await;
    let gate = Arc::new(Semaphore::new(0));
    fleet.idp.act(Act::LoseAfter(Arc::clone(&gate)));
    // By whose clock the pause does not end while we look at it.
    let clock: SharedClock = ManualClock::at(SystemClock.now());
    let (sessions, metrics) = (fleet.one().sessions.clone(), fleet.one().metrics.clone());
    let replica = Replica::over(sessions, &clock, metrics);
    let found = replica.found(&fleet.id).await;
    let requests = replica.requests(1, &fleet.id, &fleet.idp).await;
    until("called", || fleet.idp.calls() == 1).await;
    fleet.server.kill();
    gate.add_permits(1);
    for request in requests {
        assert!(matches!(request.await.unwrap(), Err(RefreshError::Store)));
    }
    let again = replica
        .refresher
        .usable_from(&fleet.id, &found, &fleet.idp, WINDOW)
        .await;
    assert!(matches!(again, Err(RefreshError::Unavailable { .. })));
    assert_eq!(fleet.idp.calls(), 1);
}

#[tokio::test]
async fn nobody_waits_long_for_a_store_that_is_away_when_the_answer_comes() {
    // PRODUCT §7: 500 ms; and it is the store that is to blame.
    let enough = Duration::from_secs(1);
    takes_less_than(enough, store_away_when_the_answer_comes).await;
}

/// How long requests wait then.
async fn store_away_when_the_answer_comes() -> Duration {
    let fleet = Fleet::new(1, Sessions::LEASE).await;
    let found = fleet.one().found(&fleet.id).await;
    let gate = fleet.idp.stall();
    let requests = fleet.one().requests(3, &fleet.id, &fleet.idp).await;
    until("called", || fleet.idp.calls() == 1).await;
    fleet.server.signal("STOP");
    let start = std::time::Instant::now();
    gate.add_permits(1);
    for request in requests {
        let refused = request.await.unwrap();
        assert!(matches!(refused, Err(RefreshError::Store)), "{refused:?}");
    }
    let took = start.elapsed();
    // Whoever comes later does not even wait for a deadline.
    let refresher = &fleet.one().refresher;
    let usable = refresher.usable_from(&fleet.id, &found, &fleet.idp, WINDOW);
    let refused = usable.now_or_never();
    assert!(
        matches!(refused, Some(Err(RefreshError::Store))),
        "{refused:?}"
    );
    // The flight goes on, and brings home what it has.
    fleet.server.signal("CONT");
    until("landed", || fleet.one().refresher.in_flight() == 0).await;
    let session = fleet.one().usable(&fleet.id, &fleet.idp).await.unwrap();
    assert_eq!((access(&session), fleet.idp.calls()), ("at-1", 1));
    took
}

#[tokio::test]
async fn a_rotated_token_survives_a_redis_that_is_away_when_it_comes() {
    // PRODUCT §5.2: stored before anyone is served, and tried for as long as the session lives.
    let mut fleet = Fleet::new(1, Sessions::LEASE).await;
    Arc::get_mut(&mut fleet.idp).unwrap().timeout = Duration::from_millis(300);
    let gate = fleet.idp.stall();
    let requests = fleet.one().requests(2, &fleet.id, &fleet.idp).await;
    until("called", || fleet.idp.calls() == 1).await;
    fleet.server.signal("STOP");
    gate.add_permits(1);
    for request in requests {
        // Nobody is served from a token that is not stored. The provider's time is over before the store's, as a rule.
        assert!(matches!(
            request.await.unwrap(),
            Err(RefreshError::Unavailable { .. } | RefreshError::Store)
        ));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fleet.one().refresher.in_flight(), 1);
    fleet.server.signal("CONT");
    landed(&fleet.one().refresher).await;
    let session = fleet.one().found(&fleet.id).await.session;
    assert_eq!((access(&session), session.generation), ("at-1", 1));
    assert_eq!((fleet.idp.calls(), fleet.idp.reused()), (1, 0));
}

#[tokio::test]
async fn the_lease_is_kept_while_the_store_refuses_the_answer() {
    // A store that takes no more data, yet answers: nobody else may present the old token meanwhile.
    let lease = Duration::from_secs(3);
    let fleet = Fleet::new(1, lease).await;
    let gate = fleet.idp.stall();
    let requests = fleet.one().requests(1, &fleet.id, &fleet.idp).await;
    until("called", || fleet.idp.calls() == 1).await;
    // Without the right to write records; leases are granted still.
    let revoked = ["ACL", "SETUSER", "default", "-hset"];
    fleet.server.cli(&revoked);
    gate.add_permits(1);
    let held = fleet.server.cli(&["KEYS", "daypass:l:*"]);
    for _ in 0..6 {
        tokio::time::sleep(lease / 4).await;
        // Its key lingers for five minutes when it has run out.
        let left: u64 = fleet.server.cli(&["PTTL", &held]).parse().unwrap();
        assert!(left > 300_000, "the lease ran out: {left}");
    }
    for request in requests {
        assert!(matches!(request.await.unwrap(), Err(RefreshError::Store)));
    }
    fleet.server.cli(&["ACL", "SETUSER", "default", "+hset"]);
    landed(&fleet.one().refresher).await;
    let session = fleet.one().usable(&fleet.id, &fleet.idp).await.unwrap();
    assert_eq!(access(&session), "at-1");
    assert_eq!((fleet.idp.calls(), fleet.idp.reused()), (1, 0));
}

#[tokio::test]
async fn a_logout_on_another_replica_beats_the_refresh() {
    // REFRESH-34 across processes.
    let fleet = Fleet::new(2, Sessions::LEASE).await;
    let gate = fleet.idp.stall();
    let requests = fleet.one().requests(1, &fleet.id, &fleet.idp).await;
    until("called", || fleet.idp.calls() == 1).await;
    assert!(
        fleet.replicas[1]
            .sessions
            .delete(&fleet.id)
            .await
            .unwrap()
            .is_some()
    );
    gate.add_permits(1);
    for request in requests {
        assert!(matches!(request.await.unwrap(), Err(RefreshError::Ended)));
    }
    landed(&fleet.one().refresher).await;
    assert_eq!(fleet.idp.revoked(), ["rt-1"]);
    assert_eq!(fleet.server.cli(&["KEYS", "daypass:[sl]:*"]), "");
}

/// A lease that tests can wait for, and that outlives a machine's standing still.
const SHORT: Duration = Duration::from_secs(2);

#[tokio::test]
async fn who_lost_the_lease_on_the_way_to_the_provider_does_not_present() {
    // REFRESH-01: held up by names, connections or metadata while a sibling refreshed.
    let fleet = Fleet::new(2, SHORT).await;
    let gate = Arc::new(Semaphore::new(0));
    fleet.idp.act(Act::ReachedAfter(Arc::clone(&gate)));
    let late = fleet.one().requests(1, &fleet.id, &fleet.idp).await;
    until("on its way", || fleet.idp.script.lock().is_empty()).await;
    let sibling = fleet.replicas[1].usable(&fleet.id, &fleet.idp);
    let (session, ()) = tokio::join!(sibling, fleet.hand_over(1));
    assert_eq!(access(&session.unwrap()), "at-1");
    tokio::time::sleep(SHORT).await;
    gate.add_permits(1);
    for request in late {
        assert_eq!(access(&request.await.unwrap().unwrap()), "at-1");
    }
    assert_eq!((fleet.idp.calls(), fleet.idp.held_back()), (1, 1));
}

#[tokio::test]
async fn who_was_frozen_on_the_way_to_the_provider_asks_for_the_lease_first() {
    // REFRESH-01, REFRESH-02.
    let fleet = Fleet::new(1, SHORT).await;
    let gate = Arc::new(Semaphore::new(0));
    fleet.idp.act(Act::ReachedAfter(Arc::clone(&gate)));
    let requests = fleet.one().requests(1, &fleet.id, &fleet.idp).await;
    until("on its way", || fleet.idp.script.lock().is_empty()).await;
    // One thread does all the work of this test: nothing moves while it sleeps, and then everything at once.
    gate.add_permits(1);
    std::thread::sleep(SHORT);
    for request in requests {
        assert_eq!(access(&request.await.unwrap().unwrap()), "at-1");
    }
    assert_eq!((fleet.idp.calls(), fleet.idp.held_back()), (1, 1));
}
