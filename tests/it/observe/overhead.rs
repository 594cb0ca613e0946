//! Shows that daypass counts as its own time what it does itself, and nothing it waits for (PRODUCT §8).

use std::time::{Duration, Instant};

use daypass_testbed::breakable::{Breakable, Mode};
use daypass_testbed::client::{Client, Response};
use daypass_testbed::daypass::{Daypass, Setup};
use daypass_testbed::echo::Echo;
use daypass_testbed::pki::Authority;
use daypass_testbed::provider::{Endpoint, Fault, Provider};
use serde_json::json;

use super::logs::line_of;
use crate::BINARY;

/// How long the others take: far more than anything of ours, on any machine.
const LONG: Duration = Duration::from_secs(2);

/// The request took its time, and daypass none of it.
#[track_caller]
fn assert_waited(daypass: &Daypass, answer: &Response, row: &str) {
    let line = line_of(daypass, answer);
    let millis = |field: &str| line[field].as_f64().expect("a time");
    let long = LONG.as_secs_f64() * 1e3;
    assert!(millis("duration_ms") >= long, "{row}: {line}");
    let own = millis("own_ms");
    assert!(own > 0.0 && own < long / 2.0, "{row}: {line}");
}

/// All that daypass counts for a route.
fn overhead(daypass: &Daypass, route: &str) -> f64 {
    daypass.metric("daypass_overhead_seconds_sum", &[("route", route)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_provider_is_not_daypasss_own_time() {
    let (provider, echo) = (Provider::start(), Echo::start());
    let setup = Setup::new(&provider, &echo.url()).set("session.refresh_before", "0s");
    let daypass = Daypass::ready(BINARY, setup);
    let client = Client::new();
    let started = client.navigate(daypass.url("/")).send();
    let to_provider = started.await.expect("a login").location();
    let back = client
        .navigate(to_provider.expect("to the provider"))
        .send();
    let callback = back.await.expect("an answer").location().expect("back");
    // The token's life is counted from when it was asked for: a second is left of it.
    let brief = Fault::Answer(json!({"expires_in": LONG.as_secs() + 1}));
    provider.faults(Endpoint::Token, [Fault::Delay(LONG), brief]);
    let answer = client.navigate(callback).send().await.expect("an answer");
    assert_eq!(answer.status, 303, "{}", answer.text());
    assert_waited(&daypass, &answer, "login");
    assert!(overhead(&daypass, "_daypass") < LONG.as_secs_f64() / 2.0);

    // Until it has run out it is forwarded.
    provider.fault(Endpoint::Refresh, Fault::Delay(LONG));
    let deadline = Instant::now() + super::PATIENCE;
    let answer = loop {
        let answer = client
            .get(daypass.url("/"))
            .send()
            .await
            .expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        if provider.count(Endpoint::Refresh) > 0 {
            break answer;
        }
        assert!(Instant::now() < deadline, "the token runs out");
    };
    assert_waited(&daypass, &answer, "refresh");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_connection_to_the_upstream_is_not_daypasss_own_time() {
    let (provider, pki) = (Provider::start(), Authority::new());
    let echo = Echo::with_tls(&pki.issue(&["localhost"]));
    let tls = url::Url::parse(&echo.tls_url()).expect("a URL");
    let tls = (std::net::Ipv4Addr::LOCALHOST, tls.port().expect("a port"));
    let way = Breakable::start(tls.into());
    let setup = Setup::new(&provider, &echo.url())
        .set(
            "upstreams.slow.url",
            format!("https://localhost:{}", way.address().port()),
        )
        .set("upstreams.slow.tls", json!({"ca_file": pki.file()}))
        .set("upstreams.slow.connect_timeout", "30s")
        .route_first(
            json!({"name": "slow", "path_prefix": "/slow", "access": "public", "upstream": "slow"}),
        );
    let daypass = Daypass::ready(BINARY, setup);
    let client = Client::new();
    // The handshake goes there and back once at least, and so does the request.
    way.set(Mode::Delay(LONG * 2 / 5));
    let answer = client
        .get(daypass.url("/slow"))
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_waited(&daypass, &answer, "connect");
    way.set(Mode::Pass);
    // One that is kept is no wait at all.
    let answer = client
        .get(daypass.url("/slow"))
        .send()
        .await
        .expect("an answer");
    let line = line_of(&daypass, &answer);
    assert!(line["own_ms"].as_f64().expect("a time") > 0.0, "{line}");
    assert!(overhead(&daypass, "slow") < LONG.as_secs_f64() / 2.0);

    let setup = Setup::new(&provider, &echo.url())
        .set(
            "upstreams.mute.url",
            format!("https://localhost:{}", way.address().port()),
        )
        .set("upstreams.mute.tls", json!({"ca_file": pki.file()}))
        .set("upstreams.mute.connect_timeout", "2s")
        .route_first(
            json!({"name": "mute", "path_prefix": "/mute", "access": "public", "upstream": "mute"}),
        );
    let daypass = Daypass::ready(BINARY, setup);
    way.set(Mode::BlackHole);
    let answer = client
        .get(daypass.url("/mute"))
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status, 504, "{}", answer.text());
    assert_waited(&daypass, &answer, "no connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_events_is_not_daypasss_own_time() {
    let (provider, echo) = (Provider::start(), Echo::start());
    // The session ends the stream by itself.
    let setup = Setup::new(&provider, &echo.url())
        .set("session.lifetime", "5s")
        .set("session.idle_timeout", "0s");
    let daypass = Daypass::ready(BINARY, setup);
    let client = Client::new();
    client.browse(daypass.url("/")).await.expect("a login");
    let events = client.get(daypass.url("/oauth2/session/events")).send();
    let answer = events.await.expect("the whole stream");
    assert!(answer.text().contains("event: ended"), "{}", answer.text());
    assert_waited(&daypass, &answer, "events");
    assert!(overhead(&daypass, "_daypass") < LONG.as_secs_f64() / 2.0);
}
