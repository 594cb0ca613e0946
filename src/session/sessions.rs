//! Finds, creates, renews and ends sessions in whichever store is configured.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use self::cached::Cached;
use super::changes::{Changed, Changes};
use super::memory::Memory;
use super::orphans::Orphans;
use super::redis::wanted_ttl;
use super::seen::{Last, Seen};
use super::{
    Begun, CommitAnswer, EndAnswer, Gone, Lately, Lease, LeaseAnswer, Lookup, Meta, RecordKey,
    Session, SessionId, StoreError, Tokens,
};
use crate::clock::{SharedClock, Timestamp};
use crate::config::model;
use crate::metrics::Metrics;
use crate::seal::KeyRing;
use crate::secret::SealingKey;

mod cached;
mod fleet;

pub use self::fleet::{Fleet, Walk};

/// Sessions of this deployment. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Sessions(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    settings: ArcSwap<Settings>,
    seen: Arc<Seen>,
    changes: Changes,
    orphans: Arc<Orphans>,
    clock: SharedClock,
    lease: Duration,
    touches: Arc<Semaphore>,
}

#[derive(Debug)]
enum Store {
    Memory(Memory),
    Redis(Box<Cached>),
}

/// What a reload may change.
#[derive(Debug)]
struct Settings {
    keys: KeyRing,
    idle: Option<Duration>,
    max_staleness: Duration,
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
        let seen = Arc::new(Seen::new(Arc::clone(&metrics)));
        let changes = Changes::default();
        let orphans = Arc::new(Orphans::default());
        let store = match &config.store {
            model::Store::Memory { entries } => {
                metrics.store_connected.set(1);
                Store::Memory(Memory::new(*entries))
            }
            model::Store::Redis(redis) => Store::Redis(Box::new(Cached::new(
                redis,
                config.cache_entries,
                changes.clone(),
                Arc::clone(&seen),
                Arc::clone(&orphans),
                metrics,
            )?)),
        };
        Ok(Self(Arc::new(Inner {
            store,
            settings: ArcSwap::from_pointee(Settings::new(config, None)),
            seen,
            changes,
            orphans,
            clock,
            lease,
            touches: Arc::new(Semaphore::new(CONCURRENT_TOUCHES)),
        })))
    }

    /// Takes over a reloaded configuration (keys, lifetimes, idle time-out, the store's credentials). The store itself stays.
    ///
    /// # Errors
    /// When the store's address or mode changed, which takes a restart.
    pub fn reconfigure(&self, config: &model::Session) -> Result<(), String> {
        match (&self.0.store, &config.store) {
            (Store::Memory(memory), model::Store::Memory { entries }) => memory.resize(*entries),
            (Store::Redis(cached), model::Store::Redis(redis)) => {
                cached.reconfigure(redis, config.cache_entries)?;
            }
            _ => return Err("session.store: another kind of store takes a restart".into()),
        }
        let settings = Settings::new(config, Some(&self.0.settings.load()));
        let before = self.0.settings.swap(Arc::new(settings));
        if let Store::Redis(cached) = &self.0.store {
            cached.rekeyed(&before.keys, &self.keys());
        }
        Ok(())
    }

    /// The key ring in force.
    pub fn keys(&self) -> KeyRing {
        self.0.settings.load().keys.clone()
    }

    /// How long a session may be taken for alive while the store does not tell.
    pub fn max_staleness(&self) -> Duration {
        self.0.settings.load().max_staleness
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

    /// Stores the session that a login made under a fresh id, unless the provider has logged the user out since the login
    /// began.
    ///
    /// # Errors
    /// [`StoreError`]; then there is no session.
    pub async fn begin(&self, session: Session, began_at: Timestamp) -> Result<Begun, StoreError> {
        let id = SessionId::generate();
        let key = id.record_key();
        let now = self.now();
        let settings = self.0.settings.load_full();
        match &self.0.store {
            Store::Memory(memory) => {
                memory.create(key, session.clone(), now, settings.idle, &self.0.seen);
            }
            Store::Redis(cached) => {
                // First: a session that no logout finds must not be.
                self.index(&cached.redis, key, &session).await?;
                let ttl = wanted_ttl(session.expires_at, settings.idle, now);
                let forget = cached.forgetting(key, &self.0.changes);
                cached
                    .redis
                    .create(&id, &settings.keys, &session, ttl)
                    .await?;
                forget.stored(Arc::new(session.clone()), Some(now.plus(ttl)));
                self.met(key, &session, settings.idle.map(|idle| now.plus(idle)));
            }
        }
        // Asked after the session can be found, so that a logout either sees it or is seen.
        if self.is_over(&session, began_at).await? {
            self.delete(&id).await?;
            return Ok(Begun::TooLate);
        }
        Ok(Begun::Session(id))
    }

    /// Deletes a session and returns what it was (for revocation and `id_token_hint`).
    ///
    /// # Errors
    /// [`StoreError`]; then the session may still be there and the user must be told.
    pub async fn delete(&self, id: &SessionId) -> Result<Option<Arc<Session>>, StoreError> {
        let key = id.record_key();
        let deleted = match &self.0.store {
            Store::Memory(memory) => {
                let deleted = memory.delete(key, &self.0.seen);
                self.0.changes.wake(key);
                deleted
            }
            Store::Redis(cached) => {
                let _forget = cached.forgetting(key, &self.0.changes);
                let deleted = cached.redis.delete(id, &self.keys()).await?;
                if let Some(session) = &deleted {
                    self.0.seen.gone(key, Gone::Revoked);
                    self.unindex(key, Meta::of(session));
                }
                deleted
            }
        };
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
            Store::Redis(cached) => {
                let answer = cached
                    .redis
                    .lease(id, &self.keys(), generation, ttl)
                    .await?;
                cached.learn(id.record_key(), &answer);
                answer
            }
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
            Store::Redis(cached) => cached.redis.renew(id, lease, ttl).await?,
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
            Store::Memory(memory) => {
                let answer = memory.commit(key, lease, tokens, self.now());
                self.0.changes.wake(key);
                answer
            }
            Store::Redis(cached) => {
                let forget = cached.forgetting(key, &self.0.changes);
                let answer = cached.redis.commit(id, &self.keys(), lease, tokens).await?;
                forget.unless_stored(&answer);
                answer
            }
        };
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
            Store::Redis(cached) => cached.redis.give_up(id, &lease, cool_down).await,
        }
    }

    /// Ends the session because its refresh token is dead: deletes it if it is still at the lease's generation and no
    /// sibling is about to change that.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn end(&self, id: &SessionId, lease: &Lease) -> Result<EndAnswer, StoreError> {
        let key = id.record_key();
        match &self.0.store {
            Store::Memory(memory) => {
                let answer = memory.end(key, lease, self.now(), &self.0.seen);
                self.0.changes.wake(key);
                Ok(answer)
            }
            Store::Redis(cached) => {
                let _forget = cached.forgetting(key, &self.0.changes);
                let answer = cached.redis.end(id, &self.keys(), lease).await?;
                if matches!(answer, EndAnswer::Ended) {
                    self.0.seen.gone(key, Gone::Revoked);
                    self.unindex(key, Meta::of(&lease.session));
                }
                Ok(answer)
            }
        }
    }

    /// Wakes whoever holds the answer when the session is refreshed, deleted, or may have been.
    pub fn watch(&self, id: &SessionId) -> Changed {
        self.0.changes.subscribe(id.record_key())
    }

    /// Which sessions have changed, or may have: waits until one has, and a moment longer. For one who asks again and again.
    pub async fn changed(&self, moment: Duration) -> Lately {
        self.0.changes.gather(moment).await
    }

    /// Is the store there? For readiness and `check --online`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn ping(&self) -> Result<(), StoreError> {
        match &self.0.store {
            Store::Memory(_) => Ok(()),
            Store::Redis(cached) => {
                // Whoever looks after the store wants the cache to be true, too, before anybody asks for a session.
                cached.supervise();
                cached.redis.ping().await
            }
        }
    }

    /// Whether a session could be stored now, as far as that can be told without a round trip: only a store that is not
    /// connected is asked.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn reachable(&self) -> Result<(), StoreError> {
        match &self.0.store {
            Store::Redis(cached) if !cached.redis.is_up() => cached.redis.ping().await,
            Store::Memory(_) | Store::Redis(_) => Ok(()),
        }
    }

    /// What is wrong with the store, in words, for `check --online`; nothing when all is well.
    pub async fn survey(&self) -> Vec<String> {
        match &self.0.store {
            Store::Memory(_) => Vec::new(),
            Store::Redis(cached) => cached.redis.survey().await,
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
            Store::Redis(cached) => match self.known_true(cached, key, touch) {
                Some(found) => Ok(Lookup::Found(found)),
                // Boxed, so that the future stays small where no network is involved.
                None => Box::pin(self.through_cache(cached, id, key, touch)).await,
            },
        }
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

    /// Members of the memory store's index sets; none of Redis.
    #[cfg(test)]
    pub(super) fn indexed(&self) -> usize {
        match &self.0.store {
            Store::Memory(memory) => memory.indexed(),
            Store::Redis(_) => 0,
        }
    }

    /// Sessions in this process.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        match &self.0.store {
            Store::Memory(memory) => memory.len(),
            Store::Redis(cached) => cached.len(),
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
            max_staleness: config.max_staleness,
        }
    }
}

/// Touches under way at once.
const CONCURRENT_TOUCHES: usize = 64;
