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
    /// A look found nobody, and nothing was heard since.
    away: Option<Away>,
}

#[derive(Debug)]
struct Away {
    at: Instant,
    error: CallError,
}

impl Presence {
    /// A call ended in this way.
    pub(super) fn note(&self, result: CallResult) {
        match result {
            // Whatever it says, it is there.
            CallResult::Ok
            | CallResult::ClientError
            | CallResult::RateLimited
            | CallResult::Invalid => {
                *self.0.lock() = State {
                    heard_at: Some(Instant::now()),
                    away: None,
                };
            }
            // One connection may fail by chance: the next look will tell.
            CallResult::Connection | CallResult::Timeout => self.0.lock().heard_at = None,
            // One endpoint may be in trouble, and the others not.
            CallResult::ServerError => {}
        }
    }

    /// A look found nobody.
    pub(super) fn missed(&self, error: CallError) {
        self.0.lock().away = Some(Away {
            at: Instant::now(),
            error,
        });
    }

    /// Whether it was heard since `time`.
    pub(super) fn heard_since(&self, time: Instant) -> bool {
        self.0.lock().heard_at.is_some_and(|at| at >= time)
    }

    /// Whether it was heard within `time`.
    pub(super) fn heard_within(&self, time: Duration) -> bool {
        self.0.lock().heard_at.is_some_and(|at| at.elapsed() < time)
    }

    /// Whether the last look found nobody.
    pub(super) fn is_away(&self) -> bool {
        self.0.lock().away.is_some()
    }

    /// What the last look met, if it found nobody within `time`.
    pub(super) fn missed_within(&self, time: Duration) -> Option<CallError> {
        let state = self.0.lock();
        let away = state.away.as_ref()?;
        (away.at.elapsed() < time).then(|| away.error.clone())
    }
}
