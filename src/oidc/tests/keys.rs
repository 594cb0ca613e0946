//! Keys the scripted provider signs with, and tokens of every shape.

use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use ring::signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use super::super::{Claims, crypto};
use super::{NOW, object};

/// A key pair of the provider.
pub(in crate::oidc) struct Key {
    id: &'static str,
    algorithm: Algorithm,
    private: EncodingKey,
    public: Value,
}

impl Key {
    /// As it stands in the key set.
    pub(in crate::oidc) fn public(&self) -> Value {
        let mut jwk = self.public.clone();
        jwk["kid"] = self.id.into();
        jwk["use"] = "sig".into();
        jwk
    }

    /// The public part with other members beside it.
    pub(in crate::oidc) fn public_with(&self, members: Value) -> Value {
        let mut jwk = object(self.public());
        jwk.extend(object(members));
        jwk.into()
    }

    /// A signed token with an ordinary header.
    pub(in crate::oidc) fn sign(&self, claims: &Claims) -> String {
        self.sign_with(&json!({"kid": self.id, "typ": "JWT"}), claims)
    }

    /// A signed logout token (Back-Channel Logout §2.4).
    pub(in crate::oidc) fn sign_logout(&self, claims: &Claims) -> String {
        self.sign_with(&json!({"kid": self.id, "typ": "logout+jwt"}), claims)
    }

    /// A signed token with `header`; `alg` is the key's unless `header` has one.
    pub(in crate::oidc) fn sign_with(&self, header: &Value, claims: &Claims) -> String {
        crypto::install();
        let mut full = object(json!({"alg": format!("{:?}", self.algorithm)}));
        full.extend(object(header.clone()));
        let message = unsigned(&full.into(), claims);
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &self.private, self.algorithm)
                .expect("a test key signs");
        format!("{message}.{signature}")
    }
}

/// Header and claims, ready to be signed.
pub(in crate::oidc) fn unsigned(header: &Value, claims: &Claims) -> String {
    let encode = |text: String| URL_SAFE_NO_PAD.encode(text);
    let claims = Value::Object(claims.clone());
    format!(
        "{}.{}",
        encode(header.to_string()),
        encode(claims.to_string())
    )
}

/// Claims of a good ID token.
pub(in crate::oidc) fn claims(issuer: &str) -> Claims {
    object(json!({
        "iss": issuer, "sub": "248289761001", "aud": "shop", "nonce": "n-0S6",
        "iat": NOW.as_secs(), "exp": NOW.as_secs() + 300, "auth_time": NOW.as_secs() - 10,
        "name": "Jane", "middle_name": null,
    }))
}

/// A fresh P-256 key.
pub(in crate::oidc) fn new_es256(id: &'static str) -> Key {
    let algorithm = &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    let (private, point) = new_ec(algorithm);
    Key {
        id,
        algorithm: Algorithm::ES256,
        private,
        public: ec_public("P-256", &point),
    }
}

/// A fresh P-384 key.
pub(in crate::oidc) fn new_es384(id: &'static str) -> Key {
    let algorithm = &ring::signature::ECDSA_P384_SHA384_FIXED_SIGNING;
    let (private, point) = new_ec(algorithm);
    Key {
        id,
        algorithm: Algorithm::ES384,
        private,
        public: ec_public("P-384", &point),
    }
}

/// A fresh Ed25519 key.
pub(in crate::oidc) fn new_ed25519(id: &'static str) -> Key {
    let rng = ring::rand::SystemRandom::new();
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&rng).expect("ring makes keys");
    let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("ring reads its own keys");
    let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
    Key {
        id,
        algorithm: Algorithm::EdDSA,
        private: EncodingKey::from_ed_der(pkcs8.as_ref()),
        public: json!({"kty": "OKP", "crv": "Ed25519", "x": x}),
    }
}

/// The P-256 key of the default key set.
pub(in crate::oidc) fn es256() -> &'static Key {
    static KEY: OnceLock<Key> = OnceLock::new();
    KEY.get_or_init(|| new_es256("es"))
}

/// The RSA fixture, for any of its algorithms.
pub(in crate::oidc) fn rsa(algorithm: Algorithm) -> Key {
    let der = PrivatePkcs8KeyDer::from_pem_slice(RSA_PKCS8.as_bytes()).expect("fixture is PEM");
    let pair = RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).expect("fixture is RSA");
    let public = ring::rsa::PublicKeyComponents::<Vec<u8>>::from(pair.public());
    Key {
        id: "rsa",
        algorithm,
        private: EncodingKey::from_rsa_der(der.secret_pkcs8_der()),
        public: json!({
            "kty": "RSA",
            "n": URL_SAFE_NO_PAD.encode(public.n),
            "e": URL_SAFE_NO_PAD.encode(public.e),
        }),
    }
}

fn new_ec(algorithm: &'static ring::signature::EcdsaSigningAlgorithm) -> (EncodingKey, Vec<u8>) {
    let rng = ring::rand::SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &rng).expect("ring makes keys");
    let pair =
        EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &rng).expect("ring reads its own keys");
    let point = pair.public_key().as_ref().to_vec();
    (EncodingKey::from_ec_der(pkcs8.as_ref()), point)
}

fn ec_public(curve: &str, point: &[u8]) -> Value {
    let (x, y) = point[1..].split_at(point.len() / 2);
    json!({"kty": "EC", "crv": curve, "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)})
}

pub(in crate::oidc) const RSA_PKCS8: &str =
    include_str!("../../../tests/fixtures/test-only-rsa-2048.pkcs8.pem");
