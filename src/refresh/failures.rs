//! Remembers for how long a session's token is not worth presenting again.

use std::time::Duration;

use quick_cache::sync::Cache;

use crate::clock::{Span, Timestamp};
use crate::seal::random;
use crate::session::RecordKey;

/// Sessions whose refresh failed of late; bounded.
pub(super) struct Failures {
    pauses: Cache<RecordKey, Failure>,
    /// Generations whose token may have been spent in an exchange that got lost, and was presented once more.
    spares: Cache<RecordKey, u64>,
}

#[derive(Debug, Clone, Copy)]
struct Failure {
    in_a_row: u32,
    pause: Span,
}

impl Failures {
    pub(super) fn new() -> Self {
        Self {
            pauses: Cache::new(REMEMBERED),
            spares: Cache::new(REMEMBERED),
        }
    }

    /// Whether the token of this generation may be presented once more, at once, after an exchange that got lost
    /// (REFRESH-23). It may once, whatever flight asks: what is spent stays spent, and each time could be the one too many.
    pub(super) fn take_spare(&self, key: RecordKey, generation: u64) -> bool {
        if self.spares.peek(&key) == Some(generation) {
            return false;
        }
        self.spares.insert(key, generation);
        true
    }

    /// What is left of the pause, if there is one.
    pub(super) fn cooling(&self, key: RecordKey, now: Timestamp) -> Option<Duration> {
        let left = self.pauses.peek(&key)?.pause.left(now);
        (!left.is_zero()).then_some(left)
    }

    /// A refresh failed: how long to pause. The provider's wish is honoured; without one the pause doubles each time.
    pub(super) fn note(
        &self,
        key: RecordKey,
        now: Timestamp,
        retry_after: Option<Duration>,
    ) -> Duration {
        let in_a_row = self.pauses.peek(&key).map_or(0, |f| f.in_a_row);
        let pause = match retry_after {
            // Never sooner than asked for; a little later, or all come back in the same instant.
            Some(asked) => spread(asked.clamp(FIRST, LONGEST_WISH), 1.0, 1.1),
            None => spread(
                (FIRST * 2u32.saturating_pow(in_a_row.min(10))).min(LONGEST),
                0.8,
                1.2,
            ),
        };
        let failure = Failure {
            in_a_row: in_a_row.saturating_add(1),
            pause: Span::new(now, pause),
        };
        self.pauses.insert(key, failure);
        pause
    }

    /// A sibling asked for a pause.
    pub(super) fn pause(&self, key: RecordKey, now: Timestamp, left: Duration) {
        let in_a_row = self.pauses.peek(&key).map_or(0, |f| f.in_a_row);
        let pause = Span::new(now, left);
        self.pauses.insert(key, Failure { in_a_row, pause });
    }

    /// All is well again.
    pub(super) fn forget(&self, key: RecordKey) {
        self.pauses.remove(&key);
    }
}

impl std::fmt::Debug for Failures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Failures({})", self.pauses.len())
    }
}

/// `pause` times a factor between `from` and `to`.
pub(super) fn spread(pause: Duration, from: f64, to: f64) -> Duration {
    let mut byte = [0];
    random(&mut byte);
    pause.mul_f64(from + (to - from) * f64::from(byte[0]) / 255.0)
}

const REMEMBERED: usize = 10_000;
const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);
/// A provider may ask for more, but not be obeyed for longer: sessions last hours, and someone will have mended it.
const LONGEST_WISH: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::SessionId;
    use crate::session::testing::START;

    #[test]
    fn each_generation_has_one_spare() {
        let (failures, key) = (Failures::new(), SessionId::generate().record_key());
        assert!(failures.take_spare(key, 0));
        failures.forget(key);
        assert!(!failures.take_spare(key, 0));
        assert!(failures.take_spare(key, 1));
        assert!(failures.take_spare(SessionId::generate().record_key(), 1));
    }

    #[test]
    fn a_clock_that_is_set_back_ends_a_pause() {
        let (failures, key) = (Failures::new(), SessionId::generate().record_key());
        let ahead = START.plus(Duration::from_secs(3600));
        failures.note(key, ahead, None);
        assert!(failures.cooling(key, ahead).is_some());
        assert_eq!(failures.cooling(key, START), None, "not for an hour");
        failures.note(key, START, None);
        let corrected = START.minus(FIRST / 2);
        assert!(failures.cooling(key, corrected).is_some(), "by a little");
    }

    #[test]
    fn pauses_double_up_to_half_a_minute_and_a_wish_is_honoured() {
        // REFRESH-13, REFRESH-38.
        let (failures, key) = (Failures::new(), SessionId::generate().record_key());
        assert_eq!(failures.cooling(key, START), None);
        for nominal in [1, 2, 4, 8, 16, 30, 30, 30] {
            let pause = failures.note(key, START, None).as_secs_f64();
            let nominal = f64::from(nominal);
            assert!(
                (nominal * 0.79..=nominal * 1.21).contains(&pause),
                "{nominal}: {pause}"
            );
        }
        let asked = Duration::from_secs(120);
        let pause = failures.note(key, START, Some(asked));
        assert!(pause >= asked && pause <= asked.mul_f64(1.11));
        assert!(
            failures
                .cooling(key, START.plus(asked).minus(FIRST))
                .is_some()
        );
        assert_eq!(failures.cooling(key, START.plus(asked * 2)), None);
        assert!(failures.note(key, START, Some(Duration::MAX)) < LONGEST_WISH * 2);
        assert!(failures.note(key, START, Some(Duration::ZERO)) >= FIRST);
        failures.forget(key);
        assert_eq!(failures.cooling(key, START), None);
        assert!(failures.note(key, START, None) < FIRST * 2);
    }
}
