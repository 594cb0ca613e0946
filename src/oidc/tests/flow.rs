//! The facade from end to end: one login, one refresh, one logout.

use serde_json::json;

use super::keys::{claims, es256};
use super::server::Reply;
use super::*;
use crate::oidc::{AuthorizationRequest, Clearance, Expectations, Revocable};
use crate::secret::{AccessToken, AuthorizationCode, CodeVerifier, Nonce, RefreshToken};

#[tokio::test]
async fn a_login_a_refresh_and_a_logout() {
    let scene = Scene::new().await;
    let provider = &scene.provider;
    let issuer = scene.server.url();

    let url = provider
        .authorization_url(&AuthorizationRequest {
            redirect_uri: "https://shop.example.com/oauth2/callback",
            state: "sealed",
            nonce: &Nonce::new("n-0S6"),
            verifier: &CodeVerifier::new("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"),
            extra: &[],
        })
        .await
        .unwrap();
    assert!(
        url.as_str()
            .starts_with(&format!("{issuer}/authorize?tenant=1&"))
    );

    let id_token = es256().sign(&claims(&issuer));
    scene.server.next(
        "/token",
        Reply::json(&json!({
            "access_token": "day-pass", "token_type": "Bearer", "expires_in": 60,
            "refresh_token": "season-ticket", "id_token": id_token,
        })),
    );
    let tokens = provider
        .exchange_code(
            &AuthorizationCode::new("code"),
            &CodeVerifier::new("verifier"),
            "https://shop.example.com/oauth2/callback",
        )
        .await
        .unwrap();
    let first = provider
        .verify_id_token(
            tokens.id_token.as_ref().unwrap(),
            &Expectations {
                nonce: Some("n-0S6"),
                access_token: Some(&tokens.access_token),
                ..Expectations::default()
            },
        )
        .await
        .unwrap();
    assert_eq!(first["name"], "Jane");
    assert!(!first.contains_key("middle_name"), "OIDC-18");

    scene.server.next(
        "/token",
        Reply::json(&json!({"access_token": "next", "token_type": "bearer", "expires_in": "60"})),
    );
    let refreshed = provider
        .refresh(tokens.refresh_token.as_ref().unwrap(), &Clearance::always())
        .await
        .unwrap();
    assert_eq!(refreshed.access_token.expose(), "next");
    assert!(refreshed.refresh_token.is_none());
    let sent = scene.server.received("/token").pop().unwrap();
    assert_eq!(
        sent.form(),
        [
            ("grant_type".to_owned(), "refresh_token".to_owned()),
            ("refresh_token".to_owned(), "season-ticket".to_owned()),
        ]
    );

    scene.server.next("/revoke", Reply::new(200, "", ""));
    provider
        .revoke(Revocable::Refresh(tokens.refresh_token.as_ref().unwrap()))
        .await
        .unwrap();
    let url = provider
        .end_session_url(
            tokens.id_token.as_ref(),
            "https://shop.example.com/oauth2/logout/callback",
            "s",
        )
        .await
        .unwrap()
        .unwrap();
    // LOGOUT-02.
    let query: Vec<_> = url.query_pairs().into_owned().collect();
    assert_eq!(query.len(), 4);
    assert_eq!(query[0], ("id_token_hint".to_owned(), id_token));
    assert_eq!(query[1], ("client_id".to_owned(), "shop".to_owned()));
    assert_eq!(query[2].0, "post_logout_redirect_uri");
    assert_eq!(query[3], ("state".to_owned(), "s".to_owned()));

    // One call for the metadata and one for the keys served all of it.
    assert_eq!(scene.called("discovery", "ok"), 1);
    assert_eq!(scene.called("jwks", "ok"), 1);
    assert_eq!(scene.called("token", "ok"), 2);
    assert_eq!(scene.called("revocation", "ok"), 1);
}

#[tokio::test]
async fn debug_shows_no_secret() {
    let scene = Scene::new().await;
    let text = format!("{:?} {:?}", scene.provider, scene.provider.client);
    assert!(
        text.contains("provider") && !text.contains("s:e+c%r"),
        "{text}"
    );
}

#[tokio::test]
async fn no_log_line_at_any_level_holds_a_secret() {
    let log = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let sink = Log(Arc::clone(&log));
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || sink.clone())
        .finish();
    // With a single subscriber in the process, tracing lets whatever thread comes first decide whether a line is
    // wanted; with two it asks both.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let _guard = tracing::subscriber::set_default(subscriber);
    let scene = Scene::with(
        |config| config.client_auth = ClientAuth::SecretPost(ClientSecret::new("s3cr3t-client")),
        |_| {},
    )
    .await;
    let answer = json!({"access_token": "s3cr3t-day-pass", "token_type": "Bearer"});
    scene.server.next("/token", Reply::json(&answer));
    scene
        .server
        .next("/token", Reply::json(&answer).cut_short());
    let error = json!({"error": "invalid_grant", "error_description": "s3cr3t-description"});
    scene.server.next("/token", Reply::json(&error).status(400));
    let token = RefreshToken::new("s3cr3t-season-ticket");
    for _ in 0..3 {
        let _ = scene.provider.refresh(&token, &Clearance::always()).await;
    }
    let pass = AccessToken::new("s3cr3t-day-pass");
    scene.provider.userinfo(&pass, "a").await.unwrap_err();
    let text = String::from_utf8(log.lock().clone()).unwrap();
    assert!(text.contains("called the provider"), "{text}");
    assert!(!text.contains("s3cr3t"), "{text}");
}

#[derive(Clone)]
struct Log(Arc<parking_lot::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_cannot_be_used_is_told_at_once() {
    type Change = fn(&mut model::Provider);
    let rows: [(&str, Change, &str); 6] = [
        (
            "no URL",
            |c| c.issuer = "login.example.com".into(),
            "no URL",
        ),
        (
            "plain http",
            |c| c.issuer = "http://login.example.com".into(),
            "plain http",
        ),
        (
            "query",
            |c| c.issuer = "https://login.example.com/?a=b".into(),
            "query",
        ),
        (
            "fragment",
            |c| c.issuer = "https://login.example.com/#a".into(),
            "fragment",
        ),
        (
            "password",
            |c| c.issuer = "https://u:p@login.example.com/".into(),
            "user name",
        ),
        (
            "bad CA",
            |c| c.ca_pem = Some(b"nothing".to_vec()),
            "CA file",
        ),
    ];
    for (name, change, want) in rows {
        let mut config = config("https://login.example.com");
        change(&mut config);
        let metrics = Arc::new(Metrics::new().unwrap());
        let problem = Provider::new(Arc::new(config), ManualClock::at(NOW), metrics).unwrap_err();
        assert!(problem.contains(want), "{name}: {problem}");
    }
}
