//! Ends a session here and at the provider. Knows no HTTP server.

use std::sync::Arc;

use crate::clock::SharedClock;
use crate::config::model;
use crate::metrics::{LogoutKind, Metrics};
use crate::oidc::Provider;
use crate::session::{SessionId, Sessions, StoreError};

/// What logging out needs. Made per configuration.
#[derive(Debug)]
pub struct Logout {
    _config: Arc<model::Config>,
}

/// Where the browser goes after a logout.
#[derive(Debug)]
pub enum Next {
    /// To the provider's `end_session_endpoint`, or straight to the wanted target.
    Location(String),
    /// Show the signed-out page.
    SignedOut,
}

impl Logout {
    /// Puts the parts together.
    pub fn new(
        config: Arc<model::Config>,
        providers: Vec<Arc<Provider>>,
        sessions: Sessions,
        clock: SharedClock,
        metrics: Arc<Metrics>,
    ) -> Self {
        let _ = (providers, sessions, clock, metrics);
        Self { _config: config }
    }

    /// Ends the session: deletes the record, revokes the refresh token in a task of its own, and for
    /// [`LogoutKind::RpInitiated`] says where the provider wants the browser. `redirect` is already known to be ours.
    ///
    /// # Errors
    /// [`StoreError`]: the session may still be there; the user must be told.
    pub async fn end(
        &self,
        kind: LogoutKind,
        origin: &model::Origin,
        id: Option<&SessionId>,
        redirect: Option<String>,
    ) -> Result<Next, StoreError> {
        let _ = (kind, origin, id, redirect);
        todo!()
    }

    /// The browser is back from the provider with `state`: the target sealed in it, if it opens.
    pub fn returned(&self, state: Option<&str>) -> Option<String> {
        let _ = state;
        todo!()
    }
}
