//! Runs a logout: first here, then at the provider, whose failure never keeps the session alive (LOGOUT-01).

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use url::Url;

use super::Next;
use crate::clock::{SharedClock, Timestamp};
use crate::config::model;
use crate::metrics::{LogoutKind, Metrics, SessionEnd};
use crate::rp::Revoker;
use crate::rp::audit;
use crate::rp::port::{Idp, Store};
use crate::seal::Purpose;
use crate::secret::IdToken;
use crate::session::{Session, SessionId, StoreError};

#[derive(Debug)]
pub(super) struct Flow<P, S> {
    pub(super) config: Arc<model::Config>,
    pub(super) providers: Vec<Arc<P>>,
    pub(super) sessions: S,
    pub(super) clock: SharedClock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) revoker: Revoker,
}

/// The way to the provider and back may take this long.
const LIFETIME: Duration = Duration::from_secs(10 * 60);
/// Clocks of replicas may differ by this much.
const SKEW: Duration = Duration::from_secs(60);
/// Longer targets make way for the signed-out page: `state` has to fit the provider's URL limits.
const MAX_REDIRECT: usize = 2048;
/// A longer ID token is left out: the provider then asks the user, instead of refusing an overlong URL.
const MAX_HINT: usize = 6 * 1024;
/// Longer states are not ours.
const MAX_STATE: usize = 8 * 1024;
const VERSION: u8 = 1;

/// What `state` carries to the provider and back (RP-Initiated Logout §2).
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    v: u8,
    t: Timestamp,
    r: Option<String>,
}

impl<P: Idp, S: Store> Flow<P, S> {
    pub(super) async fn end(
        &self,
        kind: LogoutKind,
        origin: &model::Origin,
        id: Option<&SessionId>,
        redirect: Option<String>,
    ) -> Result<(Next, Option<Arc<Session>>), StoreError> {
        let session = match id {
            Some(id) => self.delete(kind, id).await?,
            None => None,
        };
        let redirect = redirect.filter(|target| target.len() <= MAX_REDIRECT);
        if kind == LogoutKind::RpInitiated
            && let Some(provider) = self.provider_to_visit(session.as_deref())
        {
            let hint = session
                .as_ref()
                .and_then(|session| session.tokens.id.as_ref())
                .filter(|token| token.len() <= MAX_HINT);
            let state = self.seal(redirect.clone());
            if let Some(url) = self.end_session_url(provider, origin, hint, &state).await {
                return Ok((Next::Location(url.into()), session));
            }
        }
        Ok((redirect.map_or(Next::SignedOut, Next::Location), session))
    }

    pub(super) fn returned(&self, state: Option<&str>) -> Option<String> {
        let state = state.filter(|text| text.len() <= MAX_STATE)?;
        let sealed = BASE64_URL_SAFE_NO_PAD.decode(state).ok()?;
        let plain = self
            .sessions
            .keys()
            .open(Purpose::LogoutState, &[], &[], &sealed)
            .ok()?;
        let wire: Wire = serde_json::from_slice(&plain).ok()?;
        let now = self.clock.now();
        let timely = wire.t <= now.plus(SKEW) && now <= wire.t.plus(LIFETIME);
        (wire.v == VERSION && timely).then_some(wire.r).flatten()
    }

    pub(super) async fn end_session_origins(&self, origin: &model::Origin) -> Vec<String> {
        let ask = |provider| self.end_session_url(provider, origin, None, "");
        let urls = join_all(self.providers.iter().map(|provider| ask(provider))).await;
        let mut origins: Vec<String> = Vec::new();
        for url in urls.into_iter().flatten() {
            let text = url.origin().ascii_serialization();
            if !origins.contains(&text) {
                origins.push(text);
            }
        }
        origins
    }

    /// The store first: what fails after it leaves no session behind.
    async fn delete(
        &self,
        kind: LogoutKind,
        id: &SessionId,
    ) -> Result<Option<Arc<Session>>, StoreError> {
        let deleted = self
            .sessions
            .delete(id)
            .await
            .inspect_err(|_| audit::logout_failed(kind, id))?;
        // Logging out twice, or of a session that ran out, is fine (LOGOUT-16) and no event.
        if let Some(session) = &deleted {
            self.metrics.logout(kind);
            self.metrics.session_ended(SessionEnd::Logout);
            audit::signed_out(kind, id, session);
            if let Some(provider) = self.provider_of(session) {
                self.revoker.revoke(provider, Arc::clone(&session.tokens));
            }
        }
        Ok(deleted)
    }

    fn provider_of(&self, session: &Session) -> Option<&Arc<P>> {
        // A provider that kept its name but not its issuer is another one: it must not see this session's tokens.
        self.providers.iter().find(|provider| {
            let config = provider.config();
            config.name == session.provider && *config.issuer == *session.issuer
        })
    }

    fn provider_to_visit(&self, session: Option<&Session>) -> Option<&Arc<P>> {
        match (session, self.providers.as_slice()) {
            (Some(session), _) => self.provider_of(session),
            (None, [only]) => Some(only),
            (None, _) => None,
        }
    }

    pub(super) async fn end_session_url(
        &self,
        provider: &P,
        origin: &model::Origin,
        hint: Option<&IdToken>,
        state: &str,
    ) -> Option<Url> {
        let back = self.config.endpoint(origin, "logout/callback");
        match provider.end_session_url(hint, back.as_str(), state).await {
            Ok(url) => url,
            Err(error) => {
                tracing::warn!(
                    provider = &*provider.config().name,
                    error = %error,
                    "the session ended here only, the provider could not be asked"
                );
                None
            }
        }
    }

    fn seal(&self, redirect: Option<String>) -> String {
        let wire = Wire {
            v: VERSION,
            t: self.clock.now(),
            r: redirect,
        };
        let plain = serde_json::to_vec(&wire).expect("a number and a text always serialise");
        let sealed = self
            .sessions
            .keys()
            .seal(Purpose::LogoutState, &[], &[], &plain);
        BASE64_URL_SAFE_NO_PAD.encode(sealed)
    }
}

#[cfg(test)]
pub(super) mod tests;
