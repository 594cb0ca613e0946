//! Stops asking a token endpoint that fails one call after the other, and finds out when it is back.
//!
//! Closed: every call goes through. After [`FAILURES`] failures in a row it opens: calls are refused here for a while, so
//! that a provider in trouble is not run down by a fleet, and nobody waits for what will not come. Then one call, the probe,
//! may go through: its success closes the breaker, its failure opens it for longer.
//!
//! Only what says that the provider is unwell counts. An answer such as `invalid_grant` says that it is well: nobody can
//! open the breaker by sending rubbish.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::CallError;
use super::call::HELD_BACK;
use crate::metrics::{Lane, Metrics};
use crate::seal::random;

/// The breaker of one kind of call to one provider.
#[derive(Debug)]
pub(super) struct Breaker {
    provider: Arc<str>,
    lane: Lane,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    until: Instant,
    pause: Duration,
    /// Since when a probe has been under way.
    probing: Option<Instant>,
}

/// Leave to make one call. Dropped without a verdict it counts as none: the caller went away.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    breaker: &'a Breaker,
    probe: bool,
}

impl Breaker {
    pub(super) fn new(provider: &Arc<str>, lane: Lane, metrics: &Arc<Metrics>) -> Self {
        Self {
            provider: Arc::clone(provider),
            lane,
            metrics: Arc::clone(metrics),
            state: Mutex::default(),
        }
    }

    /// For how long a call would be refused; `None` when it would not be.
    pub(super) fn left(&self) -> Option<Duration> {
        let state = self.state.lock();
        let open = state.open.as_ref()?;
        let left = open.next().saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// Asks for leave to make a call.
    ///
    /// # Errors
    /// [`CallError::Unavailable`] while the breaker is open; nothing was sent.
    pub(super) fn enter(&self) -> Result<Pass<'_>, CallError> {
        let mut state = self.state.lock();
        let probe = match &mut state.open {
            None => false,
            Some(open) if Instant::now() >= open.next() => {
                open.probing = Some(Instant::now());
                true
            }
            Some(_) => {
                return Err(CallError::Unavailable {
                    reason: "it failed several times in a row and is asked again in a moment",
                    acted: super::Acted::Unasked,
                });
            }
        };
        Ok(Pass {
            breaker: self,
            probe,
        })
    }

    fn succeeded(&self) {
        let mut state = self.state.lock();
        let was_open = std::mem::take(&mut *state).open.is_some();
        drop(state);
        if was_open {
            self.metrics.circuit(&self.provider, self.lane, false);
            tracing::info!(provider = %self.provider, calls = self.lane.label(), "provider answers again");
        }
    }

    fn failed(&self, probe: bool) {
        let mut state = self.state.lock();
        state.failures = state.failures.saturating_add(1);
        let pause = match &state.open {
            None if state.failures < FAILURES => return,
            None => FIRST,
            Some(open) if probe => (open.pause * 2).min(LONGEST),
            // It began before the breaker opened, and tells nothing new.
            Some(_) => return,
        };
        let opened = state.open.is_none();
        state.open = Some(Open {
            // Spread, or a fleet would probe in step.
            until: Instant::now() + pause.mul_f64(0.8 + 0.4 * fraction()),
            pause,
            probing: None,
        });
        drop(state);
        if opened {
            self.metrics.circuit(&self.provider, self.lane, true);
            tracing::warn!(provider = %self.provider, calls = self.lane.label(), "provider fails one call after the other; it is asked less often until it answers again");
        }
    }
}

impl Open {
    /// When the next probe may go. One that is waited for long (a refresh is) does not keep the others from trying.
    fn next(&self) -> Instant {
        self.probing.map_or(self.until, |since| since + PROBE)
    }
}

impl Pass<'_> {
    /// Tells how the call ended.
    pub(super) fn ended<T>(mut self, outcome: &Result<T, CallError>) {
        let probe = std::mem::take(&mut self.probe);
        match outcome {
            // The provider was not asked.
            Err(CallError::Unavailable { reason, .. }) if *reason == HELD_BACK => {
                self.probe = probe;
            }
            Err(CallError::Unavailable { .. }) => self.breaker.failed(probe),
            // Whatever else it says, it answers.
            _ => self.breaker.succeeded(),
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.probe
            && let Some(open) = &mut self.breaker.state.lock().open
        {
            open.probing = None;
        }
    }
}

/// Evenly spread over 0..=1.
fn fraction() -> f64 {
    let mut byte = [0];
    random(&mut byte);
    f64::from(byte[0]) / 255.0
}

/// Failures in a row that open the breaker.
const FAILURES: u32 = 5;
/// First pause; each probe that fails doubles it.
const FIRST: Duration = Duration::from_secs(1);
/// The longest time a provider may be back before we notice, give or take a fifth.
const LONGEST: Duration = Duration::from_secs(15);
/// How long a probe is alone.
const PROBE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oidc::Acted;

    fn breaker() -> Breaker {
        let metrics = Arc::new(Metrics::new().unwrap());
        Breaker::new(&Arc::from("p"), Lane::Refresh, &metrics)
    }

    fn shown(breaker: &Breaker) -> bool {
        let text = String::from_utf8(breaker.metrics.encode().unwrap()).unwrap();
        text.contains(r#"daypass_provider_circuit_open{calls="refresh",provider="p"} 1"#)
    }

    fn bad() -> Result<(), CallError> {
        Err(CallError::Unavailable {
            reason: "down",
            acted: Acted::No,
        })
    }

    fn fail(breaker: &Breaker, times: u32) {
        for _ in 0..times {
            breaker.enter().unwrap().ended(&bad());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_and_closes_with_a_probe() {
        let breaker = breaker();
        fail(&breaker, FAILURES - 1);
        breaker.enter().unwrap().ended(&Ok(()));
        fail(&breaker, FAILURES - 1);
        assert!(breaker.left().is_none() && !shown(&breaker));
        fail(&breaker, 1);
        assert!(breaker.left().unwrap() <= FIRST.mul_f64(1.2) && shown(&breaker));
        let refused = breaker.enter().unwrap_err();
        assert!(
            matches!(
                refused,
                CallError::Unavailable {
                    acted: Acted::Unasked,
                    ..
                }
            ),
            "the token was not presented: {refused:?}"
        );

        tokio::time::advance(FIRST.mul_f64(1.2)).await;
        assert_eq!(breaker.left(), None);
        let probe = breaker.enter().unwrap();
        assert!(breaker.enter().is_err(), "one probe at a time");
        assert_eq!(breaker.left(), Some(PROBE));
        tokio::time::advance(PROBE).await;
        let second = breaker.enter().unwrap();
        second.ended(&Ok(()));
        probe.ended(&bad());
        assert!(breaker.left().is_none() && !shown(&breaker));
        fail(&breaker, FAILURES - 2);
        assert!(breaker.enter().is_ok(), "the count began anew");
    }

    #[tokio::test(start_paused = true)]
    async fn each_probe_that_fails_doubles_the_pause_up_to_a_bound() {
        let breaker = breaker();
        fail(&breaker, FAILURES);
        for nominal in [2, 4, 8, 15, 15] {
            tokio::time::advance(breaker.left().unwrap()).await;
            fail(&breaker, 1);
            let (left, nominal) = (breaker.left().unwrap(), Duration::from_secs(nominal));
            assert!(
                left >= nominal.mul_f64(0.79) && left <= nominal.mul_f64(1.21),
                "{left:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_was_held_back_here_says_nothing_of_the_provider() {
        let breaker = breaker();
        let held_back = || {
            Err::<(), _>(CallError::Unavailable {
                reason: HELD_BACK,
                acted: Acted::Unasked,
            })
        };
        for _ in 0..2 * FAILURES {
            breaker.enter().unwrap().ended(&held_back());
        }
        assert!(breaker.left().is_none());
        fail(&breaker, FAILURES);
        tokio::time::advance(breaker.left().unwrap()).await;
        breaker.enter().unwrap().ended(&held_back());
        assert!(breaker.enter().is_ok(), "the probe is another's now");
    }

    #[tokio::test(start_paused = true)]
    async fn what_shows_that_the_provider_is_well_never_opens_it() {
        let breaker = breaker();
        for _ in 0..100 {
            for well in [
                CallError::OAuth {
                    code: "invalid_grant".into(),
                },
                CallError::RateLimited { retry_after: None },
                CallError::Unusable {
                    reason: "no token",
                    refresh_token: None,
                },
            ] {
                breaker.enter().unwrap().ended::<()>(&Err(well));
            }
        }
        assert_eq!(breaker.left(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_given_up_lets_the_next_one_through_and_old_calls_count_once() {
        let breaker = breaker();
        let old = [breaker.enter().unwrap(), breaker.enter().unwrap()];
        fail(&breaker, FAILURES);
        let before = breaker.left();
        let [one, two] = old;
        one.ended(&bad());
        assert_eq!(breaker.left(), before, "tells nothing new");
        tokio::time::advance(before.unwrap()).await;
        drop(breaker.enter().unwrap());
        assert!(
            breaker.enter().is_ok(),
            "nobody waits for a probe that left"
        );
        // An answer to a call from before: the provider is back.
        two.ended(&Ok(()));
        assert_eq!(breaker.left(), None);
    }
}
