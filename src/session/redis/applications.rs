//! Remembers the leases that were asked for and not got: under which name, and how long others were let go first.
//!
//! Just after an outage a lease that lapsed may be somebody's who was only cut off, and is about to store what they got. They
//! have a head start, and so has one of our own that we did not hear of: a frozen Redis may have granted it on waking, over
//! one that lapsed. The head start is over as soon as one of two is true. Either nothing has failed for [`HEAD_START`]; or Redis was
//! there for that long, all told, to say "wait" of that very lease. Without the second nobody would ever have their turn
//! where connections break again and again, for there is always a failure just behind.

use std::time::Duration;

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use tokio::time::Instant;

use crate::session::{Owner, RecordKey};

/// The leases this process has asked for and not got.
pub(super) struct Applications {
    /// Bounded; who is forgotten begins anew.
    open: Cache<RecordKey, Application>,
    /// When the store last failed to answer.
    failed: Mutex<Option<Instant>>,
}

/// A lease that is asked for.
#[derive(Debug, Clone)]
pub(super) struct Application {
    /// Stays the same until an answer is heard: the lease may be ours without our knowing, nothing was presented under it,
    /// and the next try finds itself the holder.
    pub(super) owner: Owner,
    /// For how long Redis was there and another went first.
    waited: Duration,
    /// When it last told us to wait.
    told: Option<Instant>,
}

impl Applications {
    pub(super) fn new() -> Self {
        Self {
            open: Cache::new(REMEMBERED),
            failed: Mutex::new(None),
        }
    }

    pub(super) fn take(&self, key: RecordKey) -> Application {
        let open = self.open.remove(&key).map(|(_, open)| open);
        open.unwrap_or_else(|| Application::of(Owner::random()))
    }

    pub(super) fn keep(&self, key: RecordKey, application: Application) {
        self.open.insert(key, application);
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

impl Application {
    fn of(owner: Owner) -> Self {
        Self {
            owner,
            waited: Duration::ZERO,
            told: None,
        }
    }

    /// Once we have waited for long enough: how long ago we were told to, last. A lease that has lapsed, or was granted, since
    /// then is another, with a head start of its own.
    pub(super) fn served(&self) -> Option<Duration> {
        let told = self.told.filter(|_| self.waited >= HEAD_START)?;
        Some(told.elapsed())
    }

    /// Redis tells us to wait, for a lease that lapsed, or was granted, so long ago.
    pub(super) fn told_to_wait(mut self, age: Duration) -> Self {
        let now = Instant::now();
        let since = self.told.map_or(Duration::ZERO, |told| now - told);
        if age < since {
            self.waited = Duration::ZERO;
        } else {
            // Only the time around an answer counts: between two that are far apart it may have been away for everybody.
            self.waited += since.min(AROUND);
        }
        self.told = Some(now);
        self
    }

    /// Somebody holds the lease: whoever lets it lapse has a head start of their own.
    pub(super) fn afresh(self) -> Self {
        Self::of(self.owner)
    }
}

const REMEMBERED: usize = 1000;
/// After an outage, those who had a lease reach the store within this: they try every few dozen milliseconds, and dial
/// at least once a second.
const HEAD_START: Duration = Duration::from_secs(2);
/// For how long an answer proves that the store could be reached.
const AROUND: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_was_told_to_wait_for_long_enough_is_served_for_that_lease_only() {
        let ms = Duration::from_millis;
        let wait = async |from: Application, times: u32, every: Duration| {
            let mut application = from;
            for _ in 0..times {
                application = application.told_to_wait(Duration::from_secs(60));
                tokio::time::advance(every).await;
            }
            application
        };
        let new = || Application::of(Owner::random());
        for (name, times, every, served) in [
            ("again and again", 21, ms(100), true),
            ("not often enough", 15, ms(100), false),
            ("far apart", 11, ms(5000), true),
            ("far apart, and not often enough", 8, ms(5000), false),
            ("all at once", 1000, ms(1), false),
        ] {
            let application = wait(new(), times, every).await;
            assert_eq!(application.served().is_some(), served, "{name}");
        }
        let served = wait(new(), 21, ms(100)).await;
        assert_eq!(served.served(), Some(ms(100)), "since it was told last");
        let another = served.clone().told_to_wait(ms(99));
        assert_eq!(another.served(), None, "it has lapsed since");
        assert_eq!(served.afresh().served(), None);
    }
}
