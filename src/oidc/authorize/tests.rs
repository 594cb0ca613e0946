//! Shows what the browser carries to the provider.

use std::collections::HashMap;

use serde_json::json;

use super::super::tests::Scene;
use super::super::tests::server::Reply;
use super::*;
use crate::secret::{CodeVerifier, Nonce};

/// RFC 7636 §B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

async fn authorize(scene: &Scene, extra: &[(String, String)]) -> Result<Url, CallError> {
    let request = AuthorizationRequest {
        redirect_uri: "https://shop.example.com/oauth2/callback?a=b c",
        state: "sealed+/=",
        nonce: &Nonce::new("n-0S6"),
        verifier: &CodeVerifier::new(VERIFIER),
        extra,
    };
    scene.provider.authorize(&request).await
}

fn query(url: &Url) -> HashMap<String, String> {
    let pairs: Vec<_> = url.query_pairs().into_owned().collect();
    let map: HashMap<_, _> = pairs.iter().cloned().collect();
    assert_eq!(map.len(), pairs.len(), "no parameter is there twice: {url}");
    map
}

#[tokio::test]
async fn the_browser_carries_everything_that_binds_the_flow() {
    // FLOW-01, FLOW-02, FLOW-03, FLOW-04.
    let scene = Scene::with(
        |config| {
            for (name, value) in [("kc_idp_hint", "acme"), ("prompt", "consent")] {
                config.authorize_params.insert(name.into(), value.into());
            }
        },
        |_| {},
    )
    .await;
    let extra = [
        ("prompt".to_owned(), "login".to_owned()),
        ("login_hint".to_owned(), "jane&admin=1".to_owned()),
        // Nothing from outside replaces what makes the flow safe, whatever a caller lets through.
        ("state".to_owned(), "evil".to_owned()),
        ("code_challenge_method".to_owned(), "plain".to_owned()),
    ];
    let url = authorize(&scene, &extra).await.unwrap();
    assert_eq!(url.path(), "/authorize");
    let got = query(&url);
    let want = [
        ("tenant", "1"),
        ("response_type", "code"),
        ("client_id", "shop"),
        (
            "redirect_uri",
            "https://shop.example.com/oauth2/callback?a=b c",
        ),
        ("scope", "openid profile"),
        ("state", "sealed+/="),
        ("nonce", "n-0S6"),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
        ("kc_idp_hint", "acme"),
        ("prompt", "login"),
        ("login_hint", "jane&admin=1"),
    ];
    let want: HashMap<_, _> = want
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    assert_eq!(got, want);
    assert!(!url.as_str().contains(VERIFIER));
}

/// Adds a PAR endpoint to the metadata.
fn offer_par(metadata: &mut super::super::Claims) {
    let issuer = metadata["issuer"].as_str().unwrap_or_default();
    let url = format!("{issuer}/par");
    metadata.insert("pushed_authorization_request_endpoint".into(), url.into());
}

fn demand_par(metadata: &mut super::super::Claims) {
    metadata.insert("require_pushed_authorization_requests".into(), true.into());
}

#[tokio::test]
async fn requests_are_pushed_when_the_provider_offers_it_or_we_insist() {
    // PAR-01.
    #[derive(Debug, PartialEq)]
    enum Way {
        Pushed,
        Plain,
        Refused,
    }
    for (par, offered, demanded, want) in [
        (Par::Auto, false, false, Way::Plain),
        (Par::Auto, true, false, Way::Pushed),
        (Par::Auto, true, true, Way::Pushed),
        (Par::Auto, false, true, Way::Refused),
        (Par::Required, true, false, Way::Pushed),
        (Par::Required, false, false, Way::Refused),
        (Par::Off, true, false, Way::Plain),
        (Par::Off, true, true, Way::Refused),
    ] {
        let scene = Scene::with(
            |config| config.par = par,
            |metadata| {
                if offered {
                    offer_par(metadata);
                }
                if demanded {
                    demand_par(metadata);
                }
            },
        )
        .await;
        let pushed = json!({"request_uri": "urn:example:1", "expires_in": 60});
        scene.server.next("/par", Reply::json(&pushed).status(201));
        let got = match authorize(&scene, &[]).await {
            Ok(url) if query(&url).contains_key("request_uri") => Way::Pushed,
            Ok(_) => Way::Plain,
            Err(CallError::Metadata(_)) => Way::Refused,
            Err(error) => panic!("{error}"),
        };
        assert_eq!(got, want, "{par:?} {offered} {demanded}");
    }
}

#[tokio::test]
async fn a_pushed_request_leaves_nothing_for_the_browser_to_carry() {
    // PAR-02, PAR-03.
    let scene = Scene::with(|_| {}, offer_par).await;
    let pushed = json!({"request_uri": "urn:ietf:params:oauth:request_uri:6esc", "expires_in": 60});
    scene.server.next("/par", Reply::json(&pushed).status(201));
    let url = authorize(&scene, &[]).await.unwrap();
    let mut got = query(&url);
    assert_eq!(
        got.remove("tenant").as_deref(),
        Some("1"),
        "part of the endpoint"
    );
    assert_eq!(got.remove("client_id").as_deref(), Some("shop"));
    assert_eq!(
        got.remove("request_uri").as_deref(),
        Some("urn:ietf:params:oauth:request_uri:6esc")
    );
    assert!(got.is_empty(), "{got:?}");
    let sent = scene.server.received("/par").remove(0);
    assert!(sent.basic().is_some());
    for (name, value) in [
        ("client_id", "shop"),
        ("response_type", "code"),
        ("state", "sealed+/="),
        ("nonce", "n-0S6"),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
    ] {
        assert_eq!(sent.parameter(name).as_deref(), Some(value), "{name}");
    }
}

#[tokio::test]
async fn a_push_that_fails_is_not_replaced_by_an_open_request() {
    for (name, reply) in [
        (
            "refused",
            Reply::json(&json!({"error": "invalid_request"})).status(400),
        ),
        ("down", Reply::new(503, "text/html", "")),
        ("no request_uri", Reply::json(&json!({})).status(201)),
        (
            "empty request_uri",
            Reply::json(&json!({"request_uri": ""})).status(201),
        ),
        ("a page", Reply::new(200, "text/html", "<h1>Hello</h1>")),
    ] {
        let scene = Scene::with(|_| {}, offer_par).await;
        scene.server.next("/par", reply);
        assert!(authorize(&scene, &[]).await.is_err(), "{name}");
    }
}

#[tokio::test]
async fn the_metadata_tell_whether_iss_must_come_back() {
    // FLOW-09.
    for (value, want) in [
        (json!(true), true),
        (json!(false), false),
        (json!(null), false),
    ] {
        let scene = Scene::with(
            |_| {},
            |m| {
                m.insert(
                    "authorization_response_iss_parameter_supported".into(),
                    value,
                );
            },
        )
        .await;
        assert_eq!(scene.provider.iss_parameter().await.unwrap().required, want);
    }
}
