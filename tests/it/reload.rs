//! Shows that a reload changes what it should, keeps what it should, and refuses what it cannot do (PRODUCT §1, §2).

mod files;
mod keys;
mod parts;

use std::time::Duration;

use daypass_testbed::client::{Client, Response};
use daypass_testbed::daypass::{Daypass, Setup};
use daypass_testbed::echo::Echo;
use daypass_testbed::pki::Authority;
use daypass_testbed::provider::{Auth, CLIENT_ID, Endpoint, Fault, Provider, Registration};
use daypass_testbed::raw::{self, wait_for};
use serde_json::json;

use crate::BINARY;

/// Longest wait for a reload to show: the poll for file systems that notify nobody takes ten seconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// Reloads so far with this result.
fn reloads(daypass: &Daypass, result: &str) -> f64 {
    daypass.metric("daypass_config_reloads_total", &[("result", result)])
}

/// Runs `change`, asks for a reload, and waits until one has ended with `result`.
///
/// Twice: the first to end may have begun, by itself, while files were still being written.
fn reloaded(daypass: &mut Daypass, result: &str, change: impl FnOnce(&mut Daypass)) {
    change(daypass);
    let of_result = reloads(daypass, result);
    for _ in 0..2 {
        let ended = |daypass: &Daypass| daypass.metric("daypass_config_reloads_total", &[]);
        let before = ended(daypass);
        daypass.hup();
        let seen = wait_for(PATIENCE, || (ended(daypass) > before).then_some(()));
        assert!(seen.is_some(), "no reload has ended:\n{}", daypass.log());
    }
    let seen = wait_for(PATIENCE, || {
        (reloads(daypass, result) > of_result).then_some(())
    });
    assert!(seen.is_some(), "no reload was {result}:\n{}", daypass.log());
}

fn signed_in(answer: &Response) {
    assert_eq!(answer.status, 200, "{}", answer.text());
}

async fn get(client: &Client, url: String) -> Response {
    client.get(url).send().await.expect("an answer")
}

/// CFG-02: the routes in force are those of the file, at SIGHUP.
#[tokio::test(flavor = "multi_thread")]
async fn routes_change_at_sighup() {
    let (provider, echo) = (Provider::start(), Echo::start());
    let mut daypass = Daypass::ready(BINARY, Setup::new(&provider, &echo.url()));
    let client = Client::new();
    signed_in(&client.browse(daypass.url("/")).await.expect("login"));
    let route = json!({"name": "later", "path_prefix": "/later", "access": "public", "upstream": echo.url()});
    assert_eq!(get(&Client::new(), daypass.url("/later")).await.status, 401);
    reloaded(&mut daypass, "success", |daypass| {
        daypass.change(|setup| setup.route_first(route));
    });
    assert_eq!(get(&Client::new(), daypass.url("/later")).await.status, 200);
    // A new route's series are there, at zero or more, from the first scrape on (OBS-03).
    assert!(daypass.metrics().has(
        "daypass_denied_total",
        &[("route", "later"), ("reason", "cross_site")]
    ));
    signed_in(&get(&client, daypass.url("/")).await);
    reloaded(&mut daypass, "success", |daypass| {
        daypass.change(|setup| {
            setup
                .set("routes.0.access", "deny")
                .unset("routes.0.upstream")
        });
    });
    assert_eq!(get(&client, daypass.url("/later")).await.status, 403);
}

/// A session of the memory store, and a login on its way to the provider, come from before the reload.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_and_logins_under_way_survive() {
    let (provider, echo) = (Provider::start(), Echo::start());
    let mut daypass = Daypass::ready(BINARY, Setup::new(&provider, &echo.url()));
    let (old, under_way) = (Client::new(), Client::new());
    signed_in(&old.browse(daypass.url("/")).await.expect("login"));
    let token = echo
        .last()
        .expect("forwarded")
        .bearer()
        .map(ToOwned::to_owned);
    let to_provider = under_way
        .navigate(daypass.url("/page?x=1"))
        .send()
        .await
        .expect("an answer");
    let to_us = under_way
        .navigate(to_provider.location().expect("a redirect"))
        .send()
        .await
        .expect("an answer");
    let callback = to_us.location().expect("the way back, with a code");
    reloaded(&mut daypass, "success", |daypass| {
        daypass.change(|setup| setup.set("pages.title", "Another"));
    });
    signed_in(&get(&old, daypass.url("/")).await);
    assert_eq!(
        echo.last()
            .expect("forwarded")
            .bearer()
            .map(ToOwned::to_owned),
        token,
        "its token, too"
    );
    let page = under_way.browse(callback).await.expect("signed in");
    signed_in(&page);
    assert_eq!(page.url.as_str(), daypass.url("/page?x=1"));
    assert_eq!(provider.count(Endpoint::Token), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_configuration_is_rejected_and_the_old_one_serves() {
    let (provider, echo) = (Provider::start(), Echo::start());
    let good = Setup::new(&provider, &echo.url());
    let mut daypass = Daypass::ready(BINARY, &good);
    let client = Client::new();
    signed_in(&client.browse(daypass.url("/")).await.expect("login"));
    let loaded = daypass.metric("daypass_config_loaded_timestamp_seconds", &[]);
    let elsewhere = daypass_testbed::ports::free().to_string();
    for (name, bad, said) in [
        (
            "a misspelt key",
            good.clone().set("sesion", json!({})),
            &["sesion", "did you mean `session`?"][..],
        ),
        (
            "two problems, both told",
            good.clone()
                .set("base_path", "x")
                .set("session.lifetime", "long"),
            &["base_path", "session.lifetime"],
        ),
        (
            "no YAML",
            Setup::yaml("public_url: [\n"),
            &["daypass.yaml:"],
        ),
        ("an empty file", Setup::yaml(""), &["daypass.yaml"]),
        (
            "a secret that is not there",
            good.clone()
                .set("provider.client_secret", json!({"file": "none"})),
            &["provider.client_secret"],
        ),
        (
            "another address",
            good.clone().set("listen", elsewhere.as_str()),
            &["listen", "restart"],
        ),
        (
            "one address more",
            good.clone().set("listen", json!(["@LISTEN@", elsewhere])),
            &["listen", "restart"],
        ),
        (
            "another admin address",
            good.clone().set("admin.listen", elsewhere.as_str()),
            &["listen", "restart"],
        ),
        (
            "another kind of store",
            good.clone()
                .set("session.store", "redis://127.0.0.1:9/0")
                .session_key(),
            &["session.store", "restart"],
        ),
    ] {
        let successes = reloads(&daypass, "success");
        let already = daypass.lines().len();
        reloaded(&mut daypass, "rejected", |daypass| daypass.rewrite(bad));
        let told = wait_for(PATIENCE, || {
            let log = daypass.lines()[already..].join("\n");
            let all = said.iter().all(|said| log.contains(said));
            (all && log.contains("configuration rejected; the old one serves on")).then_some(())
        });
        assert!(told.is_some(), "{name}: {said:?}: {}", daypass.log());
        signed_in(&get(&client, daypass.url("/")).await);
        assert_eq!(
            get(&Client::new(), daypass.url("/public")).await.status,
            200,
            "{name}"
        );
        assert!(
            (reloads(&daypass, "success") - successes).abs() < 0.5,
            "{name}"
        );
        let (status, _) = daypass.admin_get("/readyz").expect("an answer");
        assert_eq!(status, 200, "{name}: still ready");
    }
    let still = daypass.metric("daypass_config_loaded_timestamp_seconds", &[]);
    assert!(
        (still - loaded).abs() < f64::EPSILON,
        "what serves was loaded when it was loaded: {loaded} {still}"
    );
    // And back: a file that is good again is taken.
    reloaded(&mut daypass, "success", |daypass| daypass.rewrite(&good));
}

/// CFG-02: what was wrong may be mended in a file that was not there before; nobody should have to send a signal.
#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_configuration_is_taken_when_what_it_lacked_appears() {
    let (provider, echo) = (Provider::start(), Echo::start());
    let good = Setup::new(&provider, &echo.url());
    let mut daypass = Daypass::ready(BINARY, &good);
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("client-secret");
    let lacking = good
        .clone()
        .set("provider.client_secret", json!({"file": secret}))
        .set("base_path", "/gate");
    daypass.rewrite(lacking);
    let rejected = wait_for(PATIENCE, || {
        (reloads(&daypass, "rejected") > 0.5).then_some(())
    });
    assert!(rejected.is_some(), "{}", daypass.log());
    std::fs::write(&secret, provider.client_secret()).expect("written");
    let taken = wait_for(PATIENCE, || {
        (reloads(&daypass, "success") > 0.5).then_some(())
    });
    assert!(taken.is_some(), "{}", daypass.log());
    let page = Client::new().browse(daypass.url("/")).await.expect("login");
    signed_in(&page);
    assert_eq!(
        get(&Client::new(), daypass.url("/gate/session"))
            .await
            .status,
        401
    );
}

/// The new secret is the provider's, from one moment to the next; nobody is signed out by it.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_client_secret_is_used_from_the_next_call_on() {
    let provider = Provider::with(|settings| settings.access_ttl = Duration::from_secs(2));
    let echo = Echo::start();
    let setup = Setup::new(&provider, &echo.url())
        .set(
            "provider.client_secret",
            json!({"file": "@DIR@/client-secret"}),
        )
        .set("session.refresh_before", "0s")
        .file("client-secret", provider.client_secret());
    let mut daypass = Daypass::ready(BINARY, &setup);
    let client = Client::new();
    signed_in(&client.browse(daypass.url("/")).await.expect("login"));
    provider.configure(|settings| settings.access_ttl = Duration::from_mins(5));
    let secret = "another-secret-0123456789abcdef";
    daypass_testbed::secrets::record("client secret", secret);
    provider.register(Registration {
        client_id: CLIENT_ID.to_owned(),
        auth: Auth::Basic(secret.to_owned()),
        redirect_uris: Vec::new(),
        post_logout_redirect_uris: Vec::new(),
    });
    // Only the secret's file changes, and no signal is sent.
    daypass.change(|setup| setup.file("client-secret", secret));
    let taken = wait_for(PATIENCE, || {
        (reloads(&daypass, "success") > 0.5).then_some(())
    });
    assert!(taken.is_some(), "{}", daypass.log());
    signed_in(
        &Client::new()
            .browse(daypass.url("/"))
            .await
            .expect("login with the new secret"),
    );
    let refreshed = || daypass.metric("daypass_token_refreshes_total", &[("result", "success")]);
    let renewed = wait_for(PATIENCE, || {
        let answer = raw_status(&daypass, &client);
        assert_eq!(answer, Some(200));
        (refreshed() > 0.5).then_some(())
    });
    assert!(
        renewed.is_some(),
        "an old session's refresh uses the new secret: {}",
        daypass.log()
    );
}

/// Status of `GET /` with the client's cookies, without a runtime.
fn raw_status(daypass: &Daypass, client: &Client) -> Option<u16> {
    let url = daypass.url("/").parse().expect("a URL");
    let cookies = client.jar().header(&url).expect("cookies");
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {}\r\nCookie: {cookies}\r\nConnection: close\r\n\r\n",
        daypass.authority()
    );
    raw::exchange(daypass.public(), request.as_bytes(), Duration::from_secs(5)).status()
}

/// Another issuer in the provider's place: new logins go there, and sessions of the old one are over.
#[tokio::test(flavor = "multi_thread")]
async fn provider_settings_change() {
    let (old, new, echo) = (Provider::start(), Provider::start(), Echo::start());
    let mut daypass = Daypass::ready(BINARY, Setup::new(&old, &echo.url()));
    let client = Client::new();
    signed_in(&client.browse(daypass.url("/")).await.expect("login"));
    reloaded(&mut daypass, "success", |daypass| {
        daypass.change(|setup| setup.set("provider.scopes", json!(["openid", "orders"])));
    });
    signed_in(&get(&client, daypass.url("/")).await);
    signed_in(&Client::new().browse(daypass.url("/")).await.expect("login"));
    let asked = old.requests(Endpoint::Authorize);
    assert_eq!(
        asked.last().expect("asked").param("scope"),
        Some("openid orders")
    );

    daypass.rewrite(Setup::new(&new, &echo.url()));
    reloaded(&mut daypass, "success", |_| ());
    assert_eq!(
        get(&client, daypass.url("/")).await.status,
        401,
        "its provider is gone"
    );
    for path in ["/oauth2/session", "/oauth2/session/events"] {
        let told = get(&client, daypass.url(path)).await;
        assert_eq!(told.status, 401, "{path}: {}", told.text());
    }
    signed_in(&Client::new().browse(daypass.url("/")).await.expect("login"));
    assert_eq!(
        (old.count(Endpoint::Token), new.count(Endpoint::Token)),
        (2, 1)
    );
}

/// A request and a stream that are under way keep the configuration they began with.
#[tokio::test(flavor = "multi_thread")]
async fn requests_under_way_are_undisturbed() {
    let (provider, echo) = (Provider::start(), Echo::start());
    let mut daypass = Daypass::ready(BINARY, Setup::new(&provider, &echo.url()));
    let client = Client::new();
    signed_in(&client.browse(daypass.url("/")).await.expect("login"));
    let mut stream = client
        .get(daypass.url("/sse?ms=50"))
        .stream()
        .await
        .expect("a stream");
    assert!(stream.next().await.expect("alive").is_some());
    let slow = tokio::spawn(client.get(daypass.url("/slow?ms=1500")).send());
    let arrived = wait_for(PATIENCE, || {
        echo.requests()
            .iter()
            .any(|seen| seen.target == "/slow?ms=1500")
            .then_some(())
    });
    assert!(arrived.is_some());
    // Their route is gone afterwards.
    let other = json!([{"name": "other", "path_prefix": "/public", "access": "public", "upstream": echo.url()}]);
    reloaded(&mut daypass, "success", |daypass| {
        daypass.change(|setup| setup.routes(other));
    });
    assert_eq!(get(&client, daypass.url("/slow")).await.status, 404);
    let answer = slow.await.expect("no panic").expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    for _ in 0..5 {
        assert!(stream.next().await.expect("alive").is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_under_way_is_finished() {
    let provider = Provider::with(|settings| settings.access_ttl = Duration::from_secs(1));
    let echo = Echo::start();
    let setup = Setup::new(&provider, &echo.url())
        .set("session.refresh_before", "0s")
        .set("provider.timeout", "30s");
    let mut daypass = Daypass::ready(BINARY, setup);
    let client = Client::new();
    signed_in(&client.browse(daypass.url("/")).await.expect("login"));
    provider.configure(|settings| settings.access_ttl = Duration::from_secs(300));
    provider.forget_requests();
    provider.fault(Endpoint::Refresh, Fault::StallAnswer);
    // The access token has run out when a request makes the provider be asked.
    let mut waiting = None;
    let stalled = wait_for(PATIENCE, || {
        waiting = Some(tokio::spawn(client.get(daypass.url("/")).send()));
        provider
            .wait_for_count(Endpoint::Refresh, 1, Duration::from_millis(300))
            .then_some(())
    });
    assert!(stalled.is_some(), "{}", daypass.log());
    reloaded(&mut daypass, "success", |daypass| {
        daypass.change(|setup| setup.set("provider.timeout", "29s"));
    });
    provider.release();
    let answer = waiting
        .expect("a request waits")
        .await
        .expect("no panic")
        .expect("an answer");
    signed_in(&answer);
    signed_in(&get(&client, daypass.url("/")).await);
    assert_eq!(
        (provider.reused(), provider.count(Endpoint::Refresh)),
        (0, 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_shown_to_new_connections() {
    let (provider, echo) = (Provider::start(), Echo::start());
    let (old, new) = (Authority::new(), Authority::new());
    let (first, second) = (old.issue(&["localhost"]), new.issue(&["localhost"]));
    let setup = Setup::new(&provider, &echo.url())
        .tls(&first)
        .set(
            "listen.tls",
            json!({"cert_file": "@DIR@/tls.crt", "key_file": "@DIR@/tls.key"}),
        )
        .file("tls.crt", &first.cert_pem)
        .file("tls.key", &first.key_pem);
    let mut daypass = Daypass::ready(BINARY, &setup);
    let url = daypass.url("/public");
    let earlier = Client::trusting(&old.pem);
    signed_in(&get(&earlier, url.clone()).await);
    assert!(Client::trusting(&new.pem).get(&url).send().await.is_err());
    // A certificate without its key is no pair: it is refused, and the old pair is shown on.
    reloaded(&mut daypass, "rejected", |daypass| {
        daypass.change(|setup| setup.file("tls.crt", &second.cert_pem));
    });
    signed_in(&get(&Client::trusting(&old.pem), url.clone()).await);
    reloaded(&mut daypass, "success", |daypass| {
        daypass.change(|setup| setup.file("tls.key", &second.key_pem));
    });
    signed_in(&get(&Client::trusting(&new.pem), url.clone()).await);
    assert!(Client::trusting(&old.pem).get(&url).send().await.is_err());
    signed_in(&get(&earlier, url).await);
}
