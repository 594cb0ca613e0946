//! Wakes those who wait for a change of a session; what became of it, a look at the store says.
//!
//! A wake-up without a change does no harm, a change without a wake-up would: whoever is in doubt wakes.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::RecordKey;

/// Who waits for which session. Holds an entry for each session that somebody waits for, and no other.
#[derive(Clone, Default)]
pub(super) struct Changes(Arc<Mutex<HashMap<RecordKey, watch::Sender<()>>>>);

/// Waits for changes of one session from its making on.
pub struct Changed {
    changes: Changes,
    key: RecordKey,
    receiver: watch::Receiver<()>,
}

impl Changes {
    pub(super) fn subscribe(&self, key: RecordKey) -> Changed {
        let receiver = match self.0.lock().entry(key) {
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
        if let Some(sender) = self.0.lock().get(&key) {
            sender.send_replace(());
        }
    }

    /// Nobody knows which sessions have changed.
    pub(super) fn wake_all(&self) {
        for sender in self.0.lock().values() {
            sender.send_replace(());
        }
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
        let mut waiting = self.changes.0.lock();
        if let Entry::Occupied(entry) = waiting.entry(self.key)
            && entry.get().receiver_count() <= 1
        {
            entry.remove();
        }
    }
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Changes({} watched)", self.0.lock().len())
    }
}

impl std::fmt::Debug for Changed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Changed(..)")
    }
}

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
        assert!(changes.0.lock().is_empty());
    }
}
