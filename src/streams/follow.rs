//! Follows one session and tells when it has changed, and when it is over.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::Streams;
use crate::clock::Timestamp;
use crate::metrics::StreamEnd;
use crate::session::{Changed, Found, Gone, Lookup, SessionId};

/// Follows one session. Looking does not count as use: an open stream keeps no session alive.
#[derive(Debug)]
pub struct Watch {
    streams: Streams,
    id: SessionId,
    bond: Bond,
    /// Waits for the store however long it is silent.
    patient: bool,
    changed: Changed,
    /// As last found.
    last: Option<Found>,
    /// When the store last told.
    good_at: Instant,
    /// When to look if nothing happens before.
    look_at: Instant,
    /// A look is due and has not been finished.
    due: bool,
}

/// What of the session an answer hangs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bond {
    /// That it lives.
    Session,
    /// That it has a token to show, too: where nothing can renew it, the session ends with it as requests see it.
    Token,
}

/// What [`Watch::next`] tells.
#[derive(Debug)]
pub enum Step {
    /// The session lives, and was looked at just now. It need not have changed.
    Lives(Found),
    /// The caller's time has come, and nothing else.
    Quiet,
    /// It is over.
    Over(StreamEnd),
}

impl Watch {
    /// Follows the session from here on. Whoever asks learns at once how it stands.
    pub fn new(streams: &Streams, id: SessionId, bond: Bond) -> Self {
        let now = Instant::now();
        Self {
            // Before the first look, or a change in between would go unnoticed.
            changed: streams.0.sessions.watch(&id),
            streams: streams.clone(),
            id,
            bond,
            patient: false,
            last: None,
            good_at: now,
            look_at: now,
            due: true,
        }
    }

    /// As [`new`](Self::new), of a session that was found just now, for an answer with nothing in it that an outage of the
    /// store would forbid to tell: it goes on until the session is known to be over.
    pub fn patient(streams: &Streams, id: SessionId, bond: Bond, found: Found) -> Self {
        let mut watch = Self::new(streams, id, bond);
        watch.last = Some(found);
        watch.patient = true;
        watch
    }

    /// Makes [`next`](Self::next) look at the session, and tell how it stands.
    pub fn look_now(&mut self) {
        self.due = true;
    }

    /// Waits for the next thing to tell, at most until `limit`.
    ///
    /// # Cancel safety
    /// Cancel safe: a look that was begun is begun again.
    pub async fn next(&mut self, limit: Option<Instant>) -> Step {
        loop {
            if !self.due {
                let until = limit.map_or(self.look_at, |limit| limit.min(self.look_at));
                tokio::select! {
                    biased;
                    () = self.changed.next() => self.due = true,
                    () = sleep_until(until) => {
                        if until < self.look_at {
                            return Step::Quiet;
                        }
                        self.due = true;
                    }
                }
            }
            if let Some(step) = self.look().await {
                return step;
            }
        }
    }

    async fn look(&mut self) -> Option<Step> {
        let shared = &self.streams.0;
        let looked = {
            // Never closed.
            let _permit = shared.looks.acquire().await;
            shared.sessions.peek(&self.id).await
        };
        self.due = false;
        let (now, at) = (shared.clock.now(), Instant::now());
        match looked {
            Ok(Lookup::Found(found)) if self.bond.end(&found) <= now => {
                Some(Step::Over(StreamEnd::Expired))
            }
            Ok(Lookup::Found(found)) => {
                if found.stale {
                    // Served on, as requests are; but the store has not told anything.
                    self.look_at = at + RETRY;
                } else {
                    self.good_at = at;
                    self.look_at = self.next_look(&found, now, at);
                }
                self.last = Some(found.clone());
                Some(Step::Lives(found))
            }
            Ok(Lookup::Missing(gone)) => Some(Step::Over(self.why(gone, now))),
            Err(_) => {
                if self
                    .last
                    .as_ref()
                    .is_some_and(|last| now >= self.bond.end(last))
                {
                    // That needs no store to be told.
                    return Some(Step::Over(StreamEnd::Expired));
                }
                // What was served on without the store is not served any more: its patience is over, whenever ours began.
                let served_on = self.last.as_ref().is_some_and(|last| last.stale);
                let patience_ends = if served_on {
                    at
                } else {
                    self.good_at + self.streams.patience()
                };
                self.look_at = if at < patience_ends {
                    (at + RETRY).min(patience_ends)
                } else if self.patient {
                    // When the store is back it says so; many wait for it together.
                    at + self.unasked(self.last.as_ref())
                } else {
                    return Some(Step::Over(StreamEnd::StoreUnavailable));
                };
                None
            }
        }
    }

    /// When a session that was found now is looked at again, unless it changes before.
    fn next_look(&self, found: &Found, now: Timestamp, at: Instant) -> Instant {
        let end = self.bond.end(found);
        let ends = found.idle_expires_at.map_or(end, |idle| idle.min(end));
        // A moment late, for a store's clock is not ours.
        let left = ends.left(now).saturating_add(LATE);
        at + left.min(self.unasked(Some(found))).max(LATE)
    }

    /// Pause between looks that nobody asked for: half of the patience, so that a store that falls silent is noticed before
    /// it runs out; a little less for some, for many are looked at together after an outage.
    fn unasked(&self, found: Option<&Found>) -> Duration {
        let spread = found.map_or(0, |found| found.session.created_at.as_millis());
        let spread = u32::try_from(spread.rem_euclid(256)).unwrap_or(0);
        (self.streams.patience() / 2048 * (1024 - spread)).max(RETRY)
    }

    /// The store may know less than we do: a process that has met many sessions has forgotten this one.
    fn why(&self, gone: Gone, now: Timestamp) -> StreamEnd {
        match (gone, &self.last) {
            (Gone::Expired, _) => StreamEnd::Expired,
            (Gone::Idle, _) => StreamEnd::Idle,
            (Gone::Unknown, Some(last)) if last.session.expires_at <= now => StreamEnd::Expired,
            (Gone::Unknown, Some(last)) if last.idle_expires_at.is_some_and(|end| end <= now) => {
                StreamEnd::Idle
            }
            (Gone::Unknown | Gone::Revoked, _) => StreamEnd::Revoked,
        }
    }
}

impl Bond {
    /// Of an answer that comes of a token, or of none.
    pub fn with_token(shown: bool) -> Self {
        if shown { Self::Token } else { Self::Session }
    }

    /// When it ends by itself, used or not.
    fn end(self, found: &Found) -> Timestamp {
        let session = &found.session;
        let token = match self {
            Self::Session => None,
            Self::Token => session.last_token_ends(),
        };
        token.map_or(session.expires_at, |end| end.min(session.expires_at))
    }
}

/// Pause between looks at a store that does not answer.
const RETRY: Duration = Duration::from_secs(1);
/// How long after a session's end it is looked at.
const LATE: Duration = Duration::from_millis(50);
