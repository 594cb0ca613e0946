//! Uses a browser as people do: many tabs, the back button, signing in anew.

use std::collections::BTreeSet;

use daypass_testbed::client::Client;
use daypass_testbed::provider::Endpoint;

use super::{SESSION, Stage, go, sets_session};

/// FLOW-05, FLOW-06
#[tokio::test(flavor = "multi_thread")]
async fn twenty_tabs_sign_in_side_by_side() {
    let stage = Stage::new();
    let client = Client::new();
    // One page first, as a browser has it when a session runs out; then all tabs at the same time.
    let mut callbacks = vec![stage.callback_of(&client, "/tab/0").await];
    assert_eq!(client.jar().cookies().len(), 1);
    let tabs = (1..20).map(|tab| {
        let (stage, client) = (&stage, client.clone());
        async move { stage.callback_of(&client, &format!("/tab/{tab}")).await }
    });
    callbacks.extend(futures_util::future::join_all(tabs).await);
    assert_eq!(
        client.jar().cookies().len(),
        1,
        "one login cookie, however many tabs"
    );
    // They come back in another order than they left.
    callbacks.reverse();
    for (index, callback) in callbacks.iter().enumerate() {
        let answer = go(client.navigate(callback)).await;
        assert_eq!(answer.status, 303, "{}", answer.text());
        let tab = 19 - index;
        assert_eq!(answer.location(), Some(stage.url(&format!("/tab/{tab}"))));
    }
    assert_eq!(stage.provider.count(Endpoint::Token), 20);
    assert!(stage.knows(&client).await);
    assert_eq!(client.jar().cookies().len(), 2, "one session cookie");
}

/// Tabs that a browser restores all at once have no login cookie yet: each gets its own, and the last one stays. Whichever
/// comes back first, all end where they were going, by one login of the browser's own.
#[tokio::test(flavor = "multi_thread")]
async fn tabs_that_start_before_the_first_cookie_end_in_the_application_too() {
    // The tab whose cookie stayed has a login of its own under way, if another came first.
    for (first, reversed, codes) in [
        ("one that lost its cookie", false, 2),
        ("the one whose cookie stayed", true, 1),
    ] {
        let stage = Stage::new();
        let client = Client::new();
        let mut tabs = cold_tabs(&stage, &client, 4).await;
        if reversed {
            tabs.reverse();
        }
        for (tab, to_provider) in tabs {
            let page = client.browse(to_provider).await.expect("a login");
            assert_eq!(
                (page.status, page.url.path()),
                (200, &*tab),
                "{first}: {tab}"
            );
        }
        assert_eq!(stage.provider.count(Endpoint::Token), codes, "{first}");
        assert_eq!(
            client.jar().cookies().len(),
            2,
            "{first}: no cookie piled up"
        );
    }
}

/// The same, with every answer on its way before the first login is finished.
#[tokio::test(flavor = "multi_thread")]
async fn tabs_that_all_lost_their_cookie_at_once_sign_in_too() {
    let stage = Stage::new();
    let client = Client::new();
    let mut callbacks = Vec::new();
    for (tab, to_provider) in cold_tabs(&stage, &client, 12).await {
        let answered = go(client.navigate(to_provider)).await;
        callbacks.push((tab, answered.location().expect("back from the provider")));
    }
    let winner = callbacks.pop().expect("the last one's cookie stayed");
    // None of these has a session to go on with: each starts anew before any has come back.
    let mut again = Vec::new();
    for (tab, callback) in callbacks {
        let answer = go(client.navigate(callback)).await;
        assert_eq!(answer.status, 302, "{tab}: {}", answer.text());
        assert!(!sets_session(&answer), "{tab}");
        again.push((tab, answer.location().expect("to the provider")));
    }
    assert_eq!(stage.provider.count(Endpoint::Token), 0);
    for (tab, next) in again.into_iter().chain([winner]) {
        let page = client.browse(next).await.expect("a login");
        assert_eq!((page.status, page.url.path()), (200, &*tab));
    }
    assert!(stage.knows(&client).await);
}

/// Tabs opened at `/tab/1`, `/tab/2` and so on before any answer came: path, and address at the provider. The browser
/// keeps the login cookie of the last.
async fn cold_tabs(stage: &Stage, client: &Client, count: usize) -> Vec<(String, String)> {
    let page = url::Url::parse(&stage.url("/")).expect("a URL");
    let mut tabs = Vec::new();
    for tab in 1..=count {
        let path = format!("/tab/{tab}");
        let started = go(client.navigate(stage.url(&path)).without_cookies()).await;
        for line in started.header_all("set-cookie") {
            client.jar().store(&page, &line);
        }
        tabs.push((path, started.location().expect("to the provider")));
    }
    tabs
}

/// FLOW-27, REG-06
#[tokio::test(flavor = "multi_thread")]
async fn each_login_makes_a_new_session_and_the_old_one_dies() {
    let stage = Stage::new();
    let client = stage.signed_in().await;
    let old = client.twin();
    let before = client
        .jar()
        .find(SESSION)
        .cloned()
        .expect("a session")
        .value;
    stage
        .provider
        .configure(|settings| settings.user = "john".to_owned());
    let page = client
        .browse(stage.url("/oauth2/login?redirect=%2Fagain"))
        .await
        .expect("a login");
    assert_eq!((page.status, page.url.path()), (200, "/again"));
    let after = client
        .jar()
        .find(SESSION)
        .cloned()
        .expect("a session")
        .value;
    assert_ne!(before, after);
    assert_eq!(
        stage.echo.last().expect("forwarded").header("x-user"),
        Some("248289761002")
    );
    assert!(!stage.knows(&old).await, "the old id opens nothing");
    assert_eq!(
        stage.counted("daypass_session_ends_total", &[("reason", "replaced")]),
        "1"
    );
}

/// REG-06: an id that was planted before the login is not taken up.
#[tokio::test(flavor = "multi_thread")]
async fn a_planted_session_id_does_not_become_a_session() {
    let stage = Stage::new();
    let planted = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let victim = Client::new();
    let page = url::Url::parse(&stage.url("/")).expect("a URL");
    victim
        .jar()
        .store(&page, &format!("{SESSION}={planted}; Path=/"));
    stage.sign_in(&victim).await;
    assert_ne!(
        victim.jar().find(SESSION).expect("a session").value,
        planted
    );
    let attacker = Client::new();
    attacker
        .jar()
        .store(&page, &format!("{SESSION}={planted}; Path=/"));
    assert!(!stage.knows(&attacker).await);
}

/// COOKIE-07: a sibling application's cookie of the same name, sent in front of ours, locks nobody out.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_cookie_of_our_name_hides_no_session() {
    let stage = Stage::new();
    let client = stage.signed_in().await;
    let mine = client
        .jar()
        .find(SESSION)
        .cloned()
        .expect("a session")
        .value;
    let cookies = format!(
        "{SESSION}=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA; {SESSION}=; {SESSION}={mine}"
    );
    let answer = go(client.get(stage.url("/hello")).header("cookie", cookies)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(stage.echo.last().expect("forwarded").header("cookie"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_two_browsers_get_the_same_session() {
    let stage = Stage::new();
    let logins = (0..10).map(|_| stage.signed_in());
    let clients = futures_util::future::join_all(logins).await;
    let ids: BTreeSet<_> = clients
        .iter()
        .map(|client| client.jar().find(SESSION).expect("a session").value.clone())
        .collect();
    assert_eq!(ids.len(), 10);
    assert!(ids.iter().all(|id| id.len() == 43), "32 bytes in base64url");
}

/// FLOW-13: the address of the page that is shown names neither code nor state.
#[tokio::test(flavor = "multi_thread")]
async fn the_callback_leads_on_at_once() {
    let stage = Stage::new();
    let client = Client::new();
    let callback = stage.callback(&client).await;
    let answer = go(client.navigate(callback)).await;
    assert_eq!(
        (answer.status, answer.header("location")),
        (303, Some("/after"))
    );
    assert!(sets_session(&answer) && answer.body.is_empty());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}
