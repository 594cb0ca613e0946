//! Hands sessions that were ended without their cookie to whoever can revoke their tokens at the provider.
//!
//! Only a process that has the session decoded knows its refresh token. With the memory store that is the process that
//! ended it. In Redis the deletion leaves a marker beside the record for a minute, and of the processes that held the
//! session one takes it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{RecordKey, Session};
use crate::metrics::LogoutKind;

/// A session that is over, whose tokens are to be revoked by whoever gets it from [`next_orphan`].
///
/// [`next_orphan`]: super::Sessions::next_orphan
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
    /// It vanished from Redis; whether somebody wants it revoked, a marker there says.
    Perhaps(RecordKey, Arc<Session>),
}

/// The queue. Bounded: what does not fit is left to expire at the provider by itself.
#[derive(Debug)]
pub(super) struct Orphans {
    sender: mpsc::Sender<Waiting>,
    receiver: Mutex<Option<mpsc::Receiver<Waiting>>>,
    lost: AtomicU64,
}

impl Default for Orphans {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        Self {
            sender,
            receiver: Mutex::new(Some(receiver)),
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
