//! Tells the time, so that tests can too.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, sleep, timeout, timeout_at};

/// Milliseconds since the Unix epoch, UTC.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From milliseconds since the Unix epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// From whole seconds since the Unix epoch (JWT `NumericDate`), saturating.
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, rounded down.
    pub const fn as_secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// `self + d`, saturating.
    #[must_use]
    pub fn plus(self, d: Duration) -> Self {
        Self(
            self.0
                .saturating_add(i64::try_from(d.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// `self - d`, saturating.
    #[must_use]
    pub fn minus(self, d: Duration) -> Self {
        Self(
            self.0
                .saturating_sub(i64::try_from(d.as_millis()).unwrap_or(i64::MAX)),
        )
    }

    /// How long until `self` when it is `now`; zero when past.
    pub fn left(self, now: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(now.0)).unwrap_or(0))
    }

    /// RFC 3339 in UTC with whole seconds.
    pub fn rfc3339(self) -> String {
        // Out of range only beyond the year 9999: show the epoch then.
        jiff::Timestamp::from_second(self.as_secs())
            .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
            .to_string()
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0)
    }
}

/// A stretch of time from now on. A clock that is set back ends it: how much of it is left cannot be told any more, and
/// waiting for the clock to come back could take hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    from: Timestamp,
    until: Timestamp,
}

impl Span {
    /// From `now` on.
    pub fn new(now: Timestamp, length: Duration) -> Self {
        Self {
            from: now,
            until: now.plus(length),
        }
    }

    /// What is left of it; zero when it is over.
    pub fn left(self, now: Timestamp) -> Duration {
        if self.from > now.plus(SET_BACK) {
            return Duration::ZERO;
        }
        self.until.left(now)
    }

    /// Whether it is not over.
    pub fn lasts(self, now: Timestamp) -> bool {
        !self.left(now).is_zero()
    }
}

/// Clocks are corrected by so much all the time.
const SET_BACK: Duration = Duration::from_secs(1);

/// Adds up the time that was spent waiting for others, which is nobody's own.
#[derive(Debug, Default)]
pub struct Waited(AtomicU64);

impl Waited {
    /// Waits for what others do.
    ///
    /// # Cancel safety
    /// As safe as `others`; dropped before its end, the wait is not counted.
    pub async fn on<F: Future>(&self, others: F) -> F::Output {
        let began = Instant::now();
        let outcome = others.await;
        self.add(began.elapsed());
        outcome
    }

    /// Adds a wait.
    pub fn add(&self, wait: Duration) {
        let nanos = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        self.0.fetch_add(nanos, Ordering::Relaxed);
    }

    /// All of it.
    pub fn total(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// Where the time comes from.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Wall clock.
    fn now(&self) -> Timestamp;
}

/// A shared clock.
pub type SharedClock = Arc<dyn Clock>;

/// The system's wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        #[expect(
            clippy::disallowed_methods,
            reason = "this is the one place that asks the system"
        )]
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// Waits for `work`, for `limit` of time in which this process could look: what came while it was frozen, or starved, is
/// looked at before anyone gives up on it. `None` when nothing came. Timers alone would let whatever wakes first decide,
/// and drop an answer that had long been there.
///
/// # Cancel safety
/// As cancel safe as `work`.
pub async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    let (mut left, mut second_looks) = (limit, SECOND_LOOKS);
    loop {
        let slice = left.min(SLICE);
        let began = Instant::now();
        tokio::select! {
            biased;
            done = &mut work => return Some(done),
            () = sleep(slice) => {}
        }
        left = left.saturating_sub(slice);
        let late = began.elapsed() > slice + LATE;
        if left.is_zero() && late && second_looks > 0 {
            second_looks -= 1;
            left = SLICE;
        }
        if left.is_zero() {
            return None;
        }
    }
}

/// Waits for `work` until `deadline`, which holds however late this process is; only a last look is taken after it, at what
/// was under way by then. What came while the process was frozen, or starved, may lie in a socket still, and whose task reads
/// it has to run first. `None` when nothing came: by [`last_look`] at the latest, for one step and for any number of them.
///
/// # Cancel safety
/// As cancel safe as `work`.
pub async fn by<T>(deadline: Instant, work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    let late = Instant::now() >= deadline;
    if let Ok(done) = timeout_at(deadline, &mut work).await {
        return Some(done);
    }
    if late {
        return None;
    }
    timeout(LAST_LOOK, work).await.ok()
}

/// When the last look that [`by`] takes is over, for whoever waits for several that share a deadline.
pub fn last_look(deadline: Instant) -> Instant {
    deadline + LAST_LOOK
}

/// How often a wait looks whether time has jumped.
const SLICE: Duration = Duration::from_millis(250);
/// A timer that is later than this was kept from running.
const LATE: Duration = Duration::from_millis(100);
/// A machine that is always this late gets no further than that.
const SECOND_LOOKS: u32 = 4;

/// For tasks that are ready to run, on a busy machine.
const LAST_LOOK: Duration = Duration::from_millis(20);

/// A clock that stands still until told otherwise; for tests.
#[derive(Debug)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// Starts at `now`.
    pub fn at(now: Timestamp) -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(now.0)))
    }

    /// Moves forward.
    pub fn advance(&self, d: Duration) {
        self.0.fetch_add(
            i64::try_from(d.as_millis()).unwrap_or(i64::MAX),
            Ordering::SeqCst,
        );
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_add_up_and_what_lies_between_does_not_count() {
        let second = Duration::from_secs(1);
        let waited = Waited::default();
        assert_eq!(waited.total(), Duration::ZERO);
        waited.on(sleep(second)).await;
        sleep(second * 5).await;
        assert_eq!(waited.on(async { 7 }).await, 7);
        waited.on(sleep(second * 2)).await;
        waited.add(second);
        assert_eq!(waited.total(), second * 4);
    }

    #[tokio::test]
    async fn what_came_while_the_process_was_frozen_is_looked_at() {
        // A task brings it, as a connection's task brings an answer; nothing runs while the only thread sleeps.
        let (bring, mut brought) = tokio::sync::mpsc::channel(1);
        let (wake, woken) = tokio::sync::oneshot::channel::<()>();
        tokio::spawn(async move {
            let _ = woken.await;
            tokio::task::yield_now().await;
            let _ = bring.send("an answer").await;
        });
        let limit = Duration::from_millis(300);
        let mut waiting = std::pin::pin!(within(limit, brought.recv()));
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        tokio::task::yield_now().await;
        std::thread::sleep(limit * 2);
        let _ = wake.send(());
        assert_eq!(waiting.await, Some(Some("an answer")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_holds_but_for_a_last_look() {
        for ms in [1, 450] {
            let (began, limit) = (Instant::now(), Duration::from_millis(ms));
            // Whoever has several steps to take looks once.
            for _ in 0..3 {
                let waited = by(began + limit, std::future::pending::<()>()).await;
                assert_eq!(waited, None);
            }
            let took = began.elapsed();
            assert!(took >= limit && took < limit + LAST_LOOK * 2, "{took:?}");
        }
        assert_eq!(by(Instant::now(), async { 1 }).await, Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_when_its_time_is_over() {
        for limit in [0, 1, 250, 1900].map(Duration::from_millis) {
            let began = Instant::now();
            let waited = within(limit, std::future::pending::<()>()).await;
            assert_eq!(waited, None);
            let took = began.elapsed();
            assert!(took >= limit && took <= limit + SLICE, "{took:?}");
        }
        assert_eq!(within(Duration::ZERO, async { 1 }).await, Some(1));
    }
}
