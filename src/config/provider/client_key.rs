//! Reads the private key that signs our client assertions: PEM (PKCS#8, PKCS#1, SEC 1) or JWK.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, RsaKeyPair,
};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// A private key that can sign.
#[derive(Clone)]
pub struct ClientKey {
    der: Zeroizing<Vec<u8>>,
    id: Option<String>,
    /// In order of preference; all of one family.
    algorithms: Vec<Algorithm>,
}

impl ClientKey {
    /// Reads a key.
    ///
    /// # Errors
    /// A text for the configuration's problem list, which holds nothing of the key.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const NEITHER: &str = "no private key: write one in PEM (`-----BEGIN PRIVATE KEY-----`) or as a JWK with its private part";
        let text = text.trim();
        if text.starts_with('{') {
            let jwk: Jwk = serde_json::from_str(text).map_err(|_| NEITHER)?;
            return jwk.into_key();
        }
        let der = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| NEITHER)?;
        let key = match &der {
            PrivateKeyDer::Pkcs1(der) => rsa(der.secret_pkcs1_der()),
            PrivateKeyDer::Sec1(der) => [P256, P384]
                .into_iter()
                .find_map(|curve| ec(&pkcs8(curve, der.secret_sec1_der()))),
            PrivateKeyDer::Pkcs8(der) => {
                let der = der.secret_pkcs8_der();
                ed25519(der).or_else(|| ec(der)).or_else(|| rsa(der))
            }
            _ => None,
        };
        key.ok_or(UNSUPPORTED)
    }

    /// PKCS#1 or PKCS#8 for RSA, PKCS#8 for the others.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Its `kid`, when it came as JWK with one.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// What it can sign with, in order of preference; never empty, and all of one family.
    pub fn algorithms(&self) -> &[Algorithm] {
        &self.algorithms
    }

    /// Whether `other` is the same key, told in constant time.
    pub fn matches(&self, other: &Self) -> bool {
        self.id == other.id
            && self.algorithms == other.algorithms
            && self.der.ct_eq(&other.der).into()
    }

    fn new(der: &[u8], algorithms: &[Algorithm]) -> Self {
        Self {
            der: Zeroizing::new(der.to_vec()),
            id: None,
            algorithms: algorithms.to_vec(),
        }
    }
}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientKey")
            .field("id", &self.id)
            .field("algorithms", &self.algorithms)
            .finish_non_exhaustive()
    }
}

const UNSUPPORTED: &str = "this kind of key cannot be used: write an RSA (2048 bits or more), P-256, P-384 or Ed25519 one";

/// RS256 first: every provider knows it. PKCS#1 or PKCS#8.
fn rsa(der: &[u8]) -> Option<ClientKey> {
    RsaKeyPair::from_der(der)
        .or_else(|_| RsaKeyPair::from_pkcs8(der))
        .ok()?;
    Some(ClientKey::new(
        der,
        &[
            Algorithm::RS256,
            Algorithm::PS256,
            Algorithm::RS384,
            Algorithm::PS384,
            Algorithm::RS512,
            Algorithm::PS512,
        ],
    ))
}

fn ec(pkcs8: &[u8]) -> Option<ClientKey> {
    let fits = |curve: &'static EcdsaSigningAlgorithm| {
        EcdsaKeyPair::from_pkcs8(curve, pkcs8, &SystemRandom::new()).is_ok()
    };
    if fits(&ECDSA_P256_SHA256_FIXED_SIGNING) {
        Some(ClientKey::new(pkcs8, &[Algorithm::ES256]))
    } else if fits(&ECDSA_P384_SHA384_FIXED_SIGNING) {
        Some(ClientKey::new(pkcs8, &[Algorithm::ES384]))
    } else {
        None
    }
}

fn ed25519(pkcs8: &[u8]) -> Option<ClientKey> {
    // OpenSSL writes PKCS#8 without the public key, which the checking constructor refuses.
    Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8).ok()?;
    Some(ClientKey::new(pkcs8, &[Algorithm::EdDSA]))
}

/// A private key as JWK (RFC 7518 §6, RFC 8037 §2).
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: Option<String>,
    kid: Option<String>,
    alg: Option<String>,
    n: Option<Number>,
    e: Option<Number>,
    d: Option<Number>,
    p: Option<Number>,
    q: Option<Number>,
    dp: Option<Number>,
    dq: Option<Number>,
    qi: Option<Number>,
    x: Option<Number>,
    y: Option<Number>,
}

/// A member that holds base64url.
struct Number(Zeroizing<Vec<u8>>);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        URL_SAFE_NO_PAD
            .decode(text.as_str())
            .map(|bytes| Self(Zeroizing::new(bytes)))
            .map_err(|_| serde::de::Error::custom("no base64url"))
    }
}

impl Jwk {
    fn into_key(self) -> Result<ClientKey, &'static str> {
        let mut key = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => self.rsa(),
            ("EC", Some("P-256")) => self.ec(P256),
            ("EC", Some("P-384")) => self.ec(P384),
            ("OKP", Some("Ed25519")) => self.ed25519(),
            ("EC" | "OKP", _) => return Err(UNSUPPORTED),
            _ => return Err("no private key: a shared secret goes into `client_secret`"),
        }
        .ok_or("no complete private key: write the JWK with all its members, an RSA one with `p`, `q`, `dp`, `dq` and `qi`, too")?;
        if let Some(name) = &self.alg {
            // One key, one algorithm (RFC 8725 §3.1). RFC 9864 gives EdDSA over Ed25519 its own name.
            let name = if name == "Ed25519" { "EdDSA" } else { name };
            let named = name.parse().ok();
            let named = named.filter(|named| key.algorithms.contains(named)).ok_or(
                "the JWK's `alg` does not fit its type: write one that does, or leave it out",
            )?;
            key.algorithms = vec![named];
        }
        key.id = self.kid;
        Ok(key)
    }

    /// `RSAPrivateKey` (RFC 8017 §A.1.2).
    fn rsa(&self) -> Option<ClientKey> {
        let mut fields = Zeroizing::new(der::unsigned(&[0]));
        let members = [
            &self.n, &self.e, &self.d, &self.p, &self.q, &self.dp, &self.dq, &self.qi,
        ];
        for member in members {
            let digits = &member.as_ref()?.0;
            fields.extend_from_slice(&Zeroizing::new(der::unsigned(digits)));
        }
        rsa(&Zeroizing::new(der::wrap(der::SEQUENCE, &fields)))
    }

    /// `ECPrivateKey` (RFC 5915 §3) in PKCS#8.
    fn ec(&self, curve: Curve) -> Option<ClientKey> {
        let (x, y, d) = (
            &self.x.as_ref()?.0,
            &self.y.as_ref()?.0,
            &self.d.as_ref()?.0,
        );
        let point = [&[0, 4], &x[..], &y[..]].concat();
        let point = der::wrap(der::BIT_STRING, &point);
        let fields = Zeroizing::new(
            [
                &der::unsigned(&[1])[..],
                &Zeroizing::new(der::wrap(der::OCTET_STRING, d)),
                &der::wrap(der::CONTEXT_1, &point),
            ]
            .concat(),
        );
        let sec1 = Zeroizing::new(der::wrap(der::SEQUENCE, &fields));
        ec(&pkcs8(curve, &sec1))
    }

    /// `CurvePrivateKey` (RFC 8410 §7) in PKCS#8, with the public key where there is one, so that both are checked
    /// against each other.
    fn ed25519(&self) -> Option<ClientKey> {
        let (seed, public) = (&self.d.as_ref()?.0, &self.x.as_ref()?.0);
        let pair = Ed25519KeyPair::from_seed_and_public_key(seed, public);
        pair.ok()?;
        let seed = Zeroizing::new(der::wrap(der::OCTET_STRING, seed));
        ed25519(&pkcs8(ED25519_ALGORITHM, &seed))
    }
}

/// Curve parameters: the DER of `AlgorithmIdentifier` (RFC 5480 §2.1.1).
type Curve = &'static [u8];

const P256: Curve = &[
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
    0xce, 0x3d, 0x03, 0x01, 0x07,
];
const P384: Curve = &[
    0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04,
    0x00, 0x22,
];
/// RFC 8410 §3.
const ED25519_ALGORITHM: &[u8] = &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];

/// `PrivateKeyInfo` (RFC 5208 §5).
fn pkcs8(algorithm: &[u8], key: &[u8]) -> Zeroizing<Vec<u8>> {
    let key = Zeroizing::new(der::wrap(der::OCTET_STRING, key));
    let fields = Zeroizing::new([&der::unsigned(&[0])[..], algorithm, &key].concat());
    Zeroizing::new(der::wrap(der::SEQUENCE, &fields))
}

/// The little DER (X.690) that it takes to hand a JWK to ring.
mod der {
    pub(super) const OCTET_STRING: u8 = 0x04;
    pub(super) const BIT_STRING: u8 = 0x03;
    pub(super) const SEQUENCE: u8 = 0x30;
    pub(super) const CONTEXT_1: u8 = 0xa1;

    /// Tag, length, value.
    pub(super) fn wrap(tag: u8, value: &[u8]) -> Vec<u8> {
        let length = value.len().to_be_bytes();
        let length = &length[length.iter().take_while(|b| **b == 0).count()..];
        let mut out = Vec::with_capacity(value.len() + 10);
        out.push(tag);
        match length {
            [] => out.push(0),
            [short @ 0..=0x7f] => out.push(*short),
            long => {
                // At most eight bytes of length: the cast loses nothing.
                out.push(0x80 | u8::try_from(long.len()).unwrap_or(8));
                out.extend_from_slice(long);
            }
        }
        out.extend_from_slice(value);
        out
    }

    /// A non-negative INTEGER from big-endian bytes.
    pub(super) fn unsigned(bytes: &[u8]) -> Vec<u8> {
        let start = bytes.iter().take_while(|b| **b == 0).count();
        let digits = &bytes[start..];
        let sign = digits.first().is_none_or(|top| top & 0x80 != 0);
        let mut value = Vec::with_capacity(digits.len() + 1);
        if sign {
            value.push(0);
        }
        value.extend_from_slice(digits);
        wrap(0x02, &value)
    }
}

#[cfg(test)]
mod tests;
