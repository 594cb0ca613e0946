//! Shows that logins, refreshes, logouts and other ends are counted by how they went.

use std::time::Duration;

use daypass_testbed::client::Client;
use daypass_testbed::daypass::{Daypass, Setup};
use daypass_testbed::echo::Echo;
use daypass_testbed::provider::{Endpoint, Fault, Provider};
use daypass_testbed::raw::wait_for;
use daypass_testbed::redis::Redis;

use super::super::PATIENCE;
use super::{Watch, setup, status_of};
use crate::BINARY;

#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::too_many_lines,
    reason = "one story, each step of which builds on the one before"
)]
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
    let unknown = Client::new()
        .get(daypass.url("/app"))
        .header("cookie", format!("daypass={}", "A".repeat(43)));
    assert_eq!(unknown.send().await.expect("an answer").status, 401);
    watch.grew(
        "a cookie that nobody has issued",
        &[
            ("session_cache_requests_total", &[("result", "miss")]),
            (
                "store_operations_total",
                &[("op", "load"), ("result", "miss")],
            ),
            ("store_operation_duration_seconds_count", &[("op", "load")]),
        ],
    );
    // What is cached is read again when Redis cannot have told of changes.
    redis.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    let unproven = (
        "daypass_session_cache_requests_total",
        [("result", "unproven")],
    );
    let loaded = (
        "daypass_store_operations_total",
        [("op", "load"), ("result", "ok")],
    );
    let count = || {
        [
            daypass.metric(unproven.0, &unproven.1),
            daypass.metric(loaded.0, &loaded.1),
        ]
    };
    let before = count();
    let read = wait_for(PATIENCE, || {
        let session = client.get(daypass.url("/oauth2/session"));
        assert_eq!(status_of(session.send()), 200);
        let now = count();
        (now[0] > before[0] && now[1] > before[1]).then_some(())
    });
    assert!(read.is_some());
    watch.grew(
        "a connection that broke",
        &[
            ("session_cache_requests_total", &[("result", "unproven")]),
            (
                "store_operations_total",
                &[("op", "load"), ("result", "ok")],
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

    // Two requests wait for one refresh, and its token is good when it comes.
    provider.configure(|settings| settings.access_ttl = Duration::from_secs(3));
    provider.always(
        Endpoint::Refresh,
        [Fault::DelayAnswer(Duration::from_millis(500))],
    );
    let shared = || daypass.metric("daypass_token_refresh_shared_total", &[]);
    let before = shared();
    let one = || tokio::spawn(client.get(daypass.url("/app")).send());
    // The second may come when the first has been served.
    let met = wait_for(PATIENCE, || {
        for call in [one(), one()] {
            assert_eq!(status_of(async { call.await.expect("no panic") }), 200);
        }
        (shared() > before).then_some(())
    });
    assert!(met.is_some(), "{}", daypass.log());
    provider.behave();
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
