//! Decides whether an ID token is to be believed (OIDC Core §3.1.3.7, and §12.2 for refreshed ones).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use ring::digest;
use serde_json::Value;
use subtle::ConstantTimeEq as _;

use super::discovery::Metadata;
use super::jws::{self, Jws, numeric_date};
use super::{CallError, Claims, Expectations, IdTokenError, Provider};
use crate::clock::Timestamp;
use crate::secret::IdToken;

impl Provider {
    pub(super) async fn check_id_token(
        &self,
        token: &IdToken,
        expect: &Expectations<'_>,
    ) -> Result<Claims, IdTokenError> {
        let metadata = self.metadata().await?;
        let (claims, algorithm) = self.signed_claims(token.expose(), &metadata).await?;
        let context = Context {
            issuer: &self.config.issuer,
            client_id: &self.config.client_id,
            algorithm,
            now: self.clock.now(),
        };
        check(&claims, &context, expect)?;
        Ok(claims)
    }

    /// Claims of a JWT that the provider has signed with an algorithm we accept.
    pub(super) async fn signed_claims(
        &self,
        token: &str,
        metadata: &Metadata,
    ) -> Result<(Claims, Algorithm), IdTokenError> {
        // Step 1: decryption. We ask for no encryption and refuse what is encrypted (OIDC-14).
        let token = Jws::parse(token).map_err(IdTokenError::Refused)?;
        self.verify(&token, metadata).await?;
        let claims = token.claims().map_err(IdTokenError::Refused)?;
        Ok((claims, token.algorithm))
    }

    /// Algorithm and signature.
    pub(super) async fn verify(
        &self,
        token: &Jws<'_>,
        metadata: &Metadata,
    ) -> Result<(), IdTokenError> {
        // Steps 7 and 8: the algorithm is one of ours and one the provider says it uses; `none` and HMAC are never
        // (OIDC-05, JWT-01).
        let told = metadata.id_token_algorithms.as_ref().is_none_or(|names| {
            names
                .iter()
                .any(|name| jws::algorithm(name) == Some(token.algorithm))
        });
        if !told || !self.config.id_token_algorithms.contains(&token.algorithm) {
            return Err(IdTokenError::Refused("its algorithm is not allowed"));
        }
        // Step 6: the signature, although the code flow would let TLS stand in for it (OIDC-04).
        self.check_signature(&metadata.jwks_uri, token).await
    }
}

/// What the claims are held against.
#[derive(Debug)]
struct Context<'a> {
    issuer: &'a str,
    client_id: &'a str,
    algorithm: Algorithm,
    now: Timestamp,
}

/// The rules that need no key.
fn check(
    claims: &Claims,
    context: &Context<'_>,
    expect: &Expectations<'_>,
) -> Result<(), IdTokenError> {
    check_parties(claims, context).map_err(IdTokenError::Refused)?;
    check_times(claims, context.now, expect.max_age).map_err(IdTokenError::Refused)?;
    check_binding(claims, context, expect).map_err(IdTokenError::Refused)?;
    match expect.original {
        Some(original) => check_unchanged(claims, original, expect.nonce.is_some()),
        None => Ok(()),
    }
}

/// Who issued it, for whom, about whom.
fn check_parties(claims: &Claims, context: &Context<'_>) -> Result<(), &'static str> {
    check_addressee(claims, context.issuer, context.client_id)?;
    // Steps 4 and 5 (OIDC-03).
    if claims
        .get("azp")
        .is_some_and(|party| party.as_str() != Some(context.client_id))
    {
        return Err("`azp` is not us");
    }
    // OIDC Core §2 (OIDC-11).
    let subject = claims.get("sub").and_then(Value::as_str);
    if !subject.is_some_and(is_subject) {
        return Err("`sub` is missing or malformed");
    }
    // A logout token is no ID token (JWT-05, Back-Channel Logout §2.4).
    if claims.contains_key("events") {
        return Err("it is an event, not an ID token");
    }
    Ok(())
}

/// Who issued it, and for whom.
pub(super) fn check_addressee(
    claims: &Claims,
    issuer: &str,
    client_id: &str,
) -> Result<(), &'static str> {
    // Step 2: byte for byte (OIDC-01).
    if claims.get("iss").and_then(Value::as_str) != Some(issuer) {
        return Err("`iss` is not the provider");
    }
    // Step 3: for us, and for nobody else, since we trust no other audience (OIDC-02).
    let audience = audience(claims).ok_or("`aud` is missing or malformed")?;
    if !audience.contains(&client_id) {
        return Err("`aud` does not name us");
    }
    if audience.iter().any(|one| *one != client_id) {
        return Err("`aud` names others beside us");
    }
    Ok(())
}

/// OIDC Core §2.
pub(super) fn is_subject(sub: &str) -> bool {
    !sub.is_empty() && sub.len() <= 255 && sub.is_ascii()
}

/// When it was issued, and until when it is good; clocks may differ by [`SKEW`] (OIDC-06).
pub(super) fn check_times(
    claims: &Claims,
    now: Timestamp,
    max_age: Option<Duration>,
) -> Result<(), &'static str> {
    let time = |name| match claims.get(name) {
        None => Ok(None),
        Some(value) => numeric_date(value)
            .map(Timestamp::from_secs)
            .map(Some)
            .ok_or(()),
    };
    // Step 9.
    match time("exp") {
        Ok(Some(expiry)) if now < expiry.plus(SKEW) => {}
        Ok(Some(_)) => return Err("it has expired"),
        Ok(None) | Err(()) => return Err("`exp` is missing or malformed"),
    }
    // Step 10.
    match time("iat") {
        Ok(Some(issued)) if issued <= now.plus(SKEW) => {}
        Ok(Some(_)) => return Err("it was issued in the future"),
        Ok(None) | Err(()) => return Err("`iat` is missing or malformed"),
    }
    match time("nbf") {
        Ok(None) => {}
        Ok(Some(start)) if start <= now.plus(SKEW) => {}
        Ok(Some(_)) => return Err("it is not valid yet"),
        Err(()) => return Err("`nbf` is malformed"),
    }
    // Step 13 (OIDC-10).
    match (max_age, time("auth_time")) {
        (_, Err(())) => Err("`auth_time` is malformed"),
        (None, _) => Ok(()),
        (Some(_), Ok(None)) => Err("`auth_time` is missing"),
        (Some(max_age), Ok(Some(at))) if now <= at.plus(max_age).plus(SKEW) => Ok(()),
        (Some(_), Ok(Some(_))) => Err("the user signed in too long ago"),
    }
}

/// What ties it to this login and to the token it came with.
fn check_binding(
    claims: &Claims,
    context: &Context<'_>,
    expect: &Expectations<'_>,
) -> Result<(), &'static str> {
    // Step 11: nothing in the token can switch this off (OIDC-07).
    if let Some(sent) = expect.nonce {
        let nonce = claims.get("nonce").and_then(Value::as_str);
        let nonce = nonce.ok_or("`nonce` is missing")?;
        if !bool::from(nonce.as_bytes().ct_eq(sent.as_bytes())) {
            return Err("`nonce` is not the one we sent");
        }
    }
    // OIDC Core §3.1.3.8 (OIDC-08).
    if let (Some(claimed), Some(token)) = (claims.get("at_hash"), expect.access_token)
        && claimed.as_str() != Some(&half_hash(context.algorithm, token.expose()))
    {
        return Err("`at_hash` does not fit the access token");
    }
    Ok(())
}

/// OIDC Core §12.2 (OIDC-15). The nonce may be gone, but it may not be another one.
fn check_unchanged(
    claims: &Claims,
    original: &Claims,
    nonce_checked: bool,
) -> Result<(), IdTokenError> {
    if claims.get("iss") != original.get("iss") || claims.get("sub") != original.get("sub") {
        return Err(IdTokenError::IdentityChanged);
    }
    let refused = |rule| Err(IdTokenError::Refused(rule));
    let sorted = |claims| {
        let mut all = audience(claims).unwrap_or_default();
        all.sort_unstable();
        all.dedup();
        all
    };
    if sorted(claims) != sorted(original) {
        return refused("`aud` has changed");
    }
    let auth_time = |claims: &Claims| claims.get("auth_time").and_then(numeric_date);
    if let (Some(new), Some(old)) = (auth_time(claims), auth_time(original))
        && new != old
    {
        return refused("`auth_time` has changed");
    }
    if !nonce_checked
        && let Some(nonce) = claims.get("nonce")
        && Some(nonce) != original.get("nonce")
    {
        return refused("`nonce` has changed");
    }
    Ok(())
}

/// `aud`: a text or a list of texts (RFC 7519 §4.1.3).
pub(super) fn audience(claims: &Claims) -> Option<Vec<&str>> {
    match claims.get("aud")? {
        Value::String(one) => Some(vec![one]),
        Value::Array(all) => all.iter().map(Value::as_str).collect(),
        _ => None,
    }
}

/// The left half of the hash that belongs to the signature algorithm, as base64url.
fn half_hash(algorithm: Algorithm, token: &str) -> String {
    let hash = match algorithm {
        Algorithm::RS384 | Algorithm::PS384 | Algorithm::ES384 => &digest::SHA384,
        // Ed25519 hashes with SHA-512 inside (RFC 8032 §5.1).
        Algorithm::RS512 | Algorithm::PS512 | Algorithm::EdDSA => &digest::SHA512,
        _ => &digest::SHA256,
    };
    let digest = digest::digest(hash, token.as_bytes());
    let digest = digest.as_ref();
    URL_SAFE_NO_PAD.encode(&digest[..digest.len() / 2])
}

impl From<IdTokenError> for CallError {
    /// For signed answers that are no ID tokens.
    fn from(error: IdTokenError) -> Self {
        match error {
            IdTokenError::Keys(error) => error,
            IdTokenError::Refused(rule) => Self::Metadata(format!("signed answer refused: {rule}")),
            IdTokenError::IdentityChanged => {
                Self::Metadata("signed answer names another subject".to_owned())
            }
        }
    }
}

/// How far clocks may differ.
const SKEW: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
