//! Presents the refresh token, and decides whether it may be presented again.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::warn;

use super::{Flight, LONGEST_POLL};
use crate::clock;
use crate::oidc::{Acted, CallError, Clearance, TokenResponse};
use crate::refresh::endpoint::TokenEndpoint;
use crate::refresh::failures::spread;
use crate::secret::RefreshToken;
use crate::session::{Lease, StoreError};

/// What became of presenting the token.
pub(super) enum Presented {
    Answer(Result<TokenResponse, CallError>),
    LeaseLost,
    Store,
}

impl<E: TokenEndpoint> Flight<E> {
    /// Presents the token. Twice more, soon, when it could not even be sent (REFRESH-22). Once more, at once, when the
    /// answer got lost: if the provider has not acted this heals, and if it has, a grace period does, or else the session
    /// was lost anyway (REFRESH-23).
    pub(super) async fn present(&self, lease: &Lease, token: &RefreshToken) -> Presented {
        let began = Instant::now();
        let mut pauses = UNSENT.into_iter();
        // A process that was frozen on the way to the provider must not send what a sibling may have sent meanwhile.
        let term = lease.term().clone();
        let clearance = Clearance::when(move || term.holds());
        loop {
            // The endpoint keeps its own deadline; this one only bounds a broken one.
            let limit = self.endpoint.patience() + Duration::from_secs(5);
            let answer = clock::within(limit, self.endpoint.refresh(token, &clearance))
                .await
                .unwrap_or(Err(CallError::Unavailable {
                    reason: "no answer in time",
                    acted: Acted::Perhaps,
                }));
            let Err(CallError::Unavailable { reason, acted }) = answer else {
                return Presented::Answer(answer);
            };
            // Whoever waits does so for no longer than `timeout`: a connection that takes that long is no blip.
            let soon = began.elapsed() < self.endpoint.timeout();
            let pause = match acted {
                Acted::Unasked if soon => pauses.next(),
                Acted::Perhaps => self
                    .failures
                    .take_spare(self.id.record_key(), lease.session.generation)
                    .then_some(Duration::ZERO),
                Acted::Unasked | Acted::No => None,
            };
            let Some(pause) = pause else {
                return Presented::Answer(answer);
            };
            if acted == Acted::Perhaps {
                warn!(
                    provider = self.endpoint.name(),
                    session = self.short(),
                    reason,
                    "answer to a refresh got lost; asking once more"
                );
            }
            sleep(spread(pause, 0.5, 1.5)).await;
            // Only the holder may ask again.
            match self.sessions.renew(&self.id, lease).await {
                Ok(true) => {}
                Ok(false) => return Presented::LeaseLost,
                Err(StoreError(_)) => return Presented::Store,
            }
        }
    }

    /// Runs `work` while the lease is kept alive.
    pub(super) async fn holding<T>(&self, lease: &Lease, work: impl Future<Output = T>) -> T {
        let keep = async {
            let mut pause = self.sessions.lease_ttl() / 3;
            loop {
                sleep(pause).await;
                // A store that was away is asked at short notice: our lease may have run out there, and the next who
                // asks for it gets it. A lease that is lost to another shows when it comes to writing.
                pause = match self.sessions.renew(&self.id, lease).await {
                    Ok(_) => self.sessions.lease_ttl() / 3,
                    Err(StoreError(_)) => LONGEST_POLL / 4,
                };
            }
        };
        tokio::select! {
            biased;
            done = work => done,
            () = keep => unreachable!("the loop has no end"),
        }
    }
}

/// Pauses before the second and third try when nothing could be sent, give or take half.
const UNSENT: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(200)];
