//! Remembers who goes first: under which name a lease was asked for and not got, and how long others were let go before us.
//!
//! Just after an outage a lease that lapsed may be somebody's who was only cut off, and is about to store what they got. They
//! have a head start, and so has one of our own that we did not hear of: a frozen Redis may have granted it on waking, over
//! one that lapsed. It is measured twice. Once from the last failure: nobody who was cut off is back before that. And
//! once by the time Redis was there to say "wait": where connections break again and again there is always a failure just
//! behind, and without the second measure nobody would ever have their turn.

use std::time::Duration;

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use tokio::time::Instant;

use crate::session::{Owner, RecordKey};

/// What this process remembers of its turns.
pub(super) struct Turns {
    /// Leases asked for and not got. Bounded; who is forgotten begins anew.
    asked: Cache<RecordKey, Turn>,
    /// When the store last failed to answer.
    failed: Mutex<Option<Instant>>,
}

/// One lease that is asked for.
#[derive(Debug, Clone)]
pub(super) struct Turn {
    /// Stays the same until an answer is heard: the lease may be ours without our knowing, nothing was presented under it,
    /// and the next try finds itself the holder.
    pub(super) owner: Owner,
    /// For how long Redis was there and others went first.
    yielded: Duration,
    last: Option<Instant>,
}

impl Turns {
    pub(super) fn new() -> Self {
        Self {
            asked: Cache::new(REMEMBERED),
            failed: Mutex::new(None),
        }
    }

    pub(super) fn take(&self, key: RecordKey) -> Turn {
        match self.asked.remove(&key) {
            Some((_, turn)) if turn.is_stale() => turn.afresh(),
            Some((_, turn)) => turn,
            None => Turn::of(Owner::random()),
        }
    }

    pub(super) fn keep(&self, key: RecordKey, turn: Turn) {
        self.asked.insert(key, turn);
    }

    pub(super) fn note_failure(&self) {
        *self.failed.lock() = Some(Instant::now());
    }

    /// Whether the store failed to answer a moment ago.
    pub(super) fn failed_lately(&self) -> bool {
        let failed = *self.failed.lock();
        failed.is_some_and(|failed| failed.elapsed() < HEAD_START)
    }
}

impl Turn {
    fn of(owner: Owner) -> Self {
        Self {
            owner,
            yielded: Duration::ZERO,
            last: None,
        }
    }

    /// Whether others may still be let go first.
    pub(super) fn may_yield(&self) -> bool {
        self.yielded < HEAD_START
    }

    /// Redis was there, and others were let go first.
    pub(super) fn has_yielded(mut self) -> Self {
        let now = Instant::now();
        // Only the time around an answer counts: between two that are far apart it may have been away for everybody.
        let since = self.last.map_or(Duration::ZERO, |last| now - last);
        self.yielded += since.min(AROUND);
        self.last = Some(now);
        self
    }

    /// What was waited for is long ago: this is another outage.
    fn is_stale(&self) -> bool {
        self.last.is_some_and(|last| last.elapsed() > STALE)
    }

    /// Somebody holds the lease: whoever lets it lapse has a head start of their own.
    pub(super) fn afresh(self) -> Self {
        Self::of(self.owner)
    }
}

const REMEMBERED: usize = 1000;
/// After an outage, those who had a lease reach the store within this: they try every few dozen milliseconds, and dial
/// four times a second.
const HEAD_START: Duration = Duration::from_secs(2);
const STALE: Duration = Duration::from_secs(10);
/// For how long an answer proves that the store could be reached.
const AROUND: Duration = Duration::from_millis(200);
