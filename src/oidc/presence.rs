//! Knows whether the provider is there, from what its answers have told lately.
//!
//! Every call leaves word here. Nobody is asked for the sake of it while calls are made anyway: whoever needs to know looks
//! for themselves when the last word is too old (`Provider::is_there`).

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::CallError;
use crate::metrics::CallResult;

/// What is known of one provider.
#[derive(Debug, Default)]
pub(super) struct Presence(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// When it last said something sensible; `None` also when it could not be reached since.
    heard_at: Option<Instant>,
    /// It asked to be left alone: it is there, and not asked whether it is.
    busy_until: Option<Instant>,
    away: Option<Away>,
}

/// Looks found nobody, and nothing was heard since.
#[derive(Debug)]
struct Away {
    error: CallError,
    /// Looks in a row.
    looks: u32,
    last: Instant,
}

impl Presence {
    /// A call that began then ended in this way.
    pub(super) fn note(&self, began: Instant, result: CallResult) {
        let mut state = self.0.lock();
        match result {
            // Whatever it says, it is there.
            CallResult::Ok | CallResult::ClientError | CallResult::Invalid => {
                state.heard_at = Some(Instant::now());
                state.away = None;
            }
            CallResult::RateLimited => {
                state.busy_until = Some(Instant::now() + LEFT_ALONE);
                state.away = None;
            }
            // One connection may fail by chance: the next look will tell.
            CallResult::Connection | CallResult::Timeout => {
                state.heard_at = state.heard_at.filter(|at| *at > began);
            }
            // One endpoint may be in trouble, and the others not.
            CallResult::ServerError => {}
        }
    }

    /// A look that began then found nobody, unless something was heard meanwhile.
    pub(super) fn missed(&self, began: Instant, error: &CallError) {
        let mut state = self.0.lock();
        let now = Instant::now();
        if state.heard_at.is_some_and(|at| at >= began) || state.is_busy(now) {
            return;
        }
        let looks = state.away.as_ref().map_or(0, |away| away.looks);
        state.away = Some(Away {
            error: error.clone(),
            looks: looks.saturating_add(1),
            last: now,
        });
    }

    /// Whether it was heard within `time`, or has asked not to be asked.
    pub(super) fn heard_within(&self, time: Duration) -> bool {
        let state = self.0.lock();
        state.is_busy(Instant::now()) || state.heard_at.is_some_and(|at| at.elapsed() < time)
    }

    /// Whether more than one look found nobody.
    pub(super) fn is_away(&self) -> bool {
        let state = self.0.lock();
        state.away.as_ref().is_some_and(|away| away.looks > 1)
    }

    /// What the last look met, if it found nobody.
    pub(super) fn missing(&self) -> Option<CallError> {
        let state = self.0.lock();
        state.away.as_ref().map(|away| away.error.clone())
    }

    /// The same while it is too early for another look: each waits for longer than the one before.
    pub(super) fn missing_lately(&self) -> Option<CallError> {
        let state = self.0.lock();
        let away = state.away.as_ref()?;
        let pause = FIRST_PAUSE.saturating_mul(1 << (away.looks - 1).min(10));
        (away.last.elapsed() < pause.min(LONGEST_PAUSE)).then(|| away.error.clone())
    }
}

impl State {
    fn is_busy(&self, now: Instant) -> bool {
        self.busy_until.is_some_and(|until| now < until)
    }
}

/// After a 429.
const LEFT_ALONE: Duration = Duration::from_secs(30);
/// Between looks at a provider that was not there: a fleet does not run it down as it comes back.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oidc::Acted;

    fn error() -> CallError {
        CallError::Unavailable {
            reason: "nobody",
            acted: Acted::Unasked,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_was_overtaken_by_a_good_word_tells_nothing() {
        let presence = Presence::default();
        let began = Instant::now();
        tokio::time::advance(Duration::from_secs(1)).await;
        presence.note(Instant::now(), CallResult::Ok);
        presence.note(began, CallResult::Timeout);
        presence.missed(began, &error());
        assert!(presence.missing().is_none());
        assert!(presence.heard_within(Duration::from_millis(1)));
        tokio::time::advance(Duration::from_secs(1)).await;
        let later = Instant::now();
        presence.note(later, CallResult::Timeout);
        assert!(!presence.heard_within(Duration::from_secs(60)));
        presence.missed(later, &error());
        assert!(presence.missing().is_some() && !presence.is_away(), "once");
        presence.missed(later, &error());
        assert!(presence.is_away(), "twice");
        presence.note(later, CallResult::ServerError);
        assert!(presence.is_away(), "one endpoint is in trouble");
        presence.note(later, CallResult::ClientError);
        assert!(!presence.is_away() && presence.missing().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn looks_become_rare_and_stop_where_the_provider_wants_to_be_left_alone() {
        let presence = Presence::default();
        for seconds in [1, 2, 4, 8, 10, 10] {
            presence.missed(Instant::now(), &error());
            tokio::time::advance(Duration::from_millis(seconds * 1000 - 1)).await;
            assert!(presence.missing_lately().is_some(), "{seconds}");
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(presence.missing_lately().is_none(), "{seconds}");
        }
        presence.note(Instant::now(), CallResult::RateLimited);
        assert!(!presence.is_away() && presence.heard_within(Duration::ZERO));
        presence.missed(Instant::now(), &error());
        assert!(presence.missing().is_none());
        tokio::time::advance(LEFT_ALONE).await;
        assert!(!presence.heard_within(Duration::ZERO));
    }
}
