//! Turns an authorization code into a session, or says which rule it broke.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::CallbackError;
use super::state::Transaction;
use crate::clock::{SharedClock, Timestamp, Waited};
use crate::oidc::{CallError, Claims, Expectations, IdTokenError, TokenResponse};
use crate::rp::port::Idp;
use crate::secret::AuthorizationCode;
use crate::session::{Session, Tokens, bearer};

/// Exchanges the code, checks the ID token, merges UserInfo where configured. Each call has the provider's own deadline.
///
/// # Errors
/// See [`CallbackError`].
pub(super) async fn redeem<P: Idp>(
    provider: &P,
    transaction: &Transaction,
    code: &AuthorizationCode,
    clock: &SharedClock,
    waited: &Waited,
    lifetime: Duration,
) -> Result<Session, CallbackError> {
    let redirect_uri = &transaction.redirect_uri;
    let answer = waited
        .on(provider.exchange_code(code, &transaction.verifier, redirect_uri))
        .await
        .map_err(|error| refusal(provider, "token", error))?;
    // OIDC Core §3.1.3.3: without an ID token nobody has signed in.
    let Some(id_token) = &answer.id_token else {
        return Err(CallbackError::Invalid("there is no ID token".into()));
    };
    let expect = Expectations {
        nonce: Some(transaction.nonce.expose()),
        max_age: transaction.max_age,
        access_token: Some(&answer.access_token),
        original: None,
    };
    // The keys may have to be fetched first.
    let mut claims = waited
        .on(provider.verify_id_token(id_token, &expect))
        .await
        .map_err(|error| match error {
            IdTokenError::Keys(error) => refusal(provider, "jwks", error),
            IdTokenError::Refused(_) | IdTokenError::IdentityChanged => {
                CallbackError::Invalid(error.to_string())
            }
        })?;
    let Some(subject) = text(&claims, "sub") else {
        return Err(CallbackError::Invalid("the ID token names nobody".into()));
    };
    if provider.config().userinfo {
        let more = waited
            .on(provider.userinfo(&answer.access_token, &subject))
            .await
            .map_err(|error| refusal(provider, "userinfo", error))?;
        merge(&mut claims, more);
    }
    Ok(session(
        provider,
        answer,
        claims,
        subject,
        clock.now(),
        lifetime,
    ))
}

fn session<P: Idp>(
    provider: &P,
    answer: TokenResponse,
    claims: Claims,
    subject: Arc<str>,
    now: Timestamp,
    lifetime: Duration,
) -> Session {
    let config = provider.config();
    Session {
        provider: Arc::clone(&config.name),
        issuer: config.issuer.as_str().into(),
        subject,
        sid: text(&claims, "sid"),
        claims: Arc::new(claims.into()),
        created_at: now,
        // `refresh_expires_in` does not cap it: many providers extend a refresh token's life each time it is used, and
        // where one does not, its `invalid_grant` ends the session.
        expires_at: now.plus(lifetime),
        tokens: Arc::new(Tokens {
            bearer: bearer(&answer.access_token),
            access: answer.access_token,
            refresh: answer.refresh_token,
            id: answer.id_token,
            // RFC 6749 §5.1: an answer that names no scopes granted those asked for (FLOW-28).
            scopes: answer.scope.unwrap_or_else(|| config.scopes.clone()),
            refreshed_at: answer.asked_at,
            expires_at: answer.expires_at,
        }),
        generation: 0,
    }
}

/// What the protocol says about the login itself. Only the signed ID token may speak about it.
const PROTOCOL_CLAIMS: &[&str] = &[
    "iss",
    "sub",
    "aud",
    "exp",
    "iat",
    "nbf",
    "jti",
    "nonce",
    "azp",
    "acr",
    "amr",
    "auth_time",
    "sid",
    "at_hash",
    "c_hash",
    "s_hash",
];

/// Adds what UserInfo knows beyond the ID token. What is signed is never replaced by what is not.
fn merge(claims: &mut Claims, more: Claims) {
    for (name, value) in more {
        if !PROTOCOL_CLAIMS.contains(&name.as_str()) {
            claims.entry(name).or_insert(value);
        }
    }
}

fn text(claims: &Claims, name: &str) -> Option<Arc<str>> {
    match claims.get(name) {
        Some(Value::String(text)) if !text.is_empty() => Some(text.as_str().into()),
        _ => None,
    }
}

/// What a failed call means for the login. Logged here, where the cause is still known.
fn refusal<P: Idp>(provider: &P, endpoint: &'static str, error: CallError) -> CallbackError {
    tracing::warn!(
        provider = &*provider.config().name,
        endpoint,
        error = %error,
        "the provider did not complete a login"
    );
    match error {
        CallError::Unavailable { .. }
        | CallError::Unusable { .. }
        | CallError::RateLimited { .. } => CallbackError::ProviderUnavailable,
        CallError::OAuth { code } if is_outage(&code) => CallbackError::ProviderUnavailable,
        CallError::OAuth { .. } | CallError::Metadata(_) => {
            CallbackError::Invalid(format!("{endpoint}: {error}"))
        }
    }
}

/// Error codes that mean "later" (RFC 6749 §4.1.2.1, FLOW-18).
pub(super) fn is_outage(code: &str) -> bool {
    matches!(code, "temporarily_unavailable" | "server_error")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(value: Value) -> Claims {
        match value {
            Value::Object(map) => map,
            _ => Claims::new(),
        }
    }

    #[test]
    fn userinfo_adds_and_never_replaces() {
        let mut signed = claims(json!({"sub": "jane", "email": "jane@example.com"}));
        merge(
            &mut signed,
            claims(
                json!({"sub": "mallory", "email": "m@example.com", "name": "Jane", "acr": "gold", "sid": "s"}),
            ),
        );
        assert_eq!(
            signed,
            claims(json!({"sub": "jane", "email": "jane@example.com", "name": "Jane"}))
        );
    }
}
