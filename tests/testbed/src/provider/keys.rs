//! Signs and checks JSON Web Tokens with ring, by hand: twenty lines that choose no crypto backend for the workspace.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use serde_json::{Value, json};

/// RSA keys take seconds to make in a debug build, so this one is committed. It protects nothing.
const RSA_PEM: &str = include_str!("../../fixtures/rs256-test-only.pem");

/// Algorithm that tokens are signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Signing {
    /// ECDSA on P-256.
    #[default]
    Es256,
    /// RSASSA-PKCS1-v1_5 (a fixed key: rotation changes only its `kid`).
    Rs256,
}

/// A private key with its id.
pub(crate) struct SigningKey {
    pub(crate) kid: String,
    pair: Pair,
}

enum Pair {
    Ec(Box<EcdsaKeyPair>),
    Rsa(Box<RsaKeyPair>),
}

impl SigningKey {
    pub(crate) fn generate(signing: Signing) -> Self {
        let pair = match signing {
            Signing::Es256 => Pair::Ec(Box::new(ec_pair(&new_ec_pkcs8()))),
            Signing::Rs256 => {
                let key = RsaKeyPair::from_pkcs8(&pem_body(RSA_PEM)).expect("the fixture is a key");
                Pair::Rsa(Box::new(key))
            }
        };
        Self {
            kid: random(6),
            pair,
        }
    }

    /// Public half as a JWK.
    pub(crate) fn jwk(&self) -> Value {
        let mut jwk = match &self.pair {
            Pair::Ec(pair) => ec_jwk(pair),
            Pair::Rsa(pair) => {
                let parts = ring::rsa::PublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({"kty": "RSA", "alg": "RS256", "n": encode(&parts.n), "e": encode(&parts.e)})
            }
        };
        jwk["use"] = "sig".into();
        jwk["kid"] = self.kid.clone().into();
        jwk
    }

    /// `typ` and `claims` as a signed compact token.
    pub(crate) fn sign(&self, typ: &str, claims: &Value) -> String {
        let header = json!({"alg": self.algorithm(), "typ": typ, "kid": self.kid});
        let input = format!("{}.{}", encode_json(&header), encode_json(claims));
        let signature = self.signature(input.as_bytes());
        format!("{input}.{}", encode(&signature))
    }

    /// As [`SigningKey::sign`], but with a header that `change` has tampered with before signing.
    pub(crate) fn sign_with_header(&self, change: &Value, claims: &Value) -> String {
        let mut header = json!({"alg": self.algorithm(), "typ": "JWT", "kid": self.kid});
        super::merge(&mut header, change);
        let input = format!("{}.{}", encode_json(&header), encode_json(claims));
        let signature = self.signature(input.as_bytes());
        format!("{input}.{}", encode(&signature))
    }

    /// HS256 keyed with this key's public half: what a checker that trusts the header's `alg` falls for.
    pub(crate) fn sign_confused(&self, claims: &Value) -> String {
        let header = json!({"alg": "HS256", "typ": "JWT", "kid": self.kid});
        let input = format!("{}.{}", encode_json(&header), encode_json(claims));
        let public = match &self.pair {
            Pair::Ec(pair) => pair.public_key().as_ref().to_vec(),
            Pair::Rsa(pair) => pair.public_key().as_ref().to_vec(),
        };
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &public);
        format!(
            "{input}.{}",
            encode(ring::hmac::sign(&key, input.as_bytes()).as_ref())
        )
    }

    fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::Ec(_) => "ES256",
            Pair::Rsa(_) => "RS256",
        }
    }

    fn signature(&self, input: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Ec(pair) => pair
                .sign(&random, input)
                .expect("signing needs randomness only")
                .as_ref()
                .to_vec(),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, input, &mut signature)
                    .expect("the buffer is as long as the modulus");
                signature
            }
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}

/// An EC key for a client that authenticates with `private_key_jwt`.
#[derive(Debug, Clone)]
pub struct ClientKey {
    /// PKCS#8 PEM of the private key.
    pub pem: String,
    /// Public JWK, to register at the provider.
    pub jwk: Value,
}

impl ClientKey {
    /// A fresh P-256 key.
    pub fn generate() -> Self {
        let pkcs8 = new_ec_pkcs8();
        let jwk = ec_jwk(&ec_pair(&pkcs8));
        let text = STANDARD.encode(&pkcs8);
        let lines: Vec<&str> = (0..text.len())
            .step_by(64)
            .map(|start| &text[start..text.len().min(start + 64)])
            .collect();
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            lines.join("\n")
        );
        crate::secrets::record("client key", &text);
        Self { pem, jwk }
    }
}

/// Claims of `token` if one of `keys` (JWKs) signed it.
pub fn verify(token: &str, keys: &[Value]) -> Option<Value> {
    let (input, signature) = token.rsplit_once('.')?;
    let signature = decode(signature)?;
    let signed = keys
        .iter()
        .any(|jwk| signed_by(jwk, input.as_bytes(), &signature));
    let (_, claims) = input.split_once('.')?;
    signed.then(|| serde_json::from_slice(&decode(claims)?).ok())?
}

/// Claims of a token, signature unseen.
pub fn claims(token: &str) -> Option<Value> {
    serde_json::from_slice(&decode(token.split('.').nth(1)?)?).ok()
}

/// `bytes` of randomness as base64url.
pub fn random(bytes: usize) -> String {
    let mut buffer = vec![0; bytes];
    SystemRandom::new()
        .fill(&mut buffer)
        .expect("the system has randomness");
    encode(&buffer)
}

/// Base64url without padding.
pub fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

pub(crate) fn sha256(bytes: &[u8]) -> Vec<u8> {
    ring::digest::digest(&ring::digest::SHA256, bytes)
        .as_ref()
        .to_vec()
}

pub(crate) fn encode_json(value: &Value) -> String {
    encode(value.to_string().as_bytes())
}

/// Seconds since the Unix epoch.
pub(crate) fn unix_now() -> i64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "tokens carry wall-clock times, and a test's clock is the system's"
    )]
    let now = std::time::SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    seconds(now)
}

pub(crate) fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

fn signed_by(jwk: &Value, input: &[u8], signature: &[u8]) -> bool {
    let part = |name: &str| jwk[name].as_str().and_then(decode).unwrap_or_default();
    match jwk["kty"].as_str() {
        Some("EC") => {
            let point = [&[4_u8][..], &part("x"), &part("y")].concat();
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
                .verify(input, signature)
                .is_ok()
        }
        Some("RSA") => RsaPublicKeyComponents {
            n: part("n"),
            e: part("e"),
        }
        .verify(&RSA_PKCS1_2048_8192_SHA256, input, signature)
        .is_ok(),
        _ => false,
    }
}

fn new_ec_pkcs8() -> Vec<u8> {
    EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
        .expect("a key needs randomness only")
        .as_ref()
        .to_vec()
}

fn ec_pair(pkcs8: &[u8]) -> EcdsaKeyPair {
    EcdsaKeyPair::from_pkcs8(
        &ECDSA_P256_SHA256_FIXED_SIGNING,
        pkcs8,
        &SystemRandom::new(),
    )
    .expect("a key just made is readable")
}

fn ec_jwk(pair: &EcdsaKeyPair) -> Value {
    // Uncompressed point: 0x04, x, y (SEC 1 §2.3.3).
    let point = pair.public_key().as_ref();
    json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "x": encode(&point[1..33]), "y": encode(&point[33..65])})
}

fn pem_body(pem: &str) -> Vec<u8> {
    let text: String = pem
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .collect();
    STANDARD.decode(text).expect("the fixture is PEM")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_signed_verifies_and_nothing_else() {
        for signing in [Signing::Es256, Signing::Rs256] {
            let (key, other) = (
                SigningKey::generate(signing),
                SigningKey::generate(Signing::Es256),
            );
            let token = key.sign("JWT", &json!({"sub": "jane"}));
            assert_eq!(
                verify(&token, &[other.jwk(), key.jwk()]),
                Some(json!({"sub": "jane"})),
                "{signing:?}"
            );
            assert_eq!(verify(&token, &[other.jwk()]), None, "{signing:?}");
            let mut parts: Vec<&str> = token.split('.').collect();
            let forged = encode_json(&json!({"sub": "john"}));
            parts[1] = &forged;
            assert_eq!(verify(&parts.join("."), &[key.jwk()]), None, "{signing:?}");
        }
    }

    #[test]
    fn a_client_key_is_a_pem_that_signs_for_its_jwk() {
        let key = ClientKey::generate();
        let pair = ec_pair(&pem_body(&key.pem));
        let signature = pair.sign(&SystemRandom::new(), b"input").expect("it signs");
        assert!(signed_by(&key.jwk, b"input", signature.as_ref()));
    }
}
