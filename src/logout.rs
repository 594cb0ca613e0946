//! Ends a session here and at the provider. Knows no HTTP server.

use std::fmt;
use std::sync::Arc;

use crate::clock::SharedClock;
use crate::config::model;
use crate::metrics::{LogoutKind, Metrics};
use crate::oidc::Provider;
use crate::rp::Revoker;
use crate::session::{Session, SessionId, Sessions, StoreError};

mod flow;
mod told;

pub use self::told::{BackChannelError, FrontChannel, FrontChannelError};

/// What logging out needs. Made per configuration.
#[derive(Debug)]
pub struct Logout {
    flow: flow::Flow<Provider, Sessions>,
}

/// Where the browser goes after a logout.
#[derive(PartialEq, Eq)]
pub enum Next {
    /// To the provider's `end_session_endpoint`, or straight to the wanted target.
    Location(String),
    /// Show the signed-out page.
    SignedOut,
}

// A location may carry an ID token as a hint.
impl fmt::Debug for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Location(_) => "Location(..)",
            Self::SignedOut => "SignedOut",
        })
    }
}

impl Logout {
    /// Puts the parts together.
    pub fn new(
        config: Arc<model::Config>,
        providers: Vec<Arc<Provider>>,
        sessions: Sessions,
        revoker: Revoker,
        clock: SharedClock,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            flow: flow::Flow {
                config,
                providers,
                sessions,
                clock,
                metrics,
                revoker,
            },
        }
    }

    /// Ends the session: deletes the record, revokes the refresh token in a task of its own, and for
    /// [`LogoutKind::RpInitiated`] says where the provider wants the browser. `redirect` is already known to be ours.
    ///
    /// Without a session a single provider is still visited: who asks to log out after the session here ran out wants
    /// the provider's to end, too.
    ///
    /// Tells which session was ended, if one was.
    ///
    /// # Errors
    /// [`StoreError`]: the session may still be there; the user must be told.
    pub async fn end(
        &self,
        kind: LogoutKind,
        origin: &model::Origin,
        id: Option<&SessionId>,
        redirect: Option<String>,
    ) -> Result<(Next, Option<Arc<Session>>), StoreError> {
        self.flow.end(kind, origin, id, redirect).await
    }

    /// The provider says that sessions are over (OpenID Connect Back-Channel Logout 1.0). Good tokens for sessions that are
    /// not here are fine, too.
    ///
    /// # Errors
    /// See [`BackChannelError`].
    pub async fn back_channel(&self, logout_token: &str) -> Result<(), BackChannelError> {
        self.flow.back_channel(logout_token).await
    }

    /// The browser shows, in a frame of the provider's, that a session is over (OpenID Connect Front-Channel Logout 1.0).
    /// `carried` are the sessions whose cookies came along.
    ///
    /// # Errors
    /// See [`FrontChannelError`].
    pub async fn front_channel(
        &self,
        origin: &model::Origin,
        issuer: &str,
        sid: &str,
        carried: &[SessionId],
    ) -> Result<FrontChannel, FrontChannelError> {
        self.flow.front_channel(origin, issuer, sid, carried).await
    }

    /// The browser is back from the provider with `state`: the target sealed in it, if it opens.
    pub fn returned(&self, state: Option<&str>) -> Option<String> {
        self.flow.returned(state)
    }

    /// Origins of the providers' `end_session_endpoint`s, for the `form-action` of the confirmation page: Chromium holds
    /// the redirects after a form to it. Providers that cannot be asked now are left out, as logging out leaves them out.
    pub async fn end_session_origins(&self, origin: &model::Origin) -> Vec<String> {
        self.flow.end_session_origins(origin).await
    }
}
