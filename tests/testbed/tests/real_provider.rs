//! Runs the whole code flow at the real provider with a client that has no browser: what the suites build on, works.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use daypass_testbed::client::{Client, Response};
use daypass_testbed::node::{RealOptions, RealProvider};
use daypass_testbed::provider::{CLIENT_ID, encode, random, verify};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use url::Url;

const CALLBACK: &str = "http://127.0.0.1:9/oauth2/callback";

async fn post(provider: &RealProvider, path: &str, fields: &[(&str, &str)]) -> Response {
    let basic = STANDARD.encode(format!("{CLIENT_ID}:{}", provider.client_secret()));
    let call = Client::new().post(format!("{}{path}", provider.issuer()));
    let call = call.header("authorization", format!("Basic {basic}"));
    call.form(fields.iter().copied())
        .send()
        .await
        .expect("an answer")
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one journey, told in its order")]
async fn a_user_signs_in_refreshes_and_signs_out_at_the_real_provider() {
    let provider = RealProvider::start(&RealOptions::for_daypass("http://127.0.0.1:9"));
    let client = Client::new();
    let metadata = client.get(format!(
        "{}/.well-known/openid-configuration",
        provider.issuer()
    ));
    let metadata = metadata.send().await.expect("an answer").json();
    assert_eq!(metadata["issuer"], provider.issuer());

    // A pushed request, then the sign-in and consent forms.
    let verifier = random(32);
    let challenge = encode(digest(&SHA256, verifier.as_bytes()).as_ref());
    let fields = [
        ("response_type", "code"),
        ("client_id", CLIENT_ID),
        ("redirect_uri", CALLBACK),
        ("scope", "openid profile email offline_access"),
        ("state", "xyz"),
        ("nonce", "n-1"),
        ("code_challenge", challenge.as_str()),
        ("code_challenge_method", "S256"),
    ];
    let endpoint = Url::parse(
        metadata["pushed_authorization_request_endpoint"]
            .as_str()
            .expect("PAR"),
    )
    .expect("a URL");
    let pushed = post(&provider, endpoint.path(), &fields).await;
    assert_eq!(pushed.status, 201, "{}", pushed.text());
    let mut url = Url::parse(
        metadata["authorization_endpoint"]
            .as_str()
            .expect("an endpoint"),
    )
    .expect("a URL");
    let request_uri = pushed.json()["request_uri"]
        .as_str()
        .expect("a request_uri")
        .to_owned();
    url.query_pairs_mut()
        .extend_pairs([("client_id", CLIENT_ID), ("request_uri", &request_uri)]);
    let page = client.browse(&url).await.expect("the sign-in page");
    assert!(page.text().contains("name=\"login\""), "{}", page.text());

    // Nothing listens at the callback, so the redirect there is read and not followed.
    let code = code_from(&client, page, "jane").await;
    let fields = [
        ("grant_type", "authorization_code"),
        ("code", code.as_str()),
        ("code_verifier", verifier.as_str()),
        ("redirect_uri", CALLBACK),
    ];
    let first = post(&provider, "/token", &fields).await;
    assert_eq!(first.status, 200, "{}", first.text());
    let first = first.json();
    let keys = client
        .get(metadata["jwks_uri"].as_str().expect("keys"))
        .send()
        .await
        .expect("an answer")
        .json();
    let keys: Vec<Value> = keys["keys"].as_array().expect("a list").clone();
    let id = verify(first["id_token"].as_str().expect("an ID token"), &keys[..1])
        .expect("a good signature");
    assert_eq!(
        (&id["sub"], &id["email"], &id["nonce"]),
        (&json!("jane"), &json!("jane@example.com"), &json!("n-1"))
    );

    let user = client.get(format!("{}/me", provider.issuer()));
    let bearer = format!(
        "Bearer {}",
        first["access_token"].as_str().expect("a token")
    );
    assert_eq!(
        user.header("authorization", bearer)
            .send()
            .await
            .expect("an answer")
            .json()["sub"],
        "jane"
    );

    // Refreshing rotates; the old token presented again ends the grant.
    let refresh = async |token: &Value| {
        let token = token.as_str().expect("a refresh token");
        post(
            &provider,
            "/token",
            &[("grant_type", "refresh_token"), ("refresh_token", token)],
        )
        .await
    };
    let second = refresh(&first["refresh_token"]).await.json();
    assert_ne!(second["refresh_token"], first["refresh_token"]);
    assert_eq!(
        refresh(&first["refresh_token"]).await.json()["error"],
        "invalid_grant"
    );
    assert_eq!(
        refresh(&second["refresh_token"]).await.json()["error"],
        "invalid_grant"
    );
    // What it did is told beside its answers.
    assert!(provider.count_from(1, "grant.revoked", None) >= 1);
    let refreshed = provider.count_from(1, "grant.success", Some("refresh_token"));
    assert_eq!(refreshed, 1);

    // Sign-out asks, then leads back with the state.
    let mut url = Url::parse(
        metadata["end_session_endpoint"]
            .as_str()
            .expect("an endpoint"),
    )
    .expect("a URL");
    url.query_pairs_mut().extend_pairs([
        (
            "id_token_hint",
            first["id_token"].as_str().expect("an ID token"),
        ),
        (
            "post_logout_redirect_uri",
            "http://127.0.0.1:9/oauth2/logout/callback",
        ),
        ("state", "bye"),
    ]);
    let page = client.browse(&url).await.expect("the sign-out page");
    let form = daypass_testbed::client::Form::first(&page)
        .expect("a form")
        .fill("logout", "yes");
    let fields = form
        .fields
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let left = client
        .post(&form.action)
        .form(fields)
        .send()
        .await
        .expect("an answer");
    assert_eq!(
        left.location().as_deref(),
        Some("http://127.0.0.1:9/oauth2/logout/callback?state=bye")
    );
}

/// Fills in the provider's forms, and stops at the redirect to the client.
async fn code_from(client: &Client, page: Response, user: &str) -> String {
    let mut page = page;
    for _ in 0..20 {
        if let Some(location) = page.location() {
            let url = Url::parse(&location).expect("a URL");
            if location.starts_with(CALLBACK) {
                let code = url.query_pairs().find(|(name, _)| name == "code");
                return code
                    .unwrap_or_else(|| panic!("no code: {location}"))
                    .1
                    .into_owned();
            }
            page = client.navigate(url).send().await.expect("an answer");
        } else {
            let form = daypass_testbed::client::Form::first(&page)
                .expect("a form")
                .fill("login", user);
            let form = form.fill("password", "any");
            let fields = form
                .fields
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()));
            page = client
                .post(&form.action)
                .form(fields)
                .send()
                .await
                .expect("an answer");
        }
    }
    panic!("the provider keeps asking");
}
