//! Drives the provider with a plain client, as a relying party written by hand.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::client::{Client, Response};

const CALLBACK: &str = "http://127.0.0.1:1/callback";

/// Runs the code flow and gives the token answer.
async fn sign_in(provider: &Provider) -> Response {
    let (code, verifier) = code(provider, &[]).await;
    let fields = [
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("code_verifier", &verifier),
        ("redirect_uri", CALLBACK),
    ];
    token(provider, &fields).await
}

async fn code(provider: &Provider, extra: &[(&str, &str)]) -> (String, String) {
    let verifier = random(32);
    let challenge = encode(&sha256(verifier.as_bytes()));
    let mut url = url::Url::parse(&format!("{}/authorize", provider.issuer())).expect("a URL");
    url.query_pairs_mut()
        .extend_pairs([
            ("response_type", "code"),
            ("client_id", CLIENT_ID),
            ("redirect_uri", CALLBACK),
            ("scope", "openid offline_access"),
            ("state", "xyz"),
            ("nonce", "n-1"),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ])
        .extend_pairs(extra);
    let response = Client::new().get(url).send().await.expect("an answer");
    let back = url::Url::parse(&response.location().expect("a redirect")).expect("a URL");
    let param = |name: &str| {
        back.query_pairs()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    };
    assert_eq!(param("state").as_deref(), Some("xyz"));
    assert_eq!(param("iss"), Some(provider.issuer()));
    (param("code").expect("a code"), verifier)
}

async fn token(provider: &Provider, fields: &[(&str, &str)]) -> Response {
    try_token(provider, fields).await.expect("an answer")
}

async fn try_token(
    provider: &Provider,
    fields: &[(&str, &str)],
) -> Result<Response, crate::Failure> {
    let basic = base64::Engine::encode(
        &base64::engine::general_purpose::STANDARD,
        format!("{CLIENT_ID}:{}", provider.client_secret()),
    );
    let call = Client::new().post(format!("{}/token", provider.issuer()));
    call.header("authorization", format!("Basic {basic}"))
        .form(fields.iter().copied())
        .send()
        .await
}

async fn refresh(provider: &Provider, refresh_token: &Value) -> Response {
    let refresh_token = refresh_token.as_str().expect("a refresh token");
    token(
        provider,
        &[
            ("grant_type", "refresh_token"),
            ("refresh_token", refresh_token),
        ],
    )
    .await
}

#[tokio::test]
async fn a_code_buys_tokens_once_and_the_id_token_is_verifiable() {
    let provider = Provider::start();
    let (code, verifier) = code(&provider, &[]).await;
    let fields = [
        ("grant_type", "authorization_code"),
        ("code", code.as_str()),
        ("code_verifier", &verifier),
        ("redirect_uri", CALLBACK),
    ];
    let answer = token(&provider, &fields).await.json();
    let id = verify(
        answer["id_token"].as_str().expect("an ID token"),
        &provider.jwks(),
    )
    .expect("a good signature");
    assert_eq!(
        (&id["sub"], &id["nonce"], &id["aud"]),
        (&json!("248289761001"), &json!("n-1"), &json!(CLIENT_ID))
    );
    assert_eq!(
        token(&provider, &fields).await.json()["error"],
        "invalid_grant"
    );
    // The second attempt took the tokens of the first with it (RFC 6749 §4.1.2).
    assert_eq!(
        refresh(&provider, &answer["refresh_token"]).await.json()["error"],
        "invalid_grant"
    );
}

#[tokio::test]
async fn a_wrong_verifier_or_secret_buys_nothing() {
    let provider = Provider::start();
    let (code, _) = code(&provider, &[]).await;
    let verifier = random(32);
    let fields = [
        ("grant_type", "authorization_code"),
        ("code", code.as_str()),
        ("code_verifier", &verifier),
        ("redirect_uri", CALLBACK),
    ];
    assert_eq!(
        token(&provider, &fields).await.json()["error"],
        "invalid_grant"
    );
    let call = Client::new().post(format!("{}/token", provider.issuer()));
    let wrong = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, "shop:wrong");
    let answer = call
        .header("authorization", format!("Basic {wrong}"))
        .form(fields)
        .send()
        .await
        .expect("an answer");
    assert_eq!(
        (answer.status, answer.json()["error"].clone()),
        (401, json!("invalid_client"))
    );
}

#[tokio::test]
async fn a_refresh_token_rotates_and_its_reuse_ends_the_grant() {
    let provider = Provider::start();
    let first = sign_in(&provider).await.json();
    let second = refresh(&provider, &first["refresh_token"]).await.json();
    assert_ne!(first["refresh_token"], second["refresh_token"]);
    assert_eq!((provider.reused(), provider.active_grants()), (0, 1));
    assert_eq!(
        refresh(&provider, &first["refresh_token"]).await.json()["error"],
        "invalid_grant"
    );
    assert_eq!((provider.reused(), provider.active_grants()), (1, 0));
    assert_eq!(
        refresh(&provider, &second["refresh_token"]).await.json()["error"],
        "invalid_grant"
    );
    let mut presented = provider.presentations();
    presented.sort_unstable();
    assert_eq!(presented, [1, 2]);
    assert_eq!(provider.count(Endpoint::Refresh), 3);
}

#[tokio::test]
async fn rotation_with_grace_forgives_a_lost_answer() {
    let provider =
        Provider::with(|settings| settings.rotation = Rotation::Grace(Duration::from_mins(1)));
    let first = sign_in(&provider).await.json();
    provider.fault(Endpoint::Refresh, Fault::DropAfter);
    let text = first["refresh_token"].as_str().expect("a refresh token");
    let fields = [("grant_type", "refresh_token"), ("refresh_token", text)];
    assert!(try_token(&provider, &fields).await.is_err());
    assert_eq!(
        refresh(&provider, &first["refresh_token"]).await.status,
        200
    );
    assert_eq!((provider.reused(), provider.active_grants()), (1, 1));
}

#[tokio::test]
async fn a_lost_answer_has_rotated_the_token() {
    for fault in [Fault::DropAfter, Fault::TruncatedBody] {
        let provider = Provider::start();
        let first = sign_in(&provider).await.json();
        provider.fault(Endpoint::Refresh, fault.clone());
        let text = first["refresh_token"].as_str().expect("a refresh token");
        let fields = [("grant_type", "refresh_token"), ("refresh_token", text)];
        assert!(try_token(&provider, &fields).await.is_err(), "{fault:?}");
        assert_eq!(
            refresh(&provider, &first["refresh_token"]).await.status,
            400,
            "{fault:?}"
        );
    }
}

#[tokio::test]
async fn faults_that_do_not_process_leave_the_token_alone() {
    for (fault, status) in [
        (Fault::DropBefore, None),
        (Fault::status(500), Some(500)),
        (Fault::Html, Some(200)),
        (Fault::RetryAfter(7), Some(429)),
        (Fault::oauth("temporarily_unavailable"), Some(400)),
        (Fault::NoRefreshToken, Some(200)),
    ] {
        let provider = Provider::start();
        let first = sign_in(&provider).await.json();
        provider.fault(Endpoint::Refresh, fault.clone());
        let text = first["refresh_token"].as_str().expect("a refresh token");
        let answer = try_token(
            &provider,
            &[("grant_type", "refresh_token"), ("refresh_token", text)],
        )
        .await;
        assert_eq!(answer.ok().map(|answer| answer.status), status, "{fault:?}");
        assert_eq!(
            refresh(&provider, &first["refresh_token"]).await.status,
            200,
            "{fault:?}"
        );
    }
}

#[tokio::test]
async fn a_stalled_request_answers_when_released() {
    let provider = Provider::start();
    let first = sign_in(&provider).await.json();
    provider.fault(Endpoint::Refresh, Fault::Stall);
    let waiting = refresh(&provider, &first["refresh_token"]);
    let releasing = async {
        while provider.count(Endpoint::Refresh) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        provider.release();
    };
    assert_eq!(tokio::join!(waiting, releasing).0.status, 200);
}

#[tokio::test]
async fn hostile_id_tokens_are_what_they_say() {
    let provider = Provider::start();
    for (fault, verifiable) in [
        (Fault::WrongNonce, true),
        (Fault::WrongAudience, true),
        (Fault::ExpiredIdToken, true),
        (Fault::AlgNone, false),
        (Fault::BadSignature, false),
        (Fault::UnknownKey, false),
        (Fault::HmacWithPublicKey, false),
    ] {
        provider.fault(Endpoint::Token, fault.clone());
        let answer = sign_in(&provider).await.json();
        let token = answer["id_token"].as_str().expect("an ID token");
        assert_eq!(
            verify(token, &provider.jwks()).is_some(),
            verifiable,
            "{fault:?}"
        );
    }
    provider.fault(Endpoint::Token, Fault::MissingIdToken);
    assert_eq!(sign_in(&provider).await.json().get("id_token"), None);
}

#[tokio::test]
async fn a_stopped_provider_refuses_and_comes_back_with_its_memory() {
    let mut provider = Provider::start();
    let first = sign_in(&provider).await.json();
    provider.stop();
    assert!(try_token(&provider, &[]).await.is_err());
    provider.resume();
    assert_eq!(
        refresh(&provider, &first["refresh_token"]).await.status,
        200
    );
}

#[tokio::test]
async fn a_client_may_sign_its_way_in_but_each_assertion_counts_once() {
    let provider = Provider::start();
    let key = ClientKey::generate();
    provider.register(Registration {
        client_id: "signer".to_owned(),
        auth: Auth::PrivateKey(provider.jwks()[0].clone()),
        redirect_uris: Vec::new(),
        post_logout_redirect_uris: Vec::new(),
    });
    assert!(key.pem.starts_with("-----BEGIN PRIVATE KEY-----\n"));
    // The provider's own key stands in for the client's: what is tested is the rules for the assertion.
    let now = unix_now();
    let claims = json!({"iss": "signer", "sub": "signer", "aud": provider.issuer(), "exp": now + 60, "jti": "1"});
    let assertion = provider.sign("JWT", &claims);
    let fields = [
        ("grant_type", "authorization_code"),
        ("code", "none"),
        (
            "client_assertion_type",
            "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        ),
        ("client_assertion", assertion.as_str()),
    ];
    let url = format!("{}/token", provider.issuer());
    let mut errors = Vec::new();
    for _ in 0..2 {
        let answer = Client::new()
            .post(&url)
            .form(fields)
            .send()
            .await
            .expect("an answer");
        errors.push(answer.json()["error"].clone());
    }
    assert_eq!(errors, ["invalid_grant", "invalid_client"]);
    assert_eq!(
        provider.requests(Endpoint::Token)[0].client_auth,
        "private_key_jwt"
    );
}

#[tokio::test]
async fn logout_takes_an_own_hint_only_and_brings_the_state_back() {
    let provider = Provider::start();
    let answer = sign_in(&provider).await.json();
    let hint = answer["id_token"].as_str().expect("an ID token");
    for (hint, status) in [(hint, 303), ("e30.e30.AAAA", 400)] {
        let mut url =
            url::Url::parse(&format!("{}/end-session", provider.issuer())).expect("a URL");
        let pairs = [
            ("id_token_hint", hint),
            ("post_logout_redirect_uri", CALLBACK),
            ("state", "s"),
        ];
        url.query_pairs_mut().extend_pairs(pairs);
        let answer = Client::new().get(url).send().await.expect("an answer");
        assert_eq!(answer.status, status);
        if status == 303 {
            assert_eq!(
                answer.location().as_deref(),
                Some("http://127.0.0.1:1/callback?state=s")
            );
        }
    }
    assert_eq!(provider.active_grants(), 0);
}

#[tokio::test]
async fn the_form_signs_in_remembers_and_forgets() {
    let provider = Provider::with(|settings| settings.login = Login::Form);
    let browser = Client::new();
    let query = format!(
        "response_type=code&client_id={CLIENT_ID}&redirect_uri={CALLBACK}&scope=openid&state=s\
         &code_challenge={}&code_challenge_method=S256",
        random(32)
    );
    let url = format!("{}/authorize?{query}", provider.issuer());
    let page = browser.navigate(&url).send().await.expect("an answer");
    assert!(page.status == 200 && page.text().contains("Jane Doe"));
    let form = format!("{query}&username=john");
    let chosen = browser
        .post(format!("{}/authorize", provider.issuer()))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form)
        .send()
        .await
        .expect("an answer");
    assert_eq!(chosen.status, 303);
    assert_eq!(
        browser
            .navigate(&url)
            .send()
            .await
            .expect("an answer")
            .status,
        303
    );
    browser
        .get(format!("{}/end-session", provider.issuer()))
        .send()
        .await
        .expect("an answer");
    assert_eq!(
        browser
            .navigate(&url)
            .send()
            .await
            .expect("an answer")
            .status,
        200
    );
}

#[tokio::test]
async fn pushed_requests_are_redeemed_once_and_can_be_demanded() {
    let provider = Provider::with(|settings| settings.par = Par::Required);
    let basic = base64::Engine::encode(
        &base64::engine::general_purpose::STANDARD,
        format!("{CLIENT_ID}:{}", provider.client_secret()),
    );
    let challenge = random(32);
    let fields = [
        ("response_type", "code"),
        ("client_id", CLIENT_ID),
        ("redirect_uri", CALLBACK),
        ("scope", "openid"),
        ("code_challenge", challenge.as_str()),
        ("code_challenge_method", "S256"),
    ];
    let pushed = Client::new()
        .post(format!("{}/par", provider.issuer()))
        .header("authorization", format!("Basic {basic}"))
        .form(fields)
        .send()
        .await
        .expect("an answer");
    assert_eq!(pushed.status, 201);
    let uri = pushed.json()["request_uri"]
        .as_str()
        .expect("a request_uri")
        .to_owned();
    let url = format!("{}/authorize?client_id={CLIENT_ID}", provider.issuer());
    let ask = async |url: &str| {
        Client::new()
            .get(url)
            .send()
            .await
            .expect("an answer")
            .status
    };
    assert_eq!(ask(&url).await, 400);
    let with_uri = format!("{url}&request_uri={uri}");
    assert_eq!((ask(&with_uri).await, ask(&with_uri).await), (303, 400));
}

#[tokio::test]
async fn the_journal_tells_who_showed_which_token_and_what_came_of_it() {
    let provider = Provider::with(|settings| settings.login = Login::Hint);
    let secret = provider.client_secret().to_owned();
    provider.register(Registration {
        client_id: CLIENT_ID.to_owned(),
        auth: Auth::AnyBasic(vec!["another-replica".to_owned(), secret]),
        redirect_uris: Vec::new(),
        post_logout_redirect_uris: Vec::new(),
    });
    let (code, verifier) = code(&provider, &[("login_hint", "anna")]).await;
    let fields = [
        ("grant_type", "authorization_code"),
        ("code", &*code),
        ("code_verifier", &*verifier),
        ("redirect_uri", CALLBACK),
    ];
    let first = token(&provider, &fields).await.json()["refresh_token"].clone();
    provider.fault(Endpoint::Refresh, Fault::status(503));
    assert_eq!(refresh(&provider, &first).await.status, 503);
    let second = refresh(&provider, &first).await.json()["refresh_token"].clone();
    refresh(&provider, &first).await;
    refresh(&provider, &second).await;
    let journal = provider.journal();
    let verdicts: Vec<_> = journal.iter().map(|shown| shown.verdict).collect();
    let want = [
        Verdict::Unprocessed,
        Verdict::Accepted,
        Verdict::Reused,
        Verdict::Refused,
    ];
    assert_eq!(verdicts, want.map(Some));
    assert!(journal.iter().all(|shown| shown.user == "anna"
        && shown.sender == 1
        && shown.ended.is_some()
        && !shown.cut));
    let same: Vec<_> = journal
        .iter()
        .map(|shown| shown.token == journal[0].token)
        .collect();
    assert_eq!(same, [true, true, true, false]);
}
