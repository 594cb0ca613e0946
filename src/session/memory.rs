//! Keeps sessions in this process: bounded, expiring, and as strict about generations and leases as Redis.
//!
//! Reading takes no lock beyond the map's own; whatever changes an entry does so under the entry's lock, so that a
//! deletion and a commit that race have an order, and a deleted session stays deleted.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use tokio::time::Instant;

use self::index::{Index, Told};
use super::index::Whose;
use super::seen::{Last, Seen};
use super::{
    CommitAnswer, EndAnswer, Found, Gone, Lease, LeaseAnswer, Meta, Owner, RecordKey, Session,
    Tokens,
};
use crate::clock::{Span, Timestamp};

mod index;

/// Sessions in this process.
pub(super) struct Memory {
    entries: Cache<RecordKey, Arc<Entry>>,
    index: Index,
    /// What providers said of late.
    pub(super) told: Told,
    next_purge: AtomicI64,
}

#[derive(Debug)]
struct Entry {
    /// `None` once deleted, for those who still hold the entry.
    session: ArcSwapOption<Session>,
    last_used: AtomicI64,
    /// Held by whoever changes `session`.
    turn: Mutex<Turn>,
}

/// Whose turn it is to replace the session.
#[derive(Debug)]
struct Turn {
    claim: Claim,
    /// The next generation, of an owner who lost the lease: whether it counts depends on what the present holder hears.
    parked: Option<(Owner, Arc<Session>)>,
    /// Who lost the lease while the provider was still to answer, and until when that is believed.
    displaced: Option<(Owner, Span)>,
    /// Who wrote the session last.
    writer: Option<Owner>,
}

/// Who refreshes. Times out by the clock.
#[derive(Debug)]
enum Claim {
    Free,
    Held { owner: Owner, span: Span },
    Cooling { span: Span },
}

impl Memory {
    pub(super) fn new(entries: usize) -> Self {
        Self {
            entries: Cache::new(entries.max(1)),
            index: Index::default(),
            told: Told::default(),
            next_purge: AtomicI64::new(0),
        }
    }

    pub(super) fn resize(&self, entries: usize) {
        self.entries.set_capacity(entries.max(1) as u64);
    }

    /// No allocation, no lock but the map's shard: this is on the way of each request.
    pub(super) fn load(
        &self,
        key: RecordKey,
        now: Timestamp,
        idle: Option<Duration>,
        touch: bool,
        seen: &Seen,
    ) -> Result<Found, Gone> {
        let entry = self.entries.get(&key);
        let Some((entry, session)) = entry.and_then(|e| e.session.load_full().map(|s| (e, s)))
        else {
            return Err(seen.missed(key, now));
        };
        if let Err(gone) = entry.alive(&session, now, idle) {
            self.remove_dead(key, &entry, gone, seen);
            return Err(gone);
        }
        if touch {
            entry.used(now);
        }
        Ok(Found {
            idle_expires_at: idle.map(|idle| entry.idle_end(idle).min(session.expires_at)),
            session,
            stale: false,
        })
    }

    pub(super) fn create(
        &self,
        key: RecordKey,
        session: Session,
        now: Timestamp,
        idle: Option<Duration>,
        seen: &Seen,
    ) {
        self.purge(now, idle, seen);
        // Before the entry: a dangling member does no harm, a session that nobody finds would.
        let limit = usize::try_from(self.entries.capacity()).unwrap_or(usize::MAX);
        self.index
            .add(key, &session, limit.saturating_mul(4), |member| {
                self.entries.peek(member).is_some()
            });
        let entry = Entry {
            session: ArcSwapOption::from_pointee(session),
            last_used: AtomicI64::new(now.as_millis()),
            turn: Mutex::new(Turn {
                claim: Claim::Free,
                parked: None,
                displaced: None,
                writer: None,
            }),
        };
        self.entries.insert(key, Arc::new(entry));
    }

    pub(super) fn delete(&self, key: RecordKey, seen: &Seen) -> Option<Arc<Session>> {
        let (_, entry) = self.entries.remove(&key)?;
        let mut turn = entry.turn.lock();
        let session = entry.session.swap(None)?;
        self.index.remove(key, &session);
        seen.gone(key, Gone::Revoked);
        // What is parked is newer: the tokens to revoke.
        Some(turn.parked.take().map_or(session, |(_, parked)| parked))
    }

    /// Sessions that are meant by `whose`.
    pub(super) fn find(&self, whose: &Whose<'_>) -> Vec<RecordKey> {
        let Some(index) = whose.index() else {
            return Vec::new();
        };
        let mut found = self.index.members(&index);
        found.retain(|key| {
            let session = self.entries.peek(key).and_then(|e| e.session.load_full());
            session.is_some_and(|session| whose.fits(&Meta::of(&session)))
        });
        found
    }

    pub(super) fn lease(
        &self,
        key: RecordKey,
        generation: u64,
        now: Timestamp,
        ttl: Duration,
    ) -> LeaseAnswer {
        self.change(key, |session, turn| {
            if session.generation != generation {
                return (LeaseAnswer::Newer(Arc::clone(session)), Change::Nothing);
            }
            if let Claim::Held { span, .. } = turn.claim
                && span.lasts(now)
            {
                let retry_in = span.left(now);
                return (LeaseAnswer::Held { retry_in }, Change::Nothing);
            }
            // Nobody is left who could bring better ones: the old token is not presented again.
            if let Some(next) = turn.promote() {
                return (LeaseAnswer::Newer(Arc::clone(&next)), Change::Replace(next));
            }
            if let Claim::Cooling { span } = turn.claim
                && span.lasts(now)
            {
                let left = span.left(now);
                return (LeaseAnswer::CoolingDown { left }, Change::Nothing);
            }
            let owner = Owner::random();
            if let Some(retry_in) = turn.disputed(owner, now) {
                return (LeaseAnswer::Held { retry_in }, Change::Nothing);
            }
            turn.claim = Claim::Held {
                owner,
                span: Span::new(now, ttl),
            };
            let session = Arc::clone(session);
            (
                LeaseAnswer::Granted(Lease::new(session, owner, Instant::now(), ttl)),
                Change::Nothing,
            )
        })
        .unwrap_or(LeaseAnswer::Gone)
    }

    pub(super) fn renew(
        &self,
        key: RecordKey,
        lease: &Lease,
        now: Timestamp,
        ttl: Duration,
    ) -> bool {
        self.change(key, |session, turn| {
            let current = session.generation == lease.session.generation;
            let ours =
                current && !turn.claim.is_of_another(lease.owner, now) && !turn.claim.is_pause(now);
            if current && !ours {
                turn.displaced = Some((lease.owner, Span::new(now, ttl)));
            }
            if ours {
                turn.claim = Claim::Held {
                    owner: lease.owner,
                    span: Span::new(now, ttl),
                };
            }
            (ours, Change::Nothing)
        })
        .unwrap_or(false)
    }

    pub(super) fn commit(
        &self,
        key: RecordKey,
        lease: &Lease,
        tokens: &Tokens,
        now: Timestamp,
    ) -> CommitAnswer {
        let read = lease.session.generation;
        self.change(key, |session, turn| {
            if session.generation == read.saturating_add(1) && turn.writer == Some(lease.owner) {
                // What was parked has been put in force.
                return (CommitAnswer::Stored(Arc::clone(session)), Change::Nothing);
            }
            if session.generation != read {
                return (
                    CommitAnswer::Superseded(Arc::clone(session)),
                    Change::Nothing,
                );
            }
            let next = Arc::new(session.with_tokens(tokens.clone()));
            if turn.claim.is_of_another(lease.owner, now) {
                // Who parked first stays: they answer the same token.
                turn.parked.get_or_insert((lease.owner, next));
                turn.heard(lease.owner);
                let retry_in = turn.claim.left(now);
                return (CommitAnswer::Held { retry_in }, Change::Nothing);
            }
            *turn = Turn {
                claim: Claim::Free,
                parked: None,
                displaced: None,
                writer: Some(lease.owner),
            };
            (
                CommitAnswer::Stored(Arc::clone(&next)),
                Change::Replace(next),
            )
        })
        .unwrap_or(CommitAnswer::Gone)
    }

    pub(super) fn give_up(
        &self,
        key: RecordKey,
        lease: &Lease,
        now: Timestamp,
        cool_down: Duration,
    ) {
        self.change(key, |session, turn| {
            turn.heard(lease.owner);
            // Another's lease is not given up here, nor a pause ended that came of one.
            if !turn.claim.is_of_another(lease.owner, now) && !turn.claim.is_pause(now) {
                // It is for the token that failed, not for one that came meanwhile.
                turn.claim = if session.generation == lease.session.generation {
                    Claim::Cooling {
                        span: Span::new(now, cool_down),
                    }
                } else {
                    Claim::Free
                };
            }
            ((), Change::Nothing)
        });
    }

    pub(super) fn end(
        &self,
        key: RecordKey,
        lease: &Lease,
        now: Timestamp,
        seen: &Seen,
    ) -> EndAnswer {
        let answer = self.change(key, |session, turn| {
            if session.generation != lease.session.generation {
                return (EndAnswer::Newer(Arc::clone(session)), Change::Nothing);
            }
            turn.heard(lease.owner);
            if turn.claim.is_of_another(lease.owner, now) {
                let retry_in = turn.claim.left(now);
                return (EndAnswer::Held { retry_in }, Change::Nothing);
            }
            // Who parked them got them for the token: that is why it is dead, and the session is not.
            if let Some(next) = turn.promote() {
                return (EndAnswer::Newer(Arc::clone(&next)), Change::Replace(next));
            }
            if let Some(retry_in) = turn.disputed(lease.owner, now) {
                return (EndAnswer::Disputed { retry_in }, Change::Nothing);
            }
            (EndAnswer::Ended, Change::Delete)
        });
        if matches!(answer, Some(EndAnswer::Ended)) {
            seen.gone(key, Gone::Revoked);
        }
        answer.unwrap_or(EndAnswer::Ended)
    }

    /// Applies one step to a session that is there; `None` when it is not.
    fn change<T>(
        &self,
        key: RecordKey,
        step: impl FnOnce(&Arc<Session>, &mut Turn) -> (T, Change),
    ) -> Option<T> {
        let entry = self.entries.get(&key)?;
        let mut turn = entry.turn.lock();
        // Under the lock: what is here now is here until we are done.
        let session = entry.session.load_full()?;
        let (answer, change) = step(&session, &mut turn);
        match change {
            Change::Nothing => {}
            Change::Replace(next) => entry.session.store(Some(next)),
            Change::Delete => {
                entry.session.store(None);
                self.entries.remove_if(&key, |e| Arc::ptr_eq(e, &entry));
                self.index.remove(key, &session);
            }
        }
        Some(answer)
    }

    fn remove_dead(&self, key: RecordKey, entry: &Arc<Entry>, why: Gone, seen: &Seen) {
        let _turn = entry.turn.lock();
        if let Some(session) = entry.session.swap(None) {
            self.entries.remove_if(&key, |e| Arc::ptr_eq(e, entry));
            self.index.remove(key, &session);
            seen.ended(key, why);
        }
    }

    /// Drops what nobody asked for before it expired; once a minute, by whoever logs in then.
    fn purge(&self, now: Timestamp, idle: Option<Duration>, seen: &Seen) {
        let due = self.next_purge.load(Ordering::Relaxed);
        let next = now.plus(PURGE_EVERY).as_millis();
        if now.as_millis() < due
            || self
                .next_purge
                .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_err()
        {
            return;
        }
        let dead: Vec<_> = self
            .entries
            .iter()
            .filter_map(|(key, entry)| {
                let session = entry.session.load();
                let why = match &*session {
                    Some(session) => entry.alive(session, now, idle).err()?,
                    None => Gone::Revoked,
                };
                Some((key, entry.clone(), why))
            })
            .collect();
        for (key, entry, why) in dead {
            self.remove_dead(key, &entry, why, seen);
        }
        // The store drops the least used without a word when it is full.
        self.index.sweep(|key| self.entries.peek(key).is_some());
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Members of all index sets.
    #[cfg(test)]
    pub(super) fn indexed(&self) -> usize {
        self.index.len()
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Memory({} sessions)", self.entries.len())
    }
}

/// What a step does to the session.
enum Change {
    Nothing,
    Replace(Arc<Session>),
    Delete,
}

impl Entry {
    fn alive(&self, session: &Session, now: Timestamp, idle: Option<Duration>) -> Result<(), Gone> {
        let last = Last {
            expires_at: session.expires_at,
            idle_expires_at: idle.map(|idle| self.idle_end(idle)),
        };
        last.verdict(now).map_or(Ok(()), Err)
    }

    fn idle_end(&self, idle: Duration) -> Timestamp {
        Timestamp::from_millis(self.last_used.load(Ordering::Relaxed)).plus(idle)
    }

    /// At most one store per millisecond, so that the requests of a page do not fight over the cache line.
    fn used(&self, now: Timestamp) {
        if now.as_millis() > self.last_used.load(Ordering::Relaxed) {
            self.last_used.store(now.as_millis(), Ordering::Relaxed);
        }
    }
}

impl Turn {
    /// What is parked, to be put in force. Nobody holds the lease any more.
    fn promote(&mut self) -> Option<Arc<Session>> {
        let (owner, next) = self.parked.take()?;
        self.writer = Some(owner);
        self.claim = Claim::Free;
        self.displaced = None;
        Some(next)
    }

    /// For how long another who lost the lease may still bring what was issued for the token.
    fn disputed(&self, me: Owner, now: Timestamp) -> Option<Duration> {
        let (owner, span) = self.displaced?;
        (owner != me && span.lasts(now)).then(|| span.left(now))
    }

    /// This owner waits for an answer no longer.
    fn heard(&mut self, owner: Owner) {
        if self
            .displaced
            .is_some_and(|(displaced, _)| displaced == owner)
        {
            self.displaced = None;
        }
    }
}

impl Claim {
    fn is_of_another(&self, me: Owner, now: Timestamp) -> bool {
        matches!(self, Self::Held { owner, span } if *owner != me && span.lasts(now))
    }

    fn is_pause(&self, now: Timestamp) -> bool {
        matches!(self, Self::Cooling { span } if span.lasts(now))
    }

    fn left(&self, now: Timestamp) -> Duration {
        match self {
            Self::Free => Duration::ZERO,
            Self::Held { span, .. } | Self::Cooling { span } => span.left(now),
        }
    }
}

const PURGE_EVERY: Duration = Duration::from_secs(60);
