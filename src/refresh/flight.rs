//! Carries one refresh from lease to stored answer, whatever happens on the way.
//!
//! Runs in a task of its own: once the token is on the wire the provider may rotate it (RFC 6749 §6), so nobody who
//! merely wants the answer may drop it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{error, info, warn};

use self::present::Presented;
use super::endpoint::TokenEndpoint;
use super::failures::{Failures, spread};
use super::{Freshness, News, Outcome, freshness};
use crate::clock::{SharedClock, Timestamp};
use crate::metrics::{Metrics, RefreshResult, SessionEnd};
use crate::oidc::{CallError, IdTokenError, Revocable, TokenResponse};
use crate::rp::audit;
use crate::secret::{AccessToken, IdToken, RefreshToken};
use crate::session::{
    CommitAnswer, EndAnswer, Lease, LeaseAnswer, Session, SessionId, Sessions, StoreError, Tokens,
    bearer,
};

mod persist;
mod present;

/// What a flight works with.
pub(super) struct Flight<E> {
    pub(super) id: SessionId,
    pub(super) endpoint: Arc<E>,
    pub(super) sessions: Sessions,
    pub(super) clock: SharedClock,
    pub(super) metrics: Arc<Metrics>,
    pub(super) failures: Arc<Failures>,
    /// Bounds how many tokens are presented to one provider at once.
    pub(super) gate: Arc<Semaphore>,
    /// Those who wait.
    pub(super) told: watch::Sender<News>,
    pub(super) started: Instant,
}

/// Tokens of a session that is gone: to be revoked.
pub(super) struct Leftover {
    access: AccessToken,
    refresh: Option<RefreshToken>,
}

/// What came of a step: the end of the flight, or another round from this session.
enum Step {
    Land(Outcome, Option<Leftover>),
    Again(Arc<Session>),
}

impl<E: TokenEndpoint> Flight<E> {
    /// Refreshes the session, of which `known` is what the request saw.
    pub(super) async fn run(&self, mut known: Arc<Session>) -> (Outcome, Option<Leftover>) {
        let deadline = self.started + self.endpoint.patience();
        loop {
            let step = match self.take_lease(known, deadline).await {
                Ok((lease, permit)) => self.renew_tokens(lease, permit).await,
                Err(outcome) => Step::Land(outcome, None),
            };
            match step {
                Step::Land(outcome, leftover) => return (outcome, leftover),
                Step::Again(session) => known = session,
            }
        }
    }

    /// Revokes what a refresh brought for a session that was logged out meanwhile (REFRESH-34).
    pub(super) async fn clean_up(&self, leftover: Leftover) {
        let token = match &leftover.refresh {
            Some(refresh) => Revocable::Refresh(refresh),
            None => Revocable::Access(&leftover.access),
        };
        let revoked = timeout(CLEAN_UP, self.endpoint.revoke(token)).await;
        let done = revoked.ok().and_then(Result::ok);
        audit::token_revoked(self.endpoint.name(), Some(&self.short()), done);
    }

    /// Waits for the lease, or for whoever has it to bring a newer session.
    async fn take_lease(
        &self,
        mut known: Arc<Session>,
        deadline: Instant,
    ) -> Result<(Lease, OwnedSemaphorePermit), Outcome> {
        let mut pause = SHORTEST_POLL;
        loop {
            if Instant::now() >= deadline {
                return Err(self.too_late());
            }
            // Before the lease: one that waits for its turn keeps nobody else from theirs.
            let permit = Arc::clone(&self.gate).acquire_owned();
            let Ok(Ok(permit)) = timeout_at(deadline, permit).await else {
                return Err(self.too_late());
            };
            let wait = match self.sessions.lease(&self.id, known.generation).await {
                // Without the store nobody can tell who else presents the token: it stays where it is (REFRESH-37).
                Err(StoreError(_)) => return Err(Outcome::Store),
                Ok(LeaseAnswer::Granted(lease)) => return Ok((lease, permit)),
                Ok(LeaseAnswer::Gone) => {
                    self.ended_as(RefreshResult::LoggedOut);
                    return Err(Outcome::Ended);
                }
                Ok(LeaseAnswer::CoolingDown { left }) => {
                    let key = self.id.record_key();
                    self.failures.pause(key, self.now(), left);
                    return Err(Outcome::Unavailable { retry_after: left });
                }
                // REFRESH-03: a sibling has done it.
                Ok(LeaseAnswer::Newer(session)) => {
                    if !self.expired(&session) {
                        return Err(self.superseded(session));
                    }
                    known = session;
                    Duration::ZERO
                }
                Ok(LeaseAnswer::Held { retry_in }) => {
                    pause = (pause * 2).min(LONGEST_POLL);
                    retry_in.clamp(SHORTEST_POLL, spread(pause, 0.5, 1.0).max(SHORTEST_POLL))
                }
            };
            drop(permit);
            sleep(wait).await;
        }
    }

    /// Presents the token and stores what comes of it, as the holder of `lease`.
    async fn renew_tokens(&self, lease: Lease, permit: OwnedSemaphorePermit) -> Step {
        let Some(token) = lease.session.tokens.refresh.clone() else {
            let _ = self.sessions.give_up(&self.id, lease, Duration::ZERO).await;
            return Step::Land(Outcome::NoRefreshToken, None);
        };
        let presented = self.holding(&lease, self.present(&lease, &token)).await;
        // The provider has answered; the store may take hours.
        drop(permit);
        match presented {
            Presented::Answer(Ok(answer)) => self.take_answer(lease, answer).await,
            Presented::Answer(Err(CallError::OAuth { code })) if code == "invalid_grant" => {
                self.rejected(lease).await
            }
            Presented::Answer(Err(CallError::Unusable {
                reason,
                refresh_token,
            })) => {
                warn!(
                    provider = self.endpoint.name(),
                    session = self.short(),
                    reason,
                    "answer to a refresh cannot be used"
                );
                self.keep_token(lease, refresh_token).await
            }
            Presented::Answer(Err(error)) => self.failed(lease, &error).await,
            Presented::LeaseLost => {
                let session = Arc::clone(&lease.session);
                // Nothing of ours is on its way: whoever holds the lease need not wait for us.
                let _ = self.sessions.give_up(&self.id, lease, Duration::ZERO).await;
                Step::Again(session)
            }
            Presented::Store => self.store_lost(lease, None).await,
        }
    }

    /// Checks the answer and stores it. Nobody is served from it before (REFRESH-06).
    async fn take_answer(&self, lease: Lease, answer: TokenResponse) -> Step {
        let old = Arc::clone(&lease.session.tokens);
        let id = match answer.id_token {
            None => old.id.clone(),
            Some(ref id) => match self.holding(&lease, self.verify(&lease, id, &answer)).await {
                Ok(()) => Some(id.clone()),
                Err(IdTokenError::IdentityChanged) => {
                    return self.someone_else(lease, answer).await;
                }
                Err(problem) => {
                    warn!(
                        provider = self.endpoint.name(),
                        session = self.short(),
                        problem = %problem,
                        "ID token of a refresh cannot be accepted"
                    );
                    return self.keep_token(lease, answer.refresh_token).await;
                }
            },
        };
        let tokens = Tokens {
            bearer: bearer(&answer.access_token),
            access: answer.access_token,
            // REFRESH-08: no new one means the old one stays.
            refresh: answer.refresh_token.or_else(|| old.refresh.clone()),
            id,
            scopes: answer.scope.unwrap_or_else(|| old.scopes.clone()),
            refreshed_at: answer.asked_at,
            expires_at: answer.expires_at,
        };
        self.settle(lease, tokens, true).await
    }

    /// REFRESH-31: nothing of the answer is used but the rotated token, which must not be lost.
    async fn keep_token(&self, lease: Lease, rotated: Option<RefreshToken>) -> Step {
        if rotated.is_none() {
            return self.pause(lease, RefreshResult::Invalid, None).await;
        }
        let tokens = Tokens {
            refresh: rotated,
            ..(*lease.session.tokens).clone()
        };
        self.settle(lease, tokens, false).await
    }

    /// Stores the tokens; serves from them when they are `good`.
    async fn settle(&self, lease: Lease, tokens: Tokens, good: bool) -> Step {
        match self.store(&lease, &tokens).await {
            Some(CommitAnswer::Stored(session)) => {
                let key = self.id.record_key();
                // REFRESH-11: not even a new token is forwarded when it is expired.
                if !good || self.expired(&session) {
                    self.ended_as(RefreshResult::Invalid);
                    let retry_after = self.failures.note(key, self.now(), None);
                    let again = self.sessions.lease(&self.id, session.generation).await;
                    if let Ok(LeaseAnswer::Granted(lease)) = again {
                        let _ = self.sessions.give_up(&self.id, lease, retry_after).await;
                    }
                    return Step::Land(Outcome::Unavailable { retry_after }, None);
                }
                self.failures.forget(key);
                self.ended_as(RefreshResult::Success);
                Step::Land(Outcome::Usable(session), None)
            }
            Some(CommitAnswer::Superseded(session)) => self.or_again(session),
            // Logged out meanwhile, or over by itself: what was just obtained is nobody's.
            Some(CommitAnswer::Gone | CommitAnswer::Held { .. }) | None => {
                self.ended_as(RefreshResult::LoggedOut);
                Step::Land(Outcome::Ended, Some(Leftover::of(tokens)))
            }
        }
    }

    async fn verify(
        &self,
        lease: &Lease,
        id: &IdToken,
        answer: &TokenResponse,
    ) -> Result<(), IdTokenError> {
        let first = lease.session.claims.to_map();
        let check = self.endpoint.verify(id, &answer.access_token, &first);
        // Keys may have to be fetched; the rotated token waits to be stored all the while.
        timeout(self.endpoint.timeout(), check)
            .await
            .unwrap_or(Err(IdTokenError::Refused(
                "it could not be checked in time",
            )))
    }

    /// `invalid_grant`: ends the session, unless a sibling knows better (REFRESH-20).
    async fn rejected(&self, lease: Lease) -> Step {
        match self.end(&lease).await {
            Some(EndAnswer::Ended) => {
                self.ended_as(RefreshResult::Rejected);
                self.audit(SessionEnd::RefreshRejected, &lease.session);
                Step::Land(Outcome::Ended, None)
            }
            Some(EndAnswer::Newer(session)) => self.or_again(session),
            Some(EndAnswer::Held { .. }) => Step::Again(lease.session),
            Some(EndAnswer::Disputed { .. }) | None => self.store_lost(lease, None).await,
        }
    }

    /// The refreshed ID token names another subject: neither session nor tokens may live on.
    async fn someone_else(&self, lease: Lease, answer: TokenResponse) -> Step {
        let leftover = Leftover {
            access: answer.access_token,
            refresh: answer.refresh_token,
        };
        match self.end(&lease).await {
            Some(EndAnswer::Newer(session)) => match self.or_again(session) {
                Step::Land(outcome, _) => Step::Land(outcome, Some(leftover)),
                again @ Step::Again(_) => again,
            },
            Some(EndAnswer::Ended) => {
                self.ended_as(RefreshResult::Invalid);
                self.audit(SessionEnd::IdentityChanged, &lease.session);
                Step::Land(Outcome::Ended, Some(leftover))
            }
            // Not known to have ended, but nobody is served from it here.
            Some(EndAnswer::Held { .. } | EndAnswer::Disputed { .. }) | None => {
                self.store_lost(lease, Some(leftover)).await
            }
        }
    }

    /// The store failed after the token was presented: whoever comes next pauses, too, instead of presenting it anew.
    async fn store_lost(&self, lease: Lease, leftover: Option<Leftover>) -> Step {
        let pause = self.failures.note(self.id.record_key(), self.now(), None);
        let _ = self.sessions.give_up(&self.id, lease, pause).await;
        Step::Land(Outcome::Store, leftover)
    }

    /// Anything but `invalid_grant`: the session stays, everyone pauses.
    async fn failed(&self, lease: Lease, error: &CallError) -> Step {
        let (result, retry_after) = match error {
            CallError::RateLimited { retry_after } => (RefreshResult::RateLimited, *retry_after),
            // A 503 may name a time as well: siblings are to know of it (REFRESH-38).
            CallError::Unavailable { .. } | CallError::Unusable { .. } => {
                (RefreshResult::Unavailable, self.endpoint.pause())
            }
            CallError::OAuth { code } => match code.as_str() {
                "temporarily_unavailable" | "server_error" => (RefreshResult::Unavailable, None),
                _ => (RefreshResult::Misconfigured, None),
            },
            CallError::Metadata(_) => (RefreshResult::Misconfigured, None),
        };
        // REFRESH-16: what only a change of the configuration can mend, someone must be told of.
        if result == RefreshResult::Misconfigured {
            error!(
                provider = self.endpoint.name(),
                session = self.short(),
                error = %error,
                "token refresh refused; check the client's registration"
            );
        } else {
            warn!(
                provider = self.endpoint.name(),
                session = self.short(),
                error = %error,
                "token refresh failed; the session stays"
            );
        }
        self.pause(lease, result, retry_after).await
    }

    async fn pause(
        &self,
        lease: Lease,
        result: RefreshResult,
        retry_after: Option<Duration>,
    ) -> Step {
        self.ended_as(result);
        let key = self.id.record_key();
        let retry_after = self.failures.note(key, self.now(), retry_after);
        info!(
            target: "audit",
            event = "refresh.failed",
            reason = result.label(),
            provider = self.endpoint.name(),
            session = self.short(),
            retry_after_ms = millis(retry_after),
            "token refresh failed"
        );
        // Should that fail, siblings wait for the lease to run out, which is a pause as well.
        let _ = self.sessions.give_up(&self.id, lease, retry_after).await;
        Step::Land(Outcome::Unavailable { retry_after }, None)
    }

    /// Another has written: their session, or another round when even that is too old.
    fn or_again(&self, session: Arc<Session>) -> Step {
        if self.expired(&session) {
            Step::Again(session)
        } else {
            Step::Land(self.superseded(session), None)
        }
    }

    fn superseded(&self, session: Arc<Session>) -> Outcome {
        self.failures.forget(self.id.record_key());
        self.ended_as(RefreshResult::Superseded);
        Outcome::Usable(session)
    }

    fn too_late(&self) -> Outcome {
        self.ended_as(RefreshResult::Unavailable);
        Outcome::Unavailable {
            retry_after: Duration::from_secs(1),
        }
    }

    fn ended_as(&self, result: RefreshResult) {
        self.metrics
            .refreshed(self.endpoint.name(), result, self.started.elapsed());
    }

    fn audit(&self, why: SessionEnd, session: &Session) {
        self.metrics.session_ended(why);
        let age = self.now().as_millis() - session.tokens.refreshed_at.as_millis();
        info!(
            target: "audit",
            event = "session.ended",
            reason = why.label(),
            provider = self.endpoint.name(),
            session = self.short(),
            session.generation = session.generation,
            token.age_ms = age,
            "session ended by a refresh"
        );
    }

    /// Whether to wait on is of use: for the store there is no telling how long.
    fn store_answers(&self, yes: bool) {
        self.told.send_if_modified(|news| {
            let was = matches!(news, News::UnderWay);
            *news = if yes { News::UnderWay } else { News::StoreAway };
            was != yes
        });
    }

    fn expired(&self, session: &Session) -> bool {
        freshness(&session.tokens, self.now(), Duration::ZERO) == Freshness::Expired
    }

    fn short(&self) -> String {
        self.id.record_key().short()
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Leftover {
    fn of(tokens: Tokens) -> Self {
        Self {
            access: tokens.access,
            refresh: tokens.refresh,
        }
    }
}

const SHORTEST_POLL: Duration = Duration::from_millis(20);
const LONGEST_POLL: Duration = Duration::from_millis(250);
const CLEAN_UP: Duration = Duration::from_secs(10);
