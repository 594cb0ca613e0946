//! Shows that no order of events loses a token, presents one twice or revives a session.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_requests_share_one_flight() {
    // REFRESH-01, REFRESH-02.
    let rig = Rig::expired().await;
    let gate = rig.idp.stall();
    let requests = rig.replica.requests(100, &rig.id, &rig.idp).await;
    until("called", || rig.idp.calls() == 1).await;
    assert_eq!(rig.replica.refresher.in_flight(), 1);
    gate.add_permits(1);
    for request in requests {
        assert_eq!(access(&request.await.unwrap().unwrap()), "at-1");
    }
    rig.landed().await;
    assert_eq!((rig.idp.calls(), rig.idp.reused()), (1, 0));
    let waits = rig
        .replica
        .metric("daypass_token_refresh_waits_seconds_count");
    assert!(close(waits, 100.0));
    // A request that only gets to run after the landing finds the newer session in a flight of its own.
    let shared = rig.replica.metric("daypass_token_refresh_shared_total");
    assert!(close(shared + rig.replica.counted("superseded"), 99.0));
    assert!(rig.replica.refresher.flights.lock().is_empty());
}

#[tokio::test]
async fn a_request_from_before_the_refresh_learns_of_it() {
    // REFRESH-03: loaded before, asks after.
    let rig = Rig::expired().await;
    let found = rig.found().await;
    rig.usable().await.unwrap();
    let late = rig
        .replica
        .refresher
        .usable_from(&rig.id, &found, &rig.idp, WINDOW)
        .await;
    assert_eq!(access(&late.unwrap()), "at-1");
    assert_eq!(rig.idp.calls(), 1);
}

#[tokio::test]
async fn a_client_that_hangs_up_changes_nothing() {
    // REFRESH-05.
    let rig = Rig::expired().await;
    let gate = rig.idp.stall();
    for request in rig.replica.requests(3, &rig.id, &rig.idp).await {
        until("called", || rig.idp.calls() == 1).await;
        request.abort();
        assert!(request.await.unwrap_err().is_cancelled());
    }
    gate.add_permits(1);
    rig.landed().await;
    assert_eq!(access(&rig.found().await.session), "at-1");
    assert_eq!(access(&rig.usable().await.unwrap()), "at-1");
    assert_eq!(rig.idp.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_provider_is_waited_for_but_requests_are_not_held() {
    // REFRESH-09, PRODUCT §5.2.
    let rig = Rig::expired().await;
    let gate = rig.idp.stall();
    for _ in 0..3 {
        let start = Instant::now();
        assert!(matches!(
            rig.usable().await,
            Err(RefreshError::Unavailable { .. })
        ));
        let waited = start.elapsed();
        assert!(
            waited >= rig.idp.timeout && waited < rig.idp.timeout * 2,
            "{waited:?}"
        );
    }
    assert_eq!(rig.replica.refresher.in_flight(), 1);
    gate.add_permits(1);
    rig.landed().await;
    assert_eq!(access(&rig.usable().await.unwrap()), "at-1");
    assert_eq!((rig.idp.calls(), rig.idp.reused()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn the_lease_outlives_the_call() {
    // PRODUCT §5.1: it is renewed for as long as the provider takes.
    let rig = Rig::expired().await;
    let gate = rig.idp.stall();
    let requests = rig.replica.requests(1, &rig.id, &rig.idp).await;
    until("called", || rig.idp.calls() == 1).await;
    for _ in 0..12 {
        let third = Sessions::LEASE / 3 + Duration::from_millis(1);
        tokio::time::sleep(third).await;
        rig.clock.advance(third);
        let answer = rig.replica.sessions.lease(&rig.id, 0).await.unwrap();
        assert!(matches!(answer, LeaseAnswer::Held { .. }), "{answer:?}");
    }
    gate.add_permits(1);
    rig.landed().await;
    for request in requests {
        assert!(matches!(
            request.await.unwrap(),
            Err(RefreshError::Unavailable { .. })
        ));
    }
    assert_eq!(rig.found().await.session.generation, 1);
}

#[tokio::test]
async fn a_logout_during_the_refresh_wins_and_the_new_token_is_revoked() {
    // REFRESH-34.
    let rig = Rig::expired().await;
    let gate = rig.idp.stall();
    let requests = rig.replica.requests(2, &rig.id, &rig.idp).await;
    until("called", || rig.idp.calls() == 1).await;
    assert!(
        rig.replica
            .sessions
            .delete(&rig.id)
            .await
            .unwrap()
            .is_some()
    );
    gate.add_permits(1);
    for request in requests {
        assert!(matches!(request.await.unwrap(), Err(RefreshError::Ended)));
    }
    rig.landed().await;
    assert!(rig.replica.is_gone(&rig.id).await);
    assert_eq!(rig.idp.revoked(), ["rt-1"]);
    assert!(close(rig.replica.counted("logged_out"), 1.0));
}

#[tokio::test]
async fn invalid_grant_does_not_end_what_a_sibling_rotated() {
    // REFRESH-20: our lease ran out, a sibling refreshed, and then our answer comes.
    let rig = Rig::expired().await;
    let gate = Arc::new(Semaphore::new(0));
    rig.idp.act(Act::RejectAfter(Arc::clone(&gate)));
    let requests = rig.replica.requests(2, &rig.id, &rig.idp).await;
    until("called", || rig.idp.calls() == 1).await;
    rig.clock.advance(Sessions::LEASE);
    let sessions = &rig.replica.sessions;
    let LeaseAnswer::Granted(lease) = sessions.lease(&rig.id, 0).await.unwrap() else {
        panic!("our lease did not run out");
    };
    let tokens = crate::session::testing::tokens(7, rig.clock.now());
    let answer = sessions.commit(&rig.id, &lease, &tokens).await.unwrap();
    assert!(matches!(answer, CommitAnswer::Stored(_)));
    gate.add_permits(1);
    for request in requests {
        assert_eq!(access(&request.await.unwrap().unwrap()), "at-7");
    }
    assert!(close(rig.replica.counted("superseded"), 1.0));
    assert!(close(rig.replica.counted("rejected"), 0.0));
}

#[tokio::test]
async fn an_answer_that_comes_while_another_holds_the_lease_is_kept_until_it_can_be_stored() {
    // PRODUCT §5.1 and §5.2 at once: never over another's lease, and never thrown away.
    let rig = Rig::expired().await;
    let gate = rig.idp.stall();
    let requests = rig.replica.requests(1, &rig.id, &rig.idp).await;
    until("called", || rig.idp.calls() == 1).await;
    rig.clock.advance(Sessions::LEASE);
    let sessions = &rig.replica.sessions;
    let LeaseAnswer::Granted(lease) = sessions.lease(&rig.id, 0).await.unwrap() else {
        panic!("our lease did not run out");
    };
    gate.add_permits(1);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(rig.found().await.session.generation, 0);
    assert_eq!(rig.replica.refresher.in_flight(), 1);
    sessions
        .give_up(&rig.id, lease, Duration::from_secs(1))
        .await
        .unwrap();
    for request in requests {
        assert_eq!(access(&request.await.unwrap().unwrap()), "at-1");
    }
    assert_eq!(rig.idp.reused(), 0);
}

#[tokio::test]
async fn invalid_grant_does_not_end_what_a_sibling_is_about_to_store() {
    // REFRESH-20: our lease ran out, a sibling presents the token we have rotated, and our answer comes first.
    let rig = Rig::expired().await;
    let ours = rig.idp.stall();
    let requests = rig.replica.requests(1, &rig.id, &rig.idp).await;
    until("called", || rig.idp.calls() == 1).await;
    rig.clock.advance(Sessions::LEASE);
    let sibling = Replica::over(
        rig.replica.sessions.clone(),
        &rig.shared_clock(),
        Arc::clone(&rig.replica.metrics),
    );
    let theirs = Arc::new(Semaphore::new(0));
    rig.idp.act(Act::RejectAfter(Arc::clone(&theirs)));
    let late = sibling.requests(1, &rig.id, &rig.idp).await;
    until("called again", || rig.idp.calls() == 2).await;
    ours.add_permits(1);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(rig.found().await.session.generation, 0, "not over a lease");
    theirs.add_permits(1);
    for request in requests.into_iter().chain(late) {
        assert_eq!(access(&request.await.unwrap().unwrap()), "at-2");
    }
    rig.landed().await;
    let session = rig.found().await.session;
    assert!(session.tokens.refresh.as_ref().unwrap().matches("rt-1"));
    assert!(rig.idp.revoked().is_empty());
}

#[tokio::test]
async fn invalid_grant_ends_nothing_while_one_who_lost_the_lease_waits_for_an_answer() {
    // REFRESH-20: a sibling presents the token we have rotated, and hears so before we hear anything.
    // Longer than a machine stands still, and shorter than requests wait.
    let life = Duration::from_secs(3);
    let mut fleet = replicas::Fleet::new(2, life).await;
    Arc::get_mut(&mut fleet.idp).unwrap().timeout = life * 10;
    let ours = fleet.idp.stall();
    let requests = fleet.one().requests(1, &fleet.id, &fleet.idp).await;
    until("called", || fleet.idp.calls() == 1).await;
    let record = fleet.server.cli(&["KEYS", "daypass:s:*"]);
    let theirs = Arc::new(Semaphore::new(0));
    fleet.idp.act(Act::RejectAfter(Arc::clone(&theirs)));
    let late = fleet.replicas[1].requests(1, &fleet.id, &fleet.idp).await;
    fleet.hand_over(2).await;
    until("told of us", || {
        !fleet.server.cli(&["HGET", &record, "q"]).is_empty()
    })
    .await;
    theirs.add_permits(1);
    // Longer than a lease lives: that we wait is said again and again.
    tokio::time::sleep(life + Duration::from_secs(1)).await;
    assert_eq!(fleet.one().found(&fleet.id).await.session.generation, 0);
    ours.add_permits(1);
    for request in requests.into_iter().chain(late) {
        assert_eq!(access(&request.await.unwrap().unwrap()), "at-2");
    }
    assert_eq!((fleet.idp.calls(), fleet.idp.reused()), (2, 0));
}

#[tokio::test]
async fn a_bug_in_a_flight_strands_nobody() {
    let rig = Rig::expired().await;
    rig.idp.act(Act::Panic);
    assert!(matches!(
        rig.usable().await,
        Err(RefreshError::Unavailable { .. })
    ));
    rig.landed().await;
    assert!(rig.replica.refresher.flights.lock().is_empty());
    rig.clock.advance(Sessions::LEASE);
    assert_eq!(access(&rig.usable().await.unwrap()), "at-2");
}

#[tokio::test]
async fn draining_waits_for_the_flights_and_lets_no_more_take_off() {
    // REFRESH-35.
    let rig = Rig::expired().await;
    let gate = rig.idp.stall();
    let requests = rig.replica.requests(1, &rig.id, &rig.idp).await;
    until("called", || rig.idp.calls() == 1).await;
    assert_eq!(
        rig.replica.refresher.drain(Duration::from_millis(20)).await,
        1
    );
    let refresher = Arc::clone(&rig.replica.refresher);
    let drained = tokio::spawn(async move { refresher.drain(Duration::from_secs(10)).await });
    gate.add_permits(1);
    assert_eq!(drained.await.unwrap(), 0);
    assert_eq!(
        access(&rig.found().await.session),
        "at-1",
        "stored before the end"
    );
    for request in requests {
        assert_eq!(access(&request.await.unwrap().unwrap()), "at-1");
    }
    rig.clock.advance(Duration::from_secs(300));
    assert!(matches!(
        rig.usable().await,
        Err(RefreshError::Unavailable { .. })
    ));
    assert_eq!(rig.idp.calls(), 1);
}
