//! Shows what ready and healthy mean, and who may ask.

use daypass_testbed::client::Client;
use daypass_testbed::daypass::{Daypass, Setup};
use daypass_testbed::echo::Echo;
use daypass_testbed::provider::Provider;
use daypass_testbed::raw::{self, wait_for};
use daypass_testbed::redis::Redis;
use serde_json::Value;

use super::PATIENCE;
use crate::BINARY;

fn report(daypass: &Daypass) -> (u16, Value) {
    let (status, body) = daypass.admin_get("/readyz").expect("an answer");
    (status, serde_json::from_str(&body).expect("JSON"))
}

/// Waits until a check says `word`, and gives status and report.
fn until(daypass: &Daypass, check: &str, word: &str) -> (u16, Value) {
    let seen = wait_for(PATIENCE, || {
        Some(report(daypass)).filter(|(_, report)| report["checks"][check] == word)
    });
    seen.unwrap_or_else(|| panic!("{check} does not become {word}: {:?}", report(daypass)))
}

fn alive(daypass: &Daypass) {
    assert_eq!(
        daypass.admin_get("/healthz").map(|(status, _)| status),
        Some(200)
    );
}

/// K8S-03, K8S-04, K8S-06: the store has to be reached once; after that no outage takes the pod out.
#[test]
fn ready_takes_the_store_once_and_never_the_provider() {
    let (mut provider, echo, mut redis) = (Provider::start(), Echo::start(), Redis::persistent());
    let setup = Setup::new(&provider, &echo.url()).redis(&redis);
    provider.stop();
    redis.kill();
    let daypass = Daypass::start(BINARY, setup);
    let (status, said) = until(&daypass, "store", "not_reached_yet");
    assert_eq!(
        (status, &said["status"]),
        (503, &Value::from("unready")),
        "{said}"
    );
    alive(&daypass);
    assert!(daypass.metric("daypass_store_connected", &[]) < 0.5);

    redis.restart();
    let (status, said) = until(&daypass, "store", "ok");
    assert_eq!(
        (status, &said["status"]),
        (200, &Value::from("ok")),
        "{said}"
    );
    assert_eq!(
        said["checks"]["providers"], "unreachable",
        "ready all the same: {said}"
    );
    for check in ["config", "listeners", "draining"] {
        assert_eq!(said["checks"][check], "ok", "{said}");
    }
    let connected = wait_for(PATIENCE, || {
        (daypass.metric("daypass_store_connected", &[]) > 0.5).then_some(())
    });
    assert!(connected.is_some());
    let told = daypass.wait_for_log(&["WARN", "provider is not available"], PATIENCE);
    assert!(told.is_some(), "{}", daypass.log());
    provider.resume();
    until(&daypass, "providers", "ok");
    // It is noticed without anybody wanting anything of it.
    provider.stop();
    let (status, said) = until(&daypass, "providers", "unreachable");
    assert_eq!(status, 200, "{said}");
    provider.resume();
    until(&daypass, "providers", "ok");

    redis.kill();
    let (status, said) = until(&daypass, "store", "unreachable");
    assert_eq!(status, 200, "reached once is ready: {said}");
    alive(&daypass);
    let lost = wait_for(PATIENCE, || {
        (daypass.metric("daypass_store_connected", &[]) < 0.5).then_some(())
    });
    assert!(lost.is_some());
}

/// K8S-05: each port has its own, and nothing of the other's.
#[tokio::test(flavor = "multi_thread")]
async fn admin_endpoints_are_on_the_admin_port_only() {
    let (provider, echo) = (Provider::start(), Echo::start());
    let daypass = Daypass::ready(BINARY, Setup::new(&provider, &echo.url()));
    let client = Client::new();
    assert_eq!(
        client.browse(daypass.url("/")).await.expect("login").status,
        200
    );
    for path in ["/metrics", "/healthz", "/readyz"] {
        let stranger = Client::new()
            .get(daypass.url(path))
            .send()
            .await
            .expect("an answer");
        assert_eq!(
            stranger.status, 401,
            "{path}: the application's, and not for everyone"
        );
        let answer = client
            .get(daypass.url(path))
            .send()
            .await
            .expect("an answer");
        assert_eq!(
            (answer.status, answer.json()["target"].as_str()),
            (200, Some(path)),
            "the application answers"
        );
        let (status, _) = daypass.admin_get(path).expect("an answer");
        assert_eq!(status, 200, "{path}");
    }
    let count = echo.count();
    for path in [
        "/",
        "/oauth2/login",
        "/oauth2/session",
        "/oauth2/callback",
        "/public",
        "/metrics/",
        "/debug/pprof",
        "//metrics",
    ] {
        let (status, body) = daypass.admin_get(path).expect("an answer");
        assert_eq!(status, 404, "{path}: {body}");
    }
    for (name, request, status) in [
        (
            "no other method",
            "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            405,
        ),
        (
            "HEAD",
            "HEAD /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            200,
        ),
        (
            "a query does no harm",
            "GET /healthz?verbose HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            200,
        ),
    ] {
        let answer = raw::exchange(daypass.admin(), request.as_bytes(), PATIENCE);
        assert_eq!(answer.status(), Some(status), "{name}: {}", answer.text());
    }
    assert_eq!(echo.count(), count, "nothing of it was forwarded");
    let metrics = raw::exchange(
        daypass.admin(),
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        PATIENCE,
    );
    let (head, _) = metrics.first().expect("an answer");
    // OBS-05: Prometheus 3 refuses a scrape without it.
    assert!(
        head.to_ascii_lowercase()
            .contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
}
