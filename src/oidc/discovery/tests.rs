//! Shows which metadata are believed, and where they are looked for.

use serde_json::json;

use super::super::tests::server::{Reply, Server};
use super::super::tests::{Scene, config, metadata, object};
use super::*;
use crate::oidc::AuthorizationRequest;
use crate::secret::{CodeVerifier, Nonce};

const ISSUER: &str = "https://login.example.com/realms/acme";

/// Metadata of [`ISSUER`] with some members replaced.
fn with(members: Value) -> Claims {
    let mut document = metadata(ISSUER);
    document.extend(object(members));
    document
}

#[test]
fn metadata_are_believed_only_when_every_rule_holds() {
    let endpoint = |url: &str| with(json!({ "token_endpoint": url }));
    let rows = [
        ("good", with(json!({})), ""),
        (
            "null counts as absent",
            with(json!({"revocation_endpoint": null})),
            "",
        ),
        (
            "another host",
            endpoint("https://elsewhere.example/token"),
            "",
        ),
        (
            "loopback over http",
            endpoint("http://127.0.0.1:9/token"),
            "",
        ),
        ("loopback v6", endpoint("http://[::1]:9/token"), ""),
        ("localhost", endpoint("http://localhost:9/token"), ""),
        // META-01: byte for byte.
        (
            "another issuer",
            with(json!({"issuer": "https://evil.example"})),
            "issuer",
        ),
        (
            "trailing slash",
            with(json!({"issuer": format!("{ISSUER}/")})),
            "issuer",
        ),
        (
            "upper case",
            with(json!({"issuer": "https://LOGIN.example.com/realms/acme"})),
            "issuer",
        ),
        (
            "default port",
            with(json!({"issuer": "https://login.example.com:443/realms/acme"})),
            "issuer",
        ),
        ("no issuer", with(json!({"issuer": null})), "issuer"),
        (
            "list of issuers",
            with(json!({"issuer": [ISSUER]})),
            "issuer",
        ),
        // META-03.
        (
            "http endpoint",
            endpoint("http://login.example.com/token"),
            "token_endpoint",
        ),
        (
            "http, looks local",
            endpoint("http://localhost.evil.example/"),
            "token_endpoint",
        ),
        (
            "other scheme",
            endpoint("ftp://login.example.com/token"),
            "token_endpoint",
        ),
        ("relative", endpoint("/token"), "token_endpoint"),
        (
            "fragment",
            endpoint("https://login.example.com/token#a"),
            "token_endpoint",
        ),
        (
            "user info",
            endpoint("https://a@login.example.com/token"),
            "token_endpoint",
        ),
        ("no text", with(json!({"jwks_uri": 1})), "jwks_uri"),
        ("missing", with(json!({"jwks_uri": null})), "jwks_uri"),
        (
            "optional http",
            with(json!({"userinfo_endpoint": "http://a.example/"})),
            "userinfo_endpoint",
        ),
        (
            "no flag",
            with(json!({"require_pushed_authorization_requests": "yes"})),
            "require_pushed",
        ),
        (
            "no list",
            with(json!({"id_token_signing_alg_values_supported": "RS256"})),
            "id_token",
        ),
    ];
    for (name, document, want) in rows {
        let got = parse(&document, &config(ISSUER));
        match (got, want) {
            (Ok(_), "") => {}
            (Err(text), want) if !want.is_empty() && text.contains(want) => {}
            (got, _) => panic!("{name}: {got:?}"),
        }
    }
}

#[test]
fn plain_http_is_for_those_who_ask_for_it() {
    let mut config = config("http://idp.internal");
    assert!(check_issuer(&config).is_err());
    config.insecure_http = true;
    check_issuer(&config).unwrap();
    parse(&metadata("http://idp.internal"), &config).unwrap();
}

#[test]
fn both_well_known_addresses_are_formed() {
    // META-02; Discovery §4.1, RFC 8414 §3.1.
    for (issuer, first, second) in [
        (
            "https://a.example",
            "https://a.example/.well-known/openid-configuration",
            "https://a.example/.well-known/oauth-authorization-server",
        ),
        (
            "https://a.example/",
            "https://a.example/.well-known/openid-configuration",
            "https://a.example/.well-known/oauth-authorization-server",
        ),
        (
            "https://a.example/x/y/",
            "https://a.example/x/y/.well-known/openid-configuration",
            "https://a.example/.well-known/oauth-authorization-server/x/y",
        ),
    ] {
        let [got_first, got_second] = well_known(issuer).unwrap();
        assert_eq!(
            (got_first.as_str(), got_second.as_str()),
            (first, second),
            "{issuer}"
        );
    }
}

/// Both well-known addresses, as paths.
const PATHS: [&str; 2] = [
    "/.well-known/openid-configuration",
    "/.well-known/oauth-authorization-server",
];

#[tokio::test]
async fn the_second_address_is_asked_only_when_the_first_has_no_metadata() {
    let html = |status| Reply::new(status, "text/html", "<h1>Hello</h1>");
    for (name, reply, second, good) in [
        ("not found", html(404), 1, true),
        ("a page", html(200), 1, true),
        ("a redirect", html(302).header("location", "/"), 1, true),
        ("down", html(503), 0, false),
        ("too many", html(429), 0, false),
        ("stalled", html(200).stalled(), 0, false),
        (
            "too large",
            Reply::new(200, "application/json", vec![b' '; 1_048_577]),
            1,
            true,
        ),
    ] {
        let scene = match name {
            "stalled" => Scene::impatient().await,
            _ => Scene::new().await,
        };
        let document = Reply::json(&metadata(&scene.server.url()).into());
        scene.server.always(PATHS[0], reply);
        scene.server.always(PATHS[1], document);
        let got = scene.provider.metadata().await;
        assert_eq!(got.is_ok(), good, "{name}: {got:?}");
        assert_eq!(scene.server.received(PATHS[1]).len(), second, "{name}");
    }
}

#[tokio::test]
async fn the_wrong_issuer_is_an_error_and_not_a_reason_to_look_elsewhere() {
    let scene = Scene::with(
        |_| {},
        |m| {
            m.insert("issuer".into(), "https://evil.example".into());
        },
    )
    .await;
    let error = scene.provider.warm_up().await.unwrap_err();
    assert!(matches!(error, CallError::Metadata(_)), "{error}");
    assert!(!error.to_string().contains("evil"), "{error}");
    assert!(scene.server.received(PATHS[1]).is_empty());
}

#[tokio::test]
async fn a_dead_provider_is_asked_rarely() {
    // META-07.
    let scene = Scene::new().await;
    scene
        .server
        .next(PATHS[0], Reply::new(500, "text/html", ""));
    for _ in 0..20 {
        scene.provider.metadata().await.unwrap_err();
    }
    assert_eq!(scene.called("discovery", "server_error"), 1);
}

#[tokio::test]
async fn a_provider_is_looked_for_when_its_last_word_is_old() {
    let scene = Scene::new().await;
    let looks = || scene.server.received(PATHS[0]).len();
    let (lately, hour) = (Duration::ZERO, Duration::from_secs(3600));
    for (time, looked) in [(lately, 1), (hour, 1), (lately, 2)] {
        scene.provider.is_there(time).await.unwrap();
        assert_eq!(looks(), looked);
    }
    // Some answers say that it is there, whatever else they say: the copy at hand serves on.
    for status in [404, 200] {
        let answer = Reply::new(status, "text/html", "<html>");
        scene.server.always(PATHS[0], answer);
        scene.provider.is_there(lately).await.unwrap();
        assert!(!scene.provider.is_away(), "{status}");
        scene.provider.metadata().await.unwrap();
    }
    scene
        .server
        .always(PATHS[0], Reply::new(503, "text/html", ""));
    scene.provider.is_there(hour).await.unwrap();
    let before = looks();
    for _ in 0..20 {
        scene.provider.is_there(lately).await.unwrap_err();
    }
    let looked = looks() - before;
    assert!(looked < 10, "not each time: {looked}");
    while !scene.provider.is_away() {
        scene.provider.is_there(lately).await.unwrap_err();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Another endpoint answers.
    let keys = format!("{}/jwks", scene.server.url()).parse().unwrap();
    scene.provider.key_set(&keys).await.unwrap();
    assert!(!scene.provider.is_away());
}

#[tokio::test]
async fn a_silent_provider_holds_a_login_up_for_a_moment_and_is_known_to_be_away_then() {
    let timeout = Duration::from_millis(1500);
    let scene = Scene::with(|config| config.timeout = timeout, |_| {}).await;
    scene.provider.warm_up().await.unwrap();
    let never = Reply::silent().after(Duration::from_secs(3600));
    scene.server.always(PATHS[0], never);
    let request = AuthorizationRequest {
        redirect_uri: "https://shop.example.com/oauth2/callback",
        state: "sealed",
        nonce: &Nonce::new("n"),
        verifier: &CodeVerifier::new("v"),
        extra: &[],
    };
    let (began, mut longest) = (Instant::now(), Duration::ZERO);
    let error = loop {
        let asked = Instant::now();
        match scene.provider.authorization_url(&request).await {
            Ok(_) => longest = longest.max(asked.elapsed()),
            Err(error) => break error,
        }
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "still sent there"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(matches!(error, CallError::Unavailable { .. }), "{error}");
    assert!(
        longest >= Duration::from_millis(400),
        "nobody waited: {longest:?}"
    );
    // Once away, it is not back before it says so.
    let request = scene.provider.authorization_url(&request).await;
    assert!(request.is_err(), "sent there again");
}

#[tokio::test]
async fn an_issuer_with_a_trailing_slash_keeps_it() {
    // QUIRK-AUTH0-02.
    let server = Server::start().await;
    let issuer = format!("{}/", server.url());
    let mut document = metadata(&server.url());
    document.insert("issuer".into(), issuer.clone().into());
    server.always(PATHS[0], Reply::json(&document.into()));
    let metrics = Arc::new(crate::metrics::Metrics::new().unwrap());
    let clock = crate::clock::ManualClock::at(super::super::tests::NOW);
    let provider = Provider::new(Arc::new(config(&issuer)), clock, metrics).unwrap();
    provider.metadata().await.unwrap();
}
