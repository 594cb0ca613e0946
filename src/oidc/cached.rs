//! Keeps one fetched document at hand: one fetch at a time, the last good copy kept, failures backed off.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::random::jittered;
use super::{Acted, CallError};

/// A document of the provider that is fetched when somebody needs it.
#[derive(Debug)]
pub(super) struct Cached<T> {
    shared: Arc<Shared<T>>,
}

/// How a document is kept.
#[derive(Debug)]
pub(super) struct Policy {
    /// Whose it is, for the log.
    pub(super) provider: Arc<str>,
    /// What it is, for the log.
    pub(super) what: &'static str,
    /// Deadline of a fetch, and so the longest anybody waits.
    pub(super) within: Duration,
    /// How old a copy may get that could not be replaced; `None`: any age.
    pub(super) max_age: Option<Duration>,
    /// Least time between two fetches that [`Cached::refetch`] starts.
    pub(super) refetch_interval: Duration,
}

/// What a fetch brought.
#[derive(Debug)]
pub(super) struct Fetched<T> {
    /// The document.
    pub(super) value: T,
    /// How long it is good without asking again.
    pub(super) ttl: Duration,
}

#[derive(Debug)]
struct Shared<T> {
    policy: Policy,
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    good: Option<Good<T>>,
    failure: Option<Failure>,
    flight: Option<Flight>,
    refetched_at: Option<Instant>,
}

#[derive(Debug)]
struct Good<T> {
    value: Arc<T>,
    fetched_at: Instant,
    fresh_until: Instant,
}

#[derive(Debug)]
struct Failure {
    error: CallError,
    streak: u32,
    retry_at: Instant,
}

/// A fetch under way; `done` closes when it has settled, also when its task died.
#[derive(Debug)]
struct Flight {
    done: watch::Receiver<()>,
    task: AbortHandle,
}

impl<T: Send + Sync + 'static> Cached<T> {
    /// Nothing is fetched yet.
    pub(super) fn new(policy: Policy) -> Self {
        let state = Mutex::new(State {
            good: None,
            failure: None,
            flight: None,
            refetched_at: None,
        });
        Self {
            shared: Arc::new(Shared { policy, state }),
        }
    }

    /// The document. A copy past its time is still given out, while a new one is fetched in the background.
    ///
    /// # Cancel safety
    /// Cancel safe: the fetch runs in a task of its own, which the others who wait for it share.
    pub(super) async fn get<F>(&self, fetch: impl Fn() -> F) -> Result<Arc<T>, CallError>
    where
        F: Future<Output = Result<Fetched<T>, CallError>> + Send + 'static,
    {
        // Twice: the second round reads what the flight of the first one left behind.
        for _ in 0..2 {
            let mut done = {
                let mut state = self.shared.state.lock();
                let now = Instant::now();
                if let Some(good) = state.usable(now, self.shared.policy.max_age) {
                    let value = Arc::clone(&good.value);
                    if good.fresh_until <= now
                        && state.flight().is_none()
                        && state.failed(now).is_none()
                    {
                        self.launch(&mut state, fetch());
                    }
                    return Ok(value);
                }
                if let Some(done) = state.flight() {
                    done
                } else if let Some(error) = state.failed(now) {
                    return Err(error);
                } else {
                    self.launch(&mut state, fetch())
                }
            };
            // The sender never sends; an error means that it is gone and the flight settled.
            let _ = done.changed().await;
        }
        Err(unavailable("the fetch did not finish"))
    }

    /// A copy that is newer than this call; `None` when the last one asked for in this way is too recent.
    ///
    /// # Cancel safety
    /// As [`Cached::get`].
    pub(super) async fn refetch<F>(
        &self,
        fetch: impl FnOnce() -> F,
    ) -> Result<Option<Arc<T>>, CallError>
    where
        F: Future<Output = Result<Fetched<T>, CallError>> + Send + 'static,
    {
        let called_at = Instant::now();
        let done = {
            let mut state = self.shared.state.lock();
            if let Some(done) = state.flight() {
                done
            } else {
                let interval = self.shared.policy.refetch_interval;
                let recent = |at: Instant| called_at.saturating_duration_since(at) < interval;
                if state.refetched_at.is_some_and(recent) {
                    return Ok(None);
                }
                state.refetched_at = Some(called_at);
                self.launch(&mut state, fetch())
            }
        };
        self.landed(done, called_at).await.map(Some)
    }

    /// A copy that is newer than this call, however lately one was fetched or could not be: for a caller with a measure of
    /// its own.
    ///
    /// # Cancel safety
    /// As [`Cached::get`].
    pub(super) async fn renew<F>(&self, fetch: impl FnOnce() -> F) -> Result<Arc<T>, CallError>
    where
        F: Future<Output = Result<Fetched<T>, CallError>> + Send + 'static,
    {
        let called_at = Instant::now();
        let done = {
            let mut state = self.shared.state.lock();
            match state.flight() {
                Some(done) => done,
                None => self.launch(&mut state, fetch()),
            }
        };
        self.landed(done, called_at).await
    }

    /// What a flight brought that was in the air at `called_at`, or began then.
    async fn landed(
        &self,
        mut done: watch::Receiver<()>,
        called_at: Instant,
    ) -> Result<Arc<T>, CallError> {
        let _ = done.changed().await;
        let state = self.shared.state.lock();
        match (&state.good, &state.failure) {
            (Some(good), _) if good.fetched_at >= called_at => Ok(Arc::clone(&good.value)),
            (_, Some(failure)) => Err(failure.error.clone()),
            (_, None) => Err(unavailable("the fetch did not finish")),
        }
    }

    fn launch<F>(&self, state: &mut State<T>, fetch: F) -> watch::Receiver<()>
    where
        F: Future<Output = Result<Fetched<T>, CallError>> + Send + 'static,
    {
        let (sender, done) = watch::channel(());
        let shared = Arc::clone(&self.shared);
        let task = tokio::spawn(async move {
            let outcome = tokio::time::timeout(shared.policy.within, fetch)
                .await
                .unwrap_or_else(|_| Err(unavailable("no answer in time")));
            shared.settle(outcome);
            // Only now may those who wait look.
            drop(sender);
        });
        state.flight = Some(Flight {
            done: done.clone(),
            task: task.abort_handle(),
        });
        done
    }
}

impl<T> Shared<T> {
    fn settle(&self, outcome: Result<Fetched<T>, CallError>) {
        let mut state = self.state.lock();
        let now = Instant::now();
        state.flight = None;
        match outcome {
            Ok(Fetched { value, ttl }) => {
                state.failure = None;
                state.good = Some(Good {
                    value: Arc::new(value),
                    fetched_at: now,
                    fresh_until: now + jittered(ttl, 0.1),
                });
            }
            Err(error) => {
                let streak = state.failure.as_ref().map_or(0, |failure| failure.streak);
                if state.good.is_some() && streak == 0 {
                    // Perhaps nobody waits for this one, so nobody else would tell.
                    tracing::warn!(
                        provider = %self.policy.provider,
                        %error,
                        "{} could not be read again, the last good copy serves on",
                        self.policy.what
                    );
                }
                let wait = FIRST_WAIT
                    .saturating_mul(1 << streak.min(10))
                    .min(LONGEST_WAIT);
                state.failure = Some(Failure {
                    error,
                    streak: streak + 1,
                    retry_at: now + jittered(wait, 0.5),
                });
            }
        }
    }
}

impl<T> State<T> {
    fn usable(&self, now: Instant, max_age: Option<Duration>) -> Option<&Good<T>> {
        self.good.as_ref().filter(|good| {
            max_age.is_none_or(|max| now.saturating_duration_since(good.fetched_at) < max)
        })
    }

    /// The flight under way. One whose task died without settling is none.
    fn flight(&self) -> Option<watch::Receiver<()>> {
        let flight = self.flight.as_ref()?;
        flight
            .done
            .has_changed()
            .is_ok()
            .then(|| flight.done.clone())
    }

    /// The last failure, while it is too early to try again.
    fn failed(&self, now: Instant) -> Option<CallError> {
        let failure = self.failure.as_ref()?;
        (now < failure.retry_at).then(|| failure.error.clone())
    }
}

impl<T> Drop for Cached<T> {
    fn drop(&mut self) {
        if let Some(flight) = self.shared.state.lock().flight.take() {
            flight.task.abort();
        }
    }
}

fn unavailable(reason: &'static str) -> CallError {
    // A fetch changes nothing at the provider.
    CallError::Unavailable {
        reason,
        acted: Acted::Unasked,
    }
}

const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
