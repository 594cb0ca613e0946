//! Shows that each metric of the contract is there from the first scrape, and moves when it should (OBS-03, OBS-04).

use std::collections::BTreeSet;
use std::time::Duration;

use daypass_testbed::client::Client;
use daypass_testbed::daypass::{Daypass, Metrics, Setup};
use daypass_testbed::echo::Echo;
use daypass_testbed::ports;
use daypass_testbed::provider::{Endpoint, Fault, Provider};
use daypass_testbed::raw::wait_for;
use daypass_testbed::redis::Redis;
use serde_json::json;

use super::PATIENCE;
use crate::BINARY;

type Labels<'a> = &'a [(&'a str, &'a str)];

#[test]
fn every_documented_metric_is_there_from_the_first_scrape() {
    let (provider, echo) = (Provider::start(), Echo::start());
    let daypass = Daypass::ready(BINARY, Setup::new(&provider, &echo.url()));
    let metrics = daypass.metrics();
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let text = std::fs::read_to_string(file).expect("docs/metrics.md");
    let documented: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `daypass_")?.split('`').next())
        .filter(|name| !name.contains(' '))
        .collect();
    assert!(documented.len() > 20, "{documented:?}");
    for name in documented {
        let name = format!("daypass_{name}");
        let histogram = format!("{name}_count");
        assert!(
            metrics.has(&name, &[]) || metrics.has(&histogram, &[]),
            "{name} is not there"
        );
    }
    for name in [
        "cpu_seconds_total",
        "open_fds",
        "max_fds",
        "resident_memory_bytes",
        "virtual_memory_bytes",
        "start_time_seconds",
    ] {
        assert!(
            metrics.has(&format!("process_{name}"), &[]),
            "process_{name}"
        );
    }
    let zero: [(&str, Labels); 12] = [
        (
            "http_requests_total",
            &[("route", "private"), ("access", "session")],
        ),
        (
            "denied_total",
            &[("route", "public"), ("reason", "cross_site")],
        ),
        (
            "unauthenticated_total",
            &[("route", "private"), ("reason", "revoked")],
        ),
        (
            "logins_total",
            &[("provider", "provider"), ("result", "success")],
        ),
        ("logouts_total", &[("kind", "local")]),
        ("session_ends_total", &[("reason", "refresh_rejected")]),
        (
            "token_refreshes_total",
            &[("provider", "provider"), ("result", "rejected")],
        ),
        (
            "provider_requests_total",
            &[("endpoint", "token"), ("result", "timeout")],
        ),
        (
            "store_operations_total",
            &[("op", "load"), ("result", "timeout")],
        ),
        ("upstream_errors_total", &[("reason", "connect")]),
        ("streams_active", &[("route", "private")]),
        ("config_reloads_total", &[("result", "rejected")]),
    ];
    for (name, labels) in zero {
        let name = format!("daypass_{name}");
        assert!(metrics.has(&name, labels), "{name}{labels:?} is not there");
        assert!(
            metrics.sum(&name, labels).abs() < 0.5,
            "{name}{labels:?} is not zero"
        );
    }
    let build = [("version", env!("CARGO_PKG_VERSION"))];
    assert!((metrics.sum("daypass_build_info", &build) - 1.0).abs() < f64::EPSILON);
}

/// Remembers a scrape, to compare later ones with.
struct Watch<'a> {
    daypass: &'a Daypass,
    before: Metrics,
}

impl<'a> Watch<'a> {
    fn new(daypass: &'a Daypass) -> Self {
        Self {
            daypass,
            before: daypass.metrics(),
        }
    }

    /// Each of these has grown since the last call. Counting may end a moment after the answer.
    fn grew(&mut self, step: &str, series: &[(&str, Labels)]) {
        for (name, labels) in series {
            let name = format!("daypass_{name}");
            let grown = wait_for(PATIENCE, || {
                let now = self.daypass.metric(&name, labels);
                (now >= self.before.sum(&name, labels) + 0.999).then_some(())
            });
            assert!(
                grown.is_some(),
                "{step}: {name}{labels:?} did not grow from {}",
                self.before.sum(&name, labels)
            );
        }
        self.before = self.daypass.metrics();
    }
}

fn setup(provider: &Provider, echo: &Echo, redis: &Redis) -> Setup {
    let url = echo.url();
    Setup::new(provider, &url).redis(redis).set("session.refresh_before", "0s").routes(json!([
        {"name": "public", "path_prefix": "/public", "access": "public", "upstream": url},
        {"name": "nobody", "path_prefix": "/nobody", "upstream": url, "require": {"claims": {"groups": ["nobody"]}}},
        {"name": "scoped", "path_prefix": "/scoped", "upstream": url, "require": {"scopes": ["orders.read"]}},
        {"name": "closed", "path_prefix": "/closed", "access": "deny"},
        {"name": "dead", "path_prefix": "/dead", "access": "public", "upstream": format!("http://{}", ports::free())},
        {"name": "private", "path_prefix": "/app", "upstream": url, "limits": {"body": "1KiB"}},
    ]))
}

#[tokio::test(flavor = "multi_thread")]
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
            series.push((
                "store_operations_total",
                &[("op", "load"), ("result", "ok")],
            ));
            series.push(("store_operation_duration_seconds_count", &[("op", "load")]));
        }
        if route == "dead" {
            series.push(("upstream_errors_total", &[("reason", "connect")]));
        }
        watch.grew(name, &series);
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
    let origin = daypass.url("");
    let socket = client
        .websocket(&daypass.url("/ws"), &[("origin", &origin)])
        .await
        .expect("a WebSocket");
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

#[tokio::test(flavor = "multi_thread")]
async fn logins_refreshes_and_ends_are_counted_by_how_they_went() {
    let provider = Provider::with(|settings| settings.access_ttl = Duration::from_secs(1));
    let (echo, redis) = (Echo::start(), Redis::start());
    let daypass = Daypass::ready(BINARY, setup(&provider, &echo, &redis));
    let client = Client::new();
    let mut watch = Watch::new(&daypass);
    assert_eq!(
        client
            .browse(daypass.url("/app"))
            .await
            .expect("login")
            .status,
        200
    );
    watch.grew(
        "login",
        &[
            (
                "logins_total",
                &[("provider", "provider"), ("result", "success")],
            ),
            (
                "provider_requests_total",
                &[
                    ("provider", "provider"),
                    ("endpoint", "token"),
                    ("result", "ok"),
                ],
            ),
            (
                "provider_request_duration_seconds_count",
                &[("provider", "provider"), ("endpoint", "token")],
            ),
            (
                "store_operations_total",
                &[("op", "create"), ("result", "ok")],
            ),
        ],
    );

    let bad = client
        .twin()
        .get(daypass.url("/oauth2/callback?code=x&state=y"))
        .send()
        .await
        .expect("an answer");
    assert_eq!(bad.status, 400, "{}", bad.text());
    watch.grew(
        "forged callback",
        &[("logins_total", &[("result", "bad_state")])],
    );
    for (name, endpoint, fault, series) in [
        (
            "the user says no",
            Endpoint::Authorize,
            Fault::oauth("access_denied"),
            &[("logins_total", &[("result", "refused")][..])][..],
        ),
        (
            "a bad ID token",
            Endpoint::Token,
            Fault::BadSignature,
            &[("logins_total", &[("result", "invalid")])],
        ),
        (
            "token endpoint fails",
            Endpoint::Token,
            Fault::status(500),
            &[
                ("logins_total", &[("result", "provider_unavailable")]),
                (
                    "provider_requests_total",
                    &[("endpoint", "token"), ("result", "server_error")],
                ),
            ],
        ),
        (
            "a code nobody knows",
            Endpoint::Token,
            Fault::oauth("invalid_grant"),
            &[(
                "provider_requests_total",
                &[("endpoint", "token"), ("result", "client_error")],
            )],
        ),
    ] {
        provider.fault(endpoint, fault);
        let page = Client::new()
            .browse(daypass.url("/app"))
            .await
            .expect("an answer");
        assert!(page.status >= 400, "{name}: {}", page.status);
        watch.grew(name, series);
    }

    // Two requests wait for one refresh.
    provider.fault(
        Endpoint::Refresh,
        Fault::DelayAnswer(Duration::from_millis(500)),
    );
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let call = || tokio::spawn(client.get(daypass.url("/app")).send());
    for one in [call(), call()] {
        assert_eq!(one.await.expect("no panic").expect("an answer").status, 200);
    }
    watch.grew(
        "a shared refresh",
        &[
            (
                "token_refreshes_total",
                &[("provider", "provider"), ("result", "success")],
            ),
            (
                "token_refresh_duration_seconds_count",
                &[("provider", "provider")],
            ),
            ("token_refresh_waits_seconds_count", &[]),
            ("token_refresh_shared_total", &[]),
            (
                "store_operations_total",
                &[("op", "commit"), ("result", "ok")],
            ),
            (
                "store_operations_total",
                &[("op", "lease"), ("result", "ok")],
            ),
        ],
    );

    provider.fault(Endpoint::Refresh, Fault::RetryAfter(1));
    let refused = wait_for(PATIENCE, || {
        let answer = status_of(client.get(daypass.url("/app")).send());
        (answer == 503).then_some(())
    });
    assert!(refused.is_some());
    watch.grew(
        "a provider that is asked too much",
        &[
            ("token_refreshes_total", &[("result", "rate_limited")]),
            (
                "provider_requests_total",
                &[("endpoint", "token"), ("result", "rate_limited")],
            ),
            (
                "unauthenticated_total",
                &[("route", "private"), ("reason", "provider_unavailable")],
            ),
        ],
    );

    provider.revoke_all();
    let ended = wait_for(PATIENCE, || {
        (status_of(client.get(daypass.url("/app")).send()) == 401).then_some(())
    });
    assert!(ended.is_some());
    watch.grew(
        "invalid_grant",
        &[
            ("token_refreshes_total", &[("result", "rejected")]),
            ("session_ends_total", &[("reason", "refresh_rejected")]),
            (
                "unauthenticated_total",
                &[("route", "private"), ("reason", "revoked")],
            ),
        ],
    );

    assert_eq!(
        client
            .browse(daypass.url("/app"))
            .await
            .expect("login")
            .status,
        200
    );
    assert_eq!(
        client
            .browse(daypass.url("/oauth2/login?redirect=/app"))
            .await
            .expect("login")
            .status,
        200
    );
    watch.grew(
        "a second login",
        &[("session_ends_total", &[("reason", "replaced")])],
    );
    let local = client
        .post(daypass.url("/oauth2/logout/local"))
        .header("sec-fetch-site", "same-origin")
        .send()
        .await
        .expect("an answer");
    assert_eq!(local.status, 204);
    watch.grew(
        "local logout",
        &[
            ("logouts_total", &[("kind", "local")]),
            ("session_ends_total", &[("reason", "logout")]),
            (
                "store_operations_total",
                &[("op", "delete"), ("result", "ok")],
            ),
        ],
    );
    assert_eq!(
        client
            .browse(daypass.url("/app"))
            .await
            .expect("login")
            .status,
        200
    );
    assert_eq!(
        client
            .browse(daypass.url("/oauth2/logout"))
            .await
            .expect("logout")
            .status,
        200
    );
    watch.grew(
        "logout",
        &[
            ("logouts_total", &[("kind", "rp_initiated")]),
            ("session_ends_total", &[("reason", "logout")]),
            (
                "provider_requests_total",
                &[("endpoint", "revocation"), ("result", "ok")],
            ),
        ],
    );
    assert_eq!(provider.reused(), 0);
}

/// Status of an answer, waited for on a thread that may block.
fn status_of(
    answer: impl Future<Output = Result<daypass_testbed::client::Response, daypass_testbed::Failure>>,
) -> u16 {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(answer))
        .expect("an answer")
        .status
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_by_time_and_logins_beyond_the_limit_are_counted() {
    let (provider, echo) = (Provider::start(), Echo::start());
    for (reason, key) in [
        ("idle", "session.idle_timeout"),
        ("expired", "session.lifetime"),
    ] {
        let setup = Setup::new(&provider, &echo.url()).set(key, "1s");
        let daypass = Daypass::ready(BINARY, setup);
        let client = Client::new();
        assert_eq!(
            client.browse(daypass.url("/")).await.expect("login").status,
            200
        );
        // A browser forgets a cookie whose time is up; this client insists.
        let page = daypass.url("/").parse().expect("a URL");
        let cookies = client.jar().header(&page).expect("cookies");
        let mut watch = Watch::new(&daypass);
        tokio::time::sleep(Duration::from_millis(1200)).await;
        let call = client.get(daypass.url("/")).header("cookie", cookies);
        let late = call.send().await.expect("an answer");
        assert_eq!(late.status, 401, "{reason}");
        assert_eq!(late.json()["reason"], reason);
        watch.grew(
            reason,
            &[
                (
                    "unauthenticated_total",
                    &[("route", "private"), ("reason", reason)],
                ),
                ("session_ends_total", &[("reason", reason)]),
            ],
        );
    }
    let setup = Setup::new(&provider, &echo.url()).set("limits.logins_per_minute_per_ip", 3);
    let daypass = Daypass::ready(BINARY, setup);
    let mut watch = Watch::new(&daypass);
    let limited = wait_for(PATIENCE, || {
        (status_of(Client::new().navigate(daypass.url("/oauth2/login")).send()) == 429)
            .then_some(())
    });
    assert!(limited.is_some());
    watch.grew(
        "too many logins",
        &[(
            "denied_total",
            &[("route", "_daypass"), ("reason", "rate_limited")],
        )],
    );
}
