//! Decides when a token is too old to forward, and renews it exactly once.
//!
//! Pure part: `freshness`. Effects: `Refresher`, which has one flight per session in the air; the flight itself is in
//! `flight`. Who calls: the proxy before it forwards, and `session/refresh`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};
use tracing::warn;

use self::endpoint::TokenEndpoint;
use self::failures::Failures;
use self::flight::Flight;
pub use self::freshness::{Freshness, freshness};
use crate::clock::SharedClock;
use crate::metrics::Metrics;
use crate::oidc::Provider;
use crate::session::{Found, RecordKey, Session, SessionId, Sessions};

mod endpoint;
mod failures;
mod flight;
mod freshness;
#[cfg(test)]
mod tests;

/// Why there is no token to forward.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// The session is over: `invalid_grant`, logged out, or the identity changed.
    #[error("the session is over")]
    Ended,
    /// No refresh token: the session ends with its access token.
    #[error("the token expired and there is no refresh token")]
    NoRefreshToken,
    /// The provider cannot be asked now; the session stays.
    #[error("the provider cannot refresh the token now")]
    Unavailable {
        /// When to try again.
        retry_after: Duration,
    },
    /// The store cannot be asked now; the session stays.
    #[error("the session store is unavailable")]
    Store,
}

/// Renews tokens: one flight per session in the process, one lease holder across processes. Made once; lives across reloads.
#[derive(Debug)]
pub struct Refresher {
    sessions: Sessions,
    clock: SharedClock,
    metrics: Arc<Metrics>,
    failures: Arc<Failures>,
    /// What waits for which flight; an entry goes when its flight has an outcome.
    flights: Mutex<HashMap<RecordKey, Waiting>>,
    gates: Mutex<HashMap<Arc<str>, Arc<Semaphore>>>,
    in_the_air: watch::Sender<usize>,
    closing: AtomicBool,
}

type Waiting = watch::Receiver<News>;

/// What those who wait for a flight are told.
#[derive(Debug, Clone)]
enum News {
    /// Nothing yet.
    UnderWay,
    /// It goes on, but the store is away: waiting for it is of no use, however soon the provider has answered.
    StoreAway,
    /// It has ended.
    Landed(Outcome),
}

/// How a flight ended.
#[derive(Debug, Clone)]
enum Outcome {
    Usable(Arc<Session>),
    Ended,
    NoRefreshToken,
    Unavailable { retry_after: Duration },
    Store,
}

impl Refresher {
    /// Makes it.
    pub fn new(sessions: Sessions, clock: SharedClock, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            sessions,
            clock,
            metrics,
            failures: Arc::new(Failures::new()),
            flights: Mutex::default(),
            gates: Mutex::default(),
            in_the_air: watch::Sender::new(0),
            closing: AtomicBool::new(false),
        })
    }

    /// A session whose access token may be forwarded now. Fresh: returned as it is, no await. Ageing: returned as it is,
    /// renewed in the background. Expired: waits for the flight, at most the provider's `timeout`.
    ///
    /// # Errors
    /// See [`RefreshError`].
    ///
    /// # Cancel safety
    /// Cancel safe: the exchange runs in its own task.
    pub async fn usable(
        self: &Arc<Self>,
        id: &SessionId,
        found: &Found,
        provider: &Arc<Provider>,
        refresh_before: Duration,
    ) -> Result<Arc<Session>, RefreshError> {
        self.usable_from(id, found, provider, refresh_before).await
    }

    /// Refreshes now although the token still works (`session/refresh`). A token younger than a few seconds is returned as it is.
    ///
    /// # Errors
    /// See [`RefreshError`].
    ///
    /// # Cancel safety
    /// Cancel safe: the exchange runs in its own task.
    pub async fn force(
        self: &Arc<Self>,
        id: &SessionId,
        found: &Found,
        provider: &Arc<Provider>,
    ) -> Result<Arc<Session>, RefreshError> {
        self.forced_from(id, found, provider).await
    }

    /// Flights under way; drained at shutdown.
    pub fn in_flight(&self) -> usize {
        *self.in_the_air.borrow()
    }

    /// Starts no more flights and waits for those in the air (REFRESH-35), at most `limit`. Tells how many are left.
    pub async fn drain(&self, limit: Duration) -> usize {
        self.closing.store(true, Ordering::SeqCst);
        // Whoever looked before that has taken off once the map can be locked.
        drop(self.flights.lock());
        let mut in_the_air = self.in_the_air.subscribe();
        let landed = timeout(limit, in_the_air.wait_for(|count| *count == 0)).await;
        if landed.is_err() {
            warn!(
                flights = self.in_flight(),
                "token refreshes left unfinished at shutdown"
            );
        }
        self.in_flight()
    }

    async fn usable_from<E: TokenEndpoint>(
        self: &Arc<Self>,
        id: &SessionId,
        found: &Found,
        endpoint: &Arc<E>,
        refresh_before: Duration,
    ) -> Result<Arc<Session>, RefreshError> {
        let session = &found.session;
        match freshness(&session.tokens, self.clock.now(), refresh_before) {
            Freshness::Fresh => Ok(Arc::clone(session)),
            Freshness::Ageing => {
                if session.tokens.refresh.is_some() && self.cooling(id).is_none() {
                    self.join(id, session, endpoint);
                }
                Ok(Arc::clone(session))
            }
            Freshness::Expired => self.renewed(id, session, endpoint).await,
        }
    }

    async fn forced_from<E: TokenEndpoint>(
        self: &Arc<Self>,
        id: &SessionId,
        found: &Found,
        endpoint: &Arc<E>,
    ) -> Result<Arc<Session>, RefreshError> {
        let session = &found.session;
        let now = self.clock.now();
        let rested = session.tokens.refreshed_at.plus(FORCED_AT_MOST_EVERY) <= now
            || freshness::from_the_future(&session.tokens, now);
        // REFRESH-33: nobody burns tokens by asking again and again.
        if !rested && freshness(&session.tokens, now, Duration::ZERO) != Freshness::Expired {
            return Ok(Arc::clone(session));
        }
        self.renewed(id, session, endpoint).await
    }

    /// Waits for a flight, at most the provider's `timeout`; the flight goes on.
    async fn renewed<E: TokenEndpoint>(
        self: &Arc<Self>,
        id: &SessionId,
        session: &Arc<Session>,
        endpoint: &Arc<E>,
    ) -> Result<Arc<Session>, RefreshError> {
        if session.tokens.refresh.is_none() {
            return Err(RefreshError::NoRefreshToken);
        }
        if let Some(retry_after) = self.cooling(id) {
            return Err(RefreshError::Unavailable { retry_after });
        }
        let Some((mut waiting, shared)) = self.join(id, session, endpoint) else {
            return Err(RefreshError::Unavailable { retry_after: SOON });
        };
        let started = Instant::now();
        let told = waiting.wait_for(|news| !matches!(news, News::UnderWay));
        let news = match timeout(endpoint.timeout(), told).await {
            Ok(Ok(news)) => news.clone(),
            // A flight that vanished without outcome is one more reason to come back.
            Ok(Err(_)) | Err(_) => News::UnderWay,
        };
        self.metrics.waited_for_refresh(started.elapsed(), shared);
        match news {
            News::Landed(outcome) => outcome.into(),
            News::StoreAway => Err(RefreshError::Store),
            News::UnderWay => Err(RefreshError::Unavailable { retry_after: SOON }),
        }
    }

    /// The flight of this session: the one in the air, or a new one. `None` when none may take off any more.
    /// The flag tells whether it was there already.
    fn join<E: TokenEndpoint>(
        self: &Arc<Self>,
        id: &SessionId,
        session: &Arc<Session>,
        endpoint: &Arc<E>,
    ) -> Option<(Waiting, bool)> {
        let key = id.record_key();
        let mut flights = self.flights.lock();
        if let Some(waiting) = flights.get(&key) {
            return Some((waiting.clone(), true));
        }
        if self.closing.load(Ordering::SeqCst) {
            return None;
        }
        let (told, waiting) = watch::channel(News::UnderWay);
        flights.insert(key, waiting.clone());
        // Under the lock, or `drain` could look in between.
        self.in_the_air.send_modify(|count| *count += 1);
        drop(flights);
        let landing = Landing {
            refresher: Arc::clone(self),
            key,
            told: Some(told.clone()),
        };
        let flight = Flight {
            id: id.clone(),
            endpoint: Arc::clone(endpoint),
            sessions: self.sessions.clone(),
            clock: Arc::clone(&self.clock),
            metrics: Arc::clone(&self.metrics),
            failures: Arc::clone(&self.failures),
            gate: self.gate(endpoint.name()),
            told,
            started: Instant::now(),
        };
        let session = Arc::clone(session);
        // Owned by `in_the_air`: `drain` waits for it. Detached from the request, which may vanish (REFRESH-05).
        tokio::spawn(async move {
            let mut landing = landing;
            let (outcome, leftover) = flight.run(session).await;
            landing.tell(outcome);
            if let Some(leftover) = leftover {
                flight.clean_up(leftover).await;
            }
        });
        Some((waiting, false))
    }

    fn cooling(&self, id: &SessionId) -> Option<Duration> {
        self.failures.cooling(id.record_key(), self.clock.now())
    }

    /// One per provider, so that a stalled one holds up nobody else's tokens.
    fn gate(&self, provider: &str) -> Arc<Semaphore> {
        let mut gates = self.gates.lock();
        if let Some(gate) = gates.get(provider) {
            return Arc::clone(gate);
        }
        let gate = Arc::new(Semaphore::new(PRESENTED_AT_ONCE));
        gates.insert(provider.into(), Arc::clone(&gate));
        gate
    }
}

/// Sees to it that a flight leaves the map, and the count, however it ends.
struct Landing {
    refresher: Arc<Refresher>,
    key: RecordKey,
    told: Option<watch::Sender<News>>,
}

impl Landing {
    /// Tells everyone who waits. Whoever comes later starts anew, from a session that is newer.
    fn tell(&mut self, outcome: Outcome) {
        if let Some(told) = self.told.take() {
            self.refresher.flights.lock().remove(&self.key);
            told.send_replace(News::Landed(outcome));
        }
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        // Still untold: the flight panicked, or its runtime ends. Those who wait learn that nothing comes.
        if self.told.take().is_some() {
            self.refresher.flights.lock().remove(&self.key);
        }
        self.refresher
            .in_the_air
            .send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl From<Outcome> for Result<Arc<Session>, RefreshError> {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Usable(session) => Ok(session),
            Outcome::Ended => Err(RefreshError::Ended),
            Outcome::NoRefreshToken => Err(RefreshError::NoRefreshToken),
            Outcome::Unavailable { retry_after } => Err(RefreshError::Unavailable { retry_after }),
            Outcome::Store => Err(RefreshError::Store),
        }
    }
}

/// A token younger than this is not refreshed on demand.
const FORCED_AT_MOST_EVERY: Duration = Duration::from_secs(5);
/// When to come back while a flight is still in the air.
const SOON: Duration = Duration::from_secs(1);
/// Tokens presented to one provider at once, per process: a herd after an outage must not end the recovery.
const PRESENTED_AT_ONCE: usize = 256;
