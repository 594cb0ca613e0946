//! Ends sessions because the provider says so: from server to server, or in a frame of the browser's.

use std::fmt;

use tokio::time::Instant;

use super::flow::Flow;
use crate::clock::by;
use crate::config::model;
use crate::metrics::{LogoutKind, SessionEnd};
use crate::oidc::{LogoutToken, LogoutTokenError, claimed_issuer};
use crate::rp::audit;
use crate::rp::port::{Idp, Store};
use crate::session::{Ended, Lookup, SessionId, StoreError, Whose};

/// Why a back-channel logout was not done.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackChannelError {
    /// The token is no good; the text names the rule, never a value.
    #[error("{0}")]
    Invalid(&'static str),
    /// It cannot be done now. The token is not used up: the provider may send it again.
    #[error("{0}")]
    Unavailable(&'static str),
}

/// Why a front-channel logout was not done.
#[derive(Debug, PartialEq, Eq)]
pub enum FrontChannelError {
    /// `iss` is none of our providers.
    UnknownIssuer,
    /// The store does not answer.
    Unavailable,
}

/// What a front-channel logout did.
#[derive(Debug, PartialEq, Eq)]
pub struct FrontChannel {
    /// Origins that may show the answer in a frame.
    pub framed_by: Vec<String>,
    /// Whether the browser's own session ended, so that its cookie is of no use.
    pub own: bool,
}

impl From<StoreError> for BackChannelError {
    fn from(_: StoreError) -> Self {
        Self::Unavailable("the sessions cannot be reached")
    }
}

impl fmt::Display for FrontChannelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownIssuer => "`iss` is none of our providers",
            Self::Unavailable => "the sessions cannot be reached",
        })
    }
}

impl<P: Idp, S: Store> Flow<P, S> {
    /// LOGOUT-06 to LOGOUT-12. The token is used up last: what fails before can be tried again with it, and what is done
    /// twice does no harm.
    pub(super) async fn back_channel(&self, token: &str) -> Result<(), BackChannelError> {
        let outcome = self.try_back_channel(token).await;
        if let Err(error) = &outcome {
            audit::back_channel_refused(error);
        }
        outcome
    }

    async fn try_back_channel(&self, token: &str) -> Result<(), BackChannelError> {
        let checked = by(Instant::now() + CHECKED_WITHIN, self.check(token)).await;
        let (provider, told) = checked.unwrap_or(Err(BackChannelError::Unavailable(
            "the provider's keys cannot be fetched in time",
        )))?;
        let issuer = provider.config().issuer.as_str();
        if self.sessions.used(issuer, &told.id).await? {
            return Err(BackChannelError::Invalid("it was used before"));
        }
        // It is said to one client. Where the issuer has others here, theirs go on.
        let at_issuer = || {
            let providers = self.providers.iter().map(|provider| provider.config());
            providers.filter(|other| other.issuer == issuer)
        };
        let client = provider.config().client_id.as_str();
        let meant: Vec<&str> = at_issuer()
            .filter(|other| other.client_id == client)
            .map(|other| &*other.name)
            .collect();
        let whose = Whose {
            issuer,
            sid: told.sid.as_deref(),
            subject: told.subject.as_deref(),
            providers: (meant.len() < at_issuer().count()).then_some(&meant),
        };
        self.sessions.forbid(whose, &meant).await?;
        let kind = LogoutKind::BackChannel;
        self.sessions
            .end_all(whose, kind, true, &mut |ended| self.ended(kind, ended))
            .await?;
        let keep = told.good_until.plus(SKEW).left(self.clock.now());
        if self.sessions.use_up(issuer, &told.id, keep).await? {
            Ok(())
        } else {
            Err(BackChannelError::Invalid("it was used before"))
        }
    }

    /// The provider that made the token, and what it says. Two clients at one issuer differ by audience.
    async fn check(&self, token: &str) -> Result<(&P, LogoutToken), BackChannelError> {
        let issuer = claimed_issuer(token);
        let issuer = issuer.ok_or(BackChannelError::Invalid("it is no signed JWT"))?;
        let mut refused = BackChannelError::Invalid("`iss` is none of our providers");
        for provider in &self.providers {
            if provider.config().issuer != issuer {
                continue;
            }
            match provider.verify_logout_token(token).await {
                Ok(told) => return Ok((provider, told)),
                Err(LogoutTokenError::Refused(rule)) => {
                    refused = BackChannelError::Invalid(rule);
                }
                Err(LogoutTokenError::Keys(error)) => {
                    tracing::warn!(
                        provider = &*provider.config().name,
                        %error,
                        "a logout token cannot be checked"
                    );
                    return Err(BackChannelError::Unavailable(
                        "the provider's keys cannot be fetched",
                    ));
                }
            }
        }
        Err(refused)
    }

    /// LOGOUT-14. Whoever knows a `sid` may ask, for in a frame of another site the browser sends no cookie. So it ends that
    /// session at most, revokes nothing at the provider, and takes no `sid` that could be guessed without the cookie.
    pub(super) async fn front_channel(
        &self,
        origin: &model::Origin,
        issuer: &str,
        sid: &str,
        carried: &[SessionId],
    ) -> Result<FrontChannel, FrontChannelError> {
        let mut providers = self.providers.iter();
        let provider = providers.find(|provider| provider.config().issuer == issuer);
        let provider = provider.ok_or(FrontChannelError::UnknownIssuer)?;
        let kind = LogoutKind::FrontChannel;
        let mut own = false;
        for id in carried {
            let lookup = self.sessions.peek(id).await?;
            let Lookup::Found(found) = lookup else {
                continue;
            };
            if *found.session.issuer != *issuer || found.session.sid.as_deref() != Some(sid) {
                continue;
            }
            own = true;
            if let Some(session) = self.sessions.delete(id).await? {
                self.count(kind);
                audit::signed_out(kind, id, &session);
            }
        }
        if sid.len() >= UNGUESSABLE {
            let whose = Whose::sid(issuer, sid);
            self.sessions
                .end_all(whose, kind, false, &mut |ended| self.ended(kind, ended))
                .await?;
        }
        Ok(FrontChannel {
            framed_by: self.framing_origins(provider, origin).await,
            own,
        })
    }

    /// Where the provider's sign-out page may be: at the issuer, or where its `end_session_endpoint` is.
    async fn framing_origins(&self, provider: &P, origin: &model::Origin) -> Vec<String> {
        let issuer = url::Url::parse(&provider.config().issuer).ok();
        let sign_out = self.end_session_url(provider, origin, None, "").await;
        let mut origins: Vec<String> = Vec::new();
        for url in issuer.into_iter().chain(sign_out) {
            let text = url.origin().ascii_serialization();
            if !origins.contains(&text) {
                origins.push(text);
            }
        }
        origins
    }

    fn ended(&self, kind: LogoutKind, ended: &Ended) {
        self.count(kind);
        audit::ended(kind, ended);
    }

    fn count(&self, kind: LogoutKind) {
        self.metrics.logout(kind);
        self.metrics.session_ended(SessionEnd::Logout);
    }
}

impl From<StoreError> for FrontChannelError {
    fn from(_: StoreError) -> Self {
        Self::Unavailable
    }
}

/// Longest wait for metadata and keys (LOGOUT-11: some providers ask once and wait for little longer). What is being fetched
/// goes on, and is at hand when the token comes again.
const CHECKED_WITHIN: std::time::Duration = std::time::Duration::from_millis(1300);
/// What another replica's clock may say.
const SKEW: std::time::Duration = std::time::Duration::from_secs(60);
/// Shorter `sid`s are counters, for all we know.
const UNGUESSABLE: usize = 16;

#[cfg(test)]
mod tests;
