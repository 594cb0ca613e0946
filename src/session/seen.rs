//! Remembers for a while which sessions were here, so that a miss can be told from an end.

use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache;

use super::{Gone, RecordKey};
use crate::clock::Timestamp;
use crate::metrics::{Metrics, SessionEnd};

/// The sessions this process has met of late; bounded.
pub(super) struct Seen {
    entries: Cache<RecordKey, Memo>,
    metrics: Arc<Metrics>,
}

/// When a session ends if nothing happens to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Last {
    pub(super) expires_at: Timestamp,
    pub(super) idle_expires_at: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy)]
enum Memo {
    /// Was there; `touched_at` is when its idle time was last extended from here.
    Alive {
        last: Last,
        touched_at: Option<Timestamp>,
    },
    /// Is known to have ended.
    Ended(Gone),
}

impl Last {
    /// Why a session with these ends is over at `now`.
    pub(super) fn verdict(&self, now: Timestamp) -> Option<Gone> {
        if now >= self.expires_at {
            Some(Gone::Expired)
        } else if self.idle_expires_at.is_some_and(|end| now >= end) {
            Some(Gone::Idle)
        } else {
            None
        }
    }
}

impl Seen {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            entries: Cache::new(REMEMBERED),
            metrics,
        }
    }

    /// The session was there just now.
    pub(super) fn met(&self, key: RecordKey, last: Last) {
        let touched_at = match self.entries.peek(&key) {
            Some(Memo::Alive { touched_at, .. }) => touched_at,
            // Deleted from here while it was being read: it stays deleted.
            Some(Memo::Ended(Gone::Revoked)) => return,
            _ => None,
        };
        self.entries.insert(key, Memo::Alive { last, touched_at });
    }

    /// Whether nobody here has extended the idle time within `pause`; whoever is told so does it.
    pub(super) fn claim_touch(&self, key: RecordKey, now: Timestamp, pause: Duration) -> bool {
        let Some(Memo::Alive { last, touched_at }) = self.entries.peek(&key) else {
            return true;
        };
        // In the future, when the clock was set back: that says nothing.
        if touched_at.is_some_and(|at| at <= now && now < at.plus(pause)) {
            return false;
        }
        let touched_at = Some(now);
        self.entries.insert(key, Memo::Alive { last, touched_at });
        true
    }

    /// What was `claimed` then, with that pause, came to nothing: somebody is to try again soon, and not everybody at once.
    pub(super) fn touch_failed(&self, key: RecordKey, claimed: Timestamp, pause: Duration) {
        if let Some(Memo::Alive { last, touched_at }) = self.entries.peek(&key)
            && touched_at == Some(claimed)
        {
            let touched_at = Some(claimed.plus(TOUCH_AGAIN.min(pause)).minus(pause));
            self.entries.insert(key, Memo::Alive { last, touched_at });
        }
    }

    /// The session was deleted from here.
    pub(super) fn gone(&self, key: RecordKey, why: Gone) {
        self.entries.insert(key, Memo::Ended(why));
    }

    /// The session is over by itself; counted once.
    pub(super) fn ended(&self, key: RecordKey, why: Gone) {
        match why {
            Gone::Expired => self.metrics.session_ended(SessionEnd::Expired),
            Gone::Idle => self.metrics.session_ended(SessionEnd::Idle),
            Gone::Unknown | Gone::Revoked => {}
        }
        self.gone(key, why);
    }

    /// The session is not there: what is known of it.
    pub(super) fn missed(&self, key: RecordKey, now: Timestamp) -> Gone {
        match self.entries.get(&key) {
            None => Gone::Unknown,
            Some(Memo::Ended(why)) => why,
            Some(Memo::Alive { last, .. }) => {
                // Redis' clock and ours are not read in the same instant.
                let why = last.verdict(now.plus(SLACK)).unwrap_or(Gone::Revoked);
                self.ended(key, why);
                why
            }
        }
    }
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Seen({} sessions)", self.entries.len())
    }
}

const REMEMBERED: usize = 10_000;
/// Pause before an idle time is extended again that could not be.
const TOUCH_AGAIN: Duration = Duration::from_secs(2);
const SLACK: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::testing::START;

    #[test]
    fn idle_time_is_extended_now_and_then_also_after_the_clock_was_set_back() {
        let seen = Seen::new(Arc::new(Metrics::new().unwrap()));
        let key = crate::session::SessionId::generate().record_key();
        let (pause, minutes) = (Duration::from_secs(60), |n: u64| {
            Duration::from_secs(60 * n)
        });
        let now = START.plus(minutes(600));
        seen.met(
            key,
            Last {
                expires_at: now.plus(minutes(600)),
                idle_expires_at: None,
            },
        );
        assert!(seen.claim_touch(key, now, pause), "the first");
        assert!(!seen.claim_touch(key, now.plus(pause / 2), pause));
        assert!(seen.claim_touch(key, now.plus(pause), pause));
        // An hour back: or else nobody would extend it for an hour.
        assert!(seen.claim_touch(key, START.plus(minutes(540)), pause));
        assert!(!seen.claim_touch(key, START.plus(minutes(540)), pause));
        let claimed = START.plus(minutes(540));
        for (name, of, after, again) in [
            ("another's claim failed", START, TOUCH_AGAIN, false),
            ("it failed, just now", claimed, TOUCH_AGAIN / 2, false),
            ("it failed", claimed, TOUCH_AGAIN, true),
        ] {
            seen.touch_failed(key, of, pause);
            assert_eq!(
                seen.claim_touch(key, claimed.plus(after), pause),
                again,
                "{name}"
            );
        }
    }
}
