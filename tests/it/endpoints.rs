//! Uses our own endpoints as pages and scripts do.

mod kinds;
mod pages;

use std::time::Duration;

use daypass_testbed::client::Client;
use daypass_testbed::provider::{Endpoint, Fault, Provider};
use serde_json::{Value, json};

use crate::login::{SESSION, Stage, go};

/// Every path of the document, each with the kind of what is there.
fn shape(value: &Value, path: &str, out: &mut Vec<String>) {
    match value {
        Value::Object(members) => members
            .iter()
            .for_each(|(name, member)| shape(member, &format!("{path}/{name}"), out)),
        Value::String(_) => out.push(format!("{path}: text")),
        Value::Number(_) => out.push(format!("{path}: number")),
        Value::Bool(_) => out.push(format!("{path}: flag")),
        Value::Null => out.push(format!("{path}: null")),
        Value::Array(_) => out.push(format!("{path}: list")),
    }
}

fn shape_of(value: &Value) -> Vec<String> {
    let mut out = Vec::new();
    shape(value, "", &mut out);
    out.sort();
    out
}

/// Seconds since 1970 of a time as PRODUCT §3 promises it: RFC 3339, UTC.
fn seconds(value: &Value) -> i64 {
    let text = value.as_str().expect("a time");
    assert!(
        text.ends_with('Z') && text.len() >= 20 && text.as_bytes()[10] == b'T',
        "{text}"
    );
    text.parse::<jiff::Timestamp>()
        .expect("RFC 3339")
        .as_second()
}

/// PRODUCT §3, BFF-02
#[tokio::test(flavor = "multi_thread")]
async fn session_tells_who_and_how_long_and_nothing_else() {
    let stage = Stage::with(Provider::start(), |setup| {
        setup
            .set("session.idle_timeout", "1h")
            .set("session.lifetime", "12h")
    });
    let client = stage.signed_in().await;
    let answer = go(client.get(stage.url("/oauth2/session"))).await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some("application/json"))
    );
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert!(answer.header_all("set-cookie").is_empty());
    assert!(
        answer
            .headers
            .keys()
            .all(|name| !name.as_str().starts_with("access-control-")),
        "CORS-05"
    );
    let told = answer.json();
    assert_eq!(
        shape_of(&told),
        [
            "/active: flag",
            "/claims/email: text",
            "/claims/name: text",
            "/claims/preferred_username: text",
            "/logout_url: text",
            "/provider: text",
            "/session/created_at: text",
            "/session/expires_at: text",
            "/session/expires_in_seconds: number",
            "/session/idle_expires_at: text",
            "/session/idle_expires_in_seconds: number",
            "/subject: text",
            "/token/expires_at: text",
            "/token/expires_in_seconds: number",
            "/token/refreshed_at: text",
        ]
    );
    for (pointer, want) in [
        ("/active", json!(true)),
        ("/subject", json!("248289761001")),
        ("/provider", json!("provider")),
        (
            "/claims",
            json!({"name": "Jane Doe", "preferred_username": "jane", "email": "jane@example.com"}),
        ),
        ("/logout_url", json!("/oauth2/logout")),
    ] {
        assert_eq!(told.pointer(pointer), Some(&want), "{pointer}");
    }
    let (session, token) = (&told["session"], &told["token"]);
    assert_eq!(
        seconds(&session["expires_at"]) - seconds(&session["created_at"]),
        12 * 3600
    );
    for (left, whole) in [
        (&session["expires_in_seconds"], 12 * 3600),
        (&session["idle_expires_in_seconds"], 3600),
        (&token["expires_in_seconds"], 300),
    ] {
        let left = left.as_i64().expect("seconds");
        assert!((whole - 30..=whole).contains(&left), "{left} of {whole}");
    }
    let life = seconds(&token["expires_at"]) - seconds(&token["refreshed_at"]);
    assert!((295..=305).contains(&life), "{life}");
    // HEAD is a GET without body; anything else is not for it.
    let head = go(client.request(http::Method::HEAD, stage.url("/oauth2/session"))).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    let post = go(client.post(stage.url("/oauth2/session"))).await;
    assert_eq!((post.status, post.header("allow")), (405, Some("GET")));
    assert_eq!(stage.echo.count(), 0, "BFF-03");
}

#[tokio::test(flavor = "multi_thread")]
async fn session_tells_no_idle_time_where_there_is_none_and_only_the_claims_allowed() {
    let stage = Stage::with(Provider::start(), |setup| {
        setup.set("session.idle_timeout", 0).set(
            "session.expose_claims",
            json!(["groups", "email_verified", "no_such_claim"]),
        )
    });
    let client = stage.signed_in().await;
    let told = go(client.get(stage.url("/oauth2/session"))).await.json();
    assert_eq!(told["session"]["idle_expires_at"], Value::Null);
    assert_eq!(told["session"]["idle_expires_in_seconds"], Value::Null);
    assert!(
        told["session"]
            .as_object()
            .expect("a map")
            .contains_key("idle_expires_at")
    );
    assert_eq!(
        told["claims"],
        json!({"groups": ["admin", "staff"], "email_verified": true})
    );
}

/// BFF-02, RESP-04, RESP-09: never a redirect, never a page.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_session_scripts_get_a_problem_and_the_way_to_log_in() {
    let stage = Stage::new();
    let page = format!("{}?tab=1", stage.url("/orders"));
    for (row, path, post) in [
        ("session", "/oauth2/session", false),
        ("refresh", "/oauth2/session/refresh", true),
    ] {
        for accept in ["application/json", "text/html", "*/*"] {
            let client = Client::new();
            let call = if post {
                client.post(stage.url(path))
            } else {
                client.get(stage.url(path))
            };
            let answer = go(call.header("accept", accept).header("referer", &page)).await;
            assert_eq!((answer.status, answer.location()), (401, None), "{row}");
            assert_eq!(
                answer.header("content-type"),
                Some("application/problem+json"),
                "{row}"
            );
            assert_eq!(answer.header("cache-control"), Some("no-store"), "{row}");
            assert!(
                answer
                    .header("www-authenticate")
                    .is_some_and(|value| value.starts_with("Daypass ")),
                "{row}"
            );
            let problem = answer.json();
            assert_eq!(
                (&problem["reason"], &problem["status"]),
                (&json!("no_session"), &json!(401)),
                "{row}"
            );
            assert_eq!(
                problem["login_url"], "/oauth2/login?redirect=%2Forders%3Ftab%3D1",
                "{row}"
            );
            assert_eq!(
                answer.header("x-request-id"),
                problem["request_id"].as_str(),
                "{row}"
            );
        }
    }
    // A Referer that is not ours names no way back.
    for referer in [
        "https://evil.example/x",
        "/orders",
        "//evil.example",
        "javascript:alert(1)",
    ] {
        let answer = go(Client::new()
            .get(stage.url("/oauth2/session"))
            .header("referer", referer))
        .await;
        assert_eq!(answer.json()["login_url"], "/oauth2/login", "{referer}");
    }
}

/// PRODUCT §3: the reason says what became of the session.
#[tokio::test(flavor = "multi_thread")]
async fn the_reason_says_what_became_of_the_session() {
    for (row, change, want) in [
        ("lifetime", ("session.lifetime", "1s"), "expired"),
        ("idle", ("session.idle_timeout", "1s"), "idle"),
    ] {
        let stage = Stage::with(Provider::start(), |setup| setup.set(change.0, change.1));
        let client = stage.signed_in().await;
        tokio::time::sleep(Duration::from_millis(1300)).await;
        for path in ["/oauth2/session", "/hello"] {
            let answer = go(client.get(stage.url(path))).await;
            assert_eq!(answer.status, 401, "{row} {path}");
            let reason = answer.json()["reason"].clone();
            // A store need not remember what it let go of.
            assert!(
                reason == want || reason == "no_session",
                "{row} {path}: {reason}"
            );
        }
        assert_eq!(stage.echo.count(), 0, "{row}");
    }
}

/// PRODUCT §3, REFRESH-33
#[tokio::test(flavor = "multi_thread")]
async fn refresh_brings_a_new_token_now_and_not_too_often() {
    let provider = Provider::with(|settings| settings.access_ttl = Duration::from_secs(1));
    // A token is renewed when it has run out, never on the quiet before.
    let stage = Stage::with(provider, |setup| setup.set("session.refresh_before", "0s"));
    let client = stage.signed_in().await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    stage
        .provider
        .configure(|settings| settings.access_ttl = Duration::from_secs(300));
    let before = go(client.get(stage.url("/oauth2/session"))).await.json();
    // Ten at once are one.
    let calls = (0..10).map(|_| {
        let call = client.post(stage.url("/oauth2/session/refresh"));
        go(call.header("origin", stage.url("")))
    });
    let answers = futures_util::future::join_all(calls).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(stage.provider.count(Endpoint::Refresh), 1);
    let answer = &answers[0];
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some("application/json"))
    );
    let after = answer.json();
    assert_eq!(shape_of(&after), shape_of(&before), "answers as `session`");
    assert!(
        after["token"]["expires_in_seconds"].as_i64() > Some(250),
        "{after}"
    );
    assert!(seconds(&after["token"]["refreshed_at"]) >= seconds(&before["token"]["refreshed_at"]));
    assert_eq!(
        after["session"]["expires_at"], before["session"]["expires_at"],
        "the session does not grow"
    );
    assert_eq!(stage.provider.count(Endpoint::Refresh), 1);
    // Asking again and again burns no token, and still answers.
    for _ in 0..10 {
        let again = go(client.post(stage.url("/oauth2/session/refresh"))).await;
        assert_eq!(again.status, 200);
        assert_eq!(
            again.json()["token"]["refreshed_at"],
            after["token"]["refreshed_at"]
        );
    }
    assert_eq!(stage.provider.count(Endpoint::Refresh), 1);
    assert_eq!(stage.provider.reused(), 0);
    let get = go(client.get(stage.url("/oauth2/session/refresh"))).await;
    assert_eq!((get.status, get.header("allow")), (405, Some("POST")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_that_fails_says_which_way() {
    let provider = Provider::with(|settings| settings.access_ttl = Duration::from_secs(1));
    let stage = Stage::with(provider, |setup| setup.set("session.refresh_before", "0s"));
    let (outage, ended) = (stage.signed_in().await, stage.signed_in().await);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    stage
        .provider
        .always(Endpoint::Refresh, [Fault::oauth("invalid_grant")]);
    let answer = go(ended.post(stage.url("/oauth2/session/refresh"))).await;
    assert_eq!(
        (answer.status, &answer.json()["reason"]),
        (401, &json!("revoked"))
    );
    assert!(answer.json()["login_url"].is_string());
    assert!(!stage.knows(&ended).await);
    stage
        .provider
        .always(Endpoint::Refresh, [Fault::status(500)]);
    let answer = go(outage.post(stage.url("/oauth2/session/refresh"))).await;
    assert_eq!(
        (answer.status, &answer.json()["reason"]),
        (503, &json!("provider_unavailable"))
    );
    assert!(answer.header("retry-after").is_some());
    assert!(answer.header_all("set-cookie").is_empty());
    assert_eq!(
        go(outage.get(stage.url("/oauth2/session"))).await.status,
        200,
        "the session is still there"
    );
}

/// CSRF-01: a foreign page cannot make a browser spend tokens.
#[tokio::test(flavor = "multi_thread")]
async fn another_site_cannot_refresh() {
    let stage = Stage::new();
    let client = stage.signed_in().await;
    for (name, value) in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("referer", "https://evil.example/"),
    ] {
        let call = client
            .post(stage.url("/oauth2/session/refresh"))
            .header(name, value);
        let answer = go(call).await;
        assert_eq!(
            (answer.status, &answer.json()["reason"]),
            (403, &json!("cross_site")),
            "{name}: {value}"
        );
    }
    assert_eq!(stage.provider.count(Endpoint::Refresh), 0);
}

/// Without a refresh token the session is what it is.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_refresh_token_a_refresh_tells_the_session_as_it_is() {
    let provider = Provider::with(|settings| settings.refresh_tokens = false);
    let stage = Stage::with(provider, |setup| setup);
    let client = stage.signed_in().await;
    let answer = go(client.post(stage.url("/oauth2/session/refresh"))).await;
    assert_eq!(
        (answer.status, &answer.json()["active"]),
        (200, &json!(true))
    );
    assert_eq!(stage.provider.count(Endpoint::Refresh), 0);
}

/// SESS-10: asking how long a session lasts does not make it last longer.
#[tokio::test(flavor = "multi_thread")]
async fn asking_for_the_session_is_no_use_of_it() {
    let stage = Stage::with(Provider::start(), |setup| {
        setup.set("session.idle_timeout", "2s")
    });
    let client = stage.signed_in().await;
    let deadline = std::time::Instant::now() + Duration::from_secs(15);
    while go(client.get(stage.url("/oauth2/session"))).await.status == 200 {
        assert!(
            std::time::Instant::now() < deadline,
            "it ends although it is asked about"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(client.jar().find(SESSION).is_some());
}

/// A body that is too large is refused before it is read whole.
#[tokio::test(flavor = "multi_thread")]
async fn our_forms_are_small() {
    let stage = Stage::new();
    for path in [
        "/oauth2/callback",
        "/oauth2/logout",
        "/oauth2/logout/local",
        "/oauth2/session/refresh",
    ] {
        let answer = go(Client::new()
            .post(stage.url(path))
            .body(vec![b'a'; 200_000]))
        .await;
        assert_eq!(answer.status, 413, "{path}");
    }
}
