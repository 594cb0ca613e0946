//! Shows every reason to refuse an ID token.

use std::time::Duration;

use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::super::tests::keys::{RSA_PKCS8, claims, es256, rsa, unsigned};
use super::super::tests::server::Reply;
use super::super::tests::{NOW, Scene, object};
use super::*;
use crate::secret::AccessToken;

const ISSUER: &str = "https://login.example.com";

fn context() -> Context<'static> {
    Context {
        issuer: ISSUER,
        client_id: "shop",
        algorithm: Algorithm::ES256,
        now: NOW,
    }
}

/// Good claims with some replaced; `null` takes one away, as `Jws::claims` does.
fn with(members: Value) -> Claims {
    let mut all = claims(ISSUER);
    all.extend(object(members));
    all.retain(|_, value| !value.is_null());
    all
}

fn verdict(result: Result<(), IdTokenError>) -> String {
    match result {
        Ok(()) => String::new(),
        Err(error) => error.to_string(),
    }
}

fn assert_verdict(name: &str, got: Result<(), IdTokenError>, want: &str) {
    let got = verdict(got);
    assert!(
        if want.is_empty() {
            got.is_empty()
        } else {
            got.contains(want)
        },
        "{name}: wanted {want:?}, got {got:?}"
    );
}

#[test]
fn claims_stand_up_to_every_rule_or_are_refused() {
    let now = NOW.as_secs();
    let token = AccessToken::new("day-pass");
    let hash = half_hash(Algorithm::ES256, "day-pass");
    for (name, members, want) in [
        ("good", json!({}), ""),
        // OIDC-01.
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
        ("no issuer", json!({"iss": null}), "`iss`"),
        ("list of issuers", json!({"iss": [ISSUER]}), "`iss`"),
        // OIDC-02, REG-10.
        ("another audience", json!({"aud": "other"}), "`aud`"),
        ("no audience", json!({"aud": null}), "`aud`"),
        ("empty audience", json!({"aud": []}), "`aud`"),
        ("audience no text", json!({"aud": [1]}), "`aud`"),
        ("audience is ours", json!({"aud": ["shop"]}), ""),
        (
            "others beside us",
            json!({"aud": ["shop", "other"]}),
            "`aud`",
        ),
        ("part of our name", json!({"aud": "shopping"}), "`aud`"),
        // OIDC-03.
        ("we are the party", json!({"azp": "shop"}), ""),
        ("another party", json!({"azp": "other"}), "`azp`"),
        ("party no text", json!({"azp": 1}), "`azp`"),
        // OIDC-11.
        ("no subject", json!({"sub": null}), "`sub`"),
        ("empty subject", json!({"sub": ""}), "`sub`"),
        ("subject a number", json!({"sub": 1}), "`sub`"),
        ("subject too long", json!({"sub": "s".repeat(256)}), "`sub`"),
        ("subject not ASCII", json!({"sub": "ü"}), "`sub`"),
        // OIDC-06: a minute of skew either way.
        ("expired", json!({"exp": now - 60}), "expired"),
        ("expired within skew", json!({"exp": now - 59}), ""),
        ("no expiry", json!({"exp": null}), "`exp`"),
        ("expiry a text", json!({"exp": "2099"}), "`exp`"),
        ("expiry a fraction", json!({"exp": 1_700_000_000.5}), ""),
        ("expiry absurd", json!({"exp": 1e300}), "`exp`"),
        ("issued in the future", json!({"iat": now + 61}), "future"),
        ("issued within skew", json!({"iat": now + 60}), ""),
        ("no time of issue", json!({"iat": null}), "`iat`"),
        ("not yet valid", json!({"nbf": now + 61}), "not valid yet"),
        ("valid within skew", json!({"nbf": now + 60}), ""),
        ("start a text", json!({"nbf": "now"}), "`nbf`"),
        // OIDC-07, REG-09.
        ("another nonce", json!({"nonce": "n-0S7"}), "`nonce`"),
        ("longer nonce", json!({"nonce": "n-0S6 "}), "`nonce`"),
        ("no nonce", json!({"nonce": null}), "`nonce`"),
        (
            "no nonce, excused",
            json!({"nonce": null, "nonce_supported": false}),
            "`nonce`",
        ),
        ("list of nonces", json!({"nonce": ["n-0S6"]}), "`nonce`"),
        // OIDC-08.
        ("hash fits", json!({"at_hash": hash}), ""),
        (
            "another hash",
            json!({"at_hash": half_hash(Algorithm::ES256, "other")}),
            "`at_hash`",
        ),
        ("empty hash", json!({"at_hash": ""}), "`at_hash`"),
        ("hash no text", json!({"at_hash": 1}), "`at_hash`"),
        // JWT-05.
        (
            "logout token",
            json!({"events": {"http://schemas.openid.net/event/backchannel-logout": {}}}),
            "event",
        ),
    ] {
        let expect = Expectations {
            nonce: Some("n-0S6"),
            access_token: Some(&token),
            ..Expectations::default()
        };
        assert_verdict(name, check(&with(members), &context(), &expect), want);
    }
}

#[test]
fn at_hash_uses_the_hash_of_the_algorithm() {
    // The example of OIDC Core §A.3 (RS256).
    let token = "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y";
    assert_eq!(half_hash(Algorithm::RS256, token), "77QmUPtjPfzWtF2AnpK9RQ");
    for (algorithm, length) in [
        (Algorithm::PS256, 16),
        (Algorithm::ES256, 16),
        (Algorithm::ES384, 24),
        (Algorithm::RS512, 32),
        (Algorithm::EdDSA, 32),
    ] {
        let hash = URL_SAFE_NO_PAD.decode(half_hash(algorithm, token)).unwrap();
        assert_eq!(hash.len(), length, "{algorithm:?}");
    }
}

#[test]
fn a_login_that_asked_for_freshness_gets_it() {
    // OIDC-10.
    let now = NOW.as_secs();
    for (name, auth_time, want) in [
        ("fresh", json!(now - 10), ""),
        ("within skew", json!(now - 360), ""),
        ("too old", json!(now - 361), "too long ago"),
        ("missing", json!(null), "missing"),
        ("a text", json!("now"), "malformed"),
    ] {
        let expect = Expectations {
            max_age: Some(Duration::from_secs(300)),
            ..Expectations::default()
        };
        let claims = with(json!({ "auth_time": auth_time }));
        assert_verdict(name, check(&claims, &context(), &expect), want);
    }
}

#[test]
fn a_refreshed_token_names_the_same_user_and_login() {
    // OIDC-15.
    let now = NOW.as_secs();
    let original = with(json!({"aud": ["shop"]}));
    for (name, members, want) in [
        ("same", json!({}), ""),
        ("same audience, other form", json!({"aud": "shop"}), ""),
        ("without nonce", json!({"nonce": null}), ""),
        ("without auth_time", json!({"auth_time": null}), ""),
        (
            "same auth_time, other form",
            json!({"auth_time": 1_699_999_990.0}),
            "",
        ),
        (
            "another subject",
            json!({"sub": "mallory"}),
            "another subject",
        ),
        ("another nonce", json!({"nonce": "other"}), "`nonce`"),
        (
            "another auth_time",
            json!({"auth_time": now}),
            "`auth_time`",
        ),
        (
            "another issuer",
            json!({"iss": "https://evil.example"}),
            "`iss`",
        ),
        ("another audience", json!({"aud": "other"}), "`aud`"),
    ] {
        let expect = Expectations {
            original: Some(&original),
            ..Expectations::default()
        };
        assert_verdict(name, check(&with(members), &context(), &expect), want);
    }
    let mut elsewhere = original.clone();
    elsewhere.insert("iss".into(), "https://old.example".into());
    let expect = Expectations {
        original: Some(&elsewhere),
        ..Expectations::default()
    };
    let error = check(&with(json!({})), &context(), &expect).unwrap_err();
    assert!(matches!(error, IdTokenError::IdentityChanged), "{error}");
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn a_token_is_believed_only_when_the_provider_signed_it() {
    let scene = Scene::new().await;
    let rs = rsa(Algorithm::RS256);
    let keys = json!({"keys": [es256().public(), rs.public()]});
    scene.server.always("/jwks", Reply::json(&keys));
    let good = claims(&scene.server.url());
    let hmac = |secret: &[u8]| {
        let message = unsigned(&json!({"alg": "HS256", "typ": "JWT", "kid": "rsa"}), &good);
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
        let tag = ring::hmac::sign(&key, message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
    };
    let with_header = |header: Value| es256().sign_with(&header, &good);
    let public_n = rs.public()["n"].as_str().unwrap().to_owned();
    let plain = unsigned(&json!({"alg": "none"}), &good);
    let signed = es256().sign(&good);
    let (message, signature) = signed.rsplit_once('.').unwrap();
    for (name, token, want) in [
        ("good", signed.clone(), ""),
        ("good RSA", rs.sign(&good), ""),
        ("no type", with_header(json!({"kid": "es"})), ""),
        (
            "long type",
            with_header(json!({"kid": "es", "typ": "application/jwt"})),
            "",
        ),
        // OIDC-05, JWT-01: algorithm confusion.
        ("none", format!("{plain}."), "algorithm"),
        (
            "None",
            format!("{}.", unsigned(&json!({"alg": "None"}), &good)),
            "algorithm",
        ),
        (
            "none with a signature",
            format!("{plain}.{signature}"),
            "algorithm",
        ),
        (
            "no alg",
            format!("{}.{signature}", unsigned(&json!({}), &good)),
            "header",
        ),
        (
            "HS256 with the public key",
            hmac(RSA_PKCS8.as_bytes()),
            "algorithm",
        ),
        (
            "HS256 with the modulus",
            hmac(public_n.as_bytes()),
            "algorithm",
        ),
        (
            "HS256 with the client secret",
            hmac(b"s:e+c%r"),
            "algorithm",
        ),
        (
            "RS512, not configured",
            rsa(Algorithm::RS512).sign(&good),
            "algorithm",
        ),
        // JWT-02, JWT-04, JWT-05, JWT-06.
        (
            "crit",
            with_header(json!({"kid": "es", "crit": ["b64"], "b64": false})),
            "critical",
        ),
        (
            "empty crit",
            with_header(json!({"kid": "es", "crit": []})),
            "critical",
        ),
        (
            "access token",
            with_header(json!({"kid": "es", "typ": "at+jwt"})),
            "type",
        ),
        (
            "logout token",
            with_header(json!({"kid": "es", "typ": "logout+jwt"})),
            "type",
        ),
        (
            "type no text",
            with_header(json!({"kid": "es", "typ": 1})),
            "header",
        ),
        ("no signature", format!("{message}."), "signature"),
        (
            "unknown key",
            with_header(json!({"kid": "other"})),
            "no key",
        ),
        ("two parts", message.to_owned(), "signed JWT"),
        ("one part", "abc".to_owned(), "signed JWT"),
        ("empty", String::new(), "signed JWT"),
        ("five parts", "a.b.c.d.e".to_owned(), "encrypted"),
        (
            "JSON form",
            json!({"payload": "a", "signatures": []}).to_string(),
            "signed JWT",
        ),
        (
            "header no JSON",
            format!("e30x.{signature}.{signature}"),
            "header",
        ),
        (
            "padded base64",
            format!("{}=.{}", message.replace('.', "=."), signature),
            "header",
        ),
        (
            "too large",
            format!("{signed}{}", "A".repeat(65536)),
            "too large",
        ),
        (
            "no object",
            {
                let message = message.split_once('.').unwrap().0.to_owned()
                    + "."
                    + &URL_SAFE_NO_PAD.encode("[]");
                format!("{message}.{signature}")
            },
            "signature",
        ),
    ] {
        let token = IdToken::new(token);
        let expect = Expectations {
            nonce: Some("n-0S6"),
            ..Expectations::default()
        };
        let got = scene.provider.check_id_token(&token, &expect).await;
        assert_verdict(name, got.map(drop), want);
    }
    // The sanity of the rows above: standard base64 differs from what a JWT uses.
    assert_ne!(
        STANDARD.encode([0xff; 3]),
        URL_SAFE_NO_PAD.encode([0xff; 3])
    );
}

#[tokio::test]
async fn an_algorithm_the_provider_does_not_use_is_refused() {
    // OIDC-05: what we allow and what the metadata name.
    for (named, good) in [
        (json!(["RS256"]), false),
        (json!(["RS256", "ES256"]), true),
        (json!(["ES256", "XY99"]), true),
        (json!([]), false),
        (json!(null), true),
    ] {
        let scene = Scene::with(
            |_| {},
            |m| {
                m.insert(
                    "id_token_signing_alg_values_supported".into(),
                    named.clone(),
                );
            },
        )
        .await;
        let token = IdToken::new(es256().sign(&claims(&scene.server.url())));
        let got = scene
            .provider
            .check_id_token(&token, &Expectations::default())
            .await;
        assert_eq!(got.is_ok(), good, "{named}: {got:?}");
    }
}

#[tokio::test]
async fn refused_tokens_leave_nothing_of_themselves_in_the_error() {
    let scene = Scene::new().await;
    let mut bad = claims(&scene.server.url());
    bad.insert("aud".into(), "s3cr3t".into());
    let token = IdToken::new(es256().sign(&bad));
    let got = scene
        .provider
        .check_id_token(&token, &Expectations::default())
        .await;
    let error = format!("{:?}", got.unwrap_err());
    assert!(!error.contains("s3cr3t"), "{error}");
}
