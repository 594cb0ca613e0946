//! Runs a login from the first redirect to the new session, over whatever provider and store it is given.

use std::sync::Arc;
use std::time::Duration;

use super::answer::{Answer, Outcome};
use super::cookie::LoginCookie;
use super::memory::Memory;
use super::state::{Transaction, Way};
use super::{Callback, CallbackError, Finished, Start, StartError, Started, Wanted, redeem};
use crate::clock::{SharedClock, Timestamp};
use crate::config::model;
use crate::metrics::{LoginResult, Metrics, SessionEnd};
use crate::oidc::AuthorizationRequest;
use crate::rp::Revoker;
use crate::rp::audit;
use crate::rp::port::{Idp, Store};
use crate::session::{Begun, Lookup, Session, SessionId};

#[derive(Debug)]
pub(super) struct Flow<P, S> {
    pub(super) config: Arc<model::Config>,
    pub(super) providers: Vec<Arc<P>>,
    pub(super) sessions: S,
    pub(super) memory: Arc<Memory>,
    pub(super) clock: SharedClock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) revoker: Revoker,
}

/// Label of logins whose provider cannot be known.
const NO_PROVIDER: &str = "unknown";

impl<P: Idp, S: Store> Flow<P, S> {
    pub(super) async fn start(&self, start: Start<'_>) -> Result<Started, StartError> {
        self.begin(start, 0).await
    }

    /// `restarts`: how often this login has started anew already.
    async fn begin(&self, start: Start<'_>, restarts: u8) -> Result<Started, StartError> {
        let provider = self.chosen(start.provider)?;
        let name = &*provider.config().name;
        let (now, keys) = (self.clock.now(), self.sessions.keys());
        let mut cookie = start
            .login_cookie
            .and_then(|raw| LoginCookie::open(&keys, raw))
            .unwrap_or_else(LoginCookie::fresh);
        if !start.automatic {
            cookie.forgive(now);
        } else if cookie.loops(now) || restarts > MAX_RESTARTS {
            self.metrics.login(name, LoginResult::Loop);
            audit::failed(name, LoginResult::Loop, &StartError::Loop);
            return Err(StartError::Loop);
        }
        self.memory
            .admit(start.client, self.config.limits.logins_per_minute_per_ip)
            .map_err(|retry_after| StartError::RateLimited { retry_after })?;
        // Before the user types a password, not after.
        if self.sessions.reachable().await.is_err() {
            self.metrics.login(name, LoginResult::StoreUnavailable);
            return Err(StartError::StoreUnavailable);
        }

        let way = Way::new(start.return_to, start.extra.clone(), restarts, now);
        let (extra, max_age) = parameters(start.extra, provider.config());
        let transaction = Transaction::new(
            name,
            &provider.config().issuer,
            self.redirect_uri(start.origin, name),
            max_age,
        );
        let state = transaction.seal(&keys, cookie.binding(), &way);
        let request = AuthorizationRequest {
            redirect_uri: &transaction.redirect_uri,
            state: &state,
            nonce: &transaction.nonce,
            verifier: &transaction.verifier,
            extra: &extra,
        };
        match start.waited.on(provider.authorization_url(&request)).await {
            Ok(location) => Ok(Started {
                location: location.into(),
                login_cookie: cookie.seal(&keys),
            }),
            Err(error) => {
                tracing::warn!(provider = name, error = %error, "no login can be started");
                self.metrics.login(name, LoginResult::ProviderUnavailable);
                Err(StartError::ProviderUnavailable)
            }
        }
    }

    /// # Cancel safety
    /// Dropped after the code went out, the login is lost and no session remains: the transaction is consumed, the old
    /// session still lives, and the user starts again.
    pub(super) async fn finish(&self, callback: Callback<'_>) -> Result<Finished, CallbackError> {
        let mut provider = self.presumed(callback.path_provider);
        let result = self.complete(&callback, &mut provider).await;
        let outcome = match &result {
            // Nobody logged in just now; or what came of it was counted there.
            Ok(Finished::Already { .. }) | Err(CallbackError::NotRestarted(_)) => return result,
            Ok(Finished::SignedIn { .. }) => LoginResult::Success,
            Ok(Finished::Restarted(_)) => LoginResult::Restarted,
            Err(CallbackError::BadState(_) | CallbackError::NoCookie) => LoginResult::BadState,
            Err(CallbackError::Refused { .. }) => LoginResult::Refused,
            Err(CallbackError::Invalid(_)) => LoginResult::Invalid,
            Err(CallbackError::ProviderUnavailable) => LoginResult::ProviderUnavailable,
            Err(CallbackError::StoreUnavailable) => LoginResult::StoreUnavailable,
            Err(CallbackError::LoggedOut) => LoginResult::LoggedOut,
        };
        self.metrics.login(&provider, outcome);
        match &result {
            Err(error) => audit::failed(&provider, outcome, error),
            Ok(Finished::Restarted(_)) => audit::failed(&provider, outcome, &bad(FOREIGN)),
            Ok(_) => {}
        }
        result
    }

    /// What was wanted, if `query` carries one `state` of ours. Its age and browser do not matter for a link: the target
    /// was checked to be ours when it was sealed.
    pub(super) fn wanted(&self, query: &str) -> Option<Wanted> {
        let answer = Answer::parse(query).ok()?;
        Way::open(&self.sessions.keys(), &answer.state).map(|way| way.wanted)
    }

    /// The order matters: nothing is believed before `state` opened, nothing is asked of the provider before it is
    /// consumed, and the old session dies only when the new one lives (CSRF-07).
    async fn complete(
        &self,
        callback: &Callback<'_>,
        label: &mut Arc<str>,
    ) -> Result<Finished, CallbackError> {
        let (now, keys) = (self.clock.now(), self.sessions.keys());
        let answer = Answer::parse(callback.query).map_err(CallbackError::BadState)?;
        let Some(way) = Way::open(&keys, &answer.state) else {
            return Err(bad("state is not ours"));
        };
        let settle = |error| self.settle(callback.old_session, &way.wanted.return_to, error);
        let Some(raw) = callback.login_cookie else {
            return settle(CallbackError::NoCookie).await;
        };
        let Some(mut cookie) = LoginCookie::open(&keys, raw) else {
            return settle(bad("the login cookie cannot be opened")).await;
        };
        if let Err(untimely) = way.timely(now) {
            return settle(bad(untimely.0)).await;
        }
        let Some(transaction) = Transaction::open(&keys, cookie.binding(), &answer.state) else {
            return match settle(bad(FOREIGN)).await {
                Err(CallbackError::BadState(_)) if may_restart(callback, &answer.outcome) => {
                    self.restart(callback, way).await
                }
                settled => settled,
            };
        };
        let provider = self.expected(callback, &transaction)?;
        *label = Arc::clone(&provider.config().name);
        let replayed = || settle(bad("state was used already"));
        if self.memory.knows(&transaction.id, now) || cookie.has_finished(&transaction.id) {
            return replayed().await;
        }
        // Asked before the state is consumed: with the provider down, a reload may still finish the login.
        let iss_required = match callback.waited.on(provider.iss_parameter()).await {
            Ok(iss) => iss.required,
            Err(error) => {
                tracing::warn!(provider = &**label, error = %error, "no login can be finished");
                return Err(CallbackError::ProviderUnavailable);
            }
        };
        if !self.memory.consume(transaction.id, now) {
            return replayed().await;
        }
        check_issuer(answer.iss.as_deref(), &transaction.issuer, iss_required)?;
        let code = match answer.outcome {
            Outcome::Code(code) => code,
            Outcome::Error(code) if redeem::is_outage(&code) => {
                return Err(CallbackError::ProviderUnavailable);
            }
            Outcome::Error(code) => return Err(CallbackError::Refused { code }),
            Outcome::Neither => {
                return Err(CallbackError::Invalid("neither code nor error".into()));
            }
        };
        let lifetime = self.config.session.lifetime;
        let session = redeem::redeem(
            &**provider,
            &transaction,
            &code,
            &self.clock,
            callback.waited,
            lifetime,
        )
        .await?;
        let (issuer, subject) = (session.issuer.clone(), session.subject.clone());
        let id = self.keep(provider, session, way.started_at).await?;
        audit::signed_in(label, &id, &issuer, &subject);
        if let Some(old) = callback.old_session {
            self.replace(old).await;
        }
        cookie.count(self.clock.now(), &transaction.id);
        Ok(Finished::SignedIn {
            id,
            location: way.wanted.return_to,
            login_cookie: cookie.seal(&keys),
            issuer,
            subject,
        })
    }

    /// A callback that cannot be finished: who is signed in goes on to where they were going (FLOW-20), anyone else
    /// gets `error`.
    async fn settle(
        &self,
        session: Option<&SessionId>,
        return_to: &str,
        error: CallbackError,
    ) -> Result<Finished, CallbackError> {
        let Some(id) = session else {
            return Err(error);
        };
        match self.sessions.peek(id).await {
            Ok(Lookup::Found(found)) => Ok(Finished::Already {
                location: return_to.to_owned(),
                session: found.session,
            }),
            Ok(Lookup::Missing(_)) => Err(error),
            Err(_) => Err(CallbackError::StoreUnavailable),
        }
    }

    /// Starts the login anew under the browser's own login cookie. Tabs that start before the first one arrives each get
    /// one of their own, and the last stays: the answers to all others end here.
    ///
    /// The code that came is left alone. It may be an attacker's, whose account the browser would be signed in to (FLOW-08,
    /// RFC 6749 §10.12); a login of the browser's own does no more than a link to `login` could.
    async fn restart(&self, callback: &Callback<'_>, way: Way) -> Result<Finished, CallbackError> {
        let start = Start {
            origin: callback.origin,
            return_to: way.wanted.return_to,
            provider: callback.path_provider,
            login_cookie: callback.login_cookie,
            extra: way.wanted.extra,
            client: callback.client,
            automatic: true,
            waited: callback.waited,
        };
        let started = self.begin(start, way.restarts.saturating_add(1)).await;
        started
            .map(Finished::Restarted)
            .map_err(CallbackError::NotRestarted)
    }

    /// The provider the transaction was for, if the answer came to its own callback (FLOW-10) at the same origin
    /// (FLOW-15) and the configuration still means the same one.
    fn expected(
        &self,
        callback: &Callback<'_>,
        transaction: &Transaction,
    ) -> Result<&Arc<P>, CallbackError> {
        let name = transaction.provider.as_str();
        if callback.path_provider != self.several().then_some(name) {
            return Err(bad("the answer came to another provider's callback"));
        }
        let Some(provider) = self.find(name) else {
            return Err(bad("the provider is not configured any more"));
        };
        if provider.config().issuer != transaction.issuer {
            return Err(bad("the provider's issuer was changed meanwhile"));
        }
        if self.redirect_uri(callback.origin, name) != transaction.redirect_uri {
            return Err(bad("the answer came to another address"));
        }
        Ok(provider)
    }

    async fn keep(
        &self,
        provider: &Arc<P>,
        session: Session,
        began_at: Timestamp,
    ) -> Result<SessionId, CallbackError> {
        let tokens = Arc::clone(&session.tokens);
        let refused = match self.sessions.begin(session, began_at).await {
            Ok(Begun::Session(id)) => return Ok(id),
            Ok(Begun::TooLate) => CallbackError::LoggedOut,
            Err(error) => {
                tracing::warn!(error = %error, "a finished login could not be stored");
                CallbackError::StoreUnavailable
            }
        };
        // Nobody will ever use or end this grant.
        self.revoker.revoke(provider, tokens);
        Err(refused)
    }

    /// FLOW-27. Its refresh token is not revoked: at providers that keep one grant per user and client, that would end
    /// the new session's tokens as well (RFC 7009 §2.1).
    async fn replace(&self, old: &SessionId) {
        match self.sessions.delete(old).await {
            Ok(Some(_)) => {
                self.metrics.session_ended(SessionEnd::Replaced);
                audit::replaced(old);
            }
            Ok(None) => {}
            // The browser forgets its id all the same, and the record ends with its lifetime.
            Err(error) => {
                tracing::warn!(error = %error, session = old.record_key().short(), "a replaced session could not be deleted");
            }
        }
    }

    fn chosen(&self, name: Option<&str>) -> Result<&Arc<P>, StartError> {
        match (name, self.providers.as_slice()) {
            (Some(name), _) => self.find(name).ok_or(StartError::UnknownProvider),
            (None, [only]) => Ok(only),
            (None, _) => Err(StartError::Choose),
        }
    }

    fn find(&self, name: &str) -> Option<&Arc<P>> {
        self.providers.iter().find(|p| &*p.config().name == name)
    }

    /// Label for a callback before its `state` has told the provider.
    fn presumed(&self, path: Option<&str>) -> Arc<str> {
        let provider = match (path, self.providers.as_slice()) {
            (_, [only]) => Some(only),
            (Some(name), _) => self.find(name),
            (None, _) => None,
        };
        provider.map_or_else(|| NO_PROVIDER.into(), |p| Arc::clone(&p.config().name))
    }

    fn several(&self) -> bool {
        self.config.providers.len() > 1
    }

    /// With several providers each has its own, against mix-up (FLOW-10); always from a configured origin (FLOW-15).
    fn redirect_uri(&self, origin: &model::Origin, provider: &str) -> String {
        let path = if self.several() {
            format!("callback/{provider}")
        } else {
            "callback".to_owned()
        };
        self.config.endpoint(origin, &path).into()
    }
}

/// What the audit log says of an answer whose `state` another login cookie has bound.
const FOREIGN: &str = "state belongs to another browser";
/// A login starts anew this often at most. All starts use the cookie the browser has by then, so once is enough unless
/// one more tab's answer overtook it; a browser that never keeps the same one would go on for ever.
const MAX_RESTARTS: u8 = 3;

fn bad(why: &'static str) -> CallbackError {
    CallbackError::BadState(why)
}

/// Whether a login may start by itself: on the way to a page (FLOW-22), and not over the provider's or the user's no.
fn may_restart(callback: &Callback<'_>, outcome: &Outcome) -> bool {
    callback.navigates && matches!(outcome, Outcome::Code(_))
}

/// RFC 9207 §2.4, on error answers too (FLOW-09).
fn check_issuer(given: Option<&str>, expected: &str, required: bool) -> Result<(), CallbackError> {
    match given {
        Some(issuer) if issuer != expected => {
            Err(CallbackError::Invalid("iss names another issuer".into()))
        }
        None if required => Err(CallbackError::Invalid("iss is missing".into())),
        _ => Ok(()),
    }
}

/// The parameters to pass on, each name once, and the `max_age` that the ID token will have to meet: of a configured and
/// a requested one the stricter, so that a link cannot loosen what the operator asked for.
fn parameters(
    given: Vec<(String, String)>,
    provider: &model::Provider,
) -> (Vec<(String, String)>, Option<Duration>) {
    let seconds = |text: &String| text.parse::<u64>().ok();
    let configured = provider.authorize_params.get(MAX_AGE).and_then(seconds);
    let mut max_age = configured;
    let mut extra: Vec<(String, String)> = Vec::with_capacity(given.len());
    for (name, mut value) in given {
        if extra.iter().any(|(known, _)| *known == name) {
            continue;
        }
        if name == MAX_AGE {
            let Some(asked) = seconds(&value) else {
                continue;
            };
            let stricter = configured.map_or(asked, |limit| limit.min(asked));
            max_age = Some(stricter);
            value = stricter.to_string();
        }
        extra.push((name, value));
    }
    (extra, max_age.map(Duration::from_secs))
}

const MAX_AGE: &str = "max_age";

#[cfg(test)]
mod tests;
