//! Wakes those who wait for a change of a session; what became of it, a look at the store says.
//!
//! A wake-up without a change does no harm, a change without a wake-up would: whoever is in doubt wakes.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::RecordKey;

/// Who waits for which session.
#[derive(Clone, Default)]
pub(super) struct Changes(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// An entry for each session that somebody waits for, and no other.
    waiting: Mutex<HashMap<RecordKey, watch::Sender<()>>>,
    /// What is gathered, once somebody does.
    lately: Mutex<Option<Lately>>,
    news: Notify,
}

/// Sessions that have changed of late, or may have.
#[derive(Debug, Default)]
pub struct Lately {
    keys: HashSet<RecordKey>,
    all: bool,
}

/// Waits for changes of one session from its making on.
pub struct Changed {
    changes: Changes,
    key: RecordKey,
    receiver: watch::Receiver<()>,
}

impl Changes {
    pub(super) fn subscribe(&self, key: RecordKey) -> Changed {
        let receiver = match self.0.waiting.lock().entry(key) {
            Entry::Occupied(entry) => entry.get().subscribe(),
            Entry::Vacant(entry) => entry.insert(watch::channel(()).0).subscribe(),
        };
        Changed {
            changes: self.clone(),
            key,
            receiver,
        }
    }

    /// The session was refreshed, deleted, or may have been.
    pub(super) fn wake(&self, key: RecordKey) {
        if let Some(sender) = self.0.waiting.lock().get(&key) {
            sender.send_replace(());
        }
        self.note(|lately| lately.add(key));
    }

    /// Nobody knows which sessions have changed.
    pub(super) fn wake_all(&self) {
        for sender in self.0.waiting.lock().values() {
            sender.send_replace(());
        }
        self.note(Lately::add_all);
    }

    /// Waits for a change of any session, and gathers for a moment what else changes. For one who asks again and again.
    pub(super) async fn gather(&self, moment: Duration) -> Lately {
        self.0.lately.lock().get_or_insert_default();
        loop {
            self.0.news.notified().await;
            sleep(moment).await;
            let lately = self.0.lately.lock().as_mut().map(std::mem::take);
            if let Some(lately) = lately.filter(|lately| lately.all || !lately.keys.is_empty()) {
                return lately;
            }
        }
    }

    fn note(&self, change: impl FnOnce(&mut Lately)) {
        if let Some(lately) = &mut *self.0.lately.lock() {
            change(lately);
            self.0.news.notify_one();
        }
    }
}

impl Lately {
    /// Whether this session is one of them.
    pub fn has(&self, key: &RecordKey) -> bool {
        self.all || self.keys.contains(key)
    }

    fn add(&mut self, key: RecordKey) {
        if self.keys.len() >= GATHERED {
            self.add_all();
        } else if !self.all {
            self.keys.insert(key);
        }
    }

    fn add_all(&mut self) {
        self.all = true;
        self.keys = HashSet::new();
    }
}

impl Changed {
    /// Waits for the next change since the last one that was told.
    ///
    /// # Cancel safety
    /// Cancel safe: what is not told yet is told next time.
    pub async fn next(&mut self) {
        // The sender is in the map as long as we are; should it be gone all the same, a look at the store does no harm.
        let _ = self.receiver.changed().await;
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        let mut waiting = self.changes.0.waiting.lock();
        if let Entry::Occupied(entry) = waiting.entry(self.key)
            && entry.get().receiver_count() <= 1
        {
            entry.remove();
        }
    }
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Changes({} watched)", self.0.waiting.lock().len())
    }
}

impl std::fmt::Debug for Changed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Changed(..)")
    }
}

/// Changes that are told apart in one moment; more mean all sessions.
const GATHERED: usize = 4096;

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::super::SessionId;
    use super::*;

    #[test]
    fn whoever_waits_is_woken_once_for_any_number_of_changes_and_no_other() {
        let changes = Changes::default();
        let (key, other) = (
            SessionId::generate().record_key(),
            SessionId::generate().record_key(),
        );
        let (mut one, mut two) = (changes.subscribe(key), changes.subscribe(key));
        let mut stranger = changes.subscribe(other);
        assert!(one.next().now_or_never().is_none());
        changes.wake(key);
        changes.wake(key);
        assert!(one.next().now_or_never().is_some());
        assert!(one.next().now_or_never().is_none());
        assert!(two.next().now_or_never().is_some());
        assert!(stranger.next().now_or_never().is_none());
        changes.wake_all();
        assert!(stranger.next().now_or_never().is_some());
    }

    #[test]
    fn nothing_is_kept_for_those_who_have_left() {
        let changes = Changes::default();
        let key = SessionId::generate().record_key();
        let (one, mut two) = (changes.subscribe(key), changes.subscribe(key));
        drop(one);
        changes.wake(key);
        assert!(two.next().now_or_never().is_some());
        drop(two);
        assert!(changes.0.waiting.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_within_a_moment_is_gathered_once_and_within_bounds() {
        let key = || SessionId::generate().record_key();
        let (changes, moment) = (Changes::default(), Duration::from_millis(50));
        let (one, two, three) = (key(), key(), key());
        changes.wake(one);
        assert!(
            changes.gather(moment).now_or_never().is_none(),
            "nobody gathered then"
        );
        changes.wake(one);
        let gather = changes.gather(moment);
        let (lately, ()) = tokio::join!(gather, async {
            sleep(moment / 2).await;
            changes.wake(two);
        });
        assert_eq!(
            [one, two, three].map(|key| lately.has(&key)),
            [true, true, false]
        );
        assert!(changes.gather(moment).now_or_never().is_none());
        changes.wake_all();
        assert!(changes.gather(moment).await.has(&three));
        for _ in 0..=GATHERED {
            changes.wake(key());
        }
        assert!(changes.gather(moment).await.has(&three), "too many to tell");
    }
}
