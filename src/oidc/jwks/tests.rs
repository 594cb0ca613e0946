//! Shows which keys are used, and when the set is fetched again.

use serde_json::json;

use super::super::tests::keys::{
    Key as Pair, claims, es256, new_ed25519, new_es256, new_es384, rsa as rsa_pair,
};
use super::super::tests::server::Reply;
use super::super::tests::{Scene, object};
use super::*;

/// A modulus of `bits` bits with the top bit set; no product of primes, but that is not looked at.
fn modulus(bits: usize) -> String {
    URL_SAFE_NO_PAD.encode(vec![0xff; bits / 8])
}

fn set(keys: &[Value]) -> KeySet {
    KeySet::parse(&object(json!({ "keys": keys }))).unwrap()
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn keys_that_cannot_be_trusted_are_passed_over() {
    // JWT-07, JWT-08.
    let es = es256();
    let rsa = rsa_pair(Algorithm::RS256);
    let long = |x: &str| URL_SAFE_NO_PAD.encode(x);
    for (name, key, usable) in [
        ("EC", es.public(), true),
        ("RSA", rsa.public(), true),
        ("Ed25519", new_ed25519("a").public(), true),
        ("P-384", new_es384("a").public(), true),
        (
            "algorithm that fits",
            es.public_with(json!({"alg": "ES256"})),
            true,
        ),
        (
            "key_ops that fit",
            es.public_with(json!({"key_ops": ["verify"]})),
            true,
        ),
        (
            "oct",
            json!({"kty": "oct", "kid": "es", "k": long("secret")}),
            false,
        ),
        ("oct without k", json!({"kty": "oct", "kid": "es"}), false),
        ("private EC", es.public_with(json!({"d": long("d")})), false),
        (
            "private RSA",
            rsa.public_with(json!({"p": long("p")})),
            false,
        ),
        ("encryption", es.public_with(json!({"use": "enc"})), false),
        (
            "key_ops of others",
            es.public_with(json!({"key_ops": ["encrypt"]})),
            false,
        ),
        (
            "key_ops no list",
            es.public_with(json!({"key_ops": "verify"})),
            false,
        ),
        (
            "algorithm of others",
            es.public_with(json!({"alg": "RS256"})),
            false,
        ),
        (
            "algorithm of encryption",
            rsa.public_with(json!({"alg": "RSA-OAEP"})),
            false,
        ),
        (
            "HMAC on RSA",
            rsa.public_with(json!({"alg": "HS256"})),
            false,
        ),
        ("none", es.public_with(json!({"alg": "none"})), false),
        (
            "1024 bits",
            rsa.public_with(json!({"n": modulus(1024)})),
            false,
        ),
        (
            "2040 bits",
            rsa.public_with(json!({"n": modulus(2040)})),
            false,
        ),
        (
            "2048 bits",
            rsa.public_with(json!({"n": modulus(2048)})),
            true,
        ),
        (
            "16384 bits",
            rsa.public_with(json!({"n": modulus(16384)})),
            false,
        ),
        ("empty modulus", rsa.public_with(json!({"n": ""})), false),
        (
            "short point",
            es.public_with(json!({"x": long("short")})),
            false,
        ),
        (
            "another curve",
            es.public_with(json!({"crv": "secp256k1"})),
            false,
        ),
        ("P-521", es.public_with(json!({"crv": "P-521"})), false),
        (
            "Ed448",
            new_ed25519("a").public_with(json!({"crv": "Ed448"})),
            false,
        ),
        (
            "X25519",
            new_ed25519("a").public_with(json!({"crv": "X25519"})),
            false,
        ),
        ("no base64url", es.public_with(json!({"x": "+/="})), false),
        ("kid no text", es.public_with(json!({"kid": 1})), false),
        ("no kty", json!({"kid": "a"}), false),
        ("no object", json!("key"), false),
    ] {
        assert_eq!(set(&[key]).0.len(), usize::from(usable), "{name}");
    }
    for document in [json!({}), json!({"keys": {}}), json!({"keys": null})] {
        KeySet::parse(&object(document)).unwrap_err();
    }
    let many = vec![es.public(); 1000];
    assert_eq!(set(&many).0.len(), MAX_KEYS);
}

#[test]
fn a_token_finds_its_key() {
    // JWT-01, JWT-03, JWT-09.
    let (old, new) = (new_es256("a"), new_es256("b"));
    let same_id = new_es256("a");
    let ed = new_ed25519("a");
    let good = claims("https://a.example");
    let with = |key: &Pair, header: Value| key.sign_with(&header, &good);
    let off_curve = old.public_with(json!({"x": URL_SAFE_NO_PAD.encode([1; 32])}));
    let rows = [
        (
            "by id",
            old.sign(&good),
            vec![new.public(), old.public()],
            Signature::Good,
        ),
        (
            "without id",
            with(&old, json!({})),
            vec![new.public(), old.public()],
            Signature::Good,
        ),
        (
            "same id, same type",
            old.sign(&good),
            vec![same_id.public(), old.public()],
            Signature::Good,
        ),
        (
            "same id, other type",
            old.sign(&good),
            vec![ed.public(), old.public()],
            Signature::Good,
        ),
        (
            "unknown id",
            old.sign(&good),
            vec![new.public()],
            Signature::NoKey,
        ),
        (
            "id of another",
            with(&old, json!({"kid": "b"})),
            vec![new.public()],
            Signature::Bad,
        ),
        (
            "without id, no key",
            with(&old, json!({})),
            vec![new.public()],
            Signature::NoKey,
        ),
        (
            "key of another algorithm",
            old.sign(&good),
            vec![ed.public()],
            Signature::NoKey,
        ),
        (
            "key not on the curve",
            old.sign(&good),
            vec![off_curve],
            Signature::Bad,
        ),
        ("no keys", old.sign(&good), vec![], Signature::NoKey),
        (
            "a key of its own in the header",
            with(
                &old,
                json!({"kid": "b", "jwk": old.public(), "jku": "https://evil.example/"}),
            ),
            vec![new.public()],
            Signature::Bad,
        ),
    ];
    for (name, token, keys, want) in rows {
        assert_eq!(
            set(&keys).check(&Jws::parse(&token).unwrap()),
            want,
            "{name}"
        );
    }
}

#[test]
fn every_algorithm_is_verified_and_only_with_its_own_signature() {
    let mut pairs = vec![es256_named(), new_es384("k"), new_ed25519("k")];
    pairs.extend(RSA_ALGORITHMS.iter().map(|algorithm| rsa_pair(*algorithm)));
    let good = claims("https://a.example");
    for pair in &pairs {
        let keys = set(&[pair.public()]);
        let token = pair.sign(&good);
        let parsed = Jws::parse(&token).unwrap();
        assert_eq!(
            keys.check(&parsed),
            Signature::Good,
            "{:?}",
            parsed.algorithm
        );
        for at in [10, token.len() / 2, token.len() - 5] {
            let mut broken = token.clone().into_bytes();
            broken[at] = if broken[at] == b'A' { b'B' } else { b'A' };
            let broken = String::from_utf8(broken).unwrap();
            let verdict = Jws::parse(&broken).map(|parsed| keys.check(&parsed));
            assert_ne!(verdict, Ok(Signature::Good), "{:?} {at}", parsed.algorithm);
        }
    }
    // One key, one algorithm: what the key says counts, not what the token says.
    let only_ps = rsa_pair(Algorithm::PS256).public_with(json!({"alg": "PS256"}));
    let token = rsa_pair(Algorithm::RS256).sign(&good);
    let parsed = Jws::parse(&token).unwrap();
    assert_eq!(set(&[only_ps]).check(&parsed), Signature::NoKey);
}

fn es256_named() -> Pair {
    new_es256("k")
}

#[test]
fn the_provider_says_how_long_its_keys_are_good_within_bounds() {
    // JWT-11.
    for (name, text, want) in [
        ("absent", None, 3600),
        ("within", Some("public, max-age=7200"), 7200),
        ("short", Some("max-age=1"), 60),
        ("long", Some("Max-Age=31536000, immutable"), 86400),
        ("quoted", Some("max-age=\"600\""), 600),
        ("no-store", Some("no-store"), 3600),
        ("no number", Some("max-age=soon"), 3600),
        ("shared only", Some("s-maxage=600"), 3600),
    ] {
        let mut headers = HeaderMap::new();
        if let Some(text) = text {
            headers.insert(CACHE_CONTROL, text.parse().unwrap());
        }
        assert_eq!(ttl(&headers), Duration::from_secs(want), "{name}");
    }
}

#[tokio::test]
async fn an_unknown_key_id_is_looked_up_once() {
    // JWT-10: the provider has rotated its key since the set was read.
    let scene = Scene::new().await;
    let (provider, server) = (&scene.provider, &scene.server);
    let uri = Url::parse(&format!("{}/jwks", server.url())).unwrap();
    provider.warm_up().await.unwrap();
    let (next, foreign) = (new_es256("next"), new_es256("foreign"));
    let both = json!({"keys": [es256().public(), next.public()]});
    server.always("/jwks", Reply::json(&both));

    let good = claims(&server.url());
    let check = |pair: &Pair| {
        let (token, uri) = (pair.sign(&good), uri.clone());
        async move {
            let parsed = Jws::parse(&token).unwrap();
            provider.check_signature(&uri, &parsed).await
        }
    };
    check(&next).await.unwrap();
    assert_eq!(server.received("/jwks").len(), 2);
    for _ in 0..20 {
        let error = check(&foreign).await.unwrap_err();
        // Perhaps the provider has a newer key by now.
        assert!(matches!(error, IdTokenError::Keys(_)), "{error}");
    }
    assert_eq!(server.received("/jwks").len(), 2, "rate-limited");
    check(es256()).await.unwrap();
}

#[tokio::test]
async fn keys_that_cannot_be_fetched_are_no_verdict() {
    let scene = Scene::new().await;
    let uri = Url::parse(&format!("{}/jwks", scene.server.url())).unwrap();
    scene
        .server
        .always("/jwks", Reply::new(500, "text/html", ""));
    let token = es256().sign(&claims("https://a.example"));
    let parsed = Jws::parse(&token).unwrap();
    let error = scene
        .provider
        .check_signature(&uri, &parsed)
        .await
        .unwrap_err();
    assert!(matches!(error, IdTokenError::Keys(_)), "{error}");
}
