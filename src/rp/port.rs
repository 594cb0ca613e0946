//! Names what login and logout need of providers and sessions, so that their rules can be tested without either.

use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::clock::Timestamp;
use crate::config::model;
use crate::metrics::LogoutKind;
use crate::oidc::{
    AuthorizationRequest, CallError, Claims, Expectations, IdTokenError, IssParameter, LogoutToken,
    LogoutTokenError, Provider, Revocable, Revoked, TokenResponse,
};
use crate::seal::KeyRing;
use crate::secret::{AccessToken, AuthorizationCode, CodeVerifier, IdToken};
use crate::session::{Begun, Ended, Lookup, Session, SessionId, Sessions, StoreError, Whose};

/// A provider, as login and logout see it. Meaning and errors: [`Provider`].
pub(crate) trait Idp: std::fmt::Debug + Send + Sync + 'static {
    fn config(&self) -> &model::Provider;
    fn iss_parameter(&self) -> impl Future<Output = Result<IssParameter, CallError>> + Send;
    fn authorization_url(
        &self,
        request: &AuthorizationRequest<'_>,
    ) -> impl Future<Output = Result<Url, CallError>> + Send;
    fn exchange_code(
        &self,
        code: &AuthorizationCode,
        verifier: &CodeVerifier,
        redirect_uri: &str,
    ) -> impl Future<Output = Result<TokenResponse, CallError>> + Send;
    fn verify_id_token(
        &self,
        token: &IdToken,
        expect: &Expectations<'_>,
    ) -> impl Future<Output = Result<Claims, IdTokenError>> + Send;
    fn verify_logout_token(
        &self,
        token: &str,
    ) -> impl Future<Output = Result<LogoutToken, LogoutTokenError>> + Send;
    fn userinfo(
        &self,
        token: &AccessToken,
        subject: &str,
    ) -> impl Future<Output = Result<Claims, CallError>> + Send;
    fn revoke(
        &self,
        token: Revocable<'_>,
    ) -> impl Future<Output = Result<Revoked, CallError>> + Send;
    fn end_session_url(
        &self,
        id_token_hint: Option<&IdToken>,
        post_logout_redirect_uri: &str,
        state: &str,
    ) -> impl Future<Output = Result<Option<Url>, CallError>> + Send;
}

/// The sessions, as login and logout see them. Meaning and errors: [`Sessions`].
pub(crate) trait Store: std::fmt::Debug + Send + Sync + 'static {
    fn keys(&self) -> KeyRing;
    fn reachable(&self) -> impl Future<Output = Result<(), StoreError>> + Send;
    fn peek(&self, id: &SessionId) -> impl Future<Output = Result<Lookup, StoreError>> + Send;
    fn begin(
        &self,
        session: Session,
        began_at: Timestamp,
    ) -> impl Future<Output = Result<Begun, StoreError>> + Send;
    fn delete(
        &self,
        id: &SessionId,
    ) -> impl Future<Output = Result<Option<Arc<Session>>, StoreError>> + Send;
    fn end_all(
        &self,
        whose: Whose<'_>,
        kind: LogoutKind,
        revoke: bool,
        ended: &mut (dyn FnMut(&Ended) + Send),
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
    fn forbid(
        &self,
        whose: Whose<'_>,
        providers: &[&str],
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
    fn used(
        &self,
        issuer: &str,
        jti: &str,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;
    fn use_up(
        &self,
        issuer: &str,
        jti: &str,
        keep: Duration,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;
}

impl Idp for Provider {
    fn config(&self) -> &model::Provider {
        Self::config(self)
    }

    async fn iss_parameter(&self) -> Result<IssParameter, CallError> {
        Self::iss_parameter(self).await
    }

    async fn authorization_url(
        &self,
        request: &AuthorizationRequest<'_>,
    ) -> Result<Url, CallError> {
        Self::authorization_url(self, request).await
    }

    async fn exchange_code(
        &self,
        code: &AuthorizationCode,
        verifier: &CodeVerifier,
        redirect_uri: &str,
    ) -> Result<TokenResponse, CallError> {
        Self::exchange_code(self, code, verifier, redirect_uri).await
    }

    async fn verify_id_token(
        &self,
        token: &IdToken,
        expect: &Expectations<'_>,
    ) -> Result<Claims, IdTokenError> {
        Self::verify_id_token(self, token, expect).await
    }

    async fn verify_logout_token(&self, token: &str) -> Result<LogoutToken, LogoutTokenError> {
        Self::verify_logout_token(self, token).await
    }

    async fn userinfo(&self, token: &AccessToken, subject: &str) -> Result<Claims, CallError> {
        Self::userinfo(self, token, subject).await
    }

    async fn revoke(&self, token: Revocable<'_>) -> Result<Revoked, CallError> {
        Self::revoke(self, token).await
    }

    async fn end_session_url(
        &self,
        id_token_hint: Option<&IdToken>,
        post_logout_redirect_uri: &str,
        state: &str,
    ) -> Result<Option<Url>, CallError> {
        Self::end_session_url(self, id_token_hint, post_logout_redirect_uri, state).await
    }
}

impl Store for Sessions {
    fn keys(&self) -> KeyRing {
        Self::keys(self)
    }

    async fn reachable(&self) -> Result<(), StoreError> {
        Self::reachable(self).await
    }

    async fn peek(&self, id: &SessionId) -> Result<Lookup, StoreError> {
        Self::peek(self, id).await
    }

    async fn begin(&self, session: Session, began_at: Timestamp) -> Result<Begun, StoreError> {
        Self::begin(self, session, began_at).await
    }

    async fn delete(&self, id: &SessionId) -> Result<Option<Arc<Session>>, StoreError> {
        Self::delete(self, id).await
    }

    async fn end_all(
        &self,
        whose: Whose<'_>,
        kind: LogoutKind,
        revoke: bool,
        ended: &mut (dyn FnMut(&Ended) + Send),
    ) -> Result<(), StoreError> {
        Self::end_all(self, whose, kind, revoke, ended).await
    }

    async fn forbid(&self, whose: Whose<'_>, providers: &[&str]) -> Result<(), StoreError> {
        Self::forbid(self, whose, providers).await
    }

    async fn used(&self, issuer: &str, jti: &str) -> Result<bool, StoreError> {
        Self::used(self, issuer, jti).await
    }

    async fn use_up(&self, issuer: &str, jti: &str, keep: Duration) -> Result<bool, StoreError> {
        Self::use_up(self, issuer, jti, keep).await
    }
}
