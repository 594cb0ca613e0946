//! Shows which callbacks make no session, and that they never reach the token endpoint.

use std::sync::atomic::Ordering;

use serde_json::json;

use super::super::*;
use super::{world, world_of};
use crate::oidc::{CallError, IdTokenError};
use crate::rp::fakes::{self, FakeIdp};

/// FLOW-04, FLOW-08, FLOW-10, FLOW-12, CSRF-07: none of these makes a session or asks the token endpoint.
#[tokio::test]
async fn callbacks_that_do_not_fit_never_reach_the_token_endpoint() {
    let world = world();
    let login = world.begin(None, None).await;
    let (state, cookie) = (&*login.state, Some(&*login.cookie));
    let broken = format!("{}AAAA", &state[..state.len() - 4]);
    for (name, query, cookie, want) in [
        ("no state", "code=c".into(), cookie, "state is missing"),
        (
            "made-up state",
            "state=AAAA&code=c".into(),
            cookie,
            "state is not ours",
        ),
        (
            "broken state",
            format!("state={broken}&code=c"),
            cookie,
            "state is not ours",
        ),
        (
            "repeated code",
            format!("state={state}&code=c&code=d"),
            cookie,
            "a parameter is repeated",
        ),
        (
            "made-up cookie",
            format!("state={state}&code=c"),
            Some("AAAA"),
            "the login cookie cannot be opened",
        ),
    ] {
        let result = world.answer(&query, cookie, None).await;
        assert!(
            matches!(&result, Err(CallbackError::BadState(why)) if *why == want),
            "{name}: {result:?}"
        );
    }
    let query = format!("state={state}&code=c");
    let result = world.answer(&query, None, None).await;
    assert!(matches!(result, Err(CallbackError::NoCookie)), "{result:?}");
    let elsewhere = &world.flow.config.public_origins[1];
    let result = world.answer_at(elsewhere, None, &query, cookie, None).await;
    assert!(
        matches!(result, Err(CallbackError::BadState(_))),
        "{result:?}"
    );
    world
        .clock
        .advance(crate::login::state::LIFETIME + Duration::from_secs(1));
    let result = world.answer(&query, cookie, None).await;
    assert!(
        matches!(
            result,
            Err(CallbackError::BadState("the login took too long"))
        ),
        "{result:?}"
    );

    assert_eq!(world.idp.count("token"), 0);
    assert_eq!(world.store.len(), 0);
    assert!(world.logins(LoginResult::BadState));
    assert_eq!(world.flow.wanted(&query).unwrap().return_to, "/orders?id=7");
    assert!(world.flow.wanted("state=AAAA").is_none());
}

/// FLOW-04, FLOW-20
#[tokio::test]
async fn a_replayed_callback_goes_on_with_a_session_and_nowhere_without() {
    let world = world();
    let login = world.begin(None, None).await;
    let query = format!("state={}&code=c", login.state);
    let Ok(Finished::SignedIn {
        id, login_cookie, ..
    }) = world.answer(&query, Some(&login.cookie), None).await
    else {
        panic!("the first one signs in");
    };
    let stale = SessionId::generate();
    for (name, cookie, session, goes_on) in [
        ("signed in", &login_cookie, Some(&id), true),
        ("signed in, old cookie", &login.cookie, Some(&id), true),
        ("no session", &login_cookie, None, false),
        ("stale session", &login_cookie, Some(&stale), false),
    ] {
        match world.answer(&query, Some(cookie), session).await {
            Ok(Finished::Already { location, .. }) => {
                assert!(goes_on, "{name}");
                assert_eq!(location, "/orders?id=7");
            }
            Err(CallbackError::BadState("state was used already")) => assert!(!goes_on, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }
    assert_eq!(world.idp.count("token"), 1);

    // Another replica, or this one restarted: the browser's cookie knows.
    let replica = Flow {
        memory: Memory::new(),
        ..world.flow
    };
    let callback = Callback {
        origin: &world.origin,
        path_provider: None,
        query: &query,
        login_cookie: Some(&login_cookie),
        old_session: None,
        client: std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        navigates: true,
        waited: &world.waited,
    };
    assert!(replica.finish(callback).await.is_err());
    assert_eq!(world.idp.count("token"), 1);
}

#[tokio::test]
async fn a_tab_that_lost_its_cookie_to_another_goes_on_when_signed_in() {
    let world = world();
    // Both started before either cookie arrived.
    let one = world.begin(None, None).await;
    let (id, cookie) = world.sign_in(None, None).await;
    let query = format!("state={}&code=c", one.state);
    let result = world.answer(&query, Some(&cookie), Some(&id)).await;
    assert!(matches!(result, Ok(Finished::Already { location, .. }) if location == "/orders?id=7"));
    assert!(world.store.get(&id).is_some(), "CSRF-07: the session stays");
    world.store.fail(true);
    let result = world.answer(&query, Some(&cookie), Some(&id)).await;
    assert!(matches!(result, Err(CallbackError::StoreUnavailable)));
}

/// FLOW-04, FLOW-08, FLOW-22: the code of another browser's login is nobody's here, whatever becomes of the login.
#[tokio::test]
async fn an_answer_for_another_cookie_starts_the_login_anew_and_its_code_stays_unused() {
    let world = world();
    let foreign = world.begin(None, None).await;
    let own = world.begin(None, None).await;
    let query = format!("state={}&code=c", foreign.state);
    let begun = world.idp.count("authorize");
    let result = world.answer(&query, Some(&own.cookie), None).await;
    let Ok(Finished::Restarted(started)) = result else {
        panic!("{result:?}");
    };
    assert_eq!(world.idp.count("authorize"), begun + 1);
    assert_eq!(world.idp.count("token"), 0);
    assert!(world.logins(LoginResult::Restarted));
    // The new one is this browser's: it finishes, and leads to where the lost one was going.
    let query = format!("state={}&code=mine", world.last_state());
    let result = world
        .answer(&query, Some(&started.login_cookie), None)
        .await;
    assert!(
        matches!(&result, Ok(Finished::SignedIn { location, .. }) if location == "/orders?id=7"),
        "{result:?}"
    );
    assert_eq!(world.idp.count("token mine"), 1);
    assert_eq!(world.idp.count("token"), 1);
}

/// FLOW-18, FLOW-22: what must not start a login gets the page instead.
#[tokio::test]
async fn an_answer_for_another_cookie_starts_nothing_where_nobody_wants_to_sign_in() {
    let world = world();
    let foreign = world.begin(None, None).await;
    let own = world.begin(None, None).await;
    let begun = world.idp.count("authorize");
    let state = &foreign.state;
    for (name, query, navigates) in [
        (
            "the user said no",
            format!("state={state}&error=access_denied"),
            true,
        ),
        ("neither", format!("state={state}"), true),
        ("no navigation", format!("state={state}&code=c"), false),
    ] {
        let callback = Callback {
            navigates,
            ..world.callback(&query, Some(&own.cookie))
        };
        let result = world.flow.finish(callback).await;
        assert!(
            matches!(
                result,
                Err(CallbackError::BadState("state belongs to another browser"))
            ),
            "{name}: {result:?}"
        );
    }
    world
        .clock
        .advance(crate::login::state::LIFETIME + Duration::from_secs(1));
    let query = format!("state={state}&code=c");
    let result = world.answer(&query, Some(&own.cookie), None).await;
    assert!(
        matches!(
            result,
            Err(CallbackError::BadState("the login took too long"))
        ),
        "{result:?}"
    );
    assert_eq!(world.idp.count("authorize"), begun);
    assert_eq!(world.idp.count("token"), 0);
}

/// FLOW-21: a browser that shows another login cookie each time is not sent round and round.
#[tokio::test]
async fn a_login_that_starts_anew_again_and_again_is_a_loop() {
    let world = world();
    let _ = world.begin(None, None).await;
    for round in 0..=3 {
        // Each time a cookie that was sealed for a login of its own.
        let query = format!("state={}&code=c", world.last_state());
        let stranger = LoginCookie::fresh().seal(&fakes::keys());
        let result = world.answer(&query, Some(&stranger), None).await;
        if round < 3 {
            assert!(
                matches!(result, Ok(Finished::Restarted(_))),
                "{round}: {result:?}"
            );
        } else {
            assert!(
                matches!(result, Err(CallbackError::NotRestarted(StartError::Loop))),
                "{round}: {result:?}"
            );
        }
    }
    assert!(world.logins(LoginResult::Loop));
    assert_eq!(world.idp.count("token"), 0);
}

/// FLOW-09
#[tokio::test]
async fn iss_is_compared_and_demanded_where_promised() {
    let right = "&iss=https%3A%2F%2Fprovider.example";
    let wrong = "&iss=https%3A%2F%2Fprovider.example%2F";
    for (name, required, iss, answer, want) in [
        ("absent, not promised", false, "", "code=c", None),
        ("right", true, right, "code=c", None),
        (
            "absent, promised",
            true,
            "",
            "code=c",
            Some("iss is missing"),
        ),
        (
            "wrong",
            false,
            wrong,
            "code=c",
            Some("iss names another issuer"),
        ),
        (
            "wrong, on an error",
            true,
            wrong,
            "error=access_denied",
            Some("iss names another issuer"),
        ),
    ] {
        let world = world();
        world.idp.iss_required.store(required, Ordering::SeqCst);
        let login = world.begin(None, None).await;
        let query = format!("{answer}&state={}{iss}", login.state);
        match (world.answer(&query, Some(&login.cookie), None).await, want) {
            (Ok(Finished::SignedIn { .. }), None) => {}
            (Err(CallbackError::Invalid(why)), Some(want)) => {
                assert_eq!(why, want, "{name}");
                assert_eq!(world.idp.count("token"), 0, "{name}");
            }
            (other, _) => panic!("{name}: {other:?}"),
        }
    }
}

/// FLOW-10
#[tokio::test]
async fn with_several_providers_the_path_must_be_the_providers_own() {
    let world = world_of(vec![fakes::provider("one"), fakes::provider("two")]);
    assert!(matches!(
        world.try_start(None, None, false).await,
        Err(StartError::Choose)
    ));
    assert!(matches!(
        world.try_start(Some("three"), None, false).await,
        Err(StartError::UnknownProvider)
    ));
    let login = world.begin(Some("one"), None).await;
    assert_eq!(
        world
            .idp
            .count("authorize https://shop.example.com/oauth2/callback/one"),
        1
    );
    let query = format!("state={}&code=c", login.state);
    for path in [None, Some("two"), Some("three")] {
        let cookie = Some(&*login.cookie);
        let result = world
            .answer_at(&world.origin, path, &query, cookie, None)
            .await;
        assert!(
            matches!(result, Err(CallbackError::BadState(_))),
            "{path:?}"
        );
    }
    assert_eq!(world.idp.count("token"), 0);
    let cookie = Some(&*login.cookie);
    let result = world
        .answer_at(&world.origin, Some("one"), &query, cookie, None)
        .await;
    assert!(result.is_ok());
}

/// FLOW-18
#[tokio::test]
async fn the_providers_refusals_are_told_apart() {
    for (error, want) in [
        ("access_denied", Some("access_denied")),
        ("login_required", Some("login_required")),
        ("interaction_required", Some("interaction_required")),
        ("temporarily_unavailable", None),
        ("server_error", None),
    ] {
        let world = world();
        let login = world.begin(None, None).await;
        let query = format!("error={error}&error_description=x&state={}", login.state);
        let result = world.answer(&query, Some(&login.cookie), None).await;
        match want {
            Some(want) => {
                assert!(matches!(&result, Err(CallbackError::Refused { code }) if code == want));
                assert!(world.logins(LoginResult::Refused));
            }
            None => assert!(matches!(result, Err(CallbackError::ProviderUnavailable))),
        }
        assert_eq!(world.idp.count("token"), 0);
    }
    // Without a valid state an error is nobody's.
    let world = world();
    let result = world
        .answer("error=access_denied&state=AAAA", None, None)
        .await;
    assert!(matches!(result, Err(CallbackError::BadState(_))));
}

#[tokio::test]
async fn an_answer_of_the_token_endpoint_is_believed_only_when_it_stands() {
    type Row = (&'static str, fn(&FakeIdp), fn(&CallbackError) -> bool);
    let unavailable = |error: &CallbackError| matches!(error, CallbackError::ProviderUnavailable);
    let invalid = |error: &CallbackError| matches!(error, CallbackError::Invalid(_));
    let rows: [Row; 8] = [
        (
            "outage",
            |idp| *idp.token.lock() = || Err(fakes::outage()),
            unavailable,
        ),
        (
            "429",
            |idp| *idp.token.lock() = || Err(CallError::RateLimited { retry_after: None }),
            unavailable,
        ),
        (
            "invalid_grant",
            |idp| {
                *idp.token.lock() = || {
                    Err(CallError::OAuth {
                        code: "invalid_grant".into(),
                    })
                }
            },
            invalid,
        ),
        (
            "server_error",
            |idp| {
                *idp.token.lock() = || {
                    Err(CallError::OAuth {
                        code: "server_error".into(),
                    })
                }
            },
            unavailable,
        ),
        (
            "no ID token",
            |idp| {
                *idp.token.lock() = || {
                    let mut answer = fakes::tokens();
                    answer.id_token = None;
                    Ok(answer)
                };
            },
            invalid,
        ),
        (
            "refused ID token",
            |idp| *idp.id_token.lock() = || Err(IdTokenError::Refused("nonce does not match")),
            invalid,
        ),
        (
            "keys cannot be had",
            |idp| *idp.id_token.lock() = || Err(IdTokenError::Keys(fakes::outage())),
            unavailable,
        ),
        (
            "nobody",
            |idp| *idp.id_token.lock() = || Ok(json!({"sub": ""})),
            invalid,
        ),
    ];
    for (name, arrange, want) in rows {
        let world = world();
        arrange(&world.idp);
        let login = world.begin(None, None).await;
        let query = format!("state={}&code=c", login.state);
        let error = world
            .answer(&query, Some(&login.cookie), None)
            .await
            .unwrap_err();
        assert!(want(&error), "{name}: {error:?}");
        assert_eq!(world.store.len(), 0, "{name}");
        // A second try of the same callback asks nobody.
        let error = world
            .answer(&query, Some(&login.cookie), None)
            .await
            .unwrap_err();
        assert!(
            matches!(error, CallbackError::BadState(_)),
            "{name}: {error:?}"
        );
        assert_eq!(world.idp.count("token"), 1, "{name}");
    }
}

/// LOGOUT-12
#[tokio::test]
async fn a_login_that_the_provider_has_ended_meanwhile_is_reported_as_such() {
    let world = world();
    let (old, _) = world.sign_in(None, None).await;
    let login = world.begin(None, None).await;
    world.clock.advance(Duration::from_secs(1));
    world.store.over(world.flow.clock.now());
    let query = format!("state={}&code=c", login.state);
    let result = world.answer(&query, Some(&login.cookie), Some(&old)).await;
    assert!(
        matches!(result, Err(CallbackError::LoggedOut)),
        "{result:?}"
    );
    assert_eq!(
        world.store.len(),
        1,
        "the old one, which nothing has replaced"
    );
    assert!(world.logins(LoginResult::LoggedOut));
    world.flow.revoker.drained().await;
    assert_eq!(world.idp.count("revoke"), 1, "what nobody will use");

    // Signing in again is possible at once.
    world.clock.advance(Duration::from_millis(1));
    world.sign_in(Some(&login.cookie), None).await;
}
