//! Shows that a browser never gets to see a token (BFF-01).

use std::time::{Duration, Instant};

use daypass_testbed::client::{Call, Client, Form, Response};
use daypass_testbed::provider::{
    Auth, CLIENT_ID, ClientKey, Endpoint, Fault, Par, Provider, Registration, claims,
};
use serde_json::json;

use super::{Stage, go};
use crate::stage::PATIENCE;

/// A browser that keeps every answer daypass gave it.
struct Witness<'a> {
    stage: &'a Stage,
    client: Client,
    answers: Vec<(String, Response)>,
}

impl Witness<'_> {
    async fn send(&mut self, step: &str, call: Call) -> Response {
        let answer = go(call).await;
        if answer.url.as_str().starts_with(&self.stage.url("")) {
            self.answers.push((step.to_owned(), answer.clone()));
        }
        answer
    }

    /// Follows redirects, keeping every answer on the way.
    async fn browse(&mut self, step: &str, url: String) -> Response {
        let mut next = Some(url);
        let mut answer = None;
        while let Some(url) = next {
            let call = self.client.navigate(url);
            let got = self.send(step, call).await;
            next = got.location();
            answer = Some(got);
        }
        answer.expect("at least one answer")
    }

    async fn get(&mut self, step: &str, path: &str) -> Response {
        let call = self.client.get(self.stage.url(path));
        self.send(step, call).await
    }

    async fn post(&mut self, step: &str, path: &str) -> Response {
        let call = self.client.post(self.stage.url(path));
        self.send(step, call).await
    }
}

/// BFF-01, REG-13
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "one run from end to end")]
async fn no_answer_of_ours_holds_a_token() {
    let key = ClientKey::generate();
    let provider = Provider::with(|settings| settings.par = Par::Advertised);
    provider.register(Registration {
        client_id: CLIENT_ID.to_owned(),
        auth: Auth::PrivateKey(key.jwk),
        redirect_uris: Vec::new(),
        post_logout_redirect_uris: Vec::new(),
    });
    let section = json!({"issuer": provider.issuer(), "client_id": CLIENT_ID, "client_key": key.pem, "userinfo": true, "timeout": "2s"});
    let stage = Stage::with(provider, |setup| {
        setup
            .set("provider", section)
            .set(
                "session.expose_claims",
                json!(["name", "email", "at_hash", "nonce", "sid", "aud"]),
            )
            // A token is renewed when it has run out, never on the quiet before.
            .set("session.refresh_before", "0s")
    });
    let mut witness = Witness {
        stage: &stage,
        client: Client::new(),
        answers: Vec::new(),
    };
    let w = &mut witness;
    w.get("401", "/hello").await;
    // The echo's own page shows what it received: a small answer is asked for in its place.
    assert_eq!(
        w.browse("login", stage.url("/status/200")).await.status,
        200
    );
    assert_eq!(w.get("session", "/oauth2/session").await.status, 200);
    // One more that is old enough to be refreshed by hand.
    stage
        .provider
        .configure(|settings| settings.access_ttl = Duration::from_secs(1));
    assert_eq!(
        w.browse("again", stage.url("/oauth2/login?redirect=%2Fstatus%2F200"))
            .await
            .status,
        200
    );
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let asked = stage.provider.count(Endpoint::Refresh);
    stage
        .provider
        .configure(|settings| settings.access_ttl = Duration::from_secs(3));
    assert_eq!(
        w.post("refresh", "/oauth2/session/refresh").await.status,
        200
    );
    assert_eq!(stage.provider.count(Endpoint::Refresh), asked + 1);
    // Answers that fail, in every way that has a page or a problem of its own.
    stage
        .provider
        .always(Endpoint::Refresh, [Fault::status(500)]);
    let deadline = Instant::now() + PATIENCE;
    while w.get("503", "/status/200").await.status != 503 {
        assert!(Instant::now() < deadline, "the token does not run out");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    w.browse("503 page", stage.url("/hello")).await;
    stage.provider.behave();
    for fault in [
        Fault::oauth("invalid_grant"),
        Fault::WrongNonce,
        Fault::WrongAtHash,
        Fault::status(500),
    ] {
        stage.provider.fault(Endpoint::Token, fault);
        w.browse("failed login", stage.url("/oauth2/login")).await;
    }
    stage
        .provider
        .fault(Endpoint::Authorize, Fault::oauth("access_denied"));
    w.browse("denied", stage.url("/oauth2/login")).await;
    w.browse("login", stage.url("/oauth2/login?redirect=%2Fstatus%2F200"))
        .await;
    let cross = w
        .client
        .get(stage.url("/oauth2/logout"))
        .header("accept", "text/html")
        .header("sec-fetch-site", "cross-site");
    let confirm = w.send("confirm", cross).await;
    let form = Form::first(&confirm).expect("a form");
    let call = w
        .client
        .post(&form.action)
        .navigation()
        .header("origin", stage.url(""));
    let logout = w.send("logout", call).await;
    w.browse("back", logout.location().expect("to the provider"))
        .await;
    w.browse("login", stage.url("/status/200")).await;
    assert_eq!(w.post("local", "/oauth2/logout/local").await.status, 204);

    let secrets = stage.provider.issued_secrets();
    assert!(secrets.len() > 20);
    assert!(witness.answers.len() > 20);
    for (step, answer) in &witness.answers {
        let mut text = answer.text();
        for (name, value) in &answer.headers {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            // RP-Initiated Logout §2: the hint is an ID token, and goes to the provider by way of the browser.
            if step == "logout" && name == "location" {
                let hint = super::parameter(&value, "id_token_hint").expect("a hint");
                assert_eq!(claims(&hint).expect("an ID token")["aud"], CLIENT_ID);
                text.push_str(&value.replace(&hint, ""));
            } else {
                text.push_str(&value);
            }
        }
        for secret in &secrets {
            assert!(
                !text.contains(secret.as_str()),
                "{step}: {} {}",
                answer.status,
                answer.url.path()
            );
        }
        assert!(
            !text.contains("eyJ"),
            "{step}: something that looks like a JWT"
        );
    }
    // What the browser keeps is opaque and short.
    for cookie in witness.client.jar().cookies() {
        assert!(
            cookie.value.len() < 512 && !cookie.value.contains('.'),
            "{}",
            cookie.name
        );
    }
}

/// And the upstream gets the access token alone: neither cookies of ours nor another token.
#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_gets_the_access_token_alone() {
    let stage = Stage::new();
    let client = stage.signed_in().await;
    go(client
        .get(stage.url("/hello"))
        .header("authorization", "Bearer mine"))
    .await;
    let seen = stage.echo.last().expect("forwarded");
    assert_eq!(seen.header_all("authorization").len(), 1);
    let token = seen.bearer().expect("a token").to_owned();
    assert_eq!(claims(&token).expect("a JWT")["aud"], "echo");
    assert_eq!(seen.header("cookie"), None);
    let rest: String = seen
        .headers
        .iter()
        .filter(|(name, _)| name != "authorization")
        .map(|(_, value)| value.as_str())
        .collect();
    for secret in stage.provider.issued_secrets() {
        assert!(!rest.contains(&secret));
    }
}
