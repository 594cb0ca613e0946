//! Writes what must be written, however long the store is away.

use tokio::time::{Instant, sleep};
use tracing::error;

use super::{Flight, LONGEST_POLL, SHORTEST_POLL};
use crate::refresh::endpoint::TokenEndpoint;
use crate::refresh::failures::spread;
use crate::session::{CommitAnswer, EndAnswer, Lease, Sessions, StoreError, Tokens};

impl<E: TokenEndpoint> Flight<E> {
    /// Stores the tokens, for as long as it takes while the session lives: a rotated token has no second copy. The lease
    /// is kept alive all the while, or a sibling would present the old one. `None` when the session's life is over.
    pub(super) async fn store(&self, lease: &Lease, tokens: &Tokens) -> Option<CommitAnswer> {
        self.holding(lease, self.keep_storing(lease, tokens)).await
    }

    async fn keep_storing(&self, lease: &Lease, tokens: &Tokens) -> Option<CommitAnswer> {
        let mut pause = SHORTEST_POLL;
        let mut reported = false;
        loop {
            let wait = match self.sessions.commit(&self.id, lease, tokens).await {
                Ok(CommitAnswer::Held { retry_in }) => {
                    self.store_answers(true);
                    retry_in.min(LONGEST_POLL)
                }
                Ok(answer) => {
                    self.store_answers(true);
                    return Some(answer);
                }
                Err(StoreError(reason)) => {
                    self.store_answers(false);
                    if !reported {
                        reported = true;
                        error!(
                            provider = self.endpoint.name(),
                            session = self.short(),
                            reason,
                            "refreshed tokens are not stored yet; trying on"
                        );
                    }
                    pause
                }
            };
            if self.now() >= lease.session.expires_at {
                return None;
            }
            sleep(spread(wait.max(SHORTEST_POLL), 0.5, 1.0)).await;
            // Quicker than any poll: when the store is back, these tokens must be there before a sibling, whose lease
            // would be as good as ours then, presents the old one.
            pause = (pause * 2).min(LONGEST_POLL / 4);
        }
    }

    /// Ends the session, once nobody can bring better news of its token any more. Tries for as long as a lease lives when
    /// the store is away. `None` when it stays away, or the other waits longer than anybody may.
    pub(super) async fn end(&self, lease: &Lease) -> Option<EndAnswer> {
        self.holding(lease, self.keep_ending(lease)).await
    }

    async fn keep_ending(&self, lease: &Lease) -> Option<EndAnswer> {
        let began = Instant::now();
        let mut limit = Sessions::LEASE;
        let mut pause = SHORTEST_POLL;
        loop {
            match self.sessions.end(&self.id, lease).await {
                // They give up when their patience ends, and are believed for a lease's life after they fell silent.
                Ok(EndAnswer::Disputed { .. }) => {
                    self.store_answers(true);
                    limit = self.endpoint.patience() + Sessions::LEASE * 2;
                }
                Ok(answer) => {
                    self.store_answers(true);
                    return Some(answer);
                }
                Err(StoreError(_)) => self.store_answers(false),
            }
            if began.elapsed() + pause >= limit {
                return None;
            }
            sleep(spread(pause, 0.5, 1.0)).await;
            pause = (pause * 2).min(LONGEST_POLL);
        }
    }
}
