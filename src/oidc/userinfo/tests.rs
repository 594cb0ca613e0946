//! Shows which UserInfo answers count.

use serde_json::json;

use super::super::tests::Scene;
use super::super::tests::keys::{claims, es256, new_es256};
use super::super::tests::server::Reply;
use super::*;

#[tokio::test]
async fn an_answer_counts_only_when_it_is_about_the_user() {
    // OIDC-12, OIDC-13.
    let scene = Scene::new().await;
    let issuer = scene.server.url();
    let jwt = |token: String| Reply::new(200, "application/jwt; charset=utf-8", token);
    let signed = |name: &str, value: Value| {
        let mut all = claims(&issuer);
        all.insert(name.into(), value);
        jwt(es256().sign(&all))
    };
    let subject = "248289761001";
    let good = json!({"sub": subject, "name": "Jane", "email": null});
    for (name, reply, accepted) in [
        ("JSON", Reply::json(&good), true),
        (
            "JSON, vague type",
            Reply::new(200, "text/plain", good.to_string()),
            true,
        ),
        (
            "another subject",
            Reply::json(&json!({"sub": "mallory"})),
            false,
        ),
        ("no subject", Reply::json(&json!({"name": "Jane"})), false),
        (
            "subject no text",
            Reply::json(&json!({"sub": 248_289_761_001_u64})),
            false,
        ),
        (
            "a page",
            Reply::new(200, "text/html", good.to_string()),
            false,
        ),
        ("signed", signed("name", json!("Jane")), true),
        ("signed, without audience", signed("aud", json!(null)), true),
        (
            "signed, another audience",
            signed("aud", json!("other")),
            false,
        ),
        (
            "signed, another issuer",
            signed("iss", json!("https://evil.example")),
            false,
        ),
        (
            "signed, another subject",
            signed("sub", json!("mallory")),
            false,
        ),
        (
            "signed by another",
            jwt(new_es256("es").sign(&claims(&issuer))),
            false,
        ),
        ("JSON that says it is signed", jwt(good.to_string()), false),
        (
            "token not accepted",
            Reply::json(&json!({"error": "invalid_token"})).status(401),
            false,
        ),
    ] {
        scene.server.next("/userinfo", reply);
        let token = AccessToken::new("day-pass");
        let got = scene.provider.ask_userinfo(&token, subject).await;
        assert_eq!(got.is_ok(), accepted, "{name}: {got:?}");
        if let Ok(claims) = got {
            assert_eq!(claims["name"], "Jane", "{name}");
            assert!(!claims.contains_key("email"), "{name}: OIDC-18");
        }
    }
    let sent = scene.server.received("/userinfo").remove(0);
    assert_eq!(sent.method, "GET");
    assert_eq!(sent.headers["authorization"], "Bearer day-pass");
}

#[tokio::test]
async fn a_provider_without_the_endpoint_says_so() {
    let scene = Scene::with(
        |_| {},
        |m| {
            m.remove("userinfo_endpoint");
        },
    )
    .await;
    let token = AccessToken::new("day-pass");
    let error = scene.provider.ask_userinfo(&token, "a").await.unwrap_err();
    assert!(matches!(error, CallError::Metadata(_)), "{error}");
}
