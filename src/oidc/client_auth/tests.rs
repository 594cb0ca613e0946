//! Shows how we prove who we are.

use std::collections::HashSet;
use std::sync::Arc;

use jsonwebtoken::DecodingKey;
use serde_json::{Value, json};

use super::super::jws::Jws;
use super::super::tests::server::Reply;
use super::super::tests::{NOW, Scene};
use super::*;
use crate::clock::ManualClock;
use crate::oidc::Clearance;
use crate::secret::RefreshToken;

/// RFC 8037 §A.1.
const KEY: &str = r#"{"kty":"OKP","crv":"Ed25519","kid":"ed",
    "d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

/// A scene whose token endpoint was called once with `auth`.
async fn called_with(auth: model::ClientAuth) -> Scene {
    let scene = Scene::with(|config| config.client_auth = auth, |_| {}).await;
    let good = json!({"access_token": "a", "token_type": "Bearer"});
    scene.server.always("/token", Reply::json(&good));
    scene
        .provider
        .refresh(&RefreshToken::new("season-ticket"), &Clearance::always())
        .await
        .unwrap();
    scene
}

#[tokio::test]
async fn credentials_are_sent_in_exactly_one_way() {
    // CAUTH-02, REFRESH-40.
    let secret = || ClientSecret::new("s:e+c%r ü");
    for (name, auth, basic, names) in [
        (
            "basic",
            model::ClientAuth::SecretBasic(secret()),
            // CAUTH-03: urlencoded before base64.
            Some("shop:s%3Ae%2Bc%25r+%C3%BC"),
            vec![],
        ),
        (
            "post",
            model::ClientAuth::SecretPost(secret()),
            None,
            vec!["client_secret", "client_id"],
        ),
        ("none", model::ClientAuth::None, None, vec!["client_id"]),
        (
            "key",
            model::ClientAuth::PrivateKeyJwt(model::ClientKey::parse(KEY).unwrap()),
            None,
            vec!["client_assertion_type", "client_assertion", "client_id"],
        ),
    ] {
        let scene = called_with(auth).await;
        let sent = scene.server.received("/token").remove(0);
        assert_eq!(sent.method, "POST", "{name}");
        assert_eq!(
            sent.headers["content-type"],
            "application/x-www-form-urlencoded"
        );
        assert_eq!(sent.basic().as_deref(), basic, "{name}");
        let got: Vec<_> = sent
            .form()
            .into_iter()
            .map(|(name, _)| name)
            .skip(2)
            .collect();
        assert_eq!(got, names, "{name}");
    }
}

#[tokio::test]
async fn an_assertion_is_for_one_provider_one_request_and_one_minute() {
    // CAUTH-04, CAUTH-05.
    let scene = called_with(model::ClientAuth::PrivateKeyJwt(
        model::ClientKey::parse(KEY).unwrap(),
    ))
    .await;
    let again = RefreshToken::new("season-ticket");
    scene
        .provider
        .refresh(&again, &Clearance::always())
        .await
        .unwrap();
    let public = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    let public = DecodingKey::from_ed_components(public).unwrap();
    let mut ids = HashSet::new();
    for sent in scene.server.received("/token") {
        assert_eq!(
            sent.parameter("client_assertion_type").unwrap(),
            "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        );
        let assertion = sent.parameter("client_assertion").unwrap();
        let jws = Jws::parse(&assertion).unwrap();
        assert!(jws.signed_by(&public));
        assert_eq!(jws.kid.as_deref(), Some("ed"));
        let mut claims = jws.claims().unwrap();
        let id = claims.remove("jti").unwrap();
        assert!(ids.insert(id.as_str().unwrap().to_owned()), "unique");
        let want = json!({
            "iss": "shop", "sub": "shop", "aud": scene.server.url(),
            "iat": NOW.as_secs(), "exp": NOW.as_secs() + 60,
        });
        assert_eq!(Value::Object(claims), want);
    }
    assert_eq!(ids.len(), 2);
}

#[tokio::test]
async fn a_key_the_provider_cannot_check_is_not_tried() {
    let scene = Scene::with(
        |config| {
            config.client_auth =
                model::ClientAuth::PrivateKeyJwt(model::ClientKey::parse(KEY).unwrap());
        },
        |m| {
            let name = "token_endpoint_auth_signing_alg_values_supported";
            m.insert(name.into(), json!(["RS256", "PS256"]));
        },
    )
    .await;
    let token = RefreshToken::new("season-ticket");
    let error = scene
        .provider
        .refresh(&token, &Clearance::always())
        .await
        .unwrap_err();
    assert!(matches!(error, CallError::Metadata(_)), "{error}");
    assert!(scene.server.received("/token").is_empty());
}

#[test]
fn debug_shows_no_credentials() {
    for auth in [
        model::ClientAuth::SecretBasic(ClientSecret::new("s3cr3t")),
        model::ClientAuth::PrivateKeyJwt(model::ClientKey::parse(KEY).unwrap()),
    ] {
        let mut config = super::super::tests::config("https://a.example");
        config.client_auth = auth;
        let client = Client::new(&config, Arc::clone(&ManualClock::at(NOW)) as _);
        let text = format!("{client:?}");
        assert!(!text.contains("s3cr3t") && !text.contains("nWGx"), "{text}");
    }
    let value = basic("shop", &ClientSecret::new("s3cr3t")).unwrap();
    assert_eq!(format!("{value:?}"), "Sensitive");
}
