//! Proves to the provider who we are, in exactly one way per request.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use jsonwebtoken::{EncodingKey, Header};
use serde::Serialize;
use zeroize::Zeroizing;

use super::call::Form;
use super::discovery::Metadata;
use super::private_key::SigningKey;
use super::{Acted, CallError, random};
use crate::clock::SharedClock;
use crate::config::model;
use crate::secret::ClientSecret;

/// Our credentials at one provider.
#[derive(Debug)]
pub(super) struct Client {
    id: String,
    issuer: String,
    credentials: Credentials,
    clock: SharedClock,
}

#[derive(Debug)]
enum Credentials {
    Basic(ClientSecret),
    Post(ClientSecret),
    Key(SigningKey),
    None,
}

impl Client {
    pub(super) fn new(config: &model::Provider, clock: SharedClock) -> Self {
        let credentials = match &config.client_auth {
            model::ClientAuth::SecretBasic(secret) => Credentials::Basic(secret.clone()),
            model::ClientAuth::SecretPost(secret) => Credentials::Post(secret.clone()),
            model::ClientAuth::PrivateKeyJwt(key) => Credentials::Key(SigningKey::new(key)),
            model::ClientAuth::None => Credentials::None,
        };
        Self {
            id: config.client_id.clone(),
            issuer: config.issuer.clone(),
            credentials,
            clock,
        }
    }

    /// Adds our credentials to a request; the same at the token, PAR and revocation endpoints.
    ///
    /// Answers with the value of `Authorization` where they go there.
    pub(super) fn authenticate(
        &self,
        form: &mut Form,
        metadata: &Metadata,
    ) -> Result<Option<HeaderValue>, CallError> {
        match &self.credentials {
            Credentials::Basic(secret) => return basic(&self.id, secret).map(Some),
            Credentials::Post(secret) => form.set("client_secret", secret.expose()),
            Credentials::Key(key) => {
                form.set("client_assertion_type", ASSERTION_TYPE);
                form.set("client_assertion", &self.assertion(key, metadata)?);
            }
            Credentials::None => {}
        }
        form.set("client_id", &self.id);
        Ok(None)
    }

    /// A fresh assertion (RFC 7523 §3, OIDC Core §9), good for one request.
    fn assertion(
        &self,
        key: &SigningKey,
        metadata: &Metadata,
    ) -> Result<Zeroizing<String>, CallError> {
        let algorithm = key
            .algorithm(metadata.assertion_algorithms.as_deref())
            .ok_or_else(|| {
                let text = "the provider accepts no signature algorithm of the client key";
                CallError::Metadata(text.to_owned())
            })?;
        let mut header = Header::new(algorithm);
        // RFC 10070 would have `client-authentication+jwt` here. Verifiers built on common libraries accept `JWT` only
        // unless told otherwise, and those that know the new type accept the old one too.
        header.typ = Some("JWT".to_owned());
        header.kid = key.id().map(str::to_owned);
        let issued = self.clock.now();
        let claims = Assertion {
            iss: &self.id,
            sub: &self.id,
            // The issuer alone, at every endpoint: an assertion for one provider is worth nothing at another
            // (RFC 10070, CAUTH-05).
            aud: &self.issuer,
            jti: random::unique_id().ok_or_else(unsigned)?,
            iat: issued.as_secs(),
            exp: issued.plus(ASSERTION_LIFETIME).as_secs(),
        };
        sign(&header, &claims, key.key())
    }
}

fn sign(
    header: &Header,
    claims: &Assertion<'_>,
    key: &EncodingKey,
) -> Result<Zeroizing<String>, CallError> {
    jsonwebtoken::encode(header, claims, key)
        .map(Zeroizing::new)
        .map_err(|_| unsigned())
}

fn unsigned() -> CallError {
    CallError::Unavailable {
        reason: "no client assertion could be signed",
        acted: Acted::Unasked,
    }
}

/// Both parts are form-urlencoded first, so that `:`, `+` and `%` survive (RFC 6749 §2.3.1, CAUTH-03).
fn basic(id: &str, secret: &ClientSecret) -> Result<HeaderValue, CallError> {
    let encode = |text: &str| -> Zeroizing<String> {
        let mut out = Zeroizing::new(String::with_capacity(3 * text.len()));
        out.extend(form_urlencoded::byte_serialize(text.as_bytes()));
        out
    };
    let pair = Zeroizing::new(format!("{}:{}", &*encode(id), &*encode(secret.expose())));
    let text = Zeroizing::new(format!(
        "Basic {}",
        &*Zeroizing::new(STANDARD.encode(&*pair))
    ));
    let mut value = HeaderValue::from_str(&text).map_err(|_| unsigned())?;
    value.set_sensitive(true);
    Ok(value)
}

#[derive(Serialize)]
struct Assertion<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    jti: String,
    iat: i64,
    exp: i64,
}

const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const ASSERTION_LIFETIME: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
