//! Sends a browser to the provider and takes it back in. Knows no HTTP server.

use std::fmt;
use std::sync::Arc;

use ring::rand::SecureRandom as _;

use crate::clock::{SharedClock, Waited};
use crate::config::model;
use crate::metrics::Metrics;
use crate::oidc::Provider;
use crate::rp::Revoker;
use crate::session::{Session, SessionId, Sessions};

mod answer;
mod cookie;
mod flow;
mod memory;
mod redeem;
mod state;

pub use memory::Memory;

/// What logging in needs. Made per configuration; what must outlive a reload (consumed states, rate limits) is in [`Memory`].
#[derive(Debug)]
pub struct Login {
    flow: flow::Flow<Provider, Sessions>,
}

/// A wish to log in.
pub struct Start<'a> {
    /// The public origin the request came to.
    pub origin: &'a model::Origin,
    /// Path and query to return to, already known to be ours (see `web::redirect`); an absolute URL when it is another of our origins.
    pub return_to: String,
    /// Named provider; `None` with several providers asks for the chooser.
    pub provider: Option<&'a str>,
    /// Raw value of the login cookie, if any.
    pub login_cookie: Option<&'a str>,
    /// Pass-through parameters by name and value, already limited to the allowed names.
    pub extra: Vec<(String, String)>,
    /// Client address, for the rate limit.
    pub client: std::net::IpAddr,
    /// Whether this start is automatic (redirected from a page) rather than asked for (`login`): only automatic ones can loop.
    pub automatic: bool,
    /// Told how long the provider was waited for.
    pub waited: &'a Waited,
}

/// Where the browser goes, with which login cookie.
pub struct Started {
    /// `Location`.
    pub location: String,
    /// Value for the login cookie; `Max-Age` 15 min.
    pub login_cookie: String,
}

/// Why no login was started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Several providers and none named.
    #[error("a provider must be chosen")]
    Choose,
    /// Named provider does not exist.
    #[error("unknown provider")]
    UnknownProvider,
    /// Too many from this address.
    #[error("too many logins from this address")]
    RateLimited {
        /// Wait this long.
        retry_after: std::time::Duration,
    },
    /// It would go round in circles.
    #[error("login loop")]
    Loop,
    /// The provider cannot be asked.
    #[error("the provider is unavailable")]
    ProviderUnavailable,
    /// There is nowhere to put the session that would come of it.
    #[error("the session store is unavailable")]
    StoreUnavailable,
}

/// What came to the callback.
pub struct Callback<'a> {
    /// The public origin the request came to.
    pub origin: &'a model::Origin,
    /// Provider named by the callback's path (`callback/<provider>`); `None` for `callback`.
    pub path_provider: Option<&'a str>,
    /// Raw query (or form body).
    pub query: &'a str,
    /// Raw value of the login cookie.
    pub login_cookie: Option<&'a str>,
    /// The session the browser still has: it dies when the new one is made; a replayed callback returns to it.
    pub old_session: Option<&'a SessionId>,
    /// Client address, for the rate limit of a login that starts anew.
    pub client: std::net::IpAddr,
    /// Whether a person's browser is on its way to a page: nothing else is sent to log in again.
    pub navigates: bool,
    /// Told how long the provider was waited for.
    pub waited: &'a Waited,
}

/// A finished login.
pub enum Finished {
    /// Signed in.
    SignedIn {
        /// The new session, for the cookie.
        id: SessionId,
        /// `Location`.
        location: String,
        /// New value of the login cookie.
        login_cookie: String,
        /// Whose, for the logs, which name them by a hash.
        issuer: Arc<str>,
        /// See `issuer`.
        subject: Arc<str>,
    },
    /// The callback was replayed by a browser that is signed in already: just go on.
    Already {
        /// `Location`.
        location: String,
        /// The session it has.
        session: Arc<Session>,
    },
    /// The answer was to a login under another cookie: a new one has started.
    Restarted(Started),
}

/// A login as it was wished for, to be wished for again.
#[derive(Clone)]
pub struct Wanted {
    /// As in [`Start`].
    pub return_to: String,
    /// As in [`Start`].
    pub extra: Vec<(String, String)>,
}

/// Why a callback made no session.
#[derive(Debug, thiserror::Error)]
pub enum CallbackError {
    /// `state` absent, unknown, expired, consumed, of another browser or another provider; parameters repeated.
    #[error("the login cannot be completed: {0}")]
    BadState(&'static str),
    /// The login cookie is missing altogether: cookies are blocked, or another browser.
    #[error("the browser sent no login cookie")]
    NoCookie,
    /// The user or provider said no (`access_denied` and its like).
    #[error("the provider refused: {code}")]
    Refused {
        /// Cut to its allowed characters and 64 of them.
        code: String,
    },
    /// The answer did not stand up to validation; the text names the rule.
    #[error("the provider's answer is not valid: {0}")]
    Invalid(String),
    /// The provider cannot be asked.
    #[error("the provider is unavailable")]
    ProviderUnavailable,
    /// The session could not be stored.
    #[error("the session store is unavailable")]
    StoreUnavailable,
    /// The provider has logged the user out while the login was under way (LOGOUT-12).
    #[error("the provider has logged the user out meanwhile")]
    LoggedOut,
    /// The answer was to a login under another cookie, and no new one could be started.
    #[error("the login cannot start anew: {0}")]
    NotRestarted(StartError),
}

// What travels through the browser (codes, states, cookies, log-in hints) is kept out of `Debug`.

impl fmt::Debug for Start<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Start")
            .field("origin", &self.origin.text)
            .field("provider", &self.provider)
            .field("automatic", &self.automatic)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wanted").finish_non_exhaustive()
    }
}

impl fmt::Debug for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Started").finish_non_exhaustive()
    }
}

impl fmt::Debug for Callback<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callback")
            .field("origin", &self.origin.text)
            .field("path_provider", &self.path_provider)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SignedIn { .. } => "SignedIn(..)",
            Self::Already { .. } => "Already(..)",
            Self::Restarted(_) => "Restarted(..)",
        })
    }
}

impl Login {
    /// Puts the parts together.
    pub fn new(
        config: Arc<model::Config>,
        providers: Vec<Arc<Provider>>,
        sessions: Sessions,
        memory: Arc<Memory>,
        revoker: Revoker,
        clock: SharedClock,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            flow: flow::Flow {
                config,
                providers,
                sessions,
                memory,
                clock,
                metrics,
                revoker,
            },
        }
    }

    /// Starts a login.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(&self, start: Start<'_>) -> Result<Started, StartError> {
        self.flow.start(start).await
    }

    /// Finishes a login.
    ///
    /// # Errors
    /// See [`CallbackError`]. With each comes, where `state` is ours, what was wanted: ask [`Login::wanted`].
    ///
    /// # Cancel safety
    /// Dropped after the code went out, the login is lost: no session remains of it and the old one still lives.
    pub async fn finish(&self, callback: Callback<'_>) -> Result<Finished, CallbackError> {
        self.flow.finish(callback).await
    }

    /// What "Try again" should ask for: the wish sealed in `state`, if it is one of ours. It opens for any browser and at
    /// any age, because it is only a link, whose target was checked to be ours when the login started.
    pub fn wanted(&self, query: &str) -> Option<Wanted> {
        self.flow.wanted(query)
    }
}

/// Bytes from the system's random source (FLOW-07).
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .expect("the system's random source answers; without it nothing safe can be done");
    bytes
}
