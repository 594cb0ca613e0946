//! Decides when a token is too old to forward, and renews it exactly once.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{SharedClock, Timestamp};
use crate::metrics::Metrics;
use crate::oidc::Provider;
use crate::session::{Found, Session, SessionId, Sessions, Tokens};

/// How fresh an access token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Forward it.
    Fresh,
    /// Forward it, and renew it in the background.
    Ageing,
    /// Do not forward it.
    Expired,
}

/// Classifies tokens by their own expiry, never by the session's age.
pub fn freshness(tokens: &Tokens, now: Timestamp, refresh_before: Duration) -> Freshness {
    let _ = (tokens, now, refresh_before);
    todo!()
}

/// Why there is no token to forward.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// The session is over: `invalid_grant`, logged out, or the identity changed.
    #[error("the session is over")]
    Ended,
    /// No refresh token: the session ends with its access token.
    #[error("the token expired and there is no refresh token")]
    NoRefreshToken,
    /// The provider cannot be asked now; the session stays.
    #[error("the provider cannot refresh the token now")]
    Unavailable {
        /// When to try again.
        retry_after: Duration,
    },
    /// The store cannot be asked now; the session stays.
    #[error("the session store is unavailable")]
    Store,
}

/// Renews tokens: one flight per session in the process, one lease holder across processes. Made once; lives across reloads.
#[derive(Debug)]
pub struct Refresher {
    _sessions: Sessions,
}

impl Refresher {
    /// Makes it.
    pub fn new(sessions: Sessions, clock: SharedClock, metrics: Arc<Metrics>) -> Arc<Self> {
        let _ = (clock, metrics);
        Arc::new(Self {
            _sessions: sessions,
        })
    }

    /// A session whose access token may be forwarded now. Fresh: returned as it is, no await. Ageing: returned as it is,
    /// renewed in the background. Expired: waits for the flight, at most the provider's `timeout`.
    ///
    /// # Errors
    /// See [`RefreshError`].
    ///
    /// # Cancel safety
    /// Cancel safe: the exchange runs in its own task.
    pub async fn usable(
        self: &Arc<Self>,
        id: &SessionId,
        found: &Found,
        provider: &Arc<Provider>,
        refresh_before: Duration,
    ) -> Result<Arc<Session>, RefreshError> {
        let _ = (id, found, provider, refresh_before);
        todo!()
    }

    /// Refreshes now although the token still works (`session/refresh`). A token younger than a few seconds is returned as it is.
    ///
    /// # Errors
    /// See [`RefreshError`].
    pub async fn force(
        self: &Arc<Self>,
        id: &SessionId,
        found: &Found,
        provider: &Arc<Provider>,
    ) -> Result<Arc<Session>, RefreshError> {
        let _ = (id, found, provider);
        todo!()
    }

    /// Flights under way; drained at shutdown.
    pub fn in_flight(&self) -> usize {
        todo!()
    }
}
