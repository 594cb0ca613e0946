//! Shows that a callback of another browser's login signs nobody in, whoever is lured to it.

use daypass_testbed::client::Client;
use daypass_testbed::provider::Endpoint;

use super::refusals::assert_refused;
use super::{SESSION, Stage, go, parameter, sets_session};

/// FLOW-08: what is in the URL is not enough.
#[tokio::test(flavor = "multi_thread")]
async fn another_browser_cannot_finish_a_login() {
    let stage = Stage::new();
    let (attacker, victim) = (Client::new(), Client::new());
    let callback = stage.callback(&attacker).await;
    // No login cookie at all: cookies may be blocked, and the page says so.
    let answer = go(victim.navigate(&callback)).await;
    assert_refused(&answer, 400, "no login cookie");
    // One that was tampered with.
    let name = attacker.jar().cookies()[0].name.clone();
    let value = attacker.jar().cookies()[0].value.clone();
    let spoilt = attacker.twin();
    spoilt.jar().overwrite(&name, &value[..value.len() - 5]);
    let answer = go(spoilt.navigate(&callback)).await;
    assert_refused(&answer, 400, "a truncated login cookie");
    stage.nothing_redeemed("another browser");
    // It is still good where it belongs.
    assert_eq!(go(attacker.navigate(&callback)).await.status, 303);
    assert!(stage.knows(&attacker).await);
}

/// FLOW-08 (RFC 6749 §10.12): whoever is lured to an attacker's callback while signing in is signed in as themselves.
#[tokio::test(flavor = "multi_thread")]
async fn an_attackers_callback_signs_nobody_in_to_the_attackers_account() {
    let stage = Stage::new();
    let (attacker, victim) = (Client::new(), Client::new());
    stage
        .provider
        .configure(|settings| settings.user = "john".to_owned());
    let callback = stage.callback(&attacker).await;
    stage
        .provider
        .configure(|settings| settings.user = "jane".to_owned());
    // The victim has begun to sign in, so there is a login cookie.
    let _ = stage.callback(&victim).await;
    // What is no page gets nothing started, and looking ahead neither (FLOW-22, FLOW-23).
    let fetched = victim.get(&callback).header("sec-fetch-mode", "cors");
    assert_eq!(go(fetched).await.status, 400);
    let ahead = victim.navigate(&callback).header("sec-purpose", "prefetch");
    assert_eq!(go(ahead).await.status, 400);
    let page = victim.browse(&callback).await.expect("a login");
    assert_eq!((page.status, page.url.path()), (200, "/after"));
    assert_eq!(
        stage.echo.last().expect("forwarded").header("x-user"),
        Some("248289761001"),
        "jane, not john"
    );
    let codes = stage.provider.requests(Endpoint::Token);
    let stolen = parameter(&callback, "code").expect("a code");
    assert!(
        codes
            .iter()
            .all(|request| request.param("code") != Some(&*stolen)),
        "the attacker's code goes nowhere"
    );
}

/// CSRF-07: an attacker's callback does not replace the session of whoever is lured to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_callback_leaves_a_session_alone() {
    let stage = Stage::new();
    let victim = stage.signed_in().await;
    let before = victim.jar().find(SESSION).cloned();
    stage
        .provider
        .configure(|settings| settings.user = "john".to_owned());
    let attacker = Client::new();
    let callback = stage.callback(&attacker).await;
    let answer = go(victim.navigate(&callback)).await;
    assert!(!sets_session(&answer), "{answer:?}");
    assert_eq!(victim.jar().find(SESSION).cloned(), before);
    stage.nothing_redeemed("a foreign callback");
    assert!(stage.knows(&victim).await);
    assert_eq!(
        stage.echo.last().expect("forwarded").header("x-user"),
        Some("248289761001")
    );
}
