//! Decides whether what was read from Redis earlier may be believed now, and until when it was known true.
//!
//! An entry carries the epoch in which it was read. It is believed while that epoch lasts *and* somebody has proved of
//! late that every later change would have been told. A lost connection ends belief at once; a new one begins an epoch,
//! in which nothing older is believed without a read. Time comes in as argument: nothing here waits.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// What may be believed.
#[derive(Debug)]
pub(in crate::session) struct Trust {
    base: Instant,
    epoch: AtomicU64,
    /// Nanoseconds after `base` until which the latest proof holds; 0 when there is none.
    until: AtomicU64,
    /// Redis cannot tell of changes: entries are believed for [`UNTOLD`] after their read.
    untold: AtomicBool,
    proofs: Mutex<Proofs>,
}

/// Up to when each epoch was known true.
#[derive(Debug, Default)]
struct Proofs {
    present: Option<Instant>,
    past: VecDeque<(u64, Instant)>,
}

impl Trust {
    /// Nothing is believed yet.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            base: now,
            epoch: AtomicU64::new(0),
            until: AtomicU64::new(0),
            untold: AtomicBool::new(false),
            proofs: Mutex::default(),
        }
    }

    /// The epoch of reads that begin now.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Whether an entry of `epoch`, read at `read_at`, is known true. No lock: each request asks.
    pub(super) fn holds(&self, epoch: u64, read_at: Instant, now: Instant) -> bool {
        // In this order: a new epoch is there before its first proof, so that the proof is never taken for the old one's.
        let proven = self.nanos(now) < self.until.load(Ordering::SeqCst);
        if proven && epoch == self.epoch() {
            return true;
        }
        self.untold.load(Ordering::Relaxed) && now < read_at + UNTOLD
    }

    /// The last moment at which an entry is known to have been true.
    pub(super) fn last_true(&self, epoch: u64, read_at: Instant) -> Instant {
        let proofs = self.proofs.lock();
        let proof = if epoch == self.epoch() {
            proofs.present
        } else {
            let past = proofs.past.iter().find(|(ended, _)| *ended == epoch);
            past.map(|(_, proof)| *proof)
        };
        proof.map_or(read_at, |proof| proof.max(read_at))
    }

    /// From `since` on every change is told. Whatever was read before counts as unread.
    pub(in crate::session) fn establish(&self, since: Instant) {
        let mut proofs = self.proofs.lock();
        self.until.store(0, Ordering::SeqCst);
        let ended = self.epoch.fetch_add(1, Ordering::SeqCst);
        if let Some(proof) = proofs.present.replace(since) {
            proofs.past.push_back((ended, proof));
            if proofs.past.len() > EPOCHS {
                proofs.past.pop_front();
            }
        }
        self.untold.store(false, Ordering::Relaxed);
        self.until
            .store(self.nanos(since + PROVEN), Ordering::SeqCst);
    }

    /// Every change made before `sent` has been told. Says nothing once trust is lost.
    pub(in crate::session) fn beat(&self, sent: Instant) {
        let mut proofs = self.proofs.lock();
        if self.until.load(Ordering::SeqCst) == 0 {
            return;
        }
        proofs.present = proofs.present.max(Some(sent));
        self.until
            .fetch_max(self.nanos(sent + PROVEN), Ordering::SeqCst);
    }

    /// Changes may go untold from now on. Tells whether they were told before.
    pub(in crate::session) fn lose(&self) -> bool {
        let _proofs = self.proofs.lock();
        self.until.swap(0, Ordering::SeqCst) != 0
    }

    /// Redis cannot tell of changes. Tells whether that is news.
    pub(in crate::session) fn give_up(&self) -> bool {
        self.lose();
        !self.untold.swap(true, Ordering::Relaxed)
    }

    /// Whether Redis cannot tell of changes.
    pub(in crate::session) fn untold(&self) -> bool {
        self.untold.load(Ordering::Relaxed)
    }

    fn nanos(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.base);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// How long a proof holds: the pause between two heartbeats and the wait for the second one's answer. It also bounds what
/// a tracker does that is starved of CPU.
pub(in crate::session) const PROVEN: Duration = Duration::from_secs(1);
/// How long an entry is believed that nobody would tell us about: a compromise between a hop per request and a logout
/// elsewhere that takes effect late.
const UNTOLD: Duration = Duration::from_secs(1);
/// Ended epochs whose last proof is remembered. Entries of older ones count from their read.
const EPOCHS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn belief_follows_the_heartbeat() {
        let t = Instant::now();
        let trust = Trust::new(t);
        let holds = |epoch, read: u32, now: u32| trust.holds(epoch, t + MS * read, t + MS * now);
        assert!(!holds(0, 0, 0), "nobody tracks yet");
        trust.beat(t);
        assert!(!holds(0, 0, 0), "a beat alone establishes nothing");

        trust.establish(t + MS * 10);
        let epoch = trust.epoch();
        assert!(!holds(0, 9, 11), "read before the tracking began");
        assert!(holds(epoch, 11, 1009), "proven");
        assert!(!holds(epoch, 11, 1010), "no beat for a second");
        trust.beat(t + MS * 900);
        assert!(holds(epoch, 11, 1899), "late, but nothing was missed");
        trust.beat(t + MS * 800);
        assert!(holds(epoch, 11, 1899), "an older proof takes nothing away");

        assert!(trust.lose());
        assert!(!trust.lose(), "told once");
        assert!(!holds(epoch, 11, 1000), "lost");
        trust.beat(t + MS * 1000);
        assert!(!holds(epoch, 11, 1001), "a late beat brings nothing back");

        trust.establish(t + MS * 2000);
        assert!(!holds(epoch, 11, 2001), "believed only after a read");
        assert!(holds(trust.epoch(), 2001, 2002));
    }

    #[test]
    fn an_entry_was_true_until_the_last_proof_of_its_epoch_or_its_own_read() {
        let t = Instant::now();
        let trust = Trust::new(t);
        let at = |ms: u32| t + MS * ms;
        assert_eq!(trust.last_true(0, at(5)), at(5), "no proof ever");
        trust.establish(at(10));
        trust.beat(at(500));
        let first = trust.epoch();
        assert_eq!(trust.last_true(first, at(20)), at(500));
        assert_eq!(trust.last_true(first, at(600)), at(600), "read later");
        trust.lose();
        assert_eq!(trust.last_true(first, at(20)), at(500));
        trust.establish(at(2000));
        trust.beat(at(9000));
        assert_eq!(
            trust.last_true(first, at(20)),
            at(500),
            "what a later epoch proves is not about it"
        );
        assert_eq!(trust.last_true(trust.epoch(), at(2001)), at(9000));
        for n in 0..100 {
            trust.establish(at(10_000 + n));
        }
        assert!(trust.proofs.lock().past.len() <= EPOCHS);
        assert_eq!(trust.last_true(first, at(20)), at(20), "forgotten");
    }

    #[test]
    fn what_nobody_would_tell_is_believed_for_a_moment() {
        let t = Instant::now();
        let trust = Trust::new(t);
        assert!(trust.give_up());
        assert!(!trust.give_up(), "told once");
        assert!(trust.holds(0, t, t + MS * 999));
        assert!(!trust.holds(0, t, t + MS * 1000));
        trust.establish(t + MS * 100);
        assert!(!trust.holds(0, t, t + MS * 101), "now it would be told");
    }
}
