//! Shows where logging in stops: loops, floods, prefetches, and a provider that is down.

use std::time::Duration;

use daypass_testbed::client::{Call, Client, Response};
use daypass_testbed::provider::{Endpoint, Fault, Provider};
use serde_json::json;

use super::{SESSION, Stage, go};

/// Looks at a provider that is away are at most ten seconds apart.
const RECOVERY: Duration = Duration::from_secs(20);

/// FLOW-21
#[tokio::test(flavor = "multi_thread")]
async fn a_login_loop_ends_with_a_page_and_an_explicit_login_still_works() {
    let stage = Stage::new();
    let client = Client::new();
    for round in 0..3 {
        let page = client.browse(stage.url("/hello")).await.expect("a login");
        assert_eq!(page.status, 200, "round {round}");
        // What a browser does that takes the login cookie and not the session cookie.
        client.jar().remove(SESSION);
    }
    let stopped = go(client.navigate(stage.url("/hello?a=1"))).await;
    assert_eq!((stopped.status, stopped.location()), (400, None));
    let text = stopped.text();
    assert!(
        text.contains("cookies") && text.contains("/oauth2/login?redirect=%2Fhello%3Fa%3D1"),
        "{text}"
    );
    assert_eq!(
        stage.counted("daypass_logins_total", &[("result", "loop")]),
        "1"
    );
    assert_eq!(stage.provider.count(Endpoint::Authorize), 3);
    // Another browser is not concerned.
    stage.sign_in(&Client::new()).await;
    // "Try again" is a wish, not a loop; and what was before it is forgiven.
    let page = client
        .browse(stage.url("/oauth2/login?redirect=%2Fhello%3Fa%3D1"))
        .await
        .expect("a login");
    assert_eq!(
        (page.status, page.url.as_str()),
        (200, stage.url("/hello?a=1").as_str())
    );
    client.jar().remove(SESSION);
    let page = client.browse(stage.url("/hello")).await.expect("a login");
    assert_eq!(page.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn explicit_logins_are_never_a_loop() {
    let stage = Stage::new();
    let client = Client::new();
    for round in 0..8 {
        let page = client
            .browse(stage.url("/oauth2/login?redirect=%2Fpublic%2Fx"))
            .await
            .expect("a login");
        assert_eq!(
            (page.status, page.url.path()),
            (200, "/public/x"),
            "round {round}"
        );
    }
}

/// RESP-11
#[tokio::test(flavor = "multi_thread")]
async fn logins_are_limited_per_client_address() {
    let stage = Stage::with(Provider::start(), |setup| {
        setup
            .set("limits.logins_per_minute_per_ip", 3)
            .set("trusted_proxies", json!(["127.0.0.0/8"]))
    });
    let from = |call: Call, address: &str| call.header("x-forwarded-for", address);
    let page = |address: &str| from(Client::new().navigate(stage.url("/hello")), address);
    for round in 0..3 {
        assert_eq!(go(page("203.0.113.7")).await.status, 302, "round {round}");
    }
    let refused = go(page("203.0.113.7")).await;
    assert_eq!(refused.status, 429, "{}", refused.text());
    let wait: u64 = refused
        .header("retry-after")
        .expect("Retry-After")
        .parse()
        .expect("seconds");
    assert!((1..=60).contains(&wait), "{wait}");
    assert!(refused.header_all("set-cookie").is_empty());
    let explicit = go(from(
        Client::new().get(stage.url("/oauth2/login")),
        "203.0.113.7",
    ))
    .await;
    assert_eq!(
        (explicit.status, &explicit.json()["reason"]),
        (429, &json!("rate_limited"))
    );
    assert!(explicit.header("retry-after").is_some());
    // A made-up hop in front does not make another client (the nearest hop that is not ours counts).
    assert_eq!(go(page("198.51.100.1, 203.0.113.7")).await.status, 429);
    // Others are not concerned; an IPv6 network counts as one.
    assert_eq!(go(page("203.0.113.8")).await.status, 302);
    for host in 1..=3 {
        assert_eq!(go(page(&format!("2001:db8:1:1::{host}"))).await.status, 302);
    }
    assert_eq!(go(page("2001:db8:1:1:ffff::9")).await.status, 429);
    assert_eq!(go(page("2001:db8:1:2::1")).await.status, 302);
    // Requests that start no login are not counted.
    for _ in 0..5 {
        assert_eq!(
            go(from(Client::new().get(stage.url("/hello")), "203.0.113.9"))
                .await
                .status,
            401
        );
    }
    assert_eq!(go(page("203.0.113.9")).await.status, 302);
    assert_eq!(stage.echo.count(), 0);
}

/// FLOW-23, COOKIE-10
#[tokio::test(flavor = "multi_thread")]
async fn a_prefetch_starts_nothing() {
    let stage = Stage::new();
    for (name, value) in [
        ("sec-purpose", "prefetch"),
        ("sec-purpose", "prefetch;prerender"),
        ("sec-purpose", "prefetch;anonymous-client-ip"),
        ("purpose", "prefetch"),
        ("x-moz", "prefetch"),
        ("x-purpose", "preview"),
    ] {
        for path in ["/hello", "/oauth2/login", "/oauth2/login?redirect=%2Fx"] {
            let client = Client::new();
            let answer = go(client.navigate(stage.url(path)).header(name, value)).await;
            assert_eq!(answer.location(), None, "{name}: {value} {path}");
            assert!(
                answer.header_all("set-cookie").is_empty(),
                "{name}: {value} {path}"
            );
            assert!(
                matches!(answer.status, 204 | 401),
                "{name}: {value} {path}: {}",
                answer.status
            );
        }
    }
    assert_eq!(stage.echo.count(), 0);
}

/// FLOW-23, CSRF-06: nor does it end anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_prefetched_logout_ends_nothing() {
    let stage = Stage::new();
    let client = stage.signed_in().await;
    // RFC 9110 §9.2.1: nor does HEAD, which is safe.
    let answer = go(client.request(http::Method::HEAD, stage.url("/oauth2/logout"))).await;
    assert_eq!(answer.status, 204);
    assert!(answer.header_all("set-cookie").is_empty(), "{answer:?}");
    assert!(stage.knows(&client).await);
    let answer = go(client
        .navigate(stage.url("/oauth2/logout"))
        .header("sec-purpose", "prefetch"))
    .await;
    assert!(answer.header_all("set-cookie").is_empty(), "{answer:?}");
    assert!(stage.knows(&client).await);
}

/// RFC 9110 §9.2.1: HEAD is safe, so it redeems no code.
#[tokio::test(flavor = "multi_thread")]
async fn a_callback_that_is_only_asked_about_is_not_used_up() {
    let stage = Stage::new();
    let client = Client::new();
    let callback = stage.callback(&client).await;
    let answer = go(client.request(http::Method::HEAD, &callback)).await;
    assert_eq!(answer.status, 204);
    stage.nothing_redeemed("HEAD");
    let done = go(client.navigate(&callback)).await;
    assert_eq!(done.status, 303, "{}", done.text());
    assert!(stage.knows(&client).await);
}

/// PRODUCT §7: the page says so; APIs get 503.
#[tokio::test(flavor = "multi_thread")]
async fn with_the_provider_down_nobody_is_sent_there() {
    let mut provider = Provider::start();
    provider.stop();
    let mut stage = Stage::with(provider, |setup| setup);
    for path in ["/hello?a=1", "/oauth2/login?redirect=%2Fhello%3Fa%3D1"] {
        let page = go(Client::new().navigate(stage.url(path))).await;
        assert_eq!((page.status, page.location()), (503, None), "{path}");
        assert!(page.header("retry-after").is_some(), "{path}");
        assert!(
            page.header("content-type")
                .is_some_and(|kind| kind.starts_with("text/html")),
            "{path}"
        );
        assert!(
            page.text().contains("sign-in service"),
            "{path}: {}",
            page.text()
        );
        assert!(
            page.text().contains("%2Fhello%3Fa%3D1") || page.text().contains("/hello?a=1"),
            "{path}: a way forward"
        );
    }
    let problem = go(Client::new().get(stage.url("/oauth2/login"))).await;
    assert_eq!(
        (problem.status, &problem.json()["reason"]),
        (503, &json!("provider_unavailable"))
    );
    assert!(problem.header("retry-after").is_some());
    // Public routes go on. A program is not told to have its user sign in, who could not.
    assert_eq!(
        go(Client::new().get(stage.url("/public/x"))).await.status,
        200
    );
    assert_cannot_sign_in(&stage).await;
    stage.provider.resume();
    let client = Client::new();
    until(|| client.navigate(stage.url("/hello")), 302).await;
    stage.sign_in(&client).await;
}

/// An API without a session is told to come again, once more than one look has found nobody.
async fn assert_cannot_sign_in(stage: &Stage) {
    let problem = anonymous_api(stage, 503).await;
    assert_eq!(problem.json()["reason"], "provider_unavailable");
    assert!(problem.header("retry-after").is_some());
}

/// What an API without a session gets, once it is this status.
async fn anonymous_api(stage: &Stage, status: u16) -> Response {
    until(|| Client::new().get(stage.url("/hello")), status).await
}

/// Asks again until the answer has this status.
async fn until(call: impl Fn() -> Call, status: u16) -> Response {
    let deadline = std::time::Instant::now() + RECOVERY;
    loop {
        let answer = go(call()).await;
        if answer.status == status {
            return answer;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "still {} and not {status}",
            answer.status
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// PRODUCT §7, for a provider that was there when daypass started.
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_goes_down_is_noticed_by_whoever_wants_to_log_in() {
    let mut stage = Stage::new();
    let client = stage.signed_in().await;
    let hello = stage.url("/hello?a=1");
    stage.provider.stop();
    let login = || Client::new().navigate(&hello);
    let page = until(login, 503).await;
    assert_eq!(page.location(), None);
    assert!(page.header("retry-after").is_some());
    assert!(page.text().contains("sign-in service"), "{}", page.text());
    assert_cannot_sign_in(&stage).await;
    // Whoever has a session does not notice, and whoever asks for theirs is told that there is none.
    assert_eq!(go(client.get(stage.url("/hello"))).await.status, 200);
    let session = go(Client::new().get(stage.url("/oauth2/session"))).await;
    assert_eq!(session.status, 401);
    stage.provider.resume();
    until(login, 302).await;
    anonymous_api(&stage, 401).await;
    stage.sign_in(&Client::new()).await;
}

/// Down between the two halves of a login: a reload of the callback finishes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_callback_with_the_provider_down_says_so_and_loses_no_session() {
    let mut stage = Stage::new();
    let client = stage.signed_in().await;
    let callback = stage.callback(&client).await;
    stage.provider.stop();
    let answer = go(client.navigate(&callback)).await;
    assert_eq!(
        (answer.status, answer.location()),
        (503, None),
        "{}",
        answer.text()
    );
    assert!(answer.header("retry-after").is_some() && answer.header_all("set-cookie").is_empty());
    assert!(stage.knows(&client).await, "the old session lives on");
}

/// Discovery that answers nonsense.
#[tokio::test(flavor = "multi_thread")]
async fn metadata_that_is_wrong_starts_no_login() {
    for (row, fault) in [
        ("another issuer", Fault::WrongIssuer),
        ("a page", Fault::Html),
        ("500", Fault::status(500)),
        ("404", Fault::status(404)),
        (
            "no token endpoint",
            Fault::Answer(json!({"token_endpoint": null})),
        ),
        (
            "an authorization endpoint elsewhere, in plain http",
            Fault::Answer(json!({"authorization_endpoint": "http://evil.example/authorize"})),
        ),
        (
            "javascript",
            Fault::Answer(json!({"authorization_endpoint": "javascript:alert(1)"})),
        ),
        ("a huge body", Fault::HugeBody(5_000_000)),
        ("half of it", Fault::TruncatedBody),
    ] {
        let provider = Provider::start();
        provider.always(Endpoint::Discovery, [fault]);
        let stage = Stage::with(provider, |setup| setup);
        let answer = go(Client::new().navigate(stage.url("/hello"))).await;
        assert_eq!(
            (answer.status, answer.location()),
            (503, None),
            "{row}: {}",
            answer.text()
        );
    }
}
