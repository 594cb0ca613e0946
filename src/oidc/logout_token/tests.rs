//! Shows every reason to refuse a logout token.

use std::time::Duration;

use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::Algorithm;
use serde_json::json;

use super::super::tests::keys::{RSA_PKCS8, es256, new_es256, rsa, unsigned};
use super::super::tests::server::Reply;
use super::super::tests::{NOW, Scene, object};
use super::*;

const ISSUER: &str = "https://login.example.com";

/// Claims of a good logout token.
fn claims(issuer: &str) -> Claims {
    object(json!({
        "iss": issuer, "aud": "shop", "sub": "248289761001", "sid": "08a5019c-17e1-4977",
        "iat": NOW.as_secs(), "exp": NOW.as_secs() + 120, "jti": "bWJq", "events": {EVENT: {}},
    }))
}

/// Good claims with some replaced; the text `-` takes one away.
fn with(members: &Value) -> Claims {
    let mut all = claims(ISSUER);
    all.extend(object(members.clone()));
    all.retain(|_, value| value != "-");
    all
}

/// LOGOUT-07, LOGOUT-08, JWT-05: a row for each rule of Back-Channel Logout §2.4 and §2.6.
#[test]
#[expect(clippy::too_many_lines, reason = "a table: one row a rule")]
fn claims_stand_up_to_every_rule_or_are_refused() {
    let now = NOW.as_secs();
    let long = "x".repeat(1025);
    for (name, members, want) in [
        ("good", json!({}), ""),
        // Step 4: iss.
        (
            "another issuer",
            json!({"iss": "https://evil.example"}),
            "`iss`",
        ),
        (
            "issuer with slash",
            json!({"iss": "https://login.example.com/"}),
            "`iss`",
        ),
        ("no issuer", json!({"iss": "-"}), "`iss`"),
        ("issuer null", json!({"iss": null}), "`iss`"),
        ("list of issuers", json!({"iss": [ISSUER]}), "`iss`"),
        // aud.
        ("another audience", json!({"aud": "other"}), "`aud`"),
        ("no audience", json!({"aud": "-"}), "`aud`"),
        ("empty audience", json!({"aud": []}), "`aud`"),
        ("audience no text", json!({"aud": [1]}), "`aud`"),
        ("audience as a list", json!({"aud": ["shop"]}), ""),
        (
            "others beside us",
            json!({"aud": ["shop", "other"]}),
            "`aud`",
        ),
        // iat.
        ("no iat", json!({"iat": "-"}), "`iat`"),
        ("iat a text", json!({"iat": "now"}), "`iat`"),
        ("iat null", json!({"iat": null}), "`iat`"),
        ("within the skew", json!({"iat": now + 60}), ""),
        (
            "from the future",
            json!({"iat": now + 61, "exp": now + 120}),
            "future",
        ),
        (
            "old, exp far off",
            json!({"iat": now - 660, "exp": now + 9999}),
            "too old",
        ),
        (
            "not too old",
            json!({"iat": now - 659, "exp": now + 9999}),
            "",
        ),
        // exp.
        ("no exp", json!({"exp": "-"}), "`exp`"),
        ("exp a text", json!({"exp": "later"}), "`exp`"),
        ("exp null", json!({"exp": null}), "`exp`"),
        (
            "expired",
            json!({"iat": now - 200, "exp": now - 60}),
            "expired",
        ),
        (
            "expired within the skew",
            json!({"iat": now - 200, "exp": now - 59}),
            "",
        ),
        ("not valid yet", json!({"nbf": now + 61}), "not valid yet"),
        // Step 5: sub and sid.
        ("sub only", json!({"sid": "-"}), ""),
        ("sid only", json!({"sub": "-"}), ""),
        ("neither", json!({"sub": "-", "sid": "-"}), "neither"),
        ("sub empty", json!({"sub": ""}), "`sub`"),
        ("sub a number", json!({"sub": 1}), "`sub`"),
        ("sub null", json!({"sub": null}), "`sub`"),
        ("sub too long", json!({"sub": "x".repeat(256)}), "`sub`"),
        ("sid empty", json!({"sid": ""}), "`sid`"),
        ("sid a list", json!({"sid": ["a"]}), "`sid`"),
        ("sid null", json!({"sid": null}), "`sid`"),
        ("sid too long", json!({"sid": long}), "`sid`"),
        // Step 6: events.
        ("no events", json!({"events": "-"}), "`events`"),
        ("events null", json!({"events": null}), "`events`"),
        ("events a list", json!({"events": [EVENT]}), "`events`"),
        ("events a text", json!({"events": EVENT}), "`events`"),
        ("events empty", json!({"events": {}}), "`events`"),
        (
            "another event",
            json!({"events": {"urn:other": {}}}),
            "`events`",
        ),
        (
            "event in another spelling",
            json!({"events": {EVENT.to_uppercase(): {}}}),
            "`events`",
        ),
        (
            "event is a text",
            json!({"events": {EVENT: ""}}),
            "`events`",
        ),
        (
            "event is null",
            json!({"events": {EVENT: null}}),
            "`events`",
        ),
        (
            "event is true",
            json!({"events": {EVENT: true}}),
            "`events`",
        ),
        (
            "event is a list",
            json!({"events": {EVENT: []}}),
            "`events`",
        ),
        (
            "event says more",
            json!({"events": {EVENT: {"reason": "x"}}}),
            "",
        ),
        (
            "an event beside it",
            json!({"events": {EVENT: {}, "urn:other": {}}}),
            "",
        ),
        // Step 7: nonce.
        ("a nonce", json!({"nonce": "n-0S6"}), "`nonce`"),
        ("an empty nonce", json!({"nonce": ""}), "`nonce`"),
        ("nonce null", json!({"nonce": null}), "`nonce`"),
        // jti (§2.4).
        ("no jti", json!({"jti": "-"}), "`jti`"),
        ("jti empty", json!({"jti": ""}), "`jti`"),
        ("jti a number", json!({"jti": 7}), "`jti`"),
        ("jti null", json!({"jti": null}), "`jti`"),
        // What we do not know does no harm.
        ("further claims", json!({"typ": "Logout", "x": [1]}), ""),
    ] {
        let got = check(&with(&members), ISSUER, "shop", NOW)
            .err()
            .unwrap_or_default();
        let fits = if want.is_empty() {
            got.is_empty()
        } else {
            got.contains(want)
        };
        assert!(fits, "{name}: wanted {want:?}, got {got:?}");
    }
}

#[test]
fn what_was_used_need_not_be_remembered_for_long() {
    let now = NOW.as_secs();
    for (name, exp, want) in [("short", 120, 180), ("as long as we take it", 9999, 660)] {
        let token = check(&with(&json!({"exp": now + exp})), ISSUER, "shop", NOW).unwrap();
        assert_eq!(
            token.good_until.left(NOW),
            Duration::from_secs(want),
            "{name}"
        );
        assert!(!format!("{token:?}").contains("248289"), "{name}");
    }
}

/// LOGOUT-07, JWT-01 to JWT-06: header and signature.
#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table: one row a rule")]
async fn only_the_providers_own_signature_over_the_right_type_counts() {
    let scene = Scene::new().await;
    let issuer = scene.server.url();
    let good = claims(&issuer);
    let typed = |typ: &str| es256().sign_with(&json!({"kid": "es", "typ": typ}), &good);
    let hmac = {
        let public = STANDARD.encode(RSA_PKCS8);
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, public.as_bytes());
        let message = unsigned(
            &json!({"alg": "HS256", "kid": "es", "typ": "logout+jwt"}),
            &good,
        );
        let tag = ring::hmac::sign(&key, message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
    };
    let sound = typed("logout+jwt");
    let of_an_id_token = super::super::tests::keys::claims(&issuer);
    let mut bent = sound.clone();
    bent.replace_range(bent.len() - 6..bent.len() - 4, "AA");
    let (head, _) = sound.rsplit_once('.').unwrap();
    for (name, token, want) in [
        ("typed", sound.clone(), ""),
        ("type in another case", typed("Logout+JWT"), ""),
        ("type in full", typed("application/logout+jwt"), ""),
        (
            "untyped",
            es256().sign_with(&json!({"kid": "es"}), &good),
            "",
        ),
        ("the plain type", typed("JWT"), "type"),
        ("an access token's type", typed("at+jwt"), "type"),
        ("a security event's type", typed("secevent+jwt"), "type"),
        ("an empty type", typed(""), "type"),
        (
            "critical extension",
            es256().sign_with(&json!({"kid": "es", "crit": ["exp"]}), &good),
            "critical",
        ),
        (
            "alg none",
            format!(
                "{}.",
                unsigned(&json!({"alg": "none", "typ": "logout+jwt"}), &good)
            ),
            "algorithm",
        ),
        ("HMAC", hmac, "algorithm"),
        (
            "an algorithm we do not take",
            rsa(Algorithm::RS512).sign_logout(&good),
            "algorithm",
        ),
        ("no signature", format!("{head}."), "signature"),
        ("bent signature", bent, "signature"),
        (
            "a stranger's key under our kid",
            new_es256("es").sign_logout(&good),
            "signature",
        ),
        (
            "a key nobody knows",
            new_es256("other").sign_logout(&good),
            "no key",
        ),
        (
            "a key it brings along",
            new_es256("x").sign_with(
                &json!({"kid": "x", "jwk": new_es256("x").public(), "jku": "https://evil.example"}),
                &good,
            ),
            "no key",
        ),
        ("encrypted", "a.b.c.d.e".to_owned(), "no compact JWS"),
        ("two parts", "a.b".to_owned(), "no signed JWT"),
        ("nothing", String::new(), "no signed JWT"),
        ("too large", "A".repeat(65 * 1024), "too large"),
        ("an ID token", es256().sign(&of_an_id_token), "type"),
        (
            "an ID token without a type",
            es256().sign_with(&json!({"kid": "es"}), &of_an_id_token),
            "`events`",
        ),
        (
            "claims no object",
            es256().sign_with(&json!({"kid": "es"}), &object(json!({}))),
            "`iss`",
        ),
    ] {
        let got = match scene.provider.verify_logout_token(&token).await {
            Ok(token) => {
                assert_eq!(token.sid.as_deref(), Some("08a5019c-17e1-4977"), "{name}");
                String::new()
            }
            Err(error) => error.to_string(),
        };
        let fits = if want.is_empty() {
            got.is_empty()
        } else {
            got.contains(want)
        };
        assert!(fits, "{name}: wanted {want:?}, got {got:?}");
    }
    // And a logout token is no ID token (JWT-05).
    let id = crate::secret::IdToken::new(es256().sign(&good));
    let expect = super::super::Expectations::default();
    let refused = scene.provider.verify_id_token(&id, &expect).await;
    assert!(refused.is_err());
}

#[tokio::test]
async fn without_the_providers_keys_nothing_is_decided() {
    let scene = Scene::new().await;
    scene
        .server
        .always("/jwks", Reply::json(&json!({})).status(503));
    let token = es256().sign_logout(&claims(&scene.server.url()));
    let error = scene
        .provider
        .verify_logout_token(&token)
        .await
        .unwrap_err();
    assert!(matches!(error, LogoutTokenError::Keys(_)), "{error}");
}

#[test]
fn the_issuer_a_token_claims_is_read_and_nothing_more() {
    let token = es256().sign(&claims(ISSUER));
    assert_eq!(claimed_issuer(&token).as_deref(), Some(ISSUER));
    for token in [
        "",
        "a",
        "a.b",
        "a.b.c",
        "..",
        &es256().sign(&with(&json!({"iss": 1}))),
    ] {
        assert_eq!(claimed_issuer(token), None);
    }
}
