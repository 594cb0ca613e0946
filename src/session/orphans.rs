//! Hands sessions that were ended without their cookie to whoever can revoke their tokens at the provider.
//!
//! Only a process that has the session decoded knows its refresh token. With the memory store that is the process that
//! ended it. In Redis the deletion leaves a marker beside the record for a minute, and of the processes that held the
//! session one takes it. Redis tells of the record and of the marker in any order: what a change of the record drops from
//! the cache is remembered for a moment, should a marker follow.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{RecordKey, Session};
use crate::metrics::LogoutKind;

/// A session that is over, whose tokens are to be revoked by whoever gets it from [`next_orphan_until`].
///
/// [`next_orphan_until`]: super::Sessions::next_orphan_until
#[derive(Debug)]
pub struct Orphan {
    /// Which one it was.
    pub key: RecordKey,
    /// As last known.
    pub session: Arc<Session>,
    /// What ended it.
    pub kind: LogoutKind,
    /// Whether the end still has to be counted and written down: nobody did where it happened.
    pub uncounted: bool,
}

/// What waits to be looked at.
#[derive(Debug)]
pub(super) enum Waiting {
    /// To be revoked for certain.
    Known(Orphan),
    /// It was ended in Redis; whether somebody takes the marker that is there, Redis says.
    Perhaps(RecordKey, Arc<Session>),
}

/// The queue. Bounded: what does not fit is left to expire at the provider by itself.
#[derive(Debug)]
pub(super) struct Orphans {
    sender: mpsc::Sender<Waiting>,
    receiver: Mutex<Option<mpsc::Receiver<Waiting>>>,
    /// Dropped from the cache of late. Bounded, and emptied as time passes.
    dropped: Mutex<HashMap<RecordKey, (Instant, Arc<Session>)>>,
    lost: AtomicU64,
}

impl Default for Orphans {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        Self {
            sender,
            receiver: Mutex::new(Some(receiver)),
            dropped: Mutex::default(),
            lost: AtomicU64::new(0),
        }
    }
}

impl Orphans {
    pub(super) fn push(&self, waiting: Waiting) {
        if self.sender.try_send(waiting).is_err()
            && self
                .lost
                .fetch_add(1, Ordering::Relaxed)
                .is_multiple_of(LOGGED_EACH)
        {
            tracing::warn!("too many ended sessions wait; tokens are left to expire");
        }
    }

    /// A change of its record dropped the session from the cache.
    pub(super) fn dropped(&self, key: RecordKey, session: Arc<Session>, now: Instant) {
        let mut dropped = self.dropped.lock();
        if dropped.len() < WAITING {
            dropped.insert(key, (now, session));
        }
    }

    /// A marker was left for the session: if this process holds it, or did a moment ago, it may be the one to take it.
    pub(super) fn marked(&self, key: RecordKey, held: Option<Arc<Session>>) {
        let dropped = self.dropped.lock().remove(&key);
        if let Some(session) = held.or(dropped.map(|(_, session)| session)) {
            self.push(Waiting::Perhaps(key, session));
        }
    }

    /// Forgets what was dropped a while ago.
    pub(super) fn forget_dropped(&self, now: Instant) {
        let mut dropped = self.dropped.lock();
        if !dropped.is_empty() {
            dropped.retain(|_, (at, _)| now.saturating_duration_since(*at) < MOMENT);
            dropped.shrink_to(SPARE);
        }
    }

    /// The next one; waits for it. `None` when somebody else is waiting.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is taken out before it is given.
    pub(super) async fn next(&self) -> Option<Waiting> {
        let receiver = self.receiver.lock().take()?;
        // Put back also when the caller gives up.
        let mut taken = Taken {
            orphans: self,
            receiver: Some(receiver),
        };
        match &mut taken.receiver {
            Some(receiver) => receiver.recv().await,
            None => None,
        }
    }
}

struct Taken<'a> {
    orphans: &'a Orphans,
    receiver: Option<mpsc::Receiver<Waiting>>,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        *self.orphans.receiver.lock() = self.receiver.take();
    }
}

/// As many as one user's sessions may be when all end at once.
const WAITING: usize = 20_000;
const LOGGED_EACH: u64 = 1000;
/// Redis tells of all that one script did at once.
const MOMENT: Duration = Duration::from_secs(2);
/// Room for dropped sessions that is kept.
const SPARE: usize = 64;
