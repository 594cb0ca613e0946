//! Names what a refresh needs of a provider, so that tests can put a scripted one in its place.

use std::time::Duration;

use crate::oidc::{
    CallError, Claims, Clearance, Expectations, IdTokenError, Provider, Revocable, Revoked,
    TokenResponse,
};
use crate::secret::{AccessToken, IdToken, RefreshToken};

/// The provider as a refresh sees it.
pub(crate) trait TokenEndpoint: Send + Sync + 'static {
    /// Label in metrics and logs.
    fn name(&self) -> &str;
    /// How long a request waits.
    fn timeout(&self) -> Duration;
    /// How long a refresh is left to finish.
    fn patience(&self) -> Duration;
    /// For how long the provider wants to be left alone, by its latest `Retry-After` (429 or 503).
    fn pause(&self) -> Option<Duration>;
    /// Presents the token once, if `clearance` is given when it is about to leave; within [`patience`](Self::patience).
    fn refresh(
        &self,
        token: &RefreshToken,
        clearance: &Clearance,
    ) -> impl Future<Output = Result<TokenResponse, CallError>> + Send;
    /// Checks the ID token of a refresh against the claims of the first (OIDC Core §12.2).
    fn verify(
        &self,
        token: &IdToken,
        access: &AccessToken,
        original: &Claims,
    ) -> impl Future<Output = Result<(), IdTokenError>> + Send;
    /// Revokes what a refresh brought for a session that is gone.
    fn revoke(
        &self,
        token: Revocable<'_>,
    ) -> impl Future<Output = Result<Revoked, CallError>> + Send;
}

impl TokenEndpoint for Provider {
    fn name(&self) -> &str {
        &self.config().name
    }

    fn timeout(&self) -> Duration {
        self.config().timeout
    }

    fn patience(&self) -> Duration {
        self.config().refresh_patience
    }

    fn pause(&self) -> Option<Duration> {
        self.pause_left()
    }

    async fn refresh(
        &self,
        token: &RefreshToken,
        clearance: &Clearance,
    ) -> Result<TokenResponse, CallError> {
        Self::refresh(self, token, clearance).await
    }

    async fn verify(
        &self,
        token: &IdToken,
        access: &AccessToken,
        original: &Claims,
    ) -> Result<(), IdTokenError> {
        let expect = Expectations {
            access_token: Some(access),
            original: Some(original),
            ..Expectations::default()
        };
        self.verify_id_token(token, &expect).await.map(drop)
    }

    async fn revoke(&self, token: Revocable<'_>) -> Result<Revoked, CallError> {
        Self::revoke(self, token).await
    }
}
