//! Signs out, here and at the provider.

mod real;
mod replicas;
mod several;
mod told;

use std::time::{Duration, Instant};

use daypass_testbed::client::{Call, Client, Form, Response};
use daypass_testbed::daypass::{Daypass, Setup};
use daypass_testbed::echo::Echo;
use daypass_testbed::provider::{Endpoint, Fault, Login, Provider, claims};
use daypass_testbed::raw::wait_for;
use daypass_testbed::redis::Redis;
use serde_json::json;

use crate::BINARY;
use crate::login::{SESSION, Stage, brief, go, parameter, replaced};

const PATIENCE: Duration = Duration::from_secs(10);

/// Whether the answer tells the browser to forget the session cookie.
fn clears(answer: &Response) -> bool {
    let lines = answer.header_all("set-cookie");
    lines
        .iter()
        .any(|line| line.starts_with(&format!("{SESSION}=;")) && line.contains("Max-Age=0"))
}

/// LOGOUT-01, LOGOUT-02, LOGOUT-05, LOGOUT-18
#[tokio::test(flavor = "multi_thread")]
async fn a_logout_ends_the_session_here_and_there() {
    let stage = Stage::new();
    for (row, post) in [("followed link", false), ("posted form", true)] {
        let client = stage.signed_in().await;
        let thief = client.twin();
        let address = stage.url("/oauth2/logout?redirect=%2Fpublic%2Fbye%3Fa%3D1");
        let call = if post {
            client
                .post(stage.url("/oauth2/logout"))
                .navigation()
                .header("origin", stage.url(""))
                .form([("redirect", "/public/bye?a=1")])
        } else {
            client.navigate(address)
        };
        let out = go(call).await;
        assert_eq!(out.status, 303, "{row}: {}", brief(&out));
        assert!(clears(&out), "{row}: {:?}", out.header_all("set-cookie"));
        assert_eq!(out.header("cache-control"), Some("no-store"), "{row}");
        assert!(client.jar().find(SESSION).is_none(), "{row}");
        assert!(
            !stage.knows(&thief).await,
            "{row}: a copied cookie is worth nothing"
        );

        let to = out.location().expect("to the provider");
        assert!(
            to.starts_with(&format!("{}/end-session?", stage.provider.issuer())),
            "{row}"
        );
        let hint = parameter(&to, "id_token_hint").expect("a hint");
        assert_eq!(
            claims(&hint).expect("an ID token")["sub"],
            "248289761001",
            "{row}"
        );
        let back = stage.url("/oauth2/logout/callback");
        assert_eq!(
            parameter(&to, "post_logout_redirect_uri"),
            Some(back.clone()),
            "{row}"
        );
        assert_eq!(
            parameter(&to, "client_id").as_deref(),
            Some("shop"),
            "{row}"
        );
        let state = parameter(&to, "state").expect("a state");
        assert!(state.len() >= 22, "{row}");

        let at_provider = go(client.navigate(to)).await;
        let to = at_provider.location().expect("back");
        assert!(to.starts_with(&back), "{row}: {to}");
        let returned = go(client.navigate(to)).await;
        assert_eq!(
            (returned.status, returned.header("location")),
            (303, Some("/public/bye?a=1")),
            "{row}"
        );

        assert!(
            stage.provider.wait_for_count(Endpoint::Revoke, 1, PATIENCE),
            "{row}"
        );
        let revoked = &stage.provider.requests(Endpoint::Revoke)[0];
        assert_eq!(
            revoked.param("token_type_hint"),
            Some("refresh_token"),
            "{row}"
        );
        assert!(
            revoked
                .param("token")
                .is_some_and(|token| !token.is_empty()),
            "{row}"
        );
        assert_eq!(revoked.client_auth, "basic", "{row}");
        let gone = || (stage.provider.active_grants() == 0).then_some(());
        assert!(wait_for(PATIENCE, gone).is_some(), "{row}");
    }
    let ended = stage.counted("daypass_logouts_total", &[("kind", "rp_initiated")]);
    assert_eq!(ended, "2", "{}", stage.daypass.metrics().text);
}

/// A person who signed out is asked who they are.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_logout_the_provider_asks_again() {
    let provider = Provider::with(|settings| settings.login = Login::Form);
    let stage = Stage::with(provider, |setup| setup);
    let client = Client::new();
    let page = client.browse(stage.url("/hello")).await.expect("a page");
    let form = Form::first(&page).expect("a form").fill("username", "jane");
    assert_eq!(client.submit(&form).await.expect("a login").status, 200);
    client.jar().remove(SESSION);
    let page = client.browse(stage.url("/hello")).await.expect("a page");
    assert_eq!(page.url.path(), "/hello", "single sign-on");
    let page = client
        .browse(stage.url("/oauth2/logout"))
        .await
        .expect("a logout");
    assert_eq!(
        (page.status, page.url.path()),
        (200, "/oauth2/logout/callback")
    );
    assert!(
        page.text().contains("You are signed out")
            && page.text().contains("href=\"/oauth2/login\""),
        "{}",
        brief(&page)
    );
    let page = client.browse(stage.url("/hello")).await.expect("a page");
    assert!(
        page.url.as_str().starts_with(&stage.provider.issuer()),
        "{}",
        page.url
    );
    assert!(Form::first(&page).is_some());
}

/// LOGOUT-02: only a state of ours leads anywhere.
#[tokio::test(flavor = "multi_thread")]
async fn the_way_back_goes_where_the_state_says_or_to_our_page() {
    let stage = Stage::new();
    let client = stage.signed_in().await;
    let out = go(client.navigate(stage.url("/oauth2/logout?redirect=%2Fpublic%2Fbye"))).await;
    let back = go(client.navigate(out.location().expect("to the provider")))
        .await
        .location()
        .expect("back");
    let state = parameter(&back, "state").expect("a state");
    let login = stage.callback(&Client::new()).await;
    let login_state = parameter(&login, "state").expect("a state");
    let other = Stage::new();
    let foreign = go(other
        .signed_in()
        .await
        .navigate(other.url("/oauth2/logout?redirect=%2Fpublic%2Fbye")))
    .await;
    let foreign =
        parameter(&foreign.location().expect("to the provider"), "state").expect("a state");
    for (row, value) in [
        ("none", None),
        ("empty", Some("")),
        ("made up", Some("https://evil.example")),
        ("truncated", Some(&state[..state.len() - 4])),
        ("of a login", Some(login_state.as_str())),
        ("of another daypass", Some(foreign.as_str())),
    ] {
        let answer = go(client.navigate(replaced(&back, "state", value))).await;
        assert_eq!((answer.status, answer.location()), (200, None), "{row}");
        assert!(
            answer.text().contains("You are signed out"),
            "{row}: {}",
            brief(&answer)
        );
    }
    assert_eq!(
        go(client.navigate(back)).await.header("location"),
        Some("/public/bye")
    );
    // And a state of a logout is none of a login.
    let answer = go(Client::new().get(replaced(&login, "state", Some(&state)))).await;
    assert_eq!(
        (answer.status, &answer.json()["reason"]),
        (400, &json!("login_expired"))
    );
}

/// LOGOUT-16
#[tokio::test(flavor = "multi_thread")]
async fn signing_out_twice_or_without_a_session_is_fine() {
    let stage = Stage::new();
    let client = stage.signed_in().await;
    let session = client
        .jar()
        .find(SESSION)
        .cloned()
        .expect("a session")
        .value;
    for round in 0..3 {
        // With the cookie, however old it is, and without.
        let call = client.navigate(stage.url("/oauth2/logout"));
        let call = if round < 2 {
            call.header("cookie", format!("{SESSION}={session}"))
        } else {
            call
        };
        let out = go(call).await;
        assert!(clears(&out), "round {round}");
        let to = out.location().expect("to the provider");
        assert_eq!(
            parameter(&to, "id_token_hint").is_some(),
            round == 0,
            "round {round}"
        );
        let page = client.browse(to).await.expect("back");
        assert_eq!(
            (page.status, page.url.path()),
            (200, "/oauth2/logout/callback"),
            "round {round}"
        );
    }
    for cookie in ["garbage", "", &"A".repeat(43), "%00", "\"quoted\""] {
        let call = client
            .post(stage.url("/oauth2/logout/local"))
            .header("cookie", format!("{SESSION}={cookie}"));
        assert_eq!(go(call).await.status, 204, "{cookie}");
    }
    assert!(stage.provider.wait_for_count(Endpoint::Revoke, 1, PATIENCE));
    assert_eq!(stage.provider.count(Endpoint::Revoke), 1);
    assert_eq!(stage.counted("daypass_logouts_total", &[]), "1");
}

/// CSRF-06: another site may ask, the user decides.
#[tokio::test(flavor = "multi_thread")]
async fn another_site_cannot_sign_anyone_out_but_may_ask() {
    type Dress = fn(Call) -> Call;
    let rows: [(&str, Dress); 6] = [
        ("a link", |call| {
            call.header("sec-fetch-site", "cross-site")
                .header("sec-fetch-mode", "navigate")
                .header("sec-fetch-dest", "document")
        }),
        ("an image", |call| {
            call.header("sec-fetch-site", "cross-site")
                .header("sec-fetch-mode", "no-cors")
                .header("sec-fetch-dest", "image")
        }),
        ("a frame", |call| {
            call.header("sec-fetch-site", "cross-site")
                .header("sec-fetch-mode", "navigate")
                .header("sec-fetch-dest", "iframe")
        }),
        ("a sibling host (CSRF-04)", |call| {
            call.header("sec-fetch-site", "same-site")
                .header("sec-fetch-mode", "navigate")
        }),
        ("an old browser", |call| {
            call.header("referer", "https://evil.example/page")
        }),
        ("a form of an old browser", |call| {
            call.header("origin", "https://evil.example")
        }),
    ];
    let stage = Stage::new();
    let client = stage.signed_in().await;
    for (row, dress) in rows {
        for call in [
            client.get(stage.url("/oauth2/logout?redirect=%2Fpublic%2Fbye")),
            client.post(stage.url("/oauth2/logout?redirect=%2Fpublic%2Fbye")),
            client
                .post(stage.url("/oauth2/logout"))
                .form([("redirect", "/public/bye")]),
        ] {
            let page = go(dress(call).header("accept", "text/html")).await;
            assert_eq!((page.status, page.location()), (200, None), "{row}");
            assert!(page.header_all("set-cookie").is_empty(), "{row}");
            let form = Form::first(&page).expect("a form");
            assert!(form.post, "{row}");
            assert_eq!(
                form.fields,
                [("redirect".to_owned(), "/public/bye".to_owned())],
                "{row}"
            );
        }
        let local = go(dress(client.post(stage.url("/oauth2/logout/local")))).await;
        assert_eq!(local.status, 403, "{row}");
        assert!(local.header_all("set-cookie").is_empty(), "{row}");
        assert!(stage.knows(&client).await, "{row}");
    }
    // An old browser can be sent here without a word of where from.
    let link = client.get(stage.url("/oauth2/logout?redirect=%2Fpublic%2Fbye"));
    let page = go(link.header("accept", "text/html")).await;
    assert_eq!((page.status, page.location()), (200, None));
    assert!(Form::first(&page).expect("a form").post);
    assert!(stage.knows(&client).await);
    assert_eq!(stage.provider.count(Endpoint::Revoke), 0);
    // A script can not.
    let script = stage.signed_in().await;
    let out = go(script.get(stage.url("/oauth2/logout"))).await;
    assert_eq!(out.status, 303);
    assert!(!stage.knows(&script).await);
    // The page's own form works: a browser says that it comes from here.
    let link = client
        .get(stage.url("/oauth2/logout?redirect=%2Fpublic%2Fbye"))
        .header("accept", "text/html");
    let page = go(link.header("sec-fetch-site", "cross-site")).await;
    // Under `no-referrer` browsers would send `Origin: null` with the form.
    assert_eq!(page.header("referrer-policy"), Some("same-origin"));
    let csp = page.header("content-security-policy").expect("a policy");
    assert!(
        csp.contains("form-action 'self'") && csp.contains(&stage.provider.issuer()),
        "{csp}"
    );
    let form = Form::first(&page).expect("a form");
    let post = client
        .post(&form.action)
        .header("accept", "text/html")
        .header("sec-fetch-site", "same-origin")
        .header("sec-fetch-mode", "navigate")
        .header("origin", stage.url(""))
        .form([("redirect", "/public/bye")]);
    let page = post.follow().await.expect("a logout");
    assert_eq!((page.status, page.url.path()), (200, "/public/bye"));
    assert!(!stage.knows(&client).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_logout_stays_here() {
    let stage = Stage::new();
    let client = stage.signed_in().await;
    let thief = client.twin();
    let get = go(client.get(stage.url("/oauth2/logout/local"))).await;
    assert_eq!((get.status, get.header("allow")), (405, Some("POST")));
    assert!(stage.knows(&client).await);
    let out = go(client
        .post(stage.url("/oauth2/logout/local"))
        .header("origin", stage.url("")))
    .await;
    assert_eq!((out.status, out.body.len(), out.location()), (204, 0, None));
    assert!(clears(&out));
    assert!(!stage.knows(&thief).await);
    assert_eq!(stage.provider.count(Endpoint::EndSession), 0);
    assert!(
        stage.provider.wait_for_count(Endpoint::Revoke, 1, PATIENCE),
        "the refresh token is of no use any more"
    );
    assert_eq!(
        stage.counted("daypass_logouts_total", &[("kind", "local")]),
        "1"
    );
    // The other's browser at the provider is still signed in: one click and it is back.
    stage.sign_in(&client).await;
}

/// LOGOUT-04
#[tokio::test(flavor = "multi_thread")]
async fn without_an_end_session_endpoint_the_logout_ends_on_our_page() {
    let provider = Provider::with(|settings| {
        settings.metadata = json!({"end_session_endpoint": null, "revocation_endpoint": null});
    });
    let stage = Stage::with(provider, |setup| setup);
    for (row, path, status, location) in [
        ("no target", "/oauth2/logout", 200, None),
        (
            "a target",
            "/oauth2/logout?redirect=%2Fpublic%2Fbye",
            303,
            Some("/public/bye"),
        ),
    ] {
        let client = stage.signed_in().await;
        let thief = client.twin();
        let out = go(client.navigate(stage.url(path))).await;
        assert_eq!(
            (out.status, out.header("location")),
            (status, location),
            "{row}"
        );
        assert!(clears(&out), "{row}");
        assert!(!stage.knows(&thief).await, "{row}");
    }
    assert_eq!(stage.provider.count(Endpoint::Revoke), 0);
}

/// LOGOUT-01, LOGOUT-05: a provider that is down keeps nobody signed in, and the user does not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn the_provider_being_down_keeps_nobody_signed_in() {
    let mut stage = Stage::new();
    let client = stage.signed_in().await;
    let thief = client.twin();
    stage.provider.stop();
    let began = Instant::now();
    let out = go(client.navigate(stage.url("/oauth2/logout"))).await;
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    assert!(clears(&out), "{}", brief(&out));
    assert!(matches!(out.status, 200 | 303), "{}", brief(&out));
    assert!(!stage.knows(&thief).await);
    // Its refresh token is revoked once the provider is back: the revocation is tried again.
    stage.provider.resume();
    assert!(stage.provider.wait_for_count(Endpoint::Revoke, 1, PATIENCE));
    assert!(
        wait_for(PATIENCE, || (stage.provider.active_grants() == 0)
            .then_some(()))
        .is_some()
    );
}

/// LOGOUT-05, LOGOUT-18
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_that_fails_delays_nobody() {
    let stage = Stage::new();
    for (row, fault) in [
        ("500", Fault::status(500)),
        (
            "unsupported_token_type",
            Fault::oauth("unsupported_token_type"),
        ),
        ("silence", Fault::Stall),
    ] {
        let client = stage.signed_in().await;
        stage.provider.fault(Endpoint::Revoke, fault);
        let began = Instant::now();
        let out = go(client.post(stage.url("/oauth2/logout/local"))).await;
        assert_eq!(out.status, 204, "{row}");
        assert!(
            began.elapsed() < Duration::from_secs(3),
            "{row}: {:?}",
            began.elapsed()
        );
    }
    stage.provider.release();
}

/// PRODUCT §7: an I/O error never clears a cookie, and who wanted to be signed out is told that they are not.
#[tokio::test(flavor = "multi_thread")]
async fn with_the_store_down_the_user_is_told_and_the_cookie_stays() {
    let (provider, echo, mut redis) = (Provider::start(), Echo::start(), Redis::persistent());
    let daypass = Daypass::ready(BINARY, Setup::new(&provider, &echo.url()).redis(&redis));
    for (row, frozen) in [("gone", false), ("frozen", true)] {
        let client = Client::new();
        assert_eq!(
            client
                .browse(daypass.url("/hello"))
                .await
                .expect("a login")
                .status,
            200,
            "{row}"
        );
        let before = client.jar().find(SESSION).cloned();
        if frozen {
            redis.pause();
        } else {
            redis.kill();
        }
        let began = Instant::now();
        let page = go(client.navigate(daypass.url("/oauth2/logout"))).await;
        assert_eq!(
            (page.status, page.location()),
            (503, None),
            "{row}: {}",
            brief(&page)
        );
        assert!(
            page.text().contains("could not be ended"),
            "{row}: {}",
            page.text()
        );
        assert!(page.header("retry-after").is_some(), "{row}");
        let problem = go(client.post(daypass.url("/oauth2/logout/local"))).await;
        assert_eq!(
            (problem.status, &problem.json()["reason"]),
            (503, &json!("store_unavailable")),
            "{row}"
        );
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{row}: {:?}",
            began.elapsed()
        );
        for answer in [&page, &problem] {
            assert!(answer.header_all("set-cookie").is_empty(), "{row}");
        }
        assert_eq!(client.jar().find(SESSION).cloned(), before, "{row}");
        assert_eq!(
            provider.count(Endpoint::Revoke),
            0,
            "{row}: its tokens are still in use"
        );
        if frozen {
            redis.resume();
        } else {
            redis.restart();
        }
        daypass.wait_ready();
        let deadline = Instant::now() + PATIENCE;
        while go(client.post(daypass.url("/oauth2/logout/local")))
            .await
            .status
            != 204
        {
            assert!(Instant::now() < deadline, "{row}: it works again");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(client.jar().find(SESSION).is_none(), "{row}");
        // A frozen store may have got the first request and obeyed it when it went on: nothing is left to revoke then.
        if !frozen {
            assert!(
                provider.wait_for_count(Endpoint::Revoke, 1, PATIENCE),
                "{row}"
            );
        }
        provider.forget_requests();
    }
}
