//! Takes a signed JWT apart, and says whether a key made its signature.
//!
//! Compact form only (JWT-06). Of the header, `alg`, `kid`, `typ` and `crit` are read; key material in it (`jwk`, `jku`,
//! `x5c`, `x5u`) is never looked at (JWT-03, RFC 8725 §3.10).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

use super::Claims;

/// A JWT taken apart; nothing in it is to be believed before [`Jws::signed_by`] said yes.
#[derive(Debug)]
pub(super) struct Jws<'a> {
    /// Algorithm the header names; asymmetric ones only.
    pub(super) algorithm: Algorithm,
    /// Which key, when the header says so.
    pub(super) kid: Option<String>,
    message: &'a str,
    signature: &'a str,
    payload: Vec<u8>,
}

impl<'a> Jws<'a> {
    /// Parses a token whose `typ` is absent or `JWT`: an access token (`at+jwt`) or a logout token (`logout+jwt`) is
    /// none (JWT-04, RFC 8725 §3.11).
    ///
    /// The error names the rule that was broken.
    pub(super) fn parse(token: &'a str) -> Result<Self, &'static str> {
        Self::parse_typed(token, |typ| is_type(typ, "jwt"))
    }

    /// Parses a token whose `typ` is absent or `logout+jwt` (JWT-04, Back-Channel Logout §2.4).
    pub(super) fn parse_logout(token: &'a str) -> Result<Self, &'static str> {
        Self::parse_typed(token, |typ| is_type(typ, "logout+jwt"))
    }

    fn parse_typed(token: &'a str, good: impl Fn(&str) -> bool) -> Result<Self, &'static str> {
        if token.len() > MAX_TOKEN {
            return Err("it is too large");
        }
        // Split from the right, so that `message` is the text the signature covers.
        let (message, signature) = token.rsplit_once('.').ok_or("it is no signed JWT")?;
        let (header, payload) = message.split_once('.').ok_or("it is no signed JWT")?;
        if payload.contains('.') {
            // Five parts are a JWE (OIDC-14); it is never treated as plain.
            return Err("it is encrypted, or no compact JWS");
        }
        let header: Header = URL_SAFE_NO_PAD
            .decode(header)
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
            .ok_or("its header cannot be read")?;
        if header.crit.is_some() {
            // We understand no extension (JWT-02, RFC 7515 §4.1.11).
            return Err("its header has critical extensions");
        }
        if header.typ.as_deref().is_some_and(|typ| !good(typ)) {
            return Err("its type is another");
        }
        let algorithm = algorithm(&header.alg).ok_or("its algorithm is not allowed")?;
        let payload = URL_SAFE_NO_PAD
            .decode(payload)
            .map_err(|_| "its payload cannot be read")?;
        Ok(Self {
            algorithm,
            kid: header.kid,
            message,
            signature,
            payload,
        })
    }

    /// Whether `key` made the signature.
    pub(super) fn signed_by(&self, key: &DecodingKey) -> bool {
        jsonwebtoken::crypto::verify(self.signature, self.message.as_bytes(), key, self.algorithm)
            .unwrap_or(false)
    }

    /// The claims.
    pub(super) fn all_claims(&self) -> Result<Claims, &'static str> {
        serde_json::from_slice(&self.payload).map_err(|_| "its claims cannot be read")
    }

    /// The claims, without those that are `null` (OIDC-18).
    pub(super) fn claims(&self) -> Result<Claims, &'static str> {
        let mut claims = self.all_claims()?;
        claims.retain(|_, value| !value.is_null());
        Ok(claims)
    }
}

/// Name of a signature algorithm that can prove something about the sender: `none` and HMAC cannot (OIDC-05).
pub(super) fn algorithm(name: &str) -> Option<Algorithm> {
    Some(match name {
        "RS256" => Algorithm::RS256,
        "RS384" => Algorithm::RS384,
        "RS512" => Algorithm::RS512,
        "PS256" => Algorithm::PS256,
        "PS384" => Algorithm::PS384,
        "PS512" => Algorithm::PS512,
        "ES256" => Algorithm::ES256,
        "ES384" => Algorithm::ES384,
        // RFC 9864 gives EdDSA over Ed25519, the only curve we take, its own name.
        "EdDSA" | "Ed25519" => Algorithm::EdDSA,
        _ => return None,
    })
}

/// `exp` of a JWT whose signature nobody checked; a hint about an access token that we forward anyway (REFRESH-27).
pub(super) fn unverified_expiry(token: &str) -> Option<i64> {
    let mut parts = token.split('.');
    let (_, payload, _, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else {
        return None;
    };
    let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
    let claims: Claims = serde_json::from_slice(&payload).ok()?;
    numeric_date(claims.get("exp")?)
}

/// A `NumericDate` in whole seconds (RFC 7519 §2), rounded towards zero.
pub(super) fn numeric_date(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        let seconds = value.as_f64()?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "in range by the check before it"
        )]
        (seconds.abs() < 1e15).then_some(seconds as i64)
    })
}

/// The members of a JOSE header that we read.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<Value>,
}

/// Media types compare without case, and `application/` may be left out (RFC 7515 §4.1.9).
fn is_type(typ: &str, wanted: &str) -> bool {
    let short = match typ.split_once('/') {
        Some((main, sub)) if main.eq_ignore_ascii_case("application") => sub,
        _ => typ,
    };
    short.eq_ignore_ascii_case(wanted)
}

const MAX_TOKEN: usize = 64 * 1024;
