//! Hands sessions that were ended without their cookie to whoever can revoke their tokens at the provider.
//!
//! Only a process that has the session decoded knows its refresh token. With the memory store that is the process that
//! ended it. In Redis the deletion leaves a marker beside the record for a minute, and of the processes that held the
//! session, as it was, one takes it. Redis tells of the record and of the marker in any order, and of our own writes on
//! another connection: what a change of the record drops from the cache is remembered for a moment, should a marker follow,
//! and so is a marker, should we turn out to hold what it asks for.

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

/// One half of what it takes.
#[derive(Debug)]
enum OfLate {
    /// The session was dropped from the cache.
    Dropped(Arc<Session>),
    /// A marker was left for it.
    Marked,
}

#[derive(Debug)]
struct Heard {
    at: Instant,
    what: OfLate,
    /// It was old when it was last looked at.
    old: bool,
}

impl Heard {
    fn new(at: Instant, what: OfLate) -> Self {
        let old = false;
        Self { at, what, old }
    }

    fn is_mark(&self) -> bool {
        matches!(self.what, OfLate::Marked)
    }
}

/// The queue. Bounded: what does not fit is left to expire at the provider by itself.
#[derive(Debug)]
pub(super) struct Orphans {
    sender: mpsc::Sender<Waiting>,
    receiver: Mutex<Option<mpsc::Receiver<Waiting>>>,
    /// What was heard of late. Bounded, and emptied as time passes.
    of_late: Mutex<HashMap<RecordKey, Heard>>,
    lost: AtomicU64,
}

impl Default for Orphans {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(WAITING);
        Self {
            sender,
            receiver: Mutex::new(Some(receiver)),
            of_late: Mutex::default(),
            lost: AtomicU64::new(0),
        }
    }
}

impl Orphans {
    pub(super) fn push(&self, waiting: Waiting) {
        if self.sender.try_send(waiting).is_err() {
            self.too_many();
        }
    }

    fn too_many(&self) {
        let lost = self.lost.fetch_add(1, Ordering::Relaxed);
        if lost.is_multiple_of(LOGGED_EACH) {
            tracing::warn!("too many ended sessions wait; tokens are left to expire");
        }
    }

    /// A change of its record dropped the session from the cache.
    pub(super) fn dropped(&self, key: RecordKey, session: Arc<Session>, now: Instant) {
        let mut of_late = self.of_late.lock();
        if of_late.get(&key).is_some_and(Heard::is_mark) {
            drop(of_late);
            self.push(Waiting::Perhaps(key, session));
        } else if of_late.len() < WAITING {
            of_late.insert(key, Heard::new(now, OfLate::Dropped(session)));
        }
    }

    /// The session was written by this process; the marker may have been heard of before the answer.
    pub(super) fn held(&self, key: RecordKey, session: &Arc<Session>) {
        let marked = self.of_late.lock().get(&key).is_some_and(Heard::is_mark);
        if marked {
            self.push(Waiting::Perhaps(key, Arc::clone(session)));
        }
    }

    /// A marker was left for the session: if this process holds it, or did a moment ago, it may be the one to take it.
    pub(super) fn marked(&self, key: RecordKey, held: Option<Arc<Session>>, now: Instant) {
        let dropped = {
            let mut of_late = self.of_late.lock();
            let before = of_late.remove(&key);
            if of_late.len() < WAITING {
                of_late.insert(key, Heard::new(now, OfLate::Marked));
            } else {
                self.too_many();
            }
            match before {
                Some(Heard {
                    what: OfLate::Dropped(session),
                    ..
                }) => Some(session),
                _ => None,
            }
        };
        // Each may be of another generation; Redis knows which is asked for.
        for session in held.into_iter().chain(dropped) {
            self.push(Waiting::Perhaps(key, session));
        }
    }

    /// Forgets what was heard a while ago, and was old already when this was called before: what would follow may still have to be
    /// read by a process that was kept from running.
    pub(super) fn forget_old(&self, now: Instant) {
        let mut of_late = self.of_late.lock();
        if !of_late.is_empty() {
            of_late.retain(|_, heard| {
                let old = now.saturating_duration_since(heard.at) >= MOMENT;
                !(old && std::mem::replace(&mut heard.old, old))
            });
            of_late.shrink_to(SPARE);
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::super::SessionId;
    use super::super::testing::session;
    use super::*;

    /// Whether the session waits to be looked at, how often.
    fn waiting(orphans: &Orphans) -> usize {
        std::iter::from_fn(|| orphans.next().now_or_never()).count()
    }

    #[test]
    fn the_session_and_its_marker_meet_in_any_order_within_a_moment() {
        type Story = fn(&Orphans, RecordKey, Instant);
        let one = || Arc::new(session());
        let later = |now: Instant| now + MOMENT;
        let rows: [(&str, Story, usize); 7] = [
            (
                "held",
                |o, key, now| o.marked(key, Some(Arc::new(session())), now),
                1,
            ),
            ("never held", |o, key, now| o.marked(key, None, now), 0),
            (
                "dropped first",
                |o, key, now| {
                    o.dropped(key, Arc::new(session()), now);
                    o.marked(key, None, now);
                },
                1,
            ),
            (
                "marked first",
                |o, key, now| {
                    o.marked(key, None, now);
                    o.dropped(key, Arc::new(session()), now);
                },
                1,
            ),
            (
                "marked before our own write was answered",
                |o, key, now| {
                    o.marked(key, None, now);
                    o.held(key, &Arc::new(session()));
                },
                1,
            ),
            (
                "two generations of it",
                |o, key, now| {
                    o.dropped(key, Arc::new(session()), now);
                    o.marked(key, Some(Arc::new(session())), now);
                },
                2,
            ),
            (
                "of another session",
                |o, key, now| {
                    o.dropped(SessionId::generate().record_key(), Arc::new(session()), now);
                    o.marked(key, None, now);
                    o.held(SessionId::generate().record_key(), &Arc::new(session()));
                },
                0,
            ),
        ];
        for (name, story, want) in rows {
            let (orphans, key) = (Orphans::default(), SessionId::generate().record_key());
            story(&orphans, key, Instant::now());
            assert_eq!(waiting(&orphans), want, "{name}");
        }

        let (key, now) = (SessionId::generate().record_key(), Instant::now());
        for (looks, want) in [(1, 1), (2, 0)] {
            let orphans = Orphans::default();
            orphans.dropped(key, one(), now);
            for _ in 0..looks {
                orphans.forget_old(later(now));
            }
            orphans.marked(key, None, later(now));
            assert_eq!(waiting(&orphans), want, "looked at {looks} times");
            for _ in 0..looks {
                orphans.forget_old(later(later(now)));
            }
            orphans.held(key, &one());
            assert_eq!(waiting(&orphans), want, "looked at {looks} times");
            assert_eq!(orphans.of_late.lock().is_empty(), want == 0, "{looks}");
        }
    }
}
