//! Says what a session is and keeps it, in memory or in Redis. Knows no proxy.
//!
//! `Sessions` is the one way in. Both stores keep the same promises: a record is only ever replaced over the generation
//! that was read, by the holder of the lease, and never comes back once it is deleted.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::claims::Claims;
use crate::clock::Timestamp;
use crate::secret::{AccessToken, IdToken, RefreshToken};

mod cache;
mod changes;
mod id;
mod index;
mod memory;
mod meta;
mod orphans;
mod record;
mod redis;
mod seen;
mod sessions;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use self::changes::{Changed, Lately};
pub use self::id::{RecordKey, SessionId};
pub use self::index::{Ended, Whose};
pub use self::meta::{Listed, Meta};
pub use self::orphans::Orphan;
pub use self::sessions::{Fleet, Sessions, Walk};

/// A signed-in user at one browser. Immutable: a refresh makes a new one with the next generation.
/// Its `Debug` leaves out who it is: names and addresses do not belong in logs.
#[derive(Clone)]
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
    pub claims: Arc<Claims>,
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
    pub bearer: Option<HeaderValue>,
    /// Shown to the token endpoint.
    pub refresh: Option<RefreshToken>,
    /// The latest ID token, for `id_token_hint`.
    pub id: Option<IdToken>,
    /// Granted scopes.
    pub scopes: Vec<String>,
    /// When the access token was asked for: its life is counted from then.
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
    /// The store could not be asked: this is how it was not long ago.
    pub stale: bool,
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

/// What became of a login.
#[derive(Debug)]
pub enum Begun {
    /// A session, under this id.
    Session(SessionId),
    /// Nothing: the provider has logged the user out since the login began. Revoke what it was given.
    TooLate,
}

/// The store did not answer in time or broke. Never a reason to clear a cookie.
#[derive(Debug, thiserror::Error)]
#[error("session store unavailable: {0}")]
pub struct StoreError(pub &'static str);

/// A lease on a session's refresh token; renewed by its keeper, released by commit, give-up or expiry.
#[derive(Debug)]
pub struct Lease {
    /// The session as read when the lease was taken.
    pub session: Arc<Session>,
    owner: Owner,
    term: Term,
}

/// Until when a lease is ours beyond doubt, by a clock that goes on while this process is frozen. Clones share it.
#[derive(Debug, Clone)]
pub struct Term(Arc<Mutex<Instant>>);

impl Lease {
    /// One that was asked for at `asked` and lives for `ttl` at least.
    fn new(session: Arc<Session>, owner: Owner, asked: Instant, ttl: Duration) -> Self {
        Self {
            session,
            owner,
            term: Term(Arc::new(Mutex::new(Term::end(asked, ttl)))),
        }
    }

    /// Its term, which renewals extend.
    pub fn term(&self) -> &Term {
        &self.term
    }
}

impl Term {
    /// Whether nobody else can have the lease now.
    pub fn holds(&self) -> bool {
        Instant::now() < *self.0.lock()
    }

    /// A renewal that was asked for at `asked` succeeded.
    fn extend(&self, asked: Instant, ttl: Duration) {
        let mut end = self.0.lock();
        *end = Self::end(asked, ttl).max(*end);
    }

    /// It is known to be another's.
    fn is_over(&self) {
        *self.0.lock() = Instant::now();
    }

    /// A tenth earlier than the store would have it: clocks differ, and what is sent takes its time.
    fn end(asked: Instant, ttl: Duration) -> Instant {
        asked + ttl - ttl / 10
    }
}

/// Tells one lease from every other. Random, so that no two processes ever hold the same one.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Owner([u8; 16]);

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
    /// Our lease ran out and another has one now, over the same generation. The tokens are parked with the session and
    /// come into force should the other's be refused; ask again to learn of it.
    Held {
        /// What is left of the other's lease.
        retry_in: Duration,
    },
}

/// Answer to the wish to end a session whose refresh token was rejected.
#[derive(Debug)]
pub enum EndAnswer {
    /// It is over: deleted now, or gone before.
    Ended,
    /// A sibling has rotated the token meanwhile: here is the newer session.
    Newer(Arc<Session>),
    /// Our lease ran out and another holder has presented the same token: theirs is the answer that counts.
    Held {
        /// What is left of the other's lease.
        retry_in: Duration,
    },
    /// One who lost the lease to us still waits for the provider's answer to the same token, and may be about to bring
    /// what was issued for it: ask again.
    Disputed {
        /// For how long that is believed, unless they say so again.
        retry_in: Duration,
    },
}

/// `Bearer <token>` for the `Authorization` header, marked sensitive. `None` when the token has characters no token may
/// have (RFC 6749 §A.12): nothing else could be smuggled into the header with it, but nothing good either.
pub fn bearer(token: &AccessToken) -> Option<HeaderValue> {
    let text = token.expose();
    if !is_header_safe(text) {
        return None;
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {text}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn is_header_safe(token: &str) -> bool {
    !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic())
}

/// As [`bearer`], for tokens that stay: where there is a header, the token shares its bytes.
fn with_bearer(token: AccessToken) -> (AccessToken, Option<HeaderValue>) {
    const SCHEME: &str = "Bearer ";
    if !is_header_safe(token.expose()) {
        return (token, None);
    }
    let mut text = Vec::with_capacity(SCHEME.len() + token.len());
    text.extend_from_slice(SCHEME.as_bytes());
    text.extend_from_slice(token.expose().as_bytes());
    let header = Bytes::from(text);
    let shared = AccessToken::shared(header.slice(SCHEME.len()..));
    let value = HeaderValue::from_maybe_shared(header).ok();
    let value = value.map(|mut value| {
        value.set_sensitive(true);
        value
    });
    (shared.unwrap_or(token), value)
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("provider", &self.provider)
            .field("generation", &self.generation)
            .field("created_at", &self.created_at)
            .field("expires_at", &self.expires_at)
            .field("tokens", &self.tokens)
            .finish_non_exhaustive()
    }
}

impl Tokens {
    /// Until when the access token may be shown: it must still be good when it arrives upstream.
    pub fn usable_until(&self) -> Timestamp {
        let life = self.expires_at.left(self.refreshed_at);
        self.expires_at.minus(ON_THE_WAY.min(life / 10))
    }
}

/// Time a request may spend between our decision and the upstream's.
const ON_THE_WAY: Duration = Duration::from_secs(5);

impl Session {
    /// When its token ends for good: without a refresh token none follows (REFRESH-29).
    pub fn last_token_ends(&self) -> Option<Timestamp> {
        let tokens = &self.tokens;
        tokens.refresh.is_none().then(|| tokens.usable_until())
    }

    /// The next generation, with other tokens.
    fn with_tokens(&self, tokens: Tokens) -> Self {
        Self {
            tokens: Arc::new(tokens),
            generation: self.generation.saturating_add(1),
            ..self.clone()
        }
    }
}

impl Owner {
    fn random() -> Self {
        let mut bytes = [0; 16];
        crate::seal::random(&mut bytes);
        Self(bytes)
    }
}

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Owner({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}
