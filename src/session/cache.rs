//! Keeps decoded sessions of Redis in this process, and knows which of them may be served without asking.
//!
//! The race rule: a read takes a [`Ticket`] before it is sent, and what it found is kept only if nobody has dropped a
//! key of the same stripe meanwhile. So an answer that was overtaken by the news of a change, or by a logout in this
//! process, is used once and not kept. Hits take no lock but the map's own, and allocate nothing.
//!
//! What this process wrote last it holds on to, also when it may be served no more: should the session be ended without its
//! cookie, whoever wrote last is sure to know the tokens that are to be revoked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use quick_cache::Weighter;
use tokio::time::Instant;

use self::trust::Trust;
use super::{RecordKey, Session};
use crate::clock::Timestamp;
use crate::metrics::Metrics;
use crate::secret::Secret;

pub(super) mod trust;

#[cfg(test)]
mod tests;

/// Sessions as read from Redis.
pub(super) struct Cache {
    entries: quick_cache::sync::Cache<RecordKey, Entry, Pages>,
    /// How often a key of the stripe was dropped. Locked by whoever keeps or drops, so that the two have an order.
    stripes: Box<[Mutex<u64>]>,
    trust: Trust,
    /// Counts answers of servers that tell nobody of changes.
    strangers: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
}

/// A session as read.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) session: Arc<Session>,
    /// When the record runs out; `None` when somebody has taken its TTL away.
    pub(super) ends_at: Option<Timestamp>,
    /// When the read was sent.
    read_at: Instant,
    epoch: u64,
    pages: u32,
    standing: Standing,
}

/// What an entry is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// As read, and not known to have changed.
    Read,
    /// This process wrote the record last, and the news of that is still to come.
    Written,
    /// Written by this process last as well, and something else may have changed since: good for its tokens only.
    Unsure,
    /// The record has changed, by our own hand as far as is known: good for its tokens only.
    Kept,
}

/// Taken before a read is sent.
#[derive(Debug)]
pub(super) struct Ticket {
    key: RecordKey,
    dropped: u64,
    epoch: u64,
    strangers: u64,
    at: Instant,
}

impl Entry {
    fn new(ticket: &Ticket, session: Arc<Session>, ends_at: Option<Timestamp>) -> Self {
        Self {
            pages: pages(&session),
            session,
            ends_at,
            read_at: ticket.at,
            epoch: ticket.epoch,
            standing: Standing::Read,
        }
    }

    fn is_served(&self) -> bool {
        matches!(self.standing, Standing::Read | Standing::Written)
    }

    /// Whether its lifetime is over, or its idle time unless somebody has extended it.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.session.expires_at <= now || self.ends_at.is_some_and(|end| end <= now)
    }
}

impl Cache {
    pub(super) fn new(entries: usize, strangers: Arc<AtomicU64>, metrics: Arc<Metrics>) -> Self {
        let entries = entries.max(1);
        Self {
            entries: quick_cache::sync::Cache::with_weighter(entries, entries as u64, Pages),
            stripes: (0..STRIPES).map(|_| Mutex::new(0)).collect(),
            trust: Trust::new(Instant::now()),
            strangers,
            metrics,
        }
    }

    pub(super) fn resize(&self, entries: usize) {
        self.entries.set_capacity(entries.max(1) as u64);
    }

    pub(super) fn trust(&self) -> &Trust {
        &self.trust
    }

    /// What is known true without asking. Who calls judges lifetime and idle time.
    pub(super) fn fresh(&self, key: RecordKey, now: Instant) -> Option<Entry> {
        let entry = self.entries.get(&key)?;
        let good = entry.is_served() && self.trust.holds(entry.epoch, entry.read_at, now);
        good.then_some(entry)
    }

    /// What is there, true or not.
    pub(super) fn held(&self, key: RecordKey) -> Option<Entry> {
        self.entries.peek(&key)
    }

    /// What was known true less than `max_staleness` ago: for when nobody can be asked.
    pub(super) fn stale(
        &self,
        key: RecordKey,
        now: Instant,
        max_staleness: Duration,
    ) -> Option<Entry> {
        let entry = self.entries.get(&key)?;
        let last_true = self.trust.last_true(entry.epoch, entry.read_at);
        let good = entry.is_served() && now.saturating_duration_since(last_true) < max_staleness;
        good.then_some(entry)
    }

    /// To be taken before a read or a commit is sent.
    pub(super) fn ticket(&self, key: RecordKey) -> Ticket {
        Ticket {
            key,
            dropped: *self.stripe(key).lock(),
            epoch: self.trust.epoch(),
            strangers: self.strangers.load(Ordering::SeqCst),
            at: Instant::now(),
        }
    }

    /// Keeps what was read, unless news came in meanwhile; hands it out in any case.
    pub(super) fn keep(
        &self,
        ticket: &Ticket,
        session: Arc<Session>,
        ends_at: Option<Timestamp>,
    ) -> Entry {
        let entry = Entry::new(ticket, session, ends_at);
        let dropped = self.stripe(ticket.key).lock();
        if self.is_good(ticket, *dropped) {
            self.entries.insert(ticket.key, entry.clone());
        }
        entry
    }

    /// Puts what this process has just written in the place of what was there before. With news in between, or without
    /// an end that is known (`ends_at`, or that of the entry before), the next request reads it.
    pub(super) fn written(
        &self,
        ticket: &Ticket,
        session: &Arc<Session>,
        ends_at: Option<Timestamp>,
    ) {
        let mut dropped = self.stripe(ticket.key).lock();
        let before = self.entries.peek(&ticket.key);
        let known = ends_at.is_some() || before.is_some();
        let ends_at = ends_at.or(before.and_then(|before| before.ends_at));
        let mut entry = Entry::new(ticket, Arc::clone(session), ends_at);
        entry.standing = if known && self.is_good(ticket, *dropped) {
            Standing::Written
        } else {
            Standing::Unsure
        };
        self.entries.insert(ticket.key, entry);
        // Reads under way bring what was there before.
        *dropped = dropped.wrapping_add(1);
    }

    /// To be called before something is written that leaves the session as it is: the news of it is our own doing.
    pub(super) fn about_to_write(&self, key: RecordKey) {
        let _order = self.stripe(key).lock();
        if let Some(entry) = self.entries.peek(&key)
            && entry.standing == Standing::Read
        {
            let standing = Standing::Written;
            self.entries.insert(key, Entry { standing, ..entry });
        }
    }

    /// There is news of the record: what is cached is not true any more, and reads under way are not kept. Gives what was
    /// cached, and whether it was dropped, for what this process wrote is held on to until there is news again.
    pub(super) fn news(&self, key: RecordKey) -> Option<(Entry, bool)> {
        let mut dropped = self.stripe(key).lock();
        *dropped = dropped.wrapping_add(1);
        let entry = self.entries.peek(&key)?;
        let keeps = matches!(entry.standing, Standing::Written | Standing::Unsure);
        if keeps {
            let standing = Standing::Kept;
            self.entries.insert(
                key,
                Entry {
                    standing,
                    ..entry.clone()
                },
            );
        } else {
            self.entries.remove(&key);
        }
        Some((entry, !keeps))
    }

    /// Drops a session: it has changed, ended, or may have. Reads under way are not kept.
    pub(super) fn forget(&self, key: RecordKey) -> Option<Entry> {
        let mut dropped = self.stripe(key).lock();
        *dropped = dropped.wrapping_add(1);
        self.entries.remove(&key).map(|(_, entry)| entry)
    }

    /// Drops everything.
    pub(super) fn flush(&self) {
        for stripe in &self.stripes {
            let mut dropped = stripe.lock();
            *dropped = dropped.wrapping_add(1);
        }
        // What is kept in between was read after its stripe was counted up, and goes as well: no harm done.
        self.entries.clear();
    }

    /// Shows how many there are.
    pub(super) fn count(&self) {
        let entries = i64::try_from(self.entries.len()).unwrap_or(i64::MAX);
        self.metrics.session_cache_entries.set(entries);
    }

    /// Whether nothing came in since that would make an answer untrue, and the answer was of one who would have told.
    fn is_good(&self, ticket: &Ticket, dropped: u64) -> bool {
        dropped == ticket.dropped && self.strangers.load(Ordering::SeqCst) == ticket.strangers
    }

    fn stripe(&self, key: RecordKey) -> &Mutex<u64> {
        // The key is a hash: any bytes of it are evenly spread.
        let [.., high, low] = *key.as_bytes();
        &self.stripes[usize::from(u16::from_be_bytes([high, low])) % STRIPES]
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cache({} sessions)", self.entries.len())
    }
}

/// Weighs a session in pages of [`PAGE`] bytes. The cache holds as many pages as it may hold entries: that bounds the
/// number of sessions and, because one with huge tokens or claims counts several times, their bytes.
#[derive(Debug, Clone)]
struct Pages;

impl Weighter<RecordKey, Entry> for Pages {
    fn weight(&self, _: &RecordKey, entry: &Entry) -> u64 {
        entry.pages.into()
    }
}

fn pages(session: &Session) -> u32 {
    u32::try_from(bytes(session).div_ceil(PAGE)).unwrap_or(u32::MAX)
}

/// About how much memory a cached session takes, allocations and bookkeeping included.
fn bytes(session: &Session) -> usize {
    let tokens = &session.tokens;
    // The header shares its bytes with the access token.
    let texts = session.provider.len()
        + session.issuer.len()
        + session.subject.len()
        + session.sid.as_ref().map_or(0, |sid| sid.len())
        + tokens.access.len()
        + tokens.refresh.as_ref().map_or(0, Secret::len)
        + tokens.id.as_ref().map_or(0, Secret::len)
        + tokens.scopes.iter().map(|s| NODE + s.len()).sum::<usize>();
    FIXED + texts + session.claims.footprint()
}

/// A session with tokens of 1 KiB and a few claims takes one.
const PAGE: usize = 4096;
/// `Session`, `Tokens`, the entry in the map, and the allocations that hold them.
const FIXED: usize = 800;
/// One field or item: its slot, its allocation, its place in an index.
const NODE: usize = 80;
/// Few enough to be nothing, many enough that news about one session seldom disturbs the read of another.
const STRIPES: usize = 1024;
