//! Gets tokens from the token endpoint: for a code, or for a refresh token.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::call::{BadAnswer, Form, Reply, Request};
use super::{CallError, Claims, Clearance, Lane, Provider, TokenResponse, jws};
use crate::clock::Timestamp;
use crate::metrics::Endpoint;
use crate::secret::{AccessToken, AuthorizationCode, CodeVerifier, IdToken, RefreshToken};

impl Provider {
    pub(super) async fn exchange(
        &self,
        code: &AuthorizationCode,
        verifier: &CodeVerifier,
        redirect_uri: &str,
    ) -> Result<TokenResponse, CallError> {
        let mut form = Form::default();
        form.set("grant_type", "authorization_code");
        form.set("code", code.expose());
        form.set("redirect_uri", redirect_uri);
        form.set("code_verifier", verifier.expose());
        self.ask_for_tokens(form, self.config.timeout, &self.logins)
            .await
    }

    pub(super) async fn renew(
        &self,
        token: &RefreshToken,
        clearance: &Clearance,
    ) -> Result<TokenResponse, CallError> {
        let mut form = Form::default();
        // No `scope`: what was granted stays granted (RFC 6749 §6, REFRESH-30).
        form.set("grant_type", "refresh_token");
        form.set("refresh_token", token.expose());
        form.only_with(clearance.clone());
        self.ask_for_tokens(form, self.config.refresh_patience, &self.refreshes)
            .await
    }

    /// Asks once; whoever wants another try knows from the error whether that is safe.
    async fn ask_for_tokens(
        &self,
        mut form: Form,
        within: Duration,
        lane: &Lane,
    ) -> Result<TokenResponse, CallError> {
        let deadline = Instant::now() + within;
        let metadata = self.metadata().await?;
        if let Some(left) = lane.pause.left() {
            return Err(CallError::RateLimited {
                retry_after: Some(left),
            });
        }
        let authorization = self.client.authenticate(&mut form, &metadata)?;
        let pass = lane.breaker.enter()?;
        // Life is counted from before the request: what the way takes is lost to us (REFRESH-25).
        let sent_at = self.clock.now();
        let request = Request {
            endpoint: Endpoint::Token,
            url: &metadata.token_endpoint,
            within: deadline.saturating_duration_since(Instant::now()),
            authorization,
            form: Some(form),
        };
        let outcome = self
            .caller
            .call(request, |reply| {
                read_reply(reply, sent_at, self.config.default_token_lifetime)
            })
            .await;
        let outcome = outcome.map_err(|failed| {
            if let Some(wait) = failed.retry_after {
                lane.pause.extend(wait);
            }
            failed.error
        });
        pass.ended(&outcome);
        outcome
    }
}

/// Reads a successful answer. One that is JSON is the provider's own and whole: it has acted, and a refresh token in it is
/// good whatever else is wrong, the media type included.
fn read_reply(
    reply: &Reply,
    sent_at: Timestamp,
    default_lifetime: Duration,
) -> Result<TokenResponse, BadAnswer> {
    let reason = match reply.json() {
        Ok(answer) => match read(&answer, sent_at, default_lifetime) {
            Ok(tokens) => return Ok(tokens),
            Err(reason) => reason,
        },
        Err(BadAnswer::Unreadable(reason) | BadAnswer::Unusable { reason, .. }) => reason,
    };
    Err(match reply.any_json() {
        None => BadAnswer::Unreadable(reason),
        Some(answer) => BadAnswer::Unusable {
            reason,
            refresh_token: answer
                .get("refresh_token")
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
                .map(RefreshToken::new),
        },
    })
}

/// Reads a successful answer (RFC 6749 §5.1); members we do not know are ignored (META-10).
fn read(
    answer: &Claims,
    sent_at: Timestamp,
    default_lifetime: Duration,
) -> Result<TokenResponse, &'static str> {
    let text = |name| {
        answer
            .get(name)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
    };
    let access_token = text("access_token").ok_or("the answer has no access token")?;
    if !access_token.bytes().all(|b| b.is_ascii_graphic()) {
        // It goes into a header; RFC 6749 §A.12 allows visible characters, a space would end it.
        return Err("the access token holds characters that cannot be sent");
    }
    if !text("token_type").is_some_and(|kind| kind.eq_ignore_ascii_case("bearer")) {
        return Err("the token type is not Bearer");
    }
    let lifetime = answer
        .get("expires_in")
        .and_then(positive_seconds)
        .or_else(|| {
            let expiry = Timestamp::from_secs(jws::unverified_expiry(access_token)?);
            Some(expiry.left(sent_at)).filter(|left| !left.is_zero())
        })
        .unwrap_or(default_lifetime)
        .min(LONGEST_LIFETIME);
    let scope = text("scope").map(|list| {
        list.split_ascii_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    });
    Ok(TokenResponse {
        access_token: AccessToken::new(access_token),
        asked_at: sent_at,
        expires_at: sent_at.plus(lifetime),
        refresh_token: text("refresh_token").map(RefreshToken::new),
        id_token: text("id_token").map(IdToken::new),
        scope,
        refresh_expires_in: REFRESH_LIFETIMES
            .iter()
            .filter_map(|name| positive_seconds(answer.get(*name)?))
            .min(),
    })
}

/// A number of seconds, or a text that holds one (REFRESH-26). Zero and less, and what is no number, say nothing: nobody
/// issues a token that is dead already.
fn positive_seconds(value: &Value) -> Option<Duration> {
    let seconds = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse::<f64>().ok()?,
        _ => return None,
    };
    // Not infinite, not NaN; the cap keeps the arithmetic far from its limits.
    (seconds.is_finite() && seconds > 0.0)
        .then(|| Duration::from_secs_f64(seconds.min(LONGEST_LIFETIME.as_secs_f64())))
}

/// Keycloak; GitHub and others; draft-ietf-oauth-refresh-token-expiration §6.1 (REFRESH-28).
const REFRESH_LIFETIMES: [&str; 4] = [
    "refresh_expires_in",
    "refresh_token_expires_in",
    "refresh_token_timeout",
    "authorization_expires_in",
];
/// No token is believed to live longer than a year, whatever is said.
const LONGEST_LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);

#[cfg(test)]
mod tests;
