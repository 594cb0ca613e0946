//! Says what a session is and keeps it, in memory or in Redis. Knows no proxy.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::clock::{SharedClock, Timestamp};
use crate::config::model;
use crate::metrics::Metrics;
use crate::seal::KeyRing;
use crate::secret::{AccessToken, IdToken, RefreshToken};

/// The cookie's value: 32 random bytes. A secret; only its hash ever leaves the process.
#[derive(Clone)]
pub struct SessionId(Arc<()>);

impl std::fmt::Debug for SessionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionId(..)")
    }
}

impl SessionId {
    /// A fresh one from the system's random source.
    pub fn generate() -> Self {
        todo!()
    }

    /// From a cookie's value; `None` unless it is exactly 43 characters of unpadded base64url that decode canonically.
    pub fn parse(cookie: &str) -> Option<Self> {
        let _ = cookie;
        todo!()
    }

    /// The cookie's value.
    pub fn expose(&self) -> &str {
        todo!()
    }

    /// What the store knows it by.
    pub fn record_key(&self) -> RecordKey {
        todo!()
    }
}

/// Hash of a [`SessionId`] (SHA-256 with a domain separator). Not secret by itself, but kept out of logs in full.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecordKey([u8; 32]);

impl RecordKey {
    /// First 12 hex digits, to correlate log lines.
    pub fn short(&self) -> String {
        self.0[..6].iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl std::fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RecordKey({})", self.short())
    }
}

/// A signed-in user at one browser. Immutable: a refresh makes a new one with the next generation.
#[derive(Debug, Clone)]
pub struct Session {
    /// Name of the provider in the configuration.
    pub provider: Arc<str>,
    /// Issuer at login, so that a renamed provider does not adopt strangers.
    pub issuer: Arc<str>,
    /// `sub`.
    pub subject: Arc<str>,
    /// `sid` of the provider's session.
    pub sid: Option<Arc<str>>,
    /// Verified claims of the first ID token, UserInfo merged where configured.
    pub claims: Arc<Map<String, Value>>,
    /// When the user logged in here.
    pub created_at: Timestamp,
    /// End of the absolute lifetime.
    pub expires_at: Timestamp,
    /// The tokens, replaced at each refresh.
    pub tokens: Arc<Tokens>,
    /// Counts the refreshes: a write is accepted only over the generation it read.
    pub generation: u64,
}

/// What a refresh replaces.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// Shown to upstreams.
    pub access: AccessToken,
    /// `Bearer <access token>`, made once, marked sensitive; `None` when the token is no header value (then it is not forwarded: 502).
    pub bearer: Option<http::HeaderValue>,
    /// Shown to the token endpoint.
    pub refresh: Option<RefreshToken>,
    /// The latest ID token, for `id_token_hint`.
    pub id: Option<IdToken>,
    /// Granted scopes.
    pub scopes: Vec<String>,
    /// When the access token was issued to us.
    pub refreshed_at: Timestamp,
    /// When it expires.
    pub expires_at: Timestamp,
}

/// A session as found.
#[derive(Debug, Clone)]
pub struct Found {
    /// The session.
    pub session: Arc<Session>,
    /// End of the idle time unless it is used again; `None` when idle time-out is off.
    pub idle_expires_at: Option<Timestamp>,
}

/// What a cookie led to.
#[derive(Debug, Clone)]
pub enum Lookup {
    /// A live session.
    Found(Found),
    /// None, or none that can be opened.
    Missing(Gone),
}

/// What is known of a session that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// Never seen by this process.
    Unknown,
    /// Its absolute lifetime is over.
    Expired,
    /// It was idle for too long.
    Idle,
    /// It vanished before its time.
    Revoked,
}

/// The store did not answer in time or broke. Never a reason to clear a cookie.
#[derive(Debug, thiserror::Error)]
#[error("session store unavailable: {0}")]
pub struct StoreError(pub &'static str);

/// Sessions of this deployment. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sessions(Arc<()>);

/// A lease on a session's refresh token; renewed by its keeper, released by commit, give-up or expiry.
#[derive(Debug)]
pub struct Lease {
    /// The session as read when the lease was taken.
    pub session: Arc<Session>,
}

/// Answer to the wish to refresh.
#[derive(Debug)]
pub enum LeaseAnswer {
    /// Present the token; nobody else may.
    Granted(Lease),
    /// A sibling holds the lease; ask again after `retry_in`.
    Held {
        /// Proposed pause.
        retry_in: Duration,
    },
    /// A holder failed a moment ago and asked everyone to pause.
    CoolingDown {
        /// What is left of the pause.
        left: Duration,
    },
    /// A sibling has refreshed meanwhile: here is the newer session.
    Newer(Arc<Session>),
    /// The session is gone.
    Gone,
}

/// Answer to a commit.
#[derive(Debug)]
pub enum CommitAnswer {
    /// Stored.
    Stored(Arc<Session>),
    /// The session was logged out meanwhile: revoke what was just obtained.
    Gone,
    /// Another holder has written; here is the session as it is now.
    Superseded(Arc<Session>),
}

impl Sessions {
    /// Opens the configured store. Reaches out to nobody: the first use connects.
    ///
    /// # Errors
    /// A text for the configuration's problem list.
    pub fn open(
        config: &model::Session,
        clock: SharedClock,
        metrics: Arc<Metrics>,
    ) -> Result<Self, String> {
        let _ = (config, clock, metrics);
        todo!()
    }

    /// Takes over a reloaded configuration (keys, lifetimes, idle time-out). The store itself stays.
    ///
    /// # Errors
    /// When the store's address changed, which takes a restart.
    pub fn reconfigure(&self, config: &model::Session) -> Result<(), String> {
        let _ = config;
        todo!()
    }

    /// The key ring in force.
    pub fn keys(&self) -> KeyRing {
        todo!()
    }

    /// Looks a session up and counts it as used (idle time; written at most once per tenth of the time-out).
    /// Waits at most 500 ms.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be asked.
    pub async fn load(&self, id: &SessionId) -> Result<Lookup, StoreError> {
        let _ = id;
        todo!()
    }

    /// As [`load`](Self::load), but does not count as use.
    ///
    /// # Errors
    /// As there.
    pub async fn peek(&self, id: &SessionId) -> Result<Lookup, StoreError> {
        let _ = id;
        todo!()
    }

    /// Stores a new session under a fresh id.
    ///
    /// # Errors
    /// [`StoreError`]; then there is no session.
    pub async fn create(&self, session: Session) -> Result<SessionId, StoreError> {
        let _ = session;
        todo!()
    }

    /// Deletes a session and returns what it was (for revocation and `id_token_hint`).
    ///
    /// # Errors
    /// [`StoreError`]; then the session may still be there and the user must be told.
    pub async fn delete(&self, id: &SessionId) -> Result<Option<Arc<Session>>, StoreError> {
        let _ = id;
        todo!()
    }

    /// Asks for the lease to refresh the session, of which `generation` is known.
    ///
    /// # Errors
    /// [`StoreError`]; then the token must not be presented.
    pub async fn lease(&self, id: &SessionId, generation: u64) -> Result<LeaseAnswer, StoreError> {
        let _ = (id, generation);
        todo!()
    }

    /// Keeps the lease alive; call every third of [`Sessions::LEASE`].
    ///
    /// # Errors
    /// [`StoreError`]; keep trying.
    pub async fn renew(&self, id: &SessionId, lease: &Lease) -> Result<(), StoreError> {
        let _ = (id, lease);
        todo!()
    }

    /// Stores new tokens over the generation the lease read, and releases the lease.
    ///
    /// # Errors
    /// [`StoreError`]: nothing is known; try again, the tokens must not be lost.
    pub async fn commit(
        &self,
        id: &SessionId,
        lease: &Lease,
        tokens: &Tokens,
    ) -> Result<CommitAnswer, StoreError> {
        let _ = (id, lease, tokens);
        todo!()
    }

    /// Gives the lease up without new tokens; siblings pause for `cool_down`.
    ///
    /// # Errors
    /// [`StoreError`]; the lease then runs out by itself.
    pub async fn give_up(
        &self,
        id: &SessionId,
        lease: Lease,
        cool_down: Duration,
    ) -> Result<(), StoreError> {
        let _ = (id, lease, cool_down);
        todo!()
    }

    /// Ends the session because its refresh token is dead: deletes it if it is still at the lease's generation.
    /// Returns the newer session if a sibling rotated the token meanwhile.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn end(
        &self,
        id: &SessionId,
        lease: Lease,
    ) -> Result<Option<Arc<Session>>, StoreError> {
        let _ = (id, lease);
        todo!()
    }

    /// Is the store there? For readiness and `check --online`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn ping(&self) -> Result<(), StoreError> {
        todo!()
    }

    /// How long a lease lives without renewal.
    pub const LEASE: Duration = Duration::from_secs(10);
}
