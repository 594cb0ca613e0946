//! Signs our client assertions with the configured key, by an algorithm that both sides know.

use jsonwebtoken::{Algorithm, EncodingKey};

use super::jws;
use crate::config::model::ClientKey;

/// The key, as `jsonwebtoken` takes it.
#[derive(Debug)]
pub(super) struct SigningKey {
    key: EncodingKey,
    id: Option<String>,
    /// In order of preference.
    algorithms: Vec<Algorithm>,
}

impl SigningKey {
    pub(super) fn new(key: &ClientKey) -> Self {
        let algorithms = key.algorithms().to_vec();
        let encode: fn(&[u8]) -> EncodingKey = match algorithms.first() {
            Some(Algorithm::ES256 | Algorithm::ES384) => EncodingKey::from_ec_der,
            Some(Algorithm::EdDSA) => EncodingKey::from_ed_der,
            _ => EncodingKey::from_rsa_der,
        };
        Self {
            key: encode(key.der()),
            id: key.id().map(str::to_owned),
            algorithms,
        }
    }

    /// The algorithm to sign with: the first of ours among those the provider names, or simply the first when it
    /// names none (OIDC Discovery §3, `token_endpoint_auth_signing_alg_values_supported`).
    pub(super) fn algorithm(&self, supported: Option<&[String]>) -> Option<Algorithm> {
        let Some(supported) = supported else {
            return self.algorithms.first().copied();
        };
        let supported: Vec<_> = supported.iter().filter_map(|n| jws::algorithm(n)).collect();
        self.algorithms
            .iter()
            .copied()
            .find(|ours| supported.contains(ours))
    }

    /// The key itself.
    pub(super) fn key(&self) -> &EncodingKey {
        &self.key
    }

    /// Its `kid`, when it came as JWK with one.
    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Header};
    use ring::signature::{EcdsaKeyPair, KeyPair as _, RsaKeyPair};
    use serde_json::json;

    use super::*;

    const RSA_PKCS1: &str = include_str!("../../tests/fixtures/test-only-rsa-2048.pkcs1.pem");
    const RSA_PKCS8: &str = include_str!("../../tests/fixtures/test-only-rsa-2048.pkcs8.pem");
    const P256_SEC1: &str = include_str!("../../tests/fixtures/test-only-p256.sec1.pem");
    const P384_SEC1: &str = include_str!("../../tests/fixtures/test-only-p384.sec1.pem");
    const ED25519: &str = include_str!("../../tests/fixtures/test-only-ed25519.pkcs8.pem");

    fn signing(text: &str) -> SigningKey {
        crate::oidc::crypto::install();
        SigningKey::new(&ClientKey::parse(text).unwrap())
    }

    #[test]
    fn every_kind_of_key_signs_with_all_its_algorithms() {
        for (name, text) in [
            ("PKCS#1", RSA_PKCS1),
            ("PKCS#8 RSA", RSA_PKCS8),
            ("P-256", P256_SEC1),
            ("P-384", P384_SEC1),
            ("Ed25519", ED25519),
        ] {
            let key = signing(text);
            for algorithm in &key.algorithms {
                let claims = json!({"sub": "shop"});
                let token = jsonwebtoken::encode(&Header::new(*algorithm), &claims, key.key());
                let token = token.unwrap();
                let parsed = jws::Jws::parse(&token).unwrap();
                assert!(parsed.signed_by(&public(&key)), "{name} {algorithm:?}");
            }
        }
    }

    /// The public part, as ring derives it.
    fn public(key: &SigningKey) -> DecodingKey {
        let der = key.key().as_bytes();
        let rng = ring::rand::SystemRandom::new();
        match key.algorithms[0] {
            Algorithm::ES256 | Algorithm::ES384 => {
                let curve = match key.algorithms[0] {
                    Algorithm::ES256 => &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING,
                    _ => &ring::signature::ECDSA_P384_SHA384_FIXED_SIGNING,
                };
                let pair = EcdsaKeyPair::from_pkcs8(curve, der, &rng).unwrap();
                DecodingKey::from_ec_der(pair.public_key().as_ref())
            }
            Algorithm::EdDSA => {
                let pair =
                    ring::signature::Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).unwrap();
                DecodingKey::from_ed_der(pair.public_key().as_ref())
            }
            _ => {
                let pair = RsaKeyPair::from_der(der).or_else(|_| RsaKeyPair::from_pkcs8(der));
                DecodingKey::from_rsa_der(pair.unwrap().public().as_ref())
            }
        }
    }

    #[test]
    fn the_algorithm_is_one_that_both_sides_know() {
        let rsa = signing(RSA_PKCS1);
        let ed = signing(ED25519);
        let names =
            |names: &[&str]| Some(names.iter().map(ToString::to_string).collect::<Vec<_>>());
        for (name, key, supported, want) in [
            ("not told", &rsa, None, Some(Algorithm::RS256)),
            (
                "told",
                &rsa,
                names(&["PS256", "ES256"]),
                Some(Algorithm::PS256),
            ),
            (
                "our preference",
                &rsa,
                names(&["PS512", "RS256"]),
                Some(Algorithm::RS256),
            ),
            ("none in common", &rsa, names(&["ES256", "HS256"]), None),
            ("told nothing", &rsa, names(&[]), None),
            (
                "new name of EdDSA",
                &ed,
                names(&["Ed25519"]),
                Some(Algorithm::EdDSA),
            ),
        ] {
            assert_eq!(key.algorithm(supported.as_deref()), want, "{name}");
        }
    }
}
