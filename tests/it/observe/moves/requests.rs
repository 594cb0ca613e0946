//! Shows that requests, refusals and streams are counted where they belong.

use daypass_testbed::client::Client;
use daypass_testbed::daypass::{Daypass, Setup};
use daypass_testbed::echo::Echo;
use daypass_testbed::provider::Provider;
use daypass_testbed::raw::wait_for;
use daypass_testbed::redis::Redis;
use serde_json::json;

use super::super::PATIENCE;
use super::{Labels, Watch, setup};
use crate::BINARY;
use crate::shutdown::open_socket;

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn requests_and_refusals_are_counted_by_route_and_reason() {
    let (provider, echo, redis) = (Provider::start(), Echo::start(), Redis::start());
    let daypass = Daypass::ready(BINARY, setup(&provider, &echo, &redis));
    let (client, stranger) = (Client::new(), Client::new());
    assert_eq!(
        client
            .browse(daypass.url("/app"))
            .await
            .expect("login")
            .status,
        200
    );
    let mut watch = Watch::new(&daypass);
    let url = |path: &str| daypass.url(path);
    let cross = client
        .post(url("/app"))
        .header("origin", "https://evil.example")
        .header("sec-fetch-site", "cross-site");
    let rows = [
        (
            "public",
            stranger.get(url("/public/x")),
            200,
            "public",
            "public",
            "GET",
            None,
        ),
        (
            "session",
            client.get(url("/app/x")),
            200,
            "private",
            "session",
            "GET",
            None,
        ),
        (
            "another method",
            client
                .request("DELETE".parse().expect("a method"), url("/app/x"))
                .header("sec-fetch-site", "same-origin"),
            200,
            "private",
            "session",
            "DELETE",
            None,
        ),
        (
            "a method nobody knows",
            stranger.request("BREW".parse().expect("a method"), url("/public/x")),
            200,
            "public",
            "public",
            "other",
            None,
        ),
        (
            "upstream's own status",
            stranger.get(url("/public/../public/x?ms=1")),
            200,
            "public",
            "public",
            "GET",
            None,
        ),
        (
            "no session",
            stranger.get(url("/app/x")),
            401,
            "private",
            "session",
            "GET",
            Some(("unauthenticated_total", "no_session")),
        ),
        (
            "claims",
            client.get(url("/nobody")),
            403,
            "nobody",
            "session",
            "GET",
            Some(("denied_total", "claims")),
        ),
        (
            "scopes",
            client.get(url("/scoped")),
            403,
            "scoped",
            "session",
            "GET",
            Some(("denied_total", "scopes")),
        ),
        (
            "deny",
            client.get(url("/closed")),
            403,
            "closed",
            "deny",
            "GET",
            Some(("denied_total", "route")),
        ),
        (
            "cross-site",
            cross,
            403,
            "private",
            "session",
            "POST",
            Some(("denied_total", "cross_site")),
        ),
        (
            "too large",
            client
                .post(url("/app"))
                .header("sec-fetch-site", "same-origin")
                .body(vec![b'x'; 4096]),
            413,
            "private",
            "session",
            "POST",
            Some(("denied_total", "too_large")),
        ),
        (
            "no route",
            stranger.get(url("/nowhere")),
            404,
            "_none",
            "none",
            "GET",
            Some(("denied_total", "no_route")),
        ),
        (
            "not our host",
            stranger.get(url("/app")).header("host", "evil.example"),
            421,
            "_none",
            "none",
            "GET",
            Some(("denied_total", "misdirected")),
        ),
        (
            "an ambiguous path",
            stranger.get(url("/app")).target("/app%2fx"),
            400,
            "_none",
            "none",
            "GET",
            Some(("denied_total", "malformed")),
        ),
        (
            "own endpoint",
            client.get(url("/oauth2/session")),
            200,
            "_daypass",
            "own",
            "GET",
            None,
        ),
        (
            "own endpoint without session",
            stranger.get(url("/oauth2/session")),
            401,
            "_daypass",
            "own",
            "GET",
            Some(("unauthenticated_total", "no_session")),
        ),
        (
            "own endpoint that is none",
            stranger.get(url("/oauth2/none")),
            404,
            "_daypass",
            "own",
            "GET",
            Some(("denied_total", "no_route")),
        ),
        (
            "dead upstream",
            stranger.get(url("/dead")),
            502,
            "dead",
            "public",
            "GET",
            None,
        ),
    ];
    for (name, call, status, route, access, method, refusal) in rows {
        let answer = call.send().await.expect("an answer");
        assert_eq!(answer.status, status, "{name}: {}", answer.text());
        let code = status.to_string();
        let counted = [
            ("route", route),
            ("access", access),
            ("method", method),
            ("code", code.as_str()),
        ];
        let of_route = [("route", route)];
        let mut series: Vec<(&str, Labels)> = vec![
            ("http_requests_total", &counted),
            ("http_request_duration_seconds_count", &of_route),
            ("overhead_seconds_count", &of_route),
        ];
        let reason = refusal.map(|(_, reason)| [("route", route), ("reason", reason)]);
        if let (Some((metric, _)), Some(labels)) = (refusal, &reason) {
            series.push((metric, labels));
        }
        if status == 200 && access != "own" {
            series.push(("upstream_request_duration_seconds_count", &[]));
        }
        if access == "session" && status == 200 {
            series.push(("token_remaining_seconds_count", &[]));
            series.push(("session_cache_requests_total", &[]));
        }
        if route == "dead" {
            series.push(("upstream_errors_total", &[("reason", "connect")]));
        }
        watch.grew(name, &series);
    }
}

/// What is left of a token says something only where the token goes.
#[tokio::test(flavor = "multi_thread")]
async fn only_access_tokens_that_are_forwarded_are_looked_at_for_their_life() {
    let (provider, echo) = (Provider::start(), Echo::start());
    let route = |kind: &str| json!({"name": kind, "path_prefix": format!("/{kind}"), "upstream": echo.url(), "token": {"kind": kind}});
    let setup = Setup::new(&provider, &echo.url());
    let setup = ["access", "id", "none"]
        .iter()
        .fold(setup, |setup, kind| setup.route_first(route(kind)));
    let daypass = Daypass::ready(BINARY, setup);
    let client = Client::new();
    client.browse(daypass.url("/")).await.expect("a login");
    let looked_at = || daypass.metric("daypass_token_remaining_seconds_count", &[]);
    for (kind, more) in [("id", 0.0), ("none", 0.0), ("access", 1.0)] {
        let before = looked_at();
        let answer = client.get(daypass.url(&format!("/{kind}"))).send();
        assert_eq!(answer.await.expect("an answer").status, 200, "{kind}");
        let grown = looked_at() - before;
        assert!((grown - more).abs() < 0.5, "{kind}: {grown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn open_streams_are_counted_while_they_are_open() {
    let (provider, echo) = (Provider::start(), Echo::start());
    let daypass = Daypass::ready(BINARY, Setup::new(&provider, &echo.url()));
    let client = Client::new();
    assert_eq!(
        client.browse(daypass.url("/")).await.expect("login").status,
        200
    );
    let open = |count: f64| {
        wait_for(PATIENCE, || {
            let now = daypass.metric("daypass_streams_active", &[("route", "private")]);
            ((now - count).abs() < 0.5).then_some(())
        })
    };
    let socket = open_socket(&client, &daypass).await;
    assert!(open(1.0).is_some());
    let events = client
        .get(daypass.url("/sse?ms=20"))
        .stream()
        .await
        .expect("a stream");
    assert!(open(2.0).is_some());
    drop(socket);
    assert!(open(1.0).is_some(), "{}", daypass.log());
    drop(events);
    assert!(open(0.0).is_some(), "{}", daypass.log());
}
