//! Serves sessions of Redis from this process where that is safe, and reads them where it is not.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::{Sessions, Settings, Store};
use crate::clock::Timestamp;
use crate::config::model;
use crate::metrics::{CacheResult, CacheSeries, Metrics};
use crate::seal::KeyRing;
use crate::session::cache::{Cache, Entry, Ticket};
use crate::session::changes::Changes;
use crate::session::orphans::Orphans;
use crate::session::redis::tracking::{Listeners, Tracker};
use crate::session::redis::{Redis, wanted_ttl};
use crate::session::seen::Seen;
use crate::session::{
    CommitAnswer, Found, Gone, LeaseAnswer, Lookup, RecordKey, Session, SessionId, StoreError,
};

/// Redis, with a cache in front that Redis keeps true.
#[derive(Debug)]
pub(super) struct Cached {
    pub(super) redis: Redis,
    cache: Arc<Cache>,
    orphans: Arc<Orphans>,
    tracker: Tracker,
    series: CacheSeries,
}

/// Drops the cached session when it goes out of scope: whatever was asked of Redis, whether or not an answer came, and
/// also when nobody waits for one any more.
pub(super) struct Forget<'a> {
    cache: &'a Cache,
    orphans: &'a Orphans,
    changes: &'a Changes,
    key: RecordKey,
    ticket: Ticket,
    stored: Option<(Arc<Session>, Option<Timestamp>)>,
}

impl Cached {
    /// Reaches out to nobody.
    pub(super) fn new(
        config: &model::RedisStore,
        entries: usize,
        changes: Changes,
        seen: Arc<Seen>,
        orphans: Arc<Orphans>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, String> {
        let redis = Redis::new(config, Arc::clone(&metrics))?;
        let cache = Arc::new(Cache::new(entries, redis.strangers(), Arc::clone(&metrics)));
        Ok(Self {
            series: CacheSeries::new(&metrics),
            tracker: redis.tracker(Listeners {
                cache: Arc::clone(&cache),
                changes,
                seen,
                orphans: Arc::clone(&orphans),
                metrics,
            }),
            cache,
            orphans,
            redis,
        })
    }

    pub(super) fn reconfigure(
        &self,
        config: &model::RedisStore,
        entries: usize,
    ) -> Result<(), String> {
        self.redis.reconfigure(config)?;
        self.cache.resize(entries);
        Ok(())
    }

    /// A key that was taken away opens nothing any more, and nothing that it opened before.
    pub(super) fn rekeyed(&self, before: &KeyRing, now: &KeyRing) {
        if !before.opens_the_same_as(now) {
            self.cache.flush();
        }
    }

    /// For what changes or deletes the session: to be made before Redis is asked.
    pub(super) fn forgetting<'a>(&'a self, key: RecordKey, changes: &'a Changes) -> Forget<'a> {
        Forget {
            cache: &self.cache,
            orphans: &self.orphans,
            changes,
            key,
            ticket: self.cache.ticket(key),
            stored: None,
        }
    }

    /// Sees to it that the cache is kept true.
    pub(super) fn supervise(&self) {
        self.tracker.supervise();
    }

    /// What is cached, true or not.
    pub(super) fn held(&self, key: RecordKey) -> Option<Arc<Session>> {
        self.cache.held(key).map(|entry| entry.session)
    }

    /// An answer may say that what is cached is no longer true.
    pub(super) fn learn(&self, key: RecordKey, answer: &LeaseAnswer) {
        if matches!(answer, LeaseAnswer::Newer(_) | LeaseAnswer::Gone) {
            self.drop_cached(key);
        }
    }

    /// Drops what turned out to be untrue. We may have heard of it before Redis tells us, and of who is to revoke its tokens.
    fn drop_cached(&self, key: RecordKey) {
        if let Some(entry) = self.cache.forget(key) {
            self.orphans.dropped(key, entry.session, Instant::now());
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.cache.len()
    }
}

impl Forget<'_> {
    /// What was committed takes the place of what it replaced.
    pub(super) fn unless_stored(self, answer: &CommitAnswer) {
        if let CommitAnswer::Stored(session) = answer {
            self.stored(Arc::clone(session), None);
        }
    }

    /// What was written is what there is. `ends_at` where the write has set it.
    pub(super) fn stored(mut self, session: Arc<Session>, ends_at: Option<Timestamp>) {
        self.stored = Some((session, ends_at));
    }
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        match &self.stored {
            Some((session, ends_at)) => {
                self.cache.written(&self.ticket, session, *ends_at);
                self.orphans.held(self.key, session);
            }
            None => {
                if let Some(entry) = self.cache.forget(self.key) {
                    let now = Instant::now();
                    self.orphans.dropped(self.key, entry.session, now);
                }
            }
        }
        self.changes.wake(self.key);
    }
}

impl Sessions {
    /// A session that is known true and alive. No await, no lock but the map's own, no allocation.
    pub(super) fn known_true(&self, cached: &Cached, key: RecordKey, touch: bool) -> Option<Found> {
        let entry = cached.cache.fresh(key, Instant::now())?;
        let now = self.now();
        // At the end of its idle time another replica may have extended it: Redis knows.
        if entry.is_over(now) {
            return None;
        }
        cached.series.count(CacheResult::Hit);
        let settings = self.0.settings.load();
        Some(self.found(key, entry, now, &settings, touch))
    }

    /// Reads the session; while Redis does not answer, serves what was true not long ago.
    pub(super) async fn through_cache(
        &self,
        cached: &Cached,
        id: &SessionId,
        key: RecordKey,
        touch: bool,
    ) -> Result<Lookup, StoreError> {
        let settings = self.0.settings.load_full();
        cached.supervise();
        if let Some(entry) = cached.cache.held(key)
            && entry.session.expires_at <= self.now()
        {
            return Ok(self.expired(cached, key));
        }
        let spare = || self.spare(cached, key, &settings);
        if cached.redis.is_away(key)
            && let Some(found) = spare()
        {
            return Ok(Lookup::Found(found));
        }
        cached.series.count(match cached.cache.held(key) {
            None => CacheResult::Miss,
            Some(_) => CacheResult::Unproven,
        });
        let ticket = cached.cache.ticket(key);
        let load = cached.redis.load(id, &settings.keys);
        let loaded = tokio::select! {
            biased;
            loaded = load => loaded,
            // Who can be served otherwise does not wait for a deadline.
            found = async {
                cached.redis.goes_away(key).await;
                match spare() {
                    Some(found) => found,
                    None => std::future::pending().await,
                }
            } => return Ok(Lookup::Found(found)),
        };
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(error) => return spare().map(Lookup::Found).ok_or(error),
        };
        let now = self.now();
        let Some(loaded) = loaded else {
            cached.drop_cached(key);
            return Ok(Lookup::Missing(self.0.seen.missed(key, now)));
        };
        let session = loaded.session;
        if session.expires_at <= now {
            // Sealed inside, so nobody can stretch it by the TTL.
            return Ok(self.expired(cached, key));
        }
        let ends_at = loaded.ttl.map(|ttl| now.plus(ttl));
        let wanted = wanted_ttl(session.expires_at, settings.idle, now);
        let ttl = loaded.ttl.unwrap_or(Duration::MAX).min(wanted);
        self.met(key, &session, settings.idle.map(|_| now.plus(ttl)));
        let entry = cached.cache.keep(&ticket, session, ends_at);
        Ok(Lookup::Found(self.found(key, entry, now, &settings, touch)))
    }

    /// What may be served although Redis does not answer. Past its idle time it may not: that is no logout, though.
    fn spare(&self, cached: &Cached, key: RecordKey, settings: &Settings) -> Option<Found> {
        let max_staleness = settings.max_staleness;
        let entry = cached.cache.stale(key, Instant::now(), max_staleness)?;
        let now = self.now();
        if entry.is_over(now) {
            return None;
        }
        cached.series.count(CacheResult::Stale);
        Some(Found {
            stale: true,
            ..self.found(key, entry, now, settings, false)
        })
    }

    fn expired(&self, cached: &Cached, key: RecordKey) -> Lookup {
        cached.cache.forget(key);
        self.0.seen.ended(key, Gone::Expired);
        Lookup::Missing(Gone::Expired)
    }

    /// Tells what was found, and has its idle time extended where it is due.
    fn found(
        &self,
        key: RecordKey,
        entry: Entry,
        now: Timestamp,
        settings: &Settings,
        touch: bool,
    ) -> Found {
        let session = entry.session;
        let wanted = wanted_ttl(session.expires_at, settings.idle, now);
        let ttl = entry.ends_at.map_or(Duration::MAX, |end| end.left(now));
        let idle_expires_at = settings.idle.map(|_| now.plus(ttl.min(wanted)));
        // A TTL that is too long is mended as well: the idle time-out may have been shortened by a reload.
        let slack = settings.idle.map_or(NO_IDLE_SLACK, |idle| idle / 10);
        let due = ttl.saturating_add(slack) < wanted || ttl > wanted.saturating_add(slack);
        if touch && due {
            self.met(key, &session, idle_expires_at);
            // With too many under way it is left to a later request.
            if let Ok(permit) = Arc::clone(&self.0.touches).try_acquire_owned()
                && self.0.seen.claim_touch(key, now, slack)
            {
                self.touch(key, Arc::clone(&session), now, slack, permit);
            }
        }
        Found {
            session,
            idle_expires_at,
            stale: false,
        }
    }

    /// Extends the idle time off the request's path. Every replica hears of it, and reads the record with its new end: none
    /// extends it again.
    fn touch(
        &self,
        key: RecordKey,
        session: Arc<Session>,
        claimed: Timestamp,
        pause: Duration,
        permit: OwnedSemaphorePermit,
    ) {
        let sessions = self.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let Store::Redis(cached) = &sessions.0.store else {
                return;
            };
            let idle = sessions.0.settings.load().idle;
            let now = sessions.now();
            let ttl = wanted_ttl(session.expires_at, idle, now);
            cached.cache.about_to_write(key);
            match cached.redis.touch(key, ttl).await {
                Ok(true) => sessions.met(key, &session, idle.map(|_| now.plus(ttl))),
                Ok(false) => {}
                Err(_) => sessions.0.seen.touch_failed(key, claimed, pause),
            }
        });
    }
}

/// Without idle time-out a record's TTL is what is left of the session, give or take the clocks' differences.
const NO_IDLE_SLACK: Duration = Duration::from_secs(90);
