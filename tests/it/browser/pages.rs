//! Looks at every page of ours in a real browser: policy, colours, keyboard, small screens, way forward.

use daypass_testbed::client::Client;
use daypass_testbed::daypass::{Daypass, Setup};
use daypass_testbed::echo::Echo;
use daypass_testbed::node;
use daypass_testbed::ports;
use daypass_testbed::provider::{CLIENT_ID, Provider};
use daypass_testbed::raw;
use daypass_testbed::redis::Redis;
use serde_json::{Value, json};

use super::{LIMIT, assert_counted, step};
use crate::BINARY;

struct Row {
    name: &'static str,
    path: &'static str,
    heading: &'static str,
    status: u16,
    actions: &'static [&'static str],
    extra: Value,
}

fn row(
    name: &'static str,
    path: &'static str,
    status: u16,
    heading: &'static str,
    actions: &'static [&'static str],
) -> Row {
    Row {
        name,
        path,
        heading,
        status,
        actions,
        extra: json!({}),
    }
}

impl Row {
    fn with(mut self, extra: Value) -> Self {
        self.extra = extra;
        self
    }
}

/// Two providers that approve at once, and one that is not there; no route for `/`.
fn daypass(redis: &Redis, echo: &Echo, providers: &[&Provider; 2]) -> Daypass {
    let nowhere = format!("http://{}", ports::free());
    let registered = |issuer: &str, secret: &str| json!({"issuer": issuer, "client_id": CLIENT_ID, "client_secret": secret});
    let [one, two] = providers;
    let setup = Setup::new(one, &echo.url())
        .redis(redis)
        .unset("provider")
        .set(
            "providers",
            json!({
                "acme": registered(&one.issuer(), one.client_secret()),
                "partner": registered(&two.issuer(), two.client_secret()),
                "dead": registered(&nowhere, "test-only-secret"),
            }),
        )
        .set("pages.title", "The Shop")
        // Nothing is served from the cache when the store is gone.
        .set("session.max_staleness", "0")
        .routes(json!([
            {"path_prefix": "/app", "upstream": echo.url(), "provider": "acme"},
            {"path_prefix": "/admin", "upstream": echo.url(), "require": {"claims": {"groups": ["nobody"]}}},
            {"path_prefix": "/closed", "access": "deny"},
            {"path_prefix": "/gone", "access": "public", "upstream": nowhere},
        ]));
    Daypass::ready(BINARY, setup)
}

/// Opens the pages in one browser and compares what it saw with the rows.
fn look(daypass: &Daypass, rows: &[Row], arguments: &[(&str, &str)]) {
    let pages: Vec<Value> = rows
        .iter()
        .map(|row| {
            let mut page = json!({"name": row.name, "path": row.path, "heading": row.heading});
            for (key, value) in row.extra.as_object().expect("an object") {
                page[key] = value.clone();
            }
            page
        })
        .collect();
    let (url, pages) = (daypass.url("/"), Value::from(pages).to_string());
    let shots = std::env::var("DAYPASS_SHOTS").unwrap_or_default();
    let mut all = vec![("url", url.as_str()), ("pages", &pages), ("shots", &shots)];
    all.extend(arguments);
    let lines = node::browser("pages.mjs", &all, LIMIT).unwrap_or_else(|error| panic!("{error}"));
    for row in rows {
        let line = step(&lines, row.name);
        assert_eq!(line["status"], row.status, "{}", row.name);
        assert_eq!(line["actions"], json!(row.actions), "{}", row.name);
        if let Some(then) = row.extra.get("then") {
            assert_eq!(&line["then"], then, "{}", row.name);
        }
    }
}

fn cookies(client: &Client) -> String {
    let jar = client.jar();
    let cookies = jar
        .cookies()
        .iter()
        .map(|cookie| json!({"name": cookie.name, "value": cookie.value}));
    cookies.collect::<Value>().to_string()
}

// PAGE-01, PAGE-02
#[test]
fn pages_for_people_who_are_not_signed_in() {
    let (redis, echo) = (Redis::start(), Echo::start());
    let (one, two) = (Provider::start(), Provider::start());
    let daypass = daypass(&redis, &echo, &[&one, &two]);
    let rows = [
        row(
            "chooser",
            "/oauth2/login?redirect=/app",
            200,
            "Sign in",
            &["acme", "partner", "dead"],
        )
        .with(json!({"press": "partner", "then": "/app"})),
        row(
            "no such provider",
            "/oauth2/login?provider=nobody",
            404,
            "No such sign-in",
            &["Try again"],
        )
        .with(json!({"press": "Try again", "then": "/oauth2/login"})),
        row(
            "provider down",
            "/oauth2/login?provider=dead",
            503,
            "Sign-in is not available right now",
            &["Try again"],
        ),
        row(
            "login expired",
            "/oauth2/callback/acme?state=AAAA&code=x",
            400,
            "Sign-in could not be completed",
            &["Try again"],
        )
        .with(json!({"press": "Try again"})),
        row(
            "not found",
            "/nothing/here",
            404,
            "Page not found",
            &["Go to the start page"],
        ),
        row(
            "not found of ours",
            "/oauth2/nothing",
            404,
            "Page not found",
            &["Go to the start page"],
        ),
        row(
            "closed",
            "/closed",
            403,
            "This page is closed",
            &["Go to the start page"],
        ),
        row(
            "malformed",
            "/a%2fb",
            400,
            "This request is not valid",
            &["Go to the start page"],
        ),
        row(
            "application down",
            "/gone",
            502,
            "The application does not answer",
            &["Try again"],
        )
        .with(json!({"press": "Try again", "then": "/gone"})),
        row(
            "method",
            "/oauth2/logout/local",
            405,
            "This does not work here",
            &["Go to the start page"],
        ),
        row(
            "signed out",
            "/oauth2/logout/callback",
            200,
            "You are signed out",
            &["Sign in again"],
        ),
    ];
    look(&daypass, &rows, &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_for_people_who_are_signed_in() {
    let (mut redis, echo) = (Redis::start(), Echo::start());
    let (one, two) = (Provider::start(), Provider::start());
    let daypass = daypass(&redis, &echo, &[&one, &two]);
    let client = Client::new();
    let page = client.browse(daypass.url("/app")).await.expect("signed in");
    assert_eq!(page.status, 200);
    let signed_in = cookies(&client);
    let rows = [
        row(
            "no access",
            "/admin",
            403,
            "You have no access to this page",
            &["Go to the start page", "Sign out"],
        ),
        // CSRF-06
        row(
            "confirm",
            "/oauth2/logout?redirect=/app",
            200,
            "Sign out?",
            &["Sign out", "Stay signed in"],
        )
        .with(json!({"elsewhere": true, "press": "Stay signed in", "then": "/"})),
        row(
            "confirm and leave",
            "/oauth2/logout",
            200,
            "Sign out?",
            &["Sign out", "Stay signed in"],
        )
        .with(json!({"elsewhere": true, "press": "Sign out", "then": "/oauth2/logout/callback"})),
    ];
    look(&daypass, &rows, &[("cookies", &signed_in)]);
    assert_eq!(
        client
            .get(daypass.url("/app"))
            .send()
            .await
            .expect("an answer")
            .status,
        401
    );

    // The cookie of a session that cannot be looked up.
    let client = Client::new();
    client.browse(daypass.url("/app")).await.expect("signed in");
    redis.kill();
    let noticed = raw::wait_for(LIMIT, || {
        (daypass.metric("daypass_session_cache_tracking", &[]) < 0.5).then_some(())
    });
    assert!(noticed.is_some(), "the outage is noticed");
    let rows = [
        row(
            "store down",
            "/app",
            503,
            "This page is not available right now",
            &["Try again"],
        ),
        row(
            "sign-out fails",
            "/oauth2/logout",
            503,
            "You may still be signed in",
            &["Try again"],
        ),
    ];
    look(&daypass, &rows, &[("cookies", &cookies(&client))]);
}

#[test]
fn a_browser_without_cookies_is_told_what_is_missing() {
    let (redis, echo) = (Redis::start(), Echo::start());
    let (one, two) = (Provider::start(), Provider::start());
    let daypass = daypass(&redis, &echo, &[&one, &two]);
    // Sent to the provider, approved there, and back without the cookie that the login began with.
    let rows = [row(
        "cookies blocked",
        "/app",
        400,
        "Signing in needs cookies",
        &["Try again"],
    )
    .with(json!({"press": "Try again", "then": "/oauth2/login"}))];
    look(&daypass, &rows, &[("blocked", "yes")]);
    assert_eq!(echo.count(), 0);
    assert_counted(&daypass, "daypass_logins_total", ("result", "success"), 0.0);
}

// FLOW-21
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_forgets_every_session_is_not_sent_round_for_ever() {
    let (redis, echo) = (Redis::start(), Echo::start());
    let (one, two) = (Provider::start(), Provider::start());
    let daypass = daypass(&redis, &echo, &[&one, &two]);
    let client = Client::new();
    for _ in 0..3 {
        let page = client.browse(daypass.url("/app")).await.expect("signed in");
        assert_eq!(page.status, 200, "{}", page.text());
        client.jar().remove("daypass");
    }
    let rows = [row(
        "login loop",
        "/app",
        400,
        "Signing in goes round in circles",
        &["Try again"],
    )
    // Who asks for it is let in.
    .with(json!({"press": "Try again", "then": "/oauth2/login"}))];
    look(&daypass, &rows, &[("cookies", &cookies(&client))]);
}
