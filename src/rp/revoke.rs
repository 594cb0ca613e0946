//! Revokes tokens behind the user's back: in tasks of their own, few at a time, with a deadline (RFC 7009).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use super::audit;
use super::port::Idp;
use crate::oidc::{CallError, Provider, Revocable, Revoked};
use crate::session::Tokens;

/// Revokes tokens in the background. Cheap to clone: one for the process, which outlives reloads, so that a drain waits for
/// all that is under way.
#[derive(Debug, Clone)]
pub struct Revoker(Arc<Semaphore>);

/// Revocations under way at most; with a provider down, further tokens are left to expire by themselves.
const AT_ONCE: u32 = 256;
/// Pauses before the second and third try (RFC 7009 §2.2.1: after a 503 the token still works).
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];
/// All tries together.
const DEADLINE: Duration = Duration::from_secs(20);

impl Default for Revoker {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE as usize)))
    }
}

impl Revoker {
    /// Revokes the refresh token, or where there is none the access token (LOGOUT-05). Returns at once.
    pub(crate) fn revoke<P: Idp>(&self, provider: &Arc<P>, tokens: Arc<Tokens>) {
        let name = Arc::clone(&provider.config().name);
        let Ok(permit) = Arc::clone(&self.0).try_acquire_owned() else {
            tracing::warn!(
                provider = &*name,
                "too many revocations under way, one token is left to expire"
            );
            return;
        };
        Self::start(permit, provider, tokens);
    }

    /// As `revoke`, but waits until there is room: for many at once, which nobody waits for.
    pub async fn revoke_in_turn(&self, provider: &Arc<Provider>, tokens: Arc<Tokens>) {
        // Fails only when the semaphore is closed, which it never is.
        if let Ok(permit) = Arc::clone(&self.0).acquire_owned().await {
            Self::start(permit, provider, tokens);
        }
    }

    fn start<P: Idp>(permit: OwnedSemaphorePermit, provider: &Arc<P>, tokens: Arc<Tokens>) {
        let name = Arc::clone(&provider.config().name);
        let provider = Arc::clone(provider);
        // Owned by its permit: `drained` waits for it, and the deadline ends it.
        tokio::spawn(async move {
            let revoked = timeout(DEADLINE, attempts(&*provider, &tokens)).await;
            let done = revoked.as_ref().ok().and_then(|done| done.as_ref().ok());
            audit::token_revoked(&name, None, done.copied());
            match revoked {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    tracing::warn!(provider = &*name, error = %error, "a token could not be revoked");
                }
                Err(_) => tracing::warn!(provider = &*name, "a token could not be revoked in time"),
            }
            drop(permit);
        });
    }

    /// Waits until no revocation is under way (at most about 20 s); for shutdown.
    pub async fn drained(&self) {
        // Fails only when the semaphore is closed, which it never is.
        let _ = self.0.acquire_many(AT_ONCE).await;
    }
}

async fn attempts<P: Idp>(provider: &P, tokens: &Tokens) -> Result<Revoked, CallError> {
    for pause in PAUSES {
        match attempt(provider, tokens).await {
            Err(CallError::Unavailable { .. }) => sleep(pause).await,
            Err(CallError::RateLimited { retry_after }) => {
                sleep(retry_after.unwrap_or_default().max(pause)).await;
            }
            settled => return settled,
        }
    }
    attempt(provider, tokens).await
}

async fn attempt<P: Idp>(provider: &P, tokens: &Tokens) -> Result<Revoked, CallError> {
    let token = tokens
        .refresh
        .as_ref()
        .map_or(Revocable::Access(&tokens.access), Revocable::Refresh);
    provider.revoke(token).await
}
