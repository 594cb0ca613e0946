//! Finds, creates, renews and ends sessions in whichever store is configured.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::changes::{Changed, Changes};
use super::memory::Memory;
use super::redis::{Redis, wanted_ttl};
use super::seen::{Last, Seen};
use super::{
    CommitAnswer, EndAnswer, Found, Gone, Lease, LeaseAnswer, Lookup, RecordKey, Session,
    SessionId, StoreError, Tokens,
};
use crate::clock::{SharedClock, Timestamp};
use crate::config::model;
use crate::metrics::Metrics;
use crate::seal::KeyRing;
use crate::secret::SealingKey;

/// Sessions of this deployment. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sessions(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    settings: ArcSwap<Settings>,
    seen: Seen,
    changes: Changes,
    clock: SharedClock,
    lease: Duration,
    touches: Arc<Semaphore>,
}

#[derive(Debug)]
enum Store {
    Memory(Memory),
    Redis(Box<Redis>),
}

/// What a reload may change.
#[derive(Debug)]
struct Settings {
    keys: KeyRing,
    idle: Option<Duration>,
}

impl Sessions {
    /// How long a lease lives without renewal.
    pub const LEASE: Duration = Duration::from_secs(10);

    /// Opens the configured store. Reaches out to nobody: the first use connects.
    ///
    /// # Errors
    /// A text for the configuration's problem list.
    pub fn open(
        config: &model::Session,
        clock: SharedClock,
        metrics: Arc<Metrics>,
    ) -> Result<Self, String> {
        Self::with_lease(config, clock, metrics, Self::LEASE)
    }

    /// As [`open`](Self::open); tests do not wait [`LEASE`](Self::LEASE) for a holder that vanished.
    pub(crate) fn with_lease(
        config: &model::Session,
        clock: SharedClock,
        metrics: Arc<Metrics>,
        lease: Duration,
    ) -> Result<Self, String> {
        let store = match &config.store {
            model::Store::Memory { entries } => {
                metrics.store_connected.set(1);
                Store::Memory(Memory::new(*entries))
            }
            model::Store::Redis(redis) => {
                Store::Redis(Box::new(Redis::new(redis, Arc::clone(&metrics))?))
            }
        };
        Ok(Self(Arc::new(Inner {
            store,
            settings: ArcSwap::from_pointee(Settings::new(config, None)),
            seen: Seen::new(metrics),
            changes: Changes::default(),
            clock,
            lease,
            touches: Arc::new(Semaphore::new(CONCURRENT_TOUCHES)),
        })))
    }

    /// Takes over a reloaded configuration (keys, lifetimes, idle time-out, the store's credentials). The store itself stays.
    ///
    /// # Errors
    /// When the store's address changed, which takes a restart.
    pub fn reconfigure(&self, config: &model::Session) -> Result<(), String> {
        match (&self.0.store, &config.store) {
            (Store::Memory(memory), model::Store::Memory { entries }) => memory.resize(*entries),
            (Store::Redis(redis), model::Store::Redis(config)) => redis.reconfigure(config)?,
            _ => return Err("session.store: another kind of store takes a restart".into()),
        }
        let settings = Settings::new(config, Some(&self.0.settings.load()));
        self.0.settings.store(Arc::new(settings));
        Ok(())
    }

    /// The key ring in force.
    pub fn keys(&self) -> KeyRing {
        self.0.settings.load().keys.clone()
    }

    /// How long a lease of these sessions lives without renewal.
    pub(crate) fn lease_ttl(&self) -> Duration {
        self.0.lease
    }

    /// Looks a session up and counts it as used (idle time; written at most once per tenth of the time-out).
    /// Waits at most 500 ms.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be asked.
    pub async fn load(&self, id: &SessionId) -> Result<Lookup, StoreError> {
        self.find(id, true).await
    }

    /// As [`load`](Self::load), but does not count as use.
    ///
    /// # Errors
    /// As there.
    pub async fn peek(&self, id: &SessionId) -> Result<Lookup, StoreError> {
        self.find(id, false).await
    }

    /// Stores a new session under a fresh id.
    ///
    /// # Errors
    /// [`StoreError`]; then there is no session.
    pub async fn create(&self, session: Session) -> Result<SessionId, StoreError> {
        let id = SessionId::generate();
        let key = id.record_key();
        let now = self.now();
        let settings = self.0.settings.load_full();
        match &self.0.store {
            Store::Memory(memory) => {
                memory.create(key, session, now, settings.idle, &self.0.seen);
            }
            Store::Redis(redis) => {
                let ttl = wanted_ttl(session.expires_at, settings.idle, now);
                redis.create(&id, &settings.keys, &session, ttl).await?;
                self.met(key, &session, settings.idle.map(|idle| now.plus(idle)));
            }
        }
        Ok(id)
    }

    /// Deletes a session and returns what it was (for revocation and `id_token_hint`).
    ///
    /// # Errors
    /// [`StoreError`]; then the session may still be there and the user must be told.
    pub async fn delete(&self, id: &SessionId) -> Result<Option<Arc<Session>>, StoreError> {
        let key = id.record_key();
        let deleted = match &self.0.store {
            Store::Memory(memory) => memory.delete(key, &self.0.seen),
            Store::Redis(redis) => {
                let deleted = redis.delete(id, &self.keys()).await?;
                if deleted.is_some() {
                    self.0.seen.gone(key, Gone::Revoked);
                }
                deleted
            }
        };
        self.0.changes.wake(key);
        Ok(deleted)
    }

    /// Asks for the lease to refresh the session, of which `generation` is known.
    ///
    /// # Errors
    /// [`StoreError`]; then the token must not be presented.
    pub async fn lease(&self, id: &SessionId, generation: u64) -> Result<LeaseAnswer, StoreError> {
        let ttl = self.0.lease;
        let answer = match &self.0.store {
            Store::Memory(memory) => memory.lease(id.record_key(), generation, self.now(), ttl),
            Store::Redis(redis) => redis.lease(id, &self.keys(), generation, ttl).await?,
        };
        // Time is told by what is sealed, not by a TTL that others could stretch.
        Ok(match answer {
            LeaseAnswer::Granted(Lease { session, .. }) | LeaseAnswer::Newer(session)
                if session.expires_at <= self.now() =>
            {
                LeaseAnswer::Gone
            }
            answer => answer,
        })
    }

    /// Keeps the lease alive; call every third of [`Sessions::LEASE`]. `false` when it is lost to another, who learns that
    /// we still wait for an answer: until we [`give_up`](Self::give_up) or stop calling, they do not end the session.
    ///
    /// # Errors
    /// [`StoreError`]; keep trying.
    pub async fn renew(&self, id: &SessionId, lease: &Lease) -> Result<bool, StoreError> {
        let (ttl, asked) = (self.0.lease, Instant::now());
        let renewed = match &self.0.store {
            Store::Memory(memory) => memory.renew(id.record_key(), lease, self.now(), ttl),
            Store::Redis(redis) => redis.renew(id, lease, ttl).await?,
        };
        if renewed {
            lease.term.extend(asked, ttl);
        } else {
            lease.term.is_over();
        }
        Ok(renewed)
    }

    /// Stores new tokens over the generation the lease read, and releases the lease.
    ///
    /// # Errors
    /// [`StoreError`]: nothing is known; try again, the tokens must not be lost. Trying twice does no harm.
    pub async fn commit(
        &self,
        id: &SessionId,
        lease: &Lease,
        tokens: &Tokens,
    ) -> Result<CommitAnswer, StoreError> {
        let key = id.record_key();
        let answer = match &self.0.store {
            Store::Memory(memory) => memory.commit(key, lease, tokens, self.now()),
            Store::Redis(redis) => redis.commit(id, &self.keys(), lease, tokens).await?,
        };
        self.0.changes.wake(key);
        Ok(answer)
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
        match &self.0.store {
            Store::Memory(memory) => {
                memory.give_up(id.record_key(), &lease, self.now(), cool_down);
                Ok(())
            }
            Store::Redis(redis) => redis.give_up(id, &lease, cool_down).await,
        }
    }

    /// Ends the session because its refresh token is dead: deletes it if it is still at the lease's generation and no
    /// sibling is about to change that.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn end(&self, id: &SessionId, lease: &Lease) -> Result<EndAnswer, StoreError> {
        let answer = match &self.0.store {
            Store::Memory(memory) => memory.end(id.record_key(), lease, self.now(), &self.0.seen),
            Store::Redis(redis) => redis.end(id, &self.keys(), lease).await?,
        };
        if matches!(answer, EndAnswer::Ended) {
            self.0.seen.gone(id.record_key(), Gone::Revoked);
        }
        self.0.changes.wake(id.record_key());
        Ok(answer)
    }

    /// Wakes whoever holds the answer when the session is refreshed, deleted, or may have been.
    pub fn watch(&self, id: &SessionId) -> Changed {
        self.0.changes.subscribe(id.record_key())
    }

    /// Is the store there? For readiness and `check --online`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn ping(&self) -> Result<(), StoreError> {
        match &self.0.store {
            Store::Memory(_) => Ok(()),
            Store::Redis(redis) => redis.ping().await,
        }
    }

    async fn find(&self, id: &SessionId, touch: bool) -> Result<Lookup, StoreError> {
        let key = id.record_key();
        match &self.0.store {
            Store::Memory(memory) => {
                let idle = self.0.settings.load().idle;
                let found = memory.load(key, self.now(), idle, touch, &self.0.seen);
                Ok(found.map_or_else(Lookup::Missing, Lookup::Found))
            }
            // Boxed, so that the future stays small where no network is involved.
            Store::Redis(redis) => Box::pin(self.find_in(redis, id, key, touch)).await,
        }
    }

    async fn find_in(
        &self,
        redis: &Redis,
        id: &SessionId,
        key: RecordKey,
        touch: bool,
    ) -> Result<Lookup, StoreError> {
        let settings = self.0.settings.load_full();
        let loaded = redis.load(id, &settings.keys).await?;
        let now = self.now();
        let Some(loaded) = loaded else {
            return Ok(Lookup::Missing(self.0.seen.missed(key, now)));
        };
        let session = loaded.session;
        if session.expires_at <= now {
            // Sealed inside, so nobody can stretch it by the TTL.
            self.0.seen.ended(key, Gone::Expired);
            return Ok(Lookup::Missing(Gone::Expired));
        }
        let wanted = wanted_ttl(session.expires_at, settings.idle, now);
        let ttl = loaded.ttl.unwrap_or(Duration::MAX);
        let idle_expires_at = settings.idle.map(|_| now.plus(ttl.min(wanted)));
        self.met(key, &session, idle_expires_at);
        // A TTL that is too long is mended as well: the idle time-out may have been shortened by a reload.
        let slack = settings.idle.map_or(NO_IDLE_SLACK, |idle| idle / 10);
        let stale = ttl.saturating_add(slack) < wanted || ttl > wanted.saturating_add(slack);
        if touch && stale && self.0.seen.claim_touch(key, now, slack) {
            self.touch(key, Arc::clone(&session));
        }
        Ok(Lookup::Found(Found {
            session,
            idle_expires_at,
        }))
    }

    /// Extends the idle time off the request's path. With too many under way it is left to a later request.
    fn touch(&self, key: RecordKey, session: Arc<Session>) {
        let Ok(permit) = Arc::clone(&self.0.touches).try_acquire_owned() else {
            return;
        };
        let sessions = self.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let Store::Redis(redis) = &sessions.0.store else {
                return;
            };
            let idle = sessions.0.settings.load().idle;
            let now = sessions.now();
            let ttl = wanted_ttl(session.expires_at, idle, now);
            // Should it fail, the next request after the pause tries again.
            if let Ok(true) = redis.touch(key, ttl).await {
                sessions.met(key, &session, idle.map(|_| now.plus(ttl)));
            }
        });
    }

    fn met(&self, key: RecordKey, session: &Session, idle_expires_at: Option<Timestamp>) {
        let last = Last {
            expires_at: session.expires_at,
            idle_expires_at,
        };
        self.0.seen.met(key, last);
    }

    fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// Entries of the memory store; none of Redis.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        match &self.0.store {
            Store::Memory(memory) => memory.len(),
            Store::Redis(_) => 0,
        }
    }
}

impl Settings {
    /// Without configured keys (memory store only) the ring in force stays, or a fresh one is made: logins under way must
    /// survive a reload.
    fn new(config: &model::Session, in_force: Option<&Self>) -> Self {
        let keys = match (config.keys.as_slice(), in_force) {
            ([], Some(in_force)) => in_force.keys.clone(),
            ([], None) => KeyRing::new(&[SealingKey::new(crate::config::keygen())]),
            (configured, _) => KeyRing::new(configured),
        };
        Self {
            keys,
            idle: config.idle_timeout.filter(|idle| !idle.is_zero()),
        }
    }
}

/// Touches under way at once.
const CONCURRENT_TOUCHES: usize = 64;
/// Without idle time-out a record's TTL is what is left of the session, give or take the clocks' differences.
const NO_IDLE_SLACK: Duration = Duration::from_secs(90);
