//! Shows how answers of the token endpoint are read, and what a refresh may wait for.

use std::sync::Arc;

use serde_json::json;

use super::super::tests::keys::{claims, es256};
use super::super::tests::server::Reply;
use super::super::tests::{NOW, Scene, object};
use super::*;
use crate::oidc::Acted;

fn read_json(value: Value) -> Result<TokenResponse, &'static str> {
    read(&object(value), NOW, Duration::from_secs(300))
}

const YEAR: i64 = 365 * 24 * 3600;

#[test]
fn life_is_what_the_answer_says_else_what_the_token_says_else_the_default() {
    // REFRESH-26.
    let jwt = |exp: i64| {
        let mut claims = claims("https://a.example");
        claims.insert("exp".into(), (NOW.as_secs() + exp).into());
        es256().sign(&claims)
    };
    let opaque = || "opaque".to_owned();
    for (name, token, expires_in, want) in [
        ("number", opaque(), json!(60), 60),
        ("text", opaque(), json!("60"), 60),
        ("fraction", opaque(), json!(60.9), 60),
        ("wins over the JWT", jwt(500), json!(60), 60),
        ("absent", opaque(), json!(null), 300),
        ("absent, JWT", jwt(500), json!(null), 500),
        ("absent, expired JWT", jwt(-500), json!(null), 300),
        ("absent, eternal JWT", jwt(10 * YEAR), json!(null), YEAR),
        ("zero", opaque(), json!(0), 300),
        ("zero, JWT", jwt(500), json!(0), 500),
        ("negative", opaque(), json!(-60), 300),
        ("negative text", opaque(), json!("-60"), 300),
        ("absurd", opaque(), json!(1e300), YEAR),
        ("large", opaque(), json!(u64::MAX), YEAR),
        ("infinite", opaque(), json!("inf"), 300),
        ("no number", opaque(), json!("NaN"), 300),
        ("words", opaque(), json!("an hour"), 300),
        ("list", opaque(), json!([60]), 300),
        ("two dots, no JWT", "a.b.c".to_owned(), json!(null), 300),
    ] {
        let answer =
            json!({"access_token": token, "token_type": "Bearer", "expires_in": expires_in});
        let expires_at = read_json(answer).unwrap().expires_at;
        assert_eq!(expires_at.as_secs() - NOW.as_secs(), want, "{name}");
    }
}

#[test]
fn an_answer_without_a_usable_token_is_none() {
    // REFRESH-19.
    for (name, answer) in [
        ("no token", json!({"token_type": "Bearer"})),
        (
            "empty token",
            json!({"access_token": "", "token_type": "Bearer"}),
        ),
        (
            "no text",
            json!({"access_token": 1, "token_type": "Bearer"}),
        ),
        (
            "header injection",
            json!({"access_token": "a\r\nb: c", "token_type": "Bearer"}),
        ),
        (
            "space",
            json!({"access_token": "a b", "token_type": "Bearer"}),
        ),
        ("no type", json!({"access_token": "a"})),
        (
            "another type",
            json!({"access_token": "a", "token_type": "DPoP"}),
        ),
    ] {
        assert!(read_json(answer).is_err(), "{name}");
    }
}

#[test]
fn what_comes_beside_the_token_is_read() {
    let answer = read_json(json!({
        "access_token": "a", "token_type": "bEARER", "refresh_token": "r", "id_token": "i",
        "scope": "openid  orders.read", "refresh_expires_in": 1800, "not-before-policy": 0,
        "authorization_expires_in": "900", "refresh_token_expires_in": 0,
    }))
    .unwrap();
    assert_eq!(answer.access_token.expose(), "a");
    assert_eq!(answer.refresh_token.unwrap().expose(), "r");
    assert_eq!(answer.id_token.unwrap().expose(), "i");
    assert_eq!(answer.scope.unwrap(), ["openid", "orders.read"]);
    // REFRESH-28: the smallest counts, zero means unlimited.
    assert_eq!(answer.refresh_expires_in, Some(Duration::from_secs(900)));

    let answer = read_json(json!({
        "access_token": "a", "token_type": "Bearer", "refresh_token": null, "id_token": "",
        "refresh_expires_in": 0,
    }))
    .unwrap();
    assert!(answer.refresh_token.is_none() && answer.id_token.is_none());
    assert!(answer.scope.is_none() && answer.refresh_expires_in.is_none());
}

fn good() -> Reply {
    Reply::json(&json!({"access_token": "a", "token_type": "Bearer", "expires_in": 60}))
}

fn season_ticket() -> RefreshToken {
    RefreshToken::new("season-ticket")
}

#[tokio::test]
async fn life_is_counted_from_when_the_request_went_out() {
    // REFRESH-25.
    let scene = Scene::new().await;
    scene
        .server
        .next("/token", good().after(Duration::from_millis(200)));
    let passing = async {
        while scene.server.received("/token").is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        scene.clock.advance(Duration::from_secs(30));
    };
    let (ticket, clearance) = (season_ticket(), Clearance::always());
    let (answer, ()) = tokio::join!(scene.provider.renew(&ticket, &clearance), passing);
    let answer = answer.unwrap();
    assert_eq!(answer.asked_at, NOW);
    assert_eq!(answer.expires_at, NOW.plus(Duration::from_secs(60)));
}

#[tokio::test]
async fn a_yes_that_cannot_be_used_still_brings_its_refresh_token() {
    // The provider has rotated: the token in this very answer is the only one that is good.
    let mut whole = json!({"access_token": "a", "token_type": "Bearer", "refresh_token": "next"});
    let with = |name: &str, value: Value| {
        let mut answer = whole.clone();
        answer[name] = value;
        Reply::json(&answer)
    };
    let typed = |media: &str| Reply::new(200, media, whole.to_string());
    let rows = [
        ("no type", with("token_type", Value::Null), Some("next")),
        (
            "another type",
            with("token_type", "DPoP".into()),
            Some("next"),
        ),
        (
            "odd token",
            with("access_token", "a b".into()),
            Some("next"),
        ),
        ("no token", with("access_token", Value::Null), Some("next")),
        ("called HTML", typed("text/html"), Some("next")),
        ("called XML", typed("application/xml"), Some("next")),
        (
            "no rotation",
            Reply::json(&json!({"access_token": "a"})),
            None,
        ),
        (
            "odd refresh token",
            Reply::json(&json!({"refresh_token": 1})),
            None,
        ),
        ("no object", Reply::json(&json!(["a"])), None),
    ];
    for (name, reply, want) in rows {
        let scene = Scene::new().await;
        scene.server.next("/token", reply);
        let error = scene
            .provider
            .renew(&season_ticket(), &Clearance::always())
            .await
            .unwrap_err();
        assert!(!format!("{error:?} {error}").contains("next"), "{name}");
        let CallError::Unusable { refresh_token, .. } = error else {
            panic!("{name}: {error:?}");
        };
        assert_eq!(
            refresh_token.as_ref().map(RefreshToken::expose),
            want,
            "{name}"
        );
    }
    // What is no JSON, or not all of it, says nothing. Only what broke off on its way may be asked for again.
    whole["pad"] = "x".into();
    for (name, reply) in [
        ("HTML", Reply::new(200, "text/html", "<h1>Sorry</h1>")),
        ("empty", Reply::new(200, "application/json", "")),
        (
            "half",
            Reply::new(200, "application/json", &whole.to_string()[..40]),
        ),
        ("cut short", Reply::json(&whole).cut_short()),
    ] {
        let acted = if name == "cut short" {
            Acted::Perhaps
        } else {
            Acted::No
        };
        let scene = Scene::new().await;
        scene.server.next("/token", reply);
        let error = scene
            .provider
            .renew(&season_ticket(), &Clearance::always())
            .await
            .unwrap_err();
        assert!(
            matches!(error, CallError::Unavailable { acted: a, .. } if a == acted),
            "{name}: {error:?}"
        );
    }
}

#[tokio::test]
async fn a_refresh_waits_longer_than_a_login() {
    let scene = Scene::with(
        |config| {
            config.timeout = Duration::from_millis(500);
            config.refresh_patience = Duration::from_secs(30);
        },
        |_| {},
    )
    .await;
    let provider = &scene.provider;
    // What is asked for before must not be what takes too long.
    for _ in 0..20 {
        if provider.warm_up().await.is_ok() {
            break;
        }
    }
    // Beyond the second looks of a machine that stood still.
    let slow = good().after(Duration::from_secs(4));
    scene.server.always("/token", slow);
    let (season_ticket, code) = (season_ticket(), AuthorizationCode::new("c"));
    let verifier = CodeVerifier::new("v");
    let clearance = Clearance::always();
    let (refresh, login) = tokio::join!(
        provider.renew(&season_ticket, &clearance),
        provider.exchange(&code, &verifier, "https://a.example/"),
    );
    refresh.unwrap();
    let error = login.unwrap_err();
    assert!(
        matches!(
            error,
            CallError::Unavailable {
                acted: Acted::No,
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn without_metadata_nothing_was_sent() {
    let scene = Scene::impatient().await;
    let path = "/.well-known/openid-configuration";
    scene.server.always(path, good().stalled());
    let error = scene
        .provider
        .renew(&season_ticket(), &Clearance::always())
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            CallError::Unavailable {
                acted: Acted::Unasked,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(scene.server.received("/token").is_empty());
}

#[tokio::test]
async fn a_provider_that_asks_for_a_pause_gets_it_from_all_sessions() {
    // REFRESH-38. A login is another matter: anyone can provoke refusals there.
    for status in [429, 503] {
        let scene = Scene::new().await;
        let busy = Reply::new(status, "text/html", "").header("retry-after", "30");
        scene.server.next("/token", busy);
        scene
            .provider
            .renew(&season_ticket(), &Clearance::always())
            .await
            .unwrap_err();
        for n in 0..5 {
            let other = RefreshToken::new(format!("another-{n}"));
            let error = scene
                .provider
                .renew(&other, &Clearance::always())
                .await
                .unwrap_err();
            let CallError::RateLimited {
                retry_after: Some(wait),
            } = error
            else {
                panic!("{status}: {error:?}");
            };
            assert!((29..=30).contains(&wait.as_secs()), "{status}: {wait:?}");
        }
        let code = AuthorizationCode::new("c");
        let verifier = CodeVerifier::new("v");
        let login = scene
            .provider
            .exchange(&code, &verifier, "https://a.example/");
        let busy = Reply::new(status, "text/html", "").header("retry-after", "30");
        scene.server.next("/token", busy);
        login.await.unwrap_err();
        assert_eq!(scene.server.received("/token").len(), 2, "{status}");
    }
    // Nor does one that only logins are asked for stop any refresh.
    let scene = Scene::new().await;
    let busy = Reply::new(429, "text/html", "").header("retry-after", "600");
    scene.server.next("/token", busy);
    let (code, verifier) = (AuthorizationCode::new("c"), CodeVerifier::new("v"));
    for _ in 0..2 {
        let login = scene
            .provider
            .exchange(&code, &verifier, "https://a.example/");
        let error = login.await.unwrap_err();
        assert!(matches!(error, CallError::RateLimited { .. }), "{error:?}");
    }
    scene.server.next("/token", good());
    scene
        .provider
        .renew(&season_ticket(), &Clearance::always())
        .await
        .unwrap();
    assert_eq!(scene.server.received("/token").len(), 2);
    // Without a time there is none: each session backs off by itself.
    let scene = Scene::new().await;
    scene
        .server
        .next("/token", Reply::new(429, "text/html", ""));
    scene.server.next("/token", good());
    scene
        .provider
        .renew(&season_ticket(), &Clearance::always())
        .await
        .unwrap_err();
    scene
        .provider
        .renew(&season_ticket(), &Clearance::always())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_refresh_survives_the_one_who_asked_for_it_in_a_task_of_its_own() {
    // REFRESH-05.
    let scene = Scene::new().await;
    scene
        .server
        .next("/token", good().after(Duration::from_millis(100)));
    let provider = Arc::new(scene.provider);
    let flight = tokio::spawn({
        let provider = Arc::clone(&provider);
        async move {
            provider
                .refresh(&season_ticket(), &Clearance::always())
                .await
        }
    });
    drop(provider);
    flight.await.unwrap().unwrap();
}
