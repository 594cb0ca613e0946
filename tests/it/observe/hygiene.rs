//! Shows that a full run at `RUST_LOG=trace`, everything failing that can, tells no secret (OBS-07).

use std::time::Duration;

use daypass_testbed::client::{Client, Response};
use daypass_testbed::daypass::{Daypass, Setup};
use daypass_testbed::echo::Echo;
use daypass_testbed::provider::{Endpoint, Fault, Provider};
use daypass_testbed::raw::{self, wait_for};
use daypass_testbed::redis::{Options, Redis};
use daypass_testbed::secrets;
use serde_json::json;

use super::PATIENCE;
use crate::BINARY;

/// Stands in every place where a client may put something; a query string in which it shows was logged.
const QUERY: &str = "query-sentinel-5f2a77e1";

/// A page, a problem document or a header of ours that holds a secret.
fn clean(name: &str, answer: &Response) {
    assert_eq!(
        secrets::leaks_in(&answer.text()),
        [""; 0],
        "{name}: in the page"
    );
    assert!(
        !answer.text().contains(QUERY) || answer.status == 200 || answer.text().contains("login"),
        "{name}"
    );
}

#[expect(clippy::too_many_lines, reason = "one story and its tables")]
async fn full_run(daypass: &Daypass, provider: &Provider) {
    let client = Client::new();
    let url = |path: &str| daypass.url(&format!("{path}?q={QUERY}"));
    let home = client.browse(url("/app")).await.expect("login");
    assert_eq!(home.status, 200, "{}", home.text());

    // Refresh: well, slowly, and in every way it fails.
    for fault in [
        Fault::NoRefreshToken,
        Fault::TruncatedBody,
        Fault::Html,
        Fault::status(500),
        Fault::RetryAfter(1),
        Fault::oauth("invalid_client"),
        Fault::BadSignature,
        Fault::DropAfter,
    ] {
        provider.fault(Endpoint::Refresh, fault);
    }
    let asked = || provider.count(Endpoint::Refresh);
    let before = asked();
    let seen = wait_for(PATIENCE, || {
        let answer = client.get(url("/app")).send();
        let answer =
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(answer))
                .expect("an answer");
        if answer.status != 200 {
            clean("refresh", &answer);
        }
        (asked() >= before + 4 || answer.status == 401).then_some(())
    });
    assert!(
        seen.is_some(),
        "{} refreshes: {}",
        asked() - before,
        daypass.log()
    );
    provider.behave();

    // Callbacks that fail, each with a code and a state that were good once.
    for (name, endpoint, fault) in [
        (
            "refused",
            Endpoint::Authorize,
            Fault::oauth("access_denied"),
        ),
        ("wrong state", Endpoint::Authorize, Fault::WrongState),
        ("wrong issuer", Endpoint::Authorize, Fault::WrongIssuer),
        ("wrong nonce", Endpoint::Token, Fault::WrongNonce),
        ("unsigned", Endpoint::Token, Fault::AlgNone),
        ("bad signature", Endpoint::Token, Fault::BadSignature),
        ("no ID token", Endpoint::Token, Fault::MissingIdToken),
        ("server error", Endpoint::Token, Fault::status(500)),
        ("half an answer", Endpoint::Token, Fault::TruncatedBody),
        ("cut", Endpoint::Token, Fault::DropAfter),
        (
            "OAuth error",
            Endpoint::Token,
            Fault::oauth("invalid_grant"),
        ),
        ("HTML", Endpoint::Token, Fault::Html),
    ] {
        provider.fault(endpoint, fault);
        let page = Client::new().browse(url("/app")).await.expect("an answer");
        assert!(page.status >= 400, "{name}: {}", page.status);
        clean(name, &page);
        provider.behave();
    }

    // Malformed and hostile requests that carry secrets wherever they can.
    let tokens = provider.issued_secrets();
    let secret = tokens.last().expect("secrets were issued");
    let page = daypass.url("/").parse().expect("a URL");
    let cookie = client.jar().header(&page).unwrap_or_default();
    let host = daypass.authority();
    for (name, request) in [
        ("no HTTP", format!("{secret} {cookie}\r\n\r\n")),
        (
            "a bad header",
            format!(
                "GET /app HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\nAuthorization Bearer {secret}\r\n\r\n"
            ),
        ),
        (
            "two lengths",
            format!(
                "POST /app HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{secret}"
            ),
        ),
        (
            "a bad chunk",
            format!(
                "POST /app HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\nTransfer-Encoding: chunked\r\n\r\n{secret}\r\n"
            ),
        ),
        (
            "a folded header",
            format!(
                "GET /app HTTP/1.1\r\nHost: {host}\r\nX-A: a\r\n Authorization: Bearer {secret}\r\nCookie: {cookie}\r\n\r\n"
            ),
        ),
        (
            "an ambiguous path",
            format!(
                "GET /app%2f?token={secret} HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\n\r\n"
            ),
        ),
        (
            "another host",
            format!(
                "GET /app?token={secret} HTTP/1.1\r\nHost: evil.example\r\nCookie: {cookie}\r\n\r\n"
            ),
        ),
        (
            "absolute form",
            format!(
                "GET http://evil.example/app?token={secret} HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\n\r\n"
            ),
        ),
        (
            "a huge header",
            format!(
                "GET /app?q={QUERY} HTTP/1.1\r\nHost: {host}\r\nX-A: {}{secret}\r\nCookie: {cookie}\r\n\r\n",
                "a".repeat(100_000)
            ),
        ),
        (
            "a secret for a method",
            format!("{secret} /app HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\n\r\n"),
        ),
        (
            "a bare method",
            format!("GET {secret} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        ),
    ] {
        let answer = raw::exchange(
            daypass.public(),
            request.as_bytes(),
            Duration::from_millis(500),
        );
        let body = answer
            .first()
            .map(|(_, body)| String::from_utf8_lossy(&body).into_owned())
            .unwrap_or_default();
        assert!(
            answer.status().is_none_or(|status| status >= 400),
            "{name}: {}",
            answer.text()
        );
        assert_eq!(secrets::leaks_in(&body), [""; 0], "{name}");
    }
    for path in [
        "/oauth2/callback",
        "/oauth2/callback/other",
        "/oauth2/login",
        "/oauth2/logout/callback",
        "/oauth2/none",
    ] {
        let target = format!(
            "{path}?code={secret}&state={secret}&error={QUERY}&error_description={QUERY}&redirect={QUERY}&id_token_hint={secret}"
        );
        let answer = client
            .twin()
            .navigate(daypass.url(path))
            .target(&target)
            .send()
            .await
            .expect("an answer");
        assert_eq!(secrets::leaks_in(&answer.text()), [""; 0], "{path}");
    }
    let out = client.browse(url("/oauth2/logout")).await.expect("logout");
    clean("signed out", &out);
}

fn quiet(daypass: &Daypass) {
    let lines = daypass.lines();
    assert!(
        lines
            .iter()
            .any(|line| line.contains("\"level\":\"DEBUG\"")),
        "the run was not at trace"
    );
    assert_eq!(daypass.leaks(), [""; 0]);
    let told: Vec<_> = lines.iter().filter(|line| line.contains(QUERY)).collect();
    assert_eq!(told, [""; 0], "query strings are never logged");
    let metrics = daypass.metrics().text;
    assert!(!metrics.contains(QUERY));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_run_tells_nothing() {
    let provider = Provider::with(|settings| settings.access_ttl = Duration::from_secs(1));
    let user = (
        "daypass".to_owned(),
        "the-password-that-redis-knows".to_owned(),
    );
    let echo = Echo::start();
    let redis = Redis::with(Options {
        user: Some(user),
        ..Options::default()
    });
    let store = json!({"redis": {"url": redis.url(), "username": "daypass", "password": {"file": "@DIR@/password"}}});
    let setup = Setup::new(&provider, &echo.url())
        .session_key()
        .set("session.store", store)
        .set("session.refresh_before", "0s")
        .set("limits.logins_per_minute_per_ip", 1000)
        .file("password", "the-password-that-redis-knows")
        .env("RUST_LOG", "trace");
    let daypass = Daypass::ready(BINARY, setup);
    full_run(&daypass, &provider).await;
    // What came with the client's and the session's keys is known to the harness, too.
    assert!(secrets::issued().len() > 20, "{}", secrets::issued().len());
    quiet(&daypass);
}

/// A store that refuses our password, one that hangs, and a provider that is away.
#[tokio::test(flavor = "multi_thread")]
async fn outages_tell_nothing() {
    let (mut provider, echo) = (Provider::start(), Echo::start());
    let user = (
        "daypass".to_owned(),
        "the-password-that-redis-knows".to_owned(),
    );
    let redis = Redis::with(Options {
        user: Some(user),
        ..Options::default()
    });
    secrets::record("Redis password", "a-password-that-is-not-right");
    let inline = redis
        .url()
        .replace("redis://", "redis://daypass:a-password-that-is-not-right@");
    for (name, store) in [
        (
            "a password in a file",
            json!({"redis": {"url": redis.url(), "username": "daypass", "password": {"file": "@DIR@/password"}}}),
        ),
        ("a password in the URL", json!(inline)),
    ] {
        let setup = Setup::new(&provider, &echo.url())
            .session_key()
            .set("session.store", store)
            .file("password", "a-password-that-is-not-right")
            .env("RUST_LOG", "trace");
        let daypass = Daypass::start(BINARY, setup);
        let told = daypass.wait_for_log(&["WARN", "session store"], PATIENCE);
        assert!(told.is_some(), "{name}: {}", daypass.log());
        let page = Client::new()
            .browse(daypass.url(&format!("/app?q={QUERY}")))
            .await
            .expect("an answer");
        assert_eq!(page.status, 503, "{name}: {}", page.text());
        clean(name, &page);
        quiet(&daypass);
    }
    provider.stop();
    let daypass = Daypass::ready(
        BINARY,
        Setup::new(&provider, &echo.url()).env("RUST_LOG", "trace"),
    );
    let page = Client::new()
        .browse(daypass.url(&format!("/app?q={QUERY}")))
        .await
        .expect("an answer");
    assert_eq!(page.status, 503, "{}", page.text());
    clean("no provider", &page);
    quiet(&daypass);
}
