//! Speaks OpenID Connect with one provider. Knows no HTTP server and no session.
//!
//! One file per step of the protocol; `call` alone makes HTTP calls, `cached` alone keeps what they brought.

mod authorize;
mod breaker;
mod cached;
mod call;
mod client_auth;
mod crypto;
mod discovery;
mod end_session;
mod id_token;
mod jwks;
mod jws;
mod logout_token;
mod pause;
mod presence;
mod private_key;
mod random;
mod revoke;
mod token;
mod userinfo;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use url::Url;

use self::breaker::Breaker;
use self::cached::{Cached, Policy};
use self::call::Caller;
use self::client_auth::Client;
use self::discovery::Metadata;
use self::jwks::KeySet;
pub use self::logout_token::{LogoutToken, LogoutTokenError, claimed_issuer};
use self::pause::Pause;
use crate::clock::{SharedClock, Timestamp};
use crate::config::model;
use crate::metrics::{self, Metrics};
use crate::secret::{AccessToken, AuthorizationCode, CodeVerifier, IdToken, Nonce, RefreshToken};

/// One provider: its metadata, its keys and the calls to it. Cheap to share, made once per configuration of a provider.
pub struct Provider {
    config: Arc<model::Provider>,
    clock: SharedClock,
    caller: Arc<Caller>,
    client: Client,
    metadata: Cached<Metadata>,
    keys: Cached<KeySet>,
    /// A 429 that logins provoke stops no refresh, and the other way round.
    logins: Lane,
    refreshes: Lane,
}

/// What one kind of token call has met.
struct Lane {
    pause: Pause,
    breaker: Breaker,
}

impl Lane {
    fn new(kind: metrics::Lane, provider: &Arc<str>, metrics: &Arc<Metrics>) -> Self {
        Self {
            pause: Pause::default(),
            breaker: Breaker::new(provider, kind, metrics),
        }
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Provider")
            .field("name", &self.config.name)
            .field("issuer", &self.config.issuer)
            .finish_non_exhaustive()
    }
}

/// Verified claims of an ID token.
pub type Claims = Map<String, Value>;

/// What the authorization request carries (OIDC Core §3.1.2.1).
#[derive(Debug)]
pub struct AuthorizationRequest<'a> {
    /// Where the answer goes.
    pub redirect_uri: &'a str,
    /// Sealed transaction.
    pub state: &'a str,
    /// Fresh nonce.
    pub nonce: &'a Nonce,
    /// PKCE verifier; S256 of it is sent.
    pub verifier: &'a CodeVerifier,
    /// Parameters passed on from the login request, already limited to the allowed names
    /// (`prompt`, `login_hint`, `acr_values`, `ui_locales`, `max_age`).
    pub extra: &'a [(String, String)],
}

/// A usable answer of the token endpoint (RFC 6749 §5.1).
#[derive(Debug)]
pub struct TokenResponse {
    /// The access token; never empty.
    pub access_token: AccessToken,
    /// When the request was sent: the token's life is counted from then (REFRESH-25).
    pub asked_at: Timestamp,
    /// When it expires: time the request was sent + `expires_in`, else `exp` of the JWT, else the configured default.
    pub expires_at: Timestamp,
    /// A new refresh token, when there is one.
    pub refresh_token: Option<RefreshToken>,
    /// An ID token, not yet verified.
    pub id_token: Option<IdToken>,
    /// Granted scopes, when the answer names them.
    pub scope: Option<Vec<String>>,
    /// How long the refresh token lives, where the provider says (`refresh_expires_in`, `refresh_token_expires_in`); 0 and absent are `None`.
    pub refresh_expires_in: Option<Duration>,
}

/// A call to the provider that brought no usable answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// Not reachable, too slow, 5xx, 408, not the expected form: worth another try later.
    #[error("the provider cannot be asked now: {reason}")]
    Unavailable {
        /// Short text for the log; never holds anything the provider or a user sent.
        reason: &'static str,
        /// Whether it has done what was asked all the same.
        acted: Acted,
    },
    /// The token endpoint said yes in words that cannot be used (RFC 6749 §5.1): what was presented is spent.
    #[error("the provider's answer cannot be used: {reason}")]
    Unusable {
        /// Short text for the log, as above.
        reason: &'static str,
        /// The refresh token in that very answer: there is no other copy of it.
        refresh_token: Option<RefreshToken>,
    },
    /// 429, or a local pause that an earlier 429 or 503 asked for.
    #[error("the provider asks to slow down")]
    RateLimited {
        /// Its `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// An OAuth error answer (RFC 6749 §5.2).
    #[error("the provider answered with error {code}")]
    OAuth {
        /// The `error` code, cut to its allowed characters and 64 of them.
        code: String,
    },
    /// The provider lacks what is asked for (endpoint, metadata that fit), or its metadata are wrong.
    #[error("provider metadata: {0}")]
    Metadata(String),
}

/// Whether a request may be sent: asked at the last moment, when the connection stands and nothing of the body has left.
///
/// Names, connections and metadata take their time, and a process may be frozen in any of these steps: what was true
/// before them need not be true after.
#[derive(Clone, Default)]
pub struct Clearance(Option<Arc<dyn Fn() -> bool + Send + Sync>>);

impl Clearance {
    /// For a request that may be sent at any time.
    pub fn always() -> Self {
        Self(None)
    }

    /// Asks `check`, which must not block.
    pub fn when(check: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(check)))
    }

    /// Whether it may be sent now.
    pub fn given(&self) -> bool {
        self.0.as_ref().is_none_or(|check| check())
    }
}

impl fmt::Debug for Clearance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clearance({})", self.given())
    }
}

/// What a provider that brought no answer may have done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acted {
    /// Nothing: no byte was sent of any request that could do something (REFRESH-22).
    Unasked,
    /// Nothing, or nothing that asking again at once would tell: it answered, be it with rubbish, or was still silent when
    /// patience ran out.
    No,
    /// Nobody knows: the connection broke after the request was (or may have been) sent, and its answer with it. The one
    /// case in which asking again at once may bring the answer back (REFRESH-23).
    Perhaps,
}

impl Acted {
    /// The same for an answer that came, or is awaited no longer.
    fn settled(self) -> Self {
        match self {
            Self::Perhaps => Self::No,
            other => other,
        }
    }
}

/// What an ID token must say (OIDC Core §3.1.3.7).
#[derive(Debug, Default)]
pub struct Expectations<'a> {
    /// The nonce that was sent; at login always there.
    pub nonce: Option<&'a str>,
    /// `auth_time` must be there and no older than this (plus skew).
    pub max_age: Option<Duration>,
    /// The access token that came with it, for `at_hash`.
    pub access_token: Option<&'a AccessToken>,
    /// At refresh: claims of the first ID token; `iss`, `sub`, `aud`, `auth_time` must not have changed (OIDC Core §12.2).
    pub original: Option<&'a Claims>,
}

/// Why an ID token was refused, or could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum IdTokenError {
    /// It does not stand up to a rule; the text names the rule, never a value.
    #[error("ID token refused: {0}")]
    Refused(&'static str),
    /// It names someone else than the first one did (refresh only).
    #[error("refreshed ID token names another subject")]
    IdentityChanged,
    /// Keys could not be fetched.
    #[error(transparent)]
    Keys(#[from] CallError),
}

/// What identifies a provider on its way back: RFC 9207 `iss` handling needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IssParameter {
    /// Metadata say that every answer carries `iss`.
    pub required: bool,
}

/// What became of a token that was to be revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revoked {
    /// It is of no more use.
    Done,
    /// The provider revokes none, or none of this kind.
    Unsupported,
}

/// A token to revoke (RFC 7009).
#[derive(Debug)]
pub enum Revocable<'a> {
    /// Ends the grant.
    Refresh(&'a RefreshToken),
    /// Where there is no refresh token.
    Access(&'a AccessToken),
}

impl Provider {
    /// Makes the client; reaches out to nobody.
    ///
    /// # Errors
    /// A text for the configuration's problem list: key or CA that cannot be used.
    pub fn new(
        config: Arc<model::Provider>,
        clock: SharedClock,
        metrics: Arc<Metrics>,
    ) -> Result<Self, String> {
        crypto::install();
        metrics.know_provider(&config.name);
        discovery::check_issuer(&config)?;
        let client = Client::new(&config, Arc::clone(&clock));
        let [logins, refreshes] = [metrics::Lane::Login, metrics::Lane::Refresh]
            .map(|kind| Lane::new(kind, &config.name, &metrics));
        let caller = Arc::new(Caller::new(&config, Arc::clone(&clock), metrics)?);
        let metadata = Cached::new(Policy {
            provider: Arc::clone(&config.name),
            what: "the provider's metadata",
            within: config.timeout,
            max_age: None,
            refetch_interval: jwks::REFETCH_INTERVAL,
        });
        let keys = Cached::new(Policy {
            provider: Arc::clone(&config.name),
            what: "the provider's key set",
            within: config.timeout,
            max_age: Some(jwks::LONGEST_TTL),
            refetch_interval: jwks::REFETCH_INTERVAL,
        });
        Ok(Self {
            config,
            clock,
            caller,
            client,
            metadata,
            keys,
            logins,
            refreshes,
        })
    }

    /// Its configuration.
    pub fn config(&self) -> &Arc<model::Provider> {
        &self.config
    }

    /// For how long no refresh may be asked for: what is left of the pause that a 429 or 503 asked for, or that follows
    /// failures in a row.
    pub fn pause_left(&self) -> Option<Duration> {
        let lane = &self.refreshes;
        lane.pause.left().max(lane.breaker.left())
    }

    /// Fetches metadata and keys when they are not at hand; for `check --online` and warm-up.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn warm_up(&self) -> Result<(), CallError> {
        let metadata = self.metadata().await?;
        self.key_set(&metadata.jwks_uri).await?;
        Ok(())
    }

    /// What to expect of `iss` in the authorization response (RFC 9207 §2.4).
    ///
    /// # Errors
    /// When the metadata cannot be had.
    pub async fn iss_parameter(&self) -> Result<IssParameter, CallError> {
        Ok(IssParameter {
            required: self.metadata().await?.iss_parameter,
        })
    }

    /// URL to send the browser to; pushes the request first where PAR is used (RFC 9126).
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn authorization_url(
        &self,
        request: &AuthorizationRequest<'_>,
    ) -> Result<Url, CallError> {
        self.authorize(request).await
    }

    /// Exchanges a code (RFC 6749 §4.1.3). Waits `timeout`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn exchange_code(
        &self,
        code: &AuthorizationCode,
        verifier: &CodeVerifier,
        redirect_uri: &str,
    ) -> Result<TokenResponse, CallError> {
        self.exchange(code, verifier, redirect_uri).await
    }

    /// Presents a refresh token once (RFC 6749 §6), if `clearance` says so when the connection stands. Waits
    /// `refresh_patience`.
    ///
    /// # Errors
    /// See [`CallError`]; `OAuth { code: "invalid_grant" }` is the only one that may end a session.
    pub async fn refresh(
        &self,
        token: &RefreshToken,
        clearance: &Clearance,
    ) -> Result<TokenResponse, CallError> {
        self.renew(token, clearance).await
    }

    /// Checks an ID token (OIDC Core §3.1.3.7, §12.2).
    ///
    /// # Errors
    /// See [`IdTokenError`].
    pub async fn verify_id_token(
        &self,
        token: &IdToken,
        expect: &Expectations<'_>,
    ) -> Result<Claims, IdTokenError> {
        self.check_id_token(token, expect).await
    }

    /// Checks a logout token (Back-Channel Logout §2.6), all but whether it was used before.
    ///
    /// # Errors
    /// See [`LogoutTokenError`].
    pub async fn verify_logout_token(&self, token: &str) -> Result<LogoutToken, LogoutTokenError> {
        self.check_logout_token(token).await
    }

    /// Claims of the UserInfo endpoint, whose `sub` must be `subject` (OIDC Core §5.3.2).
    ///
    /// # Errors
    /// See [`CallError`]; a foreign `sub` is `Metadata`.
    pub async fn userinfo(&self, token: &AccessToken, subject: &str) -> Result<Claims, CallError> {
        self.ask_userinfo(token, subject).await
    }

    /// Revokes a token; that a provider does not do so is no error.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn revoke(&self, token: Revocable<'_>) -> Result<Revoked, CallError> {
        self.give_back(&token).await
    }

    /// Where to send the browser to end the provider's session (RP-Initiated Logout §2); `None` when the provider has no such endpoint.
    ///
    /// # Errors
    /// When the metadata cannot be had.
    pub async fn end_session_url(
        &self,
        id_token_hint: Option<&IdToken>,
        post_logout_redirect_uri: &str,
        state: &str,
    ) -> Result<Option<Url>, CallError> {
        self.end_session(id_token_hint, post_logout_redirect_uri, state)
            .await
    }
}

#[cfg(test)]
mod tests;
