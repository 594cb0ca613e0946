//! Decides whether a logout token is to be believed (OpenID Connect Back-Channel Logout 1.0 §2.4–2.6).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::id_token::{check_addressee, check_times, is_subject};
use super::jws::{Jws, numeric_date};
use super::{CallError, Claims, IdTokenError, Provider};
use crate::clock::Timestamp;

/// What a logout token says.
#[derive(Clone, PartialEq, Eq)]
pub struct LogoutToken {
    /// Whose sessions end, or whose the session is.
    pub subject: Option<String>,
    /// The session at the provider that ended; all of the user's when there is none.
    pub sid: Option<String>,
    /// Tells the token from every other of this issuer.
    pub id: String,
    /// When the provider made it.
    pub issued_at: Timestamp,
    /// From then on it is refused for its age, clocks' differences included.
    pub good_until: Timestamp,
}

/// Why a logout token was refused, or could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum LogoutTokenError {
    /// It does not stand up to a rule; the text names the rule, never a value.
    #[error("logout token refused: {0}")]
    Refused(&'static str),
    /// The provider's metadata or keys could not be fetched.
    #[error(transparent)]
    Keys(#[from] CallError),
}

// It names users.
impl std::fmt::Debug for LogoutToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogoutToken")
            .field("issued_at", &self.issued_at)
            .finish_non_exhaustive()
    }
}

/// Whom a logout token claims to be from, unchecked: says which provider is to check it.
pub fn claimed_issuer(token: &str) -> Option<String> {
    let (_, rest) = token.split_once('.')?;
    let (payload, _) = rest.split_once('.')?;
    let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
    let claims: Claims = serde_json::from_slice(&payload).ok()?;
    Some(claims.get("iss")?.as_str()?.to_owned())
}

impl Provider {
    pub(super) async fn check_logout_token(
        &self,
        token: &str,
    ) -> Result<LogoutToken, LogoutTokenError> {
        // Step 1: we ask for no encryption and refuse what is encrypted. Steps 2 and 3: as for ID tokens.
        let token = Jws::parse_logout(token).map_err(LogoutTokenError::Refused)?;
        let metadata = self.metadata().await?;
        match self.verify(&token, &metadata).await {
            Ok(()) => {}
            Err(IdTokenError::Keys(error)) => return Err(error.into()),
            Err(IdTokenError::Refused(rule)) => return Err(LogoutTokenError::Refused(rule)),
            Err(IdTokenError::IdentityChanged) => {
                return Err(LogoutTokenError::Refused("its signature is wrong"));
            }
        }
        let claims = token.all_claims().map_err(LogoutTokenError::Refused)?;
        let (issuer, client_id) = (&self.config.issuer, &self.config.client_id);
        check(&claims, issuer, client_id, self.clock.now()).map_err(LogoutTokenError::Refused)
    }
}

/// The rules that need no key. Here `null` is a value like others: a claim that must not be there is there with it.
fn check(
    claims: &Claims,
    issuer: &str,
    client_id: &str,
    now: Timestamp,
) -> Result<LogoutToken, &'static str> {
    // Step 4: `iss`, `aud`, `iat` and `exp` as in an ID token.
    check_addressee(claims, issuer, client_id)?;
    check_times(claims, now, None)?;
    let time = |name| claims.get(name).and_then(numeric_date);
    let (Some(issued_at), Some(expiry)) = (time("iat"), time("exp")) else {
        return Err("`iat` or `exp` is malformed");
    };
    let (issued_at, expiry) = (
        Timestamp::from_secs(issued_at),
        Timestamp::from_secs(expiry),
    );
    // LOGOUT-08: so that what was used need not be remembered for long.
    let good_until = expiry.min(issued_at.plus(MAX_AGE)).plus(SKEW);
    if good_until <= now {
        return Err("it is too old");
    }
    // Step 5.
    let subject = text(claims, "sub", "`sub` is malformed")?;
    let sid = text(claims, "sid", "`sid` is malformed")?;
    if subject
        .as_deref()
        .is_some_and(|subject| !is_subject(subject))
    {
        return Err("`sub` is malformed");
    }
    if subject.is_none() && sid.is_none() {
        return Err("neither `sub` nor `sid` is there");
    }
    // Step 6.
    let events = claims.get("events").and_then(Value::as_object);
    let event = events.ok_or("`events` is missing or malformed")?.get(EVENT);
    if !event.is_some_and(Value::is_object) {
        return Err("`events` does not say that it is a back-channel logout");
    }
    // Step 7: an ID token is no logout token (JWT-05).
    if claims.contains_key("nonce") {
        return Err("it has a `nonce`");
    }
    // Step 8 is up to who can remember what was used.
    let id = text(claims, "jti", "`jti` is malformed")?.ok_or("`jti` is missing")?;
    Ok(LogoutToken {
        subject,
        sid,
        id,
        issued_at,
        good_until,
    })
}

/// A text that is not empty, nor longer than any in use; `None` when the claim is not there.
fn text(
    claims: &Claims,
    name: &str,
    malformed: &'static str,
) -> Result<Option<String>, &'static str> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(text)) if !text.is_empty() && text.len() <= MAX_TEXT => {
            Ok(Some(text.clone()))
        }
        Some(_) => Err(malformed),
    }
}

const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";
/// Providers make a logout token for each try, and give it two minutes.
const MAX_AGE: Duration = Duration::from_secs(10 * 60);
/// How far clocks may differ.
const SKEW: Duration = Duration::from_secs(60);
const MAX_TEXT: usize = 1024;

#[cfg(test)]
mod tests;
