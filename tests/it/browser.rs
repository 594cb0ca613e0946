//! Drives a real Chromium through a real provider.

mod api;
mod events;
mod framed;
mod pages;
mod strict;

use std::net::SocketAddr;
use std::time::Duration;

use daypass_testbed::daypass::{Daypass, Setup};
use daypass_testbed::echo::Echo;
use daypass_testbed::node::{self, RealOptions, RealProvider};
use daypass_testbed::ports;
use daypass_testbed::redis::Redis;
use serde_json::{Value, json};

use crate::BINARY;

/// Life of an access token at the real provider: short enough to see the next one.
const ACCESS_TTL: Duration = Duration::from_secs(3);

/// Longest that a script may take: a browser on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

/// daypass between npm `oidc-provider` and an echo upstream.
struct Real {
    daypass: Daypass,
    echo: Echo,
    provider: RealProvider,
    /// What the browser calls daypass: not the provider's host, so that the two are different sites.
    origin: String,
}

impl Real {
    fn start(par: &str, change: impl FnOnce(Setup) -> Setup) -> Self {
        let public: SocketAddr = ports::free();
        let origin = format!("http://localhost:{}", public.port());
        let provider = RealProvider::start(&RealOptions {
            access_ttl: ACCESS_TTL,
            environment: vec![("PAR".to_owned(), par.to_owned())],
            ..RealOptions::for_daypass(&origin)
        });
        let echo = Echo::start();
        let setup = Setup::real(&provider, &echo.url())
            .at(public)
            .set("public_url", origin.as_str())
            .set("session.refresh_before", "1s");
        let daypass = Daypass::ready(BINARY, change(setup));
        Self {
            daypass,
            echo,
            provider,
            origin,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }
}

/// The result line of a step; fails the test when the script left it out.
fn step<'a>(lines: &'a [Value], name: &str) -> &'a Value {
    lines
        .iter()
        .find(|line| line["step"] == name)
        .unwrap_or_else(|| panic!("no step {name}: {lines:#?}"))
}

fn assert_counted(daypass: &Daypass, metric: &str, label: (&str, &str), wanted: f64) {
    let counted = daypass.metric(metric, &[label]);
    assert!(
        (counted - wanted).abs() < 0.5,
        "{metric} {label:?}: {counted}, not {wanted}"
    );
}

/// Signs in, outlives a token, signs out by link and by form: the whole of tests/browser/flow.mjs.
fn whole_way(real: &Real) {
    let expiry = ACCESS_TTL.as_secs().to_string();
    let (url, issuer) = (real.url("/"), real.provider.issuer());
    let arguments = [
        ("url", url.as_str()),
        ("provider", issuer.as_str()),
        ("expiry", expiry.as_str()),
    ];
    let lines =
        node::browser("flow.mjs", &arguments, LIMIT).unwrap_or_else(|error| panic!("{error}"));

    assert_eq!(step(&lines, "signed_in")["user"], "jane");
    let session = &step(&lines, "session")["session"];
    assert_eq!(session["subject"], "jane");
    assert_eq!(session["claims"]["email"], "jane@example.com");
    // COOKIE: plain http on loopback, so no `__Host-`, but all the rest.
    let cookies = step(&lines, "cookies")["cookies"]
        .as_array()
        .expect("a list");
    for cookie in cookies {
        assert_eq!(
            (&cookie["httpOnly"], &cookie["sameSite"], &cookie["path"]),
            (&json!(true), &json!("Lax"), &json!("/")),
            "{cookie}"
        );
    }
    assert_eq!(step(&lines, "confirm")["heading"], "Sign out?");
    assert_eq!(step(&lines, "signed_out")["title"], "You are signed out");
    // The session cookie is gone; the login cookie may stay, it opens nothing.
    let left = &step(&lines, "signed_out")["cookies"];
    assert!(
        !left.as_array().expect("a list").contains(&json!("daypass")),
        "{left}"
    );
    step(&lines, "asked_again");
    let out = step(&lines, "signed_out_by_form");
    assert_eq!(out["path"], "/oauth2/logout/callback");
    assert_eq!(out["heading"], "You are signed out");
    assert_eq!(step(&lines, "public")["fingerprint"], "none");

    // What the browser showed, the provider and the upstream saw as well.
    let provider = &real.provider;
    assert_eq!(
        provider.count_from(2, "grant.success", Some("authorization_code")),
        2
    );
    assert!(provider.count_from(1, "grant.success", Some("refresh_token")) >= 1);
    assert_eq!(provider.count("grant.error", None), 0, "REFRESH-01");
    assert_eq!(provider.count_from(2, "end_session.success", None), 2);
    for request in real.echo.requests() {
        let cookie = request.header("cookie").unwrap_or_default();
        assert!(!cookie.contains("daypass"), "our cookies stay here");
        let public = request.target.starts_with("/public");
        assert_eq!(request.bearer().is_none(), public, "{}", request.target);
    }
    let daypass = &real.daypass;
    assert_counted(daypass, "daypass_logins_total", ("result", "success"), 2.0);
    assert_counted(
        daypass,
        "daypass_session_ends_total",
        ("reason", "logout"),
        2.0,
    );
}

#[test]
fn a_person_signs_in_and_out_with_sessions_in_memory() {
    let real = Real::start("off", |setup| setup);
    whole_way(&real);
    let pushed = real
        .provider
        .count("pushed_authorization_request.success", None);
    assert_eq!(pushed, 0);
}

#[test]
fn a_person_signs_in_and_out_with_sessions_in_redis_and_pushed_requests() {
    let redis = Redis::start();
    let real = Real::start("required", |setup| setup.redis(&redis));
    whole_way(&real);
    let pushed = real
        .provider
        .count_from(2, "pushed_authorization_request.success", None);
    // Signed in twice, asked twice more: each time the request was pushed (RFC 9126).
    assert!(pushed >= 2, "{pushed}");
    // Both sessions are gone, and nothing else lies around.
    let mut keys = redis.keys();
    // Index sets go off the request's path.
    keys.retain(|key| !key.starts_with("daypass:i:"));
    assert_eq!(keys, Vec::<String>::new());
}
