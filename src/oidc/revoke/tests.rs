//! Shows how tokens are given back.

use serde_json::json;

use super::super::tests::Scene;
use super::super::tests::server::Reply;
use super::*;
use crate::secret::{AccessToken, RefreshToken};

#[tokio::test]
async fn a_token_is_given_back() {
    // LOGOUT-18.
    let error = |status, code: &str| Reply::json(&json!({"error": code})).status(status);
    for (name, reply, good) in [
        ("empty answer", Reply::new(200, "", ""), true),
        (
            "any answer",
            Reply::new(200, "text/html", "<h1>Gone</h1>"),
            true,
        ),
        ("no content", Reply::new(204, "", ""), true),
        (
            "kind not supported",
            error(400, "unsupported_token_type"),
            true,
        ),
        ("not us", error(401, "invalid_client"), false),
        ("down", Reply::new(503, "text/html", ""), false),
    ] {
        let scene = Scene::new().await;
        scene.server.next("/revoke", reply);
        let token = RefreshToken::new("season-ticket");
        let got = scene.provider.give_back(&Revocable::Refresh(&token)).await;
        assert_eq!(got.is_ok(), good, "{name}: {got:?}");
        let sent = scene.server.received("/revoke").remove(0);
        assert!(sent.basic().is_some(), "{name}");
        assert_eq!(sent.parameter("token").as_deref(), Some("season-ticket"));
        assert_eq!(
            sent.parameter("token_type_hint").as_deref(),
            Some("refresh_token")
        );
    }
    let scene = Scene::new().await;
    scene.server.next("/revoke", Reply::new(200, "", ""));
    let token = AccessToken::new("day-pass");
    scene
        .provider
        .give_back(&Revocable::Access(&token))
        .await
        .unwrap();
    let sent = scene.server.received("/revoke").remove(0);
    assert_eq!(
        sent.parameter("token_type_hint").as_deref(),
        Some("access_token")
    );
}

#[tokio::test]
async fn without_the_endpoint_there_is_nothing_to_do() {
    let scene = Scene::with(
        |_| {},
        |m| {
            m.remove("revocation_endpoint");
            m.remove("end_session_endpoint");
        },
    )
    .await;
    let token = RefreshToken::new("season-ticket");
    scene
        .provider
        .give_back(&Revocable::Refresh(&token))
        .await
        .unwrap();
    // LOGOUT-04.
    let url = scene
        .provider
        .end_session(None, "https://a.example/", "s")
        .await
        .unwrap();
    assert_eq!(url, None);
}
