//! Runs the same cases on the memory store and on a real Redis.

use super::*;

/// A store and what moves its time.
pub(super) struct Rig {
    pub(super) sessions: Sessions,
    pub(super) clock: SharedClock,
    manual: Option<Arc<ManualClock>>,
    lease: Duration,
    _server: Option<RedisServer>,
}

impl Rig {
    fn memory() -> Self {
        let manual = ManualClock::at(START);
        Self::new(
            &memory_config(100),
            manual.clone(),
            Some(manual),
            Sessions::LEASE,
            None,
        )
    }

    fn redis() -> Self {
        let server = RedisServer::start();
        // Longer than a machine stands still.
        let lease = Duration::from_secs(2);
        Self::new(
            &server.config(),
            Arc::new(SystemClock),
            None,
            lease,
            Some(server),
        )
    }

    fn new(
        config: &model::Session,
        clock: SharedClock,
        manual: Option<Arc<ManualClock>>,
        lease: Duration,
        server: Option<RedisServer>,
    ) -> Self {
        let sessions = Sessions::with_lease(config, Arc::clone(&clock), metrics(), lease).unwrap();
        Self {
            sessions,
            clock,
            manual,
            lease,
            _server: server,
        }
    }

    async fn create(&self) -> SessionId {
        self.sessions
            .create(session_at(self.clock.now()))
            .await
            .unwrap()
    }

    pub(super) async fn pass(&self, time: Duration) {
        match &self.manual {
            Some(clock) => clock.advance(time),
            None => tokio::time::sleep(time + Duration::from_millis(20)).await,
        }
    }

    fn tokens(&self, n: u64) -> Tokens {
        tokens(n, self.clock.now())
    }
}

pub(super) async fn both(case: impl AsyncFn(&Rig, &str)) {
    case(&Rig::memory(), "memory").await;
    case(&Rig::redis(), "redis").await;
}

#[tokio::test]
async fn a_session_is_found_until_it_is_deleted() {
    both(async |rig, store| {
        let s = &rig.sessions;
        s.ping().await.unwrap();
        let stranger = SessionId::generate();
        assert_eq!(missing(s.load(&stranger).await), Gone::Unknown, "{store}");

        let id = rig.create().await;
        for lookup in [s.load(&id).await, s.peek(&id).await] {
            let found = found(lookup);
            assert_eq!(&*found.session.subject, "alice", "{store}");
            assert_eq!(found.session.tokens.access.expose(), "at-0", "{store}");
            let idle = found.idle_expires_at.unwrap().left(rig.clock.now());
            assert!(
                idle > Duration::from_secs(3590) && idle <= Duration::from_secs(3600),
                "{store}"
            );
        }
        let deleted = s.delete(&id).await.unwrap().unwrap();
        assert_eq!(
            deleted.tokens.refresh.as_ref().unwrap().expose(),
            "rt-0",
            "{store}"
        );
        assert_eq!(missing(s.load(&id).await), Gone::Revoked, "{store}");
        assert!(s.delete(&id).await.unwrap().is_none(), "{store}");
    })
    .await;
}

#[tokio::test]
async fn one_holder_at_a_time() {
    // REFRESH-01, REFRESH-02.
    both(async |rig, store| {
        let (s, id) = (&rig.sessions, rig.create().await);
        let lease = granted(s.lease(&id, 0).await);
        assert_eq!(lease.session.generation, 0, "{store}");
        let LeaseAnswer::Held { retry_in } = s.lease(&id, 0).await.unwrap() else {
            panic!("{store}: two holders");
        };
        assert!(
            retry_in > Duration::ZERO && retry_in <= rig.lease,
            "{store}"
        );
        assert!(s.renew(&id, &lease).await.unwrap(), "{store}");

        let CommitAnswer::Stored(stored) = s.commit(&id, &lease, &rig.tokens(1)).await.unwrap()
        else {
            panic!("{store}: not stored");
        };
        assert_eq!(
            (stored.generation, stored.tokens.access.expose()),
            (1, "at-1"),
            "{store}"
        );
        let read = found(s.load(&id).await).session;
        assert_eq!(
            (read.generation, read.tokens.access.expose()),
            (1, "at-1"),
            "{store}"
        );

        // REFRESH-03: who comes later learns that it is done, and the lease is free.
        let LeaseAnswer::Newer(newer) = s.lease(&id, 0).await.unwrap() else {
            panic!("{store}: not newer");
        };
        assert_eq!(newer.generation, 1, "{store}");
        granted(s.lease(&id, 1).await);
    })
    .await;
}

#[tokio::test]
async fn a_holder_that_vanishes_is_replaced_and_cannot_overwrite() {
    // REFRESH-04.
    both(async |rig, store| {
        let (s, id) = (&rig.sessions, rig.create().await);
        let slow = granted(s.lease(&id, 0).await);
        rig.pass(rig.lease).await;
        let next = granted(s.lease(&id, 0).await);
        assert!(!s.renew(&id, &slow).await.unwrap(), "{store}: lost it");
        // Never over another's lease...
        let answer = s.commit(&id, &slow, &rig.tokens(1)).await.unwrap();
        assert!(
            matches!(answer, CommitAnswer::Held { .. }),
            "{store}: {answer:?}"
        );
        // ...nor may a stale holder end what another is renewing, or free its lease.
        let answer = s.end(&id, &slow).await.unwrap();
        assert!(
            matches!(answer, EndAnswer::Held { .. }),
            "{store}: {answer:?}"
        );
        let answer = s.commit(&id, &next, &rig.tokens(2)).await.unwrap();
        assert!(
            matches!(answer, CommitAnswer::Stored(_)),
            "{store}: {answer:?}"
        );
        // ...nor over another's generation.
        let CommitAnswer::Superseded(winner) = s.commit(&id, &slow, &rig.tokens(1)).await.unwrap()
        else {
            panic!("{store}: overwrote");
        };
        assert_eq!(winner.tokens.access.expose(), "at-2", "{store}");
        // And its failure makes nobody pause over the token that came meanwhile.
        let pause = Duration::from_secs(600);
        s.give_up(&id, slow, pause).await.unwrap();
        granted(s.lease(&id, 1).await);
    })
    .await;
}

/// A holder whose lease ran out, with tokens that wait, and the one who has the lease now.
async fn parked(rig: &Rig, store: &str) -> (SessionId, Lease, Lease) {
    let (s, id) = (&rig.sessions, rig.create().await);
    let slow = granted(s.lease(&id, 0).await);
    rig.pass(rig.lease).await;
    let next = granted(s.lease(&id, 0).await);
    for _ in 0..2 {
        let answer = s.commit(&id, &slow, &rig.tokens(1)).await.unwrap();
        assert!(
            matches!(answer, CommitAnswer::Held { .. }),
            "{store}: {answer:?}"
        );
    }
    let read = found(s.load(&id).await).session;
    assert_eq!(read.generation, 0, "{store}: not in force yet");
    (id, slow, next)
}

#[tokio::test]
async fn invalid_grant_puts_in_force_what_was_parked() {
    // REFRESH-20: the old token is dead because a sibling got the next one for it.
    both(async |rig, store| {
        let (id, slow, next) = parked(rig, store).await;
        let s = &rig.sessions;
        for _ in 0..2 {
            let EndAnswer::Newer(newer) = s.end(&id, &next).await.unwrap() else {
                panic!("{store}: ended");
            };
            let access = newer.tokens.access.expose();
            assert_eq!((newer.generation, access), (1, "at-1"), "{store}");
        }
        let answer = s.commit(&id, &slow, &rig.tokens(1)).await.unwrap();
        assert!(
            matches!(&answer, CommitAnswer::Stored(s) if s.generation == 1),
            "{store}: {answer:?}"
        );
        // Once: the next dead token ends the session.
        let lease = granted(s.lease(&id, 1).await);
        let answer = s.end(&id, &lease).await.unwrap();
        assert!(matches!(answer, EndAnswer::Ended), "{store}: {answer:?}");
        assert_eq!(missing(s.load(&id).await), Gone::Revoked, "{store}");
    })
    .await;
}

/// Ends what `next` heard to be dead, while `slow` still waits; gives the answer once `slow` has done `act`.
async fn disputed(rig: &Rig, store: &str, act: impl AsyncFn(&SessionId, Lease)) -> EndAnswer {
    let (s, id) = (&rig.sessions, rig.create().await);
    let slow = granted(s.lease(&id, 0).await);
    rig.pass(rig.lease).await;
    let next = granted(s.lease(&id, 0).await);
    assert!(!s.renew(&id, &slow).await.unwrap(), "{store}");
    assert!(!slow.term().holds() && next.term().holds(), "{store}");
    let answer = s.end(&id, &next).await.unwrap();
    let EndAnswer::Disputed { retry_in } = answer else {
        panic!("{store}: {answer:?}");
    };
    assert!(
        retry_in > Duration::ZERO && retry_in <= rig.lease,
        "{store}"
    );
    act(&id, slow).await;
    s.end(&id, &next).await.unwrap()
}

#[tokio::test]
async fn who_lost_the_lease_and_still_waits_is_waited_for() {
    // REFRESH-20: an `invalid_grant` of the present holder may be due to tokens that are on their way to the former one.
    both(async |rig, store| {
        let s = &rig.sessions;
        let tokens = disputed(rig, store, async |id, slow| {
            let answer = s.commit(id, &slow, &rig.tokens(1)).await.unwrap();
            assert!(matches!(answer, CommitAnswer::Held { .. }), "{store}");
        });
        let answer = tokens.await;
        assert!(
            matches!(&answer, EndAnswer::Newer(s) if s.generation == 1),
            "{store}: {answer:?}"
        );
        let rejection = disputed(rig, store, async |id, slow| {
            let answer = s.end(id, &slow).await.unwrap();
            assert!(matches!(answer, EndAnswer::Held { .. }), "{store}");
        });
        let answer = rejection.await;
        assert!(matches!(answer, EndAnswer::Ended), "{store}: {answer:?}");
        let nothing = disputed(rig, store, async |id, slow| {
            s.give_up(id, slow, Duration::ZERO).await.unwrap();
        });
        let answer = nothing.await;
        assert!(matches!(answer, EndAnswer::Ended), "{store}: {answer:?}");
        let silence = disputed(rig, store, async |_, _| rig.pass(rig.lease).await);
        let answer = silence.await;
        assert!(matches!(answer, EndAnswer::Ended), "{store}: {answer:?}");
    })
    .await;
}

#[tokio::test]
async fn nobody_presents_a_token_while_one_who_lost_the_lease_waits_for_an_answer() {
    both(async |rig, store| {
        let (s, id) = (&rig.sessions, rig.create().await);
        let slow = granted(s.lease(&id, 0).await);
        rig.pass(rig.lease).await;
        let next = granted(s.lease(&id, 0).await);
        assert!(!s.renew(&id, &slow).await.unwrap(), "{store}");
        s.give_up(&id, next, Duration::ZERO).await.unwrap();
        let answer = s.lease(&id, 0).await.unwrap();
        assert!(
            matches!(answer, LeaseAnswer::Held { .. }),
            "{store}: {answer:?}"
        );
        assert!(s.renew(&id, &slow).await.unwrap(), "{store}: it is free");
        rig.pass(rig.lease).await;
        granted(s.lease(&id, 0).await);
    })
    .await;
}

#[tokio::test]
async fn the_holders_own_tokens_replace_what_was_parked() {
    both(async |rig, store| {
        let (id, slow, next) = parked(rig, store).await;
        let s = &rig.sessions;
        let answer = s.commit(&id, &next, &rig.tokens(2)).await.unwrap();
        assert!(matches!(answer, CommitAnswer::Stored(_)), "{store}");
        let answer = s.commit(&id, &slow, &rig.tokens(1)).await.unwrap();
        assert!(
            matches!(&answer, CommitAnswer::Superseded(s) if s.tokens.access.expose() == "at-2"),
            "{store}: {answer:?}"
        );
        let lease = granted(s.lease(&id, 1).await);
        let answer = s.end(&id, &lease).await.unwrap();
        assert!(matches!(answer, EndAnswer::Ended), "{store}: {answer:?}");
    })
    .await;
}

#[tokio::test]
async fn what_was_parked_outlives_those_who_parked_it() {
    // Both holders died, or the second gave up: nobody presents the old token a third time.
    both(async |rig, store| {
        for gave_up in [false, true] {
            let (id, _, next) = parked(rig, store).await;
            let s = &rig.sessions;
            if gave_up {
                s.give_up(&id, next, Duration::from_secs(5)).await.unwrap();
            } else {
                rig.pass(rig.lease).await;
            }
            let LeaseAnswer::Newer(newer) = s.lease(&id, 0).await.unwrap() else {
                panic!("{store}: gave up {gave_up}: not newer");
            };
            let access = newer.tokens.access.expose();
            assert_eq!((newer.generation, access), (1, "at-1"), "{store}");
            granted(s.lease(&id, 1).await);
        }
    })
    .await;
}

#[tokio::test]
async fn a_logout_takes_along_what_was_parked() {
    // REFRESH-34: and it is the newest token that is to be revoked.
    both(async |rig, store| {
        let (id, slow, next) = parked(rig, store).await;
        let s = &rig.sessions;
        let deleted = s.delete(&id).await.unwrap().unwrap();
        assert_eq!(deleted.tokens.access.expose(), "at-1", "{store}");
        for lease in [&slow, &next] {
            let answer = s.commit(&id, lease, &rig.tokens(1)).await.unwrap();
            assert!(matches!(answer, CommitAnswer::Gone), "{store}: {answer:?}");
        }
        let answer = s.end(&id, &next).await.unwrap();
        assert!(matches!(answer, EndAnswer::Ended), "{store}: {answer:?}");
        assert_eq!(missing(s.load(&id).await), Gone::Revoked, "{store}");
    })
    .await;
}

#[tokio::test]
async fn a_stale_give_up_leaves_anothers_lease_alone() {
    both(async |rig, store| {
        let (s, id) = (&rig.sessions, rig.create().await);
        let slow = granted(s.lease(&id, 0).await);
        rig.pass(rig.lease).await;
        let _next = granted(s.lease(&id, 0).await);
        s.give_up(&id, slow, Duration::from_secs(5)).await.unwrap();
        let answer = s.lease(&id, 0).await.unwrap();
        assert!(
            matches!(answer, LeaseAnswer::Held { .. }),
            "{store}: {answer:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn a_lease_that_only_ran_out_still_commits() {
    // A rotated token is not thrown away because its holder was slow, as long as nobody else has begun.
    both(async |rig, store| {
        let (s, id) = (&rig.sessions, rig.create().await);
        let lease = granted(s.lease(&id, 0).await);
        rig.pass(rig.lease).await;
        assert!(
            s.renew(&id, &lease).await.unwrap(),
            "{store}: nobody else has it"
        );
        rig.pass(rig.lease).await;
        let answer = s.commit(&id, &lease, &rig.tokens(1)).await.unwrap();
        assert!(
            matches!(answer, CommitAnswer::Stored(_)),
            "{store}: {answer:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn everyone_pauses_after_a_failure() {
    both(async |rig, store| {
        let (s, id) = (&rig.sessions, rig.create().await);
        let lease = granted(s.lease(&id, 0).await);
        let pause = Duration::from_secs(2);
        s.give_up(&id, lease, pause).await.unwrap();
        let LeaseAnswer::CoolingDown { left } = s.lease(&id, 0).await.unwrap() else {
            panic!("{store}: no pause");
        };
        assert!(left <= pause, "{store}");
        assert_eq!(
            found(s.load(&id).await).session.generation,
            0,
            "{store}: the session stays"
        );
        rig.pass(pause).await;
        let lease = granted(s.lease(&id, 0).await);
        s.give_up(&id, lease, Duration::ZERO).await.unwrap();
        granted(s.lease(&id, 0).await);
    })
    .await;
}

#[tokio::test]
async fn a_logout_beats_a_refresh_under_way() {
    // REFRESH-34.
    both(async |rig, store| {
        let (s, id) = (&rig.sessions, rig.create().await);
        let lease = granted(s.lease(&id, 0).await);
        assert!(s.delete(&id).await.unwrap().is_some(), "{store}");
        assert!(!s.renew(&id, &lease).await.unwrap(), "{store}");
        for _ in 0..2 {
            let answer = s.commit(&id, &lease, &rig.tokens(1)).await.unwrap();
            assert!(matches!(answer, CommitAnswer::Gone), "{store}: {answer:?}");
        }
        assert_eq!(missing(s.load(&id).await), Gone::Revoked, "{store}");
        assert!(
            matches!(s.lease(&id, 0).await.unwrap(), LeaseAnswer::Gone),
            "{store}"
        );
        s.give_up(&id, lease, Duration::from_secs(1)).await.unwrap();
        assert_eq!(missing(s.load(&id).await), Gone::Revoked, "{store}");
    })
    .await;
}

#[tokio::test]
async fn a_dead_token_ends_the_session_only_if_no_sibling_rotated_it() {
    // REFRESH-20.
    both(async |rig, store| {
        let (s, id) = (&rig.sessions, rig.create().await);
        let slow = granted(s.lease(&id, 0).await);
        rig.pass(rig.lease).await;
        let next = granted(s.lease(&id, 0).await);
        s.commit(&id, &next, &rig.tokens(1)).await.unwrap();
        let EndAnswer::Newer(newer) = s.end(&id, &slow).await.unwrap() else {
            panic!("{store}: ended although rotated");
        };
        assert_eq!(newer.generation, 1, "{store}");

        let lease = granted(s.lease(&id, 1).await);
        for _ in 0..2 {
            let answer = s.end(&id, &lease).await.unwrap();
            assert!(matches!(answer, EndAnswer::Ended), "{store}: {answer:?}");
        }
        assert_eq!(missing(s.load(&id).await), Gone::Revoked, "{store}");
    })
    .await;
}

#[tokio::test]
async fn an_expired_session_is_not_leased() {
    both(async |rig, store| {
        let mut session = session_at(rig.clock.now());
        session.expires_at = rig.clock.now().plus(Duration::from_secs(2));
        let id = rig.sessions.create(session).await.unwrap();
        rig.pass(Duration::from_secs(2)).await;
        let answer = rig.sessions.lease(&id, 0).await.unwrap();
        assert!(matches!(answer, LeaseAnswer::Gone), "{store}: {answer:?}");
        assert_eq!(
            missing(rig.sessions.load(&id).await),
            Gone::Expired,
            "{store}"
        );
    })
    .await;
}
