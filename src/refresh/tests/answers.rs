//! Shows what each kind of answer does to the session.

use futures_util::FutureExt;

use super::*;

#[tokio::test]
async fn a_fresh_token_is_used_as_it_is() {
    let rig = Rig::new().await;
    let found = rig.found().await;
    let usable = rig
        .replica
        .refresher
        .usable_from(&rig.id, &found, &rig.idp, WINDOW);
    assert_eq!(
        access(&usable.now_or_never().expect("no await").unwrap()),
        "at-0"
    );
    assert_eq!((rig.idp.calls(), rig.replica.refresher.in_flight()), (0, 0));
}

#[tokio::test]
async fn an_ageing_token_is_used_while_the_next_one_is_fetched() {
    // REFRESH-10: nobody waits for a token that still works.
    let rig = Rig::new().await;
    rig.clock.advance(Duration::from_secs(260));
    let gate = rig.idp.stall();
    for _ in 0..20 {
        let found = rig.found().await;
        let usable = rig
            .replica
            .refresher
            .usable_from(&rig.id, &found, &rig.idp, WINDOW);
        assert_eq!(
            access(&usable.now_or_never().expect("no await").unwrap()),
            "at-0"
        );
    }
    gate.add_permits(1);
    rig.landed().await;
    assert_eq!(rig.idp.calls(), 1);
    assert_eq!(access(&rig.usable().await.unwrap()), "at-1");
    assert!(close(rig.replica.counted("success"), 1.0));
}

#[tokio::test]
async fn without_refresh_token_the_session_lasts_as_long_as_its_token() {
    // REFRESH-29.
    let rig = Rig::with(|session| {
        let mut tokens = (*session.tokens).clone();
        tokens.refresh = None;
        session.tokens = Arc::new(tokens);
    })
    .await;
    rig.clock.advance(Duration::from_secs(290));
    assert_eq!(access(&rig.usable().await.unwrap()), "at-0");
    rig.clock.advance(Duration::from_secs(10));
    assert!(matches!(
        rig.usable().await,
        Err(RefreshError::NoRefreshToken)
    ));
    assert_eq!(rig.idp.calls(), 0);
}

#[tokio::test]
async fn what_the_answer_leaves_out_stays() {
    // REFRESH-08.
    let rig = Rig::expired().await;
    rig.idp.act(Act::KeepToken);
    let session = rig.usable().await.unwrap();
    let tokens = &session.tokens;
    assert_eq!((access(&session), session.generation), ("at-1", 1));
    assert!(tokens.refresh.as_ref().unwrap().matches("rt-0"));
    assert!(tokens.id.as_ref().unwrap().matches("id-0"));
    assert_eq!(tokens.scopes, ["openid"]);
    assert_eq!(tokens.bearer.as_ref().unwrap(), "Bearer at-1");
    assert_eq!(tokens.refreshed_at, rig.clock.now());

    rig.clock.advance(Duration::from_secs(300));
    rig.idp.act(Act::WithId("id-1"));
    let session = rig.usable().await.unwrap();
    assert!(session.tokens.refresh.as_ref().unwrap().matches("rt-1"));
    assert!(session.tokens.id.as_ref().unwrap().matches("id-1"));
    assert_eq!(rig.idp.reused(), 0);
}

#[tokio::test]
async fn a_failure_keeps_the_session_and_makes_everyone_pause() {
    // REFRESH-13, -14, -15, -16, -38: only invalid_grant ends a session.
    let limited = |retry_after| CallError::RateLimited { retry_after };
    let seven = Duration::from_secs(7);
    for (error, label, least) in [
        (down(), "unavailable", 0.8),
        (limited(None), "rate_limited", 0.8),
        (limited(Some(seven)), "rate_limited", 7.0),
        (oauth("temporarily_unavailable"), "unavailable", 0.8),
        (oauth("invalid_client"), "misconfigured", 0.8),
        (oauth("invalid_request"), "misconfigured", 0.8),
        (oauth("interaction_required"), "misconfigured", 0.8),
        (
            CallError::Metadata("no token endpoint".into()),
            "misconfigured",
            0.8,
        ),
    ] {
        let rig = Rig::expired().await;
        let name = format!("{error}");
        rig.idp.act(Act::Fail(error));
        let Err(RefreshError::Unavailable { retry_after }) = rig.usable().await else {
            panic!("{name}: not unavailable");
        };
        assert!(
            retry_after.as_secs_f64() >= least,
            "{name}: {retry_after:?}"
        );
        assert!(close(rig.replica.counted(label), 1.0), "{name}");

        let sibling = Replica::over(
            rig.replica.sessions.clone(),
            &rig.shared_clock(),
            Arc::clone(&rig.replica.metrics),
        );
        for replica in [&rig.replica, &sibling, &sibling] {
            let again = replica.usable(&rig.id, &rig.idp).await;
            let Err(RefreshError::Unavailable { retry_after: left }) = again else {
                panic!("{name}: nobody pauses");
            };
            assert!(left <= retry_after, "{name}");
        }
        assert_eq!(rig.idp.calls(), 1, "{name}: no storm");

        rig.clock.advance(retry_after);
        assert_eq!(access(&rig.usable().await.unwrap()), "at-2", "{name}");
        assert_eq!(rig.idp.reused(), 0, "{name}");
    }
}

#[tokio::test]
async fn an_ageing_token_is_used_while_the_provider_is_down() {
    let rig = Rig::new().await;
    rig.clock.advance(Duration::from_secs(260));
    rig.idp.act(Act::Fail(down()));
    assert_eq!(access(&rig.usable().await.unwrap()), "at-0");
    rig.landed().await;
    for _ in 0..10 {
        assert_eq!(access(&rig.usable().await.unwrap()), "at-0");
    }
    rig.landed().await;
    assert_eq!(rig.idp.calls(), 1, "and it is left alone for a while");
}

#[tokio::test]
async fn invalid_grant_ends_the_session() {
    // SESS-04, REFRESH-15.
    let rig = Rig::expired().await;
    rig.idp.act(Act::Fail(oauth("invalid_grant")));
    assert!(matches!(rig.usable().await, Err(RefreshError::Ended)));
    assert!(rig.replica.is_gone(&rig.id).await);
    assert!(close(rig.replica.counted("rejected"), 1.0));
    let ends = rig
        .replica
        .metric(r#"daypass_session_ends_total{reason="refresh_rejected"}"#);
    assert!(close(ends, 1.0));
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_once_more() {
    // REFRESH-23: (first, second) → calls, outcome.
    let healed = Rig::expired().await;
    healed.idp.act(Act::Fail(lost()));
    assert_eq!(access(&healed.usable().await.unwrap()), "at-2");
    assert_eq!((healed.idp.calls(), healed.idp.reused()), (2, 0));

    let stubborn = Rig::expired().await;
    for _ in 0..2 {
        stubborn.idp.act(Act::Fail(lost()));
    }
    assert!(matches!(
        stubborn.usable().await,
        Err(RefreshError::Unavailable { .. })
    ));
    assert_eq!(stubborn.idp.calls(), 2, "exactly once");
    assert!(!stubborn.replica.is_gone(&stubborn.id).await);

    // Later flights present it once per pause, for what was spent stays spent.
    for calls in [3, 4] {
        stubborn.clock.advance(Duration::from_secs(60));
        stubborn.idp.act(Act::Fail(lost()));
        assert!(stubborn.usable().await.is_err());
        assert_eq!(stubborn.idp.calls(), calls, "once per pause");
    }
    stubborn.clock.advance(Duration::from_secs(60));
    assert_eq!(access(&stubborn.usable().await.unwrap()), "at-5");
    stubborn.clock.advance(Duration::from_secs(300));
    stubborn.idp.act(Act::Fail(lost()));
    assert_eq!(
        access(&stubborn.usable().await.unwrap()),
        "at-7",
        "the next token has a try of its own"
    );

    // The provider had acted and knows no grace: the session was lost with the answer.
    let rotated = Rig::expired().await;
    rotated.idp.act(Act::LoseAnswer);
    assert!(matches!(rotated.usable().await, Err(RefreshError::Ended)));
    assert_eq!(rotated.idp.calls(), 2);
}

#[tokio::test]
async fn what_could_not_be_sent_is_tried_again_soon() {
    // REFRESH-22.
    let rig = Rig::expired().await;
    for _ in 0..2 {
        rig.idp.act(Act::Fail(unreachable_now()));
    }
    assert_eq!(access(&rig.usable().await.unwrap()), "at-3");

    // Not for ever, and it takes nothing from what a lost answer is due.
    let rig = Rig::expired().await;
    for error in [
        unreachable_now(),
        lost(),
        unreachable_now(),
        unreachable_now(),
    ] {
        rig.idp.act(Act::Fail(error));
    }
    assert!(matches!(
        rig.usable().await,
        Err(RefreshError::Unavailable { .. })
    ));
    assert_eq!(rig.idp.calls(), 4);
}

#[tokio::test]
async fn an_answer_that_cannot_be_used_leaves_the_rotated_token_behind() {
    // A yes is never asked for again: the token in it is the only one that is good.
    let rig = Rig::expired().await;
    rig.idp.act(Act::Garble);
    let Err(RefreshError::Unavailable { retry_after }) = rig.usable().await else {
        panic!("used");
    };
    let session = rig.found().await.session;
    assert_eq!(access(&session), "at-0");
    assert!(session.tokens.refresh.as_ref().unwrap().matches("rt-1"));
    assert!(close(rig.replica.counted("invalid"), 1.0));
    rig.clock.advance(retry_after);
    assert_eq!(access(&rig.usable().await.unwrap()), "at-2");

    rig.clock.advance(Duration::from_secs(300));
    rig.idp.act(Act::Fail(CallError::Unusable {
        reason: "the token type is not Bearer",
        refresh_token: None,
    }));
    assert!(rig.usable().await.is_err());
    assert_eq!((rig.idp.calls(), rig.idp.reused()), (3, 0));
    assert!(!rig.replica.is_gone(&rig.id).await);
}

#[tokio::test]
async fn a_refreshed_id_token_for_someone_else_ends_it_all() {
    let rig = Rig::expired().await;
    rig.idp.act(Act::WithId("id-someone-else"));
    assert!(matches!(rig.usable().await, Err(RefreshError::Ended)));
    rig.landed().await;
    assert!(rig.replica.is_gone(&rig.id).await);
    assert_eq!(rig.idp.revoked(), ["rt-1"]);
    let ends = rig
        .replica
        .metric(r#"daypass_session_ends_total{reason="identity_changed"}"#);
    assert!(close(ends, 1.0));
}

#[tokio::test]
async fn with_a_bad_id_token_nothing_is_used_but_the_rotated_token_is_kept() {
    // REFRESH-31.
    for id in ["id-bad", "id-unchecked"] {
        let rig = Rig::expired().await;
        rig.idp.act(Act::WithId(id));
        let Err(RefreshError::Unavailable { retry_after }) = rig.usable().await else {
            panic!("{id}: used");
        };
        let session = rig.found().await.session;
        assert_eq!(access(&session), "at-0", "{id}");
        assert!(
            session.tokens.refresh.as_ref().unwrap().matches("rt-1"),
            "{id}"
        );
        assert!(session.tokens.id.as_ref().unwrap().matches("id-0"), "{id}");
        assert!(close(rig.replica.counted("invalid"), 1.0), "{id}");
        let answer = rig.replica.sessions.lease(&rig.id, 1).await.unwrap();
        assert!(
            matches!(answer, LeaseAnswer::CoolingDown { .. }),
            "{id}: siblings pause"
        );

        rig.clock.advance(retry_after);
        assert_eq!(access(&rig.usable().await.unwrap()), "at-2", "{id}");
        assert_eq!(rig.idp.reused(), 0, "{id}");
    }
}

#[tokio::test]
async fn a_token_that_is_expired_on_arrival_is_not_forwarded() {
    // REFRESH-11, REFRESH-26.
    let mut rig = Rig::expired().await;
    Arc::get_mut(&mut rig.idp).unwrap().life = Duration::ZERO;
    for _ in 0..5 {
        assert!(matches!(
            rig.usable().await,
            Err(RefreshError::Unavailable { .. })
        ));
    }
    assert_eq!(rig.idp.calls(), 1, "and the provider is not hammered");
    assert!(
        rig.found()
            .await
            .session
            .tokens
            .refresh
            .as_ref()
            .unwrap()
            .matches("rt-1")
    );
}

#[tokio::test]
async fn a_refresh_on_demand_is_rate_limited() {
    // REFRESH-33.
    let rig = Rig::new().await;
    let force = async || {
        let found = rig.found().await;
        rig.replica
            .refresher
            .forced_from(&rig.id, &found, &rig.idp)
            .await
    };
    assert_eq!(access(&force().await.unwrap()), "at-0", "just logged in");
    rig.clock.advance(Duration::from_secs(5));
    assert_eq!(access(&force().await.unwrap()), "at-1");
    assert_eq!(access(&force().await.unwrap()), "at-1");
    rig.clock.advance(Duration::from_secs(5));
    assert_eq!(access(&force().await.unwrap()), "at-2");
    assert_eq!(rig.idp.calls(), 2);
}
