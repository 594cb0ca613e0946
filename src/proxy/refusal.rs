//! Names every way a request can be refused, and what each means in HTTP, metrics and words.

use std::time::Duration;

use http::StatusCode;

use crate::metrics::{Denied, Unauthenticated, UpstreamError};
use crate::pages::ErrorPage;

/// Why a request is not forwarded. One closed table: status, metric label, `reason` and words all come from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The message or its target is ambiguous; the text says which rule, never what was sent.
    Malformed(&'static str),
    /// The header block is larger than `limits.header_bytes`.
    HeaderTooLarge,
    /// The body is larger than the route's limit.
    BodyTooLarge,
    /// The next piece of the body did not come in time.
    BodyTooSlow,
    /// `Host` is none of ours.
    Misdirected,
    /// No route matches.
    NoRoute,
    /// Not a method of this endpoint.
    Method {
        /// The `Allow` header.
        allow: &'static str,
    },
    /// `access: deny`.
    RouteDenied,
    /// A required claim is missing.
    Claims,
    /// A required scope was not granted.
    Scopes,
    /// A cross-site request riding on the cookie.
    CrossSite,
    /// No usable session.
    Unauthenticated(Unauthenticated),
    /// The provider cannot be asked now.
    ProviderUnavailable {
        /// When to try again.
        retry_after: Duration,
    },
    /// The store cannot be asked now.
    StoreUnavailable,
    /// Too many logins or refreshes.
    RateLimited {
        /// When to try again.
        retry_after: Duration,
    },
    /// A login that could not be started or finished.
    Login(ErrorPage),
    /// The upstream gave no answer.
    Upstream(UpstreamError),
    /// Something that must not happen did.
    Internal,
}

/// How long a client should wait when nothing better is known.
pub(super) const SOON: Duration = Duration::from_secs(5);

impl Refusal {
    /// The page, with status, `reason` and words.
    pub(super) fn page(&self) -> ErrorPage {
        match self {
            Self::Malformed(_) => ErrorPage::BadRequest,
            Self::HeaderTooLarge => ErrorPage::HeadersTooLarge,
            Self::BodyTooLarge => ErrorPage::TooLarge,
            Self::BodyTooSlow => ErrorPage::TooSlow,
            Self::Misdirected => ErrorPage::Misdirected,
            Self::NoRoute => ErrorPage::NotFound,
            Self::Method { .. } => ErrorPage::MethodNotAllowed,
            Self::RouteDenied => ErrorPage::DeniedRoute,
            Self::Claims => ErrorPage::DeniedClaims,
            Self::Scopes => ErrorPage::DeniedScopes,
            Self::CrossSite => ErrorPage::CrossSite,
            Self::Unauthenticated(reason) => ErrorPage::Unauthenticated(*reason),
            Self::ProviderUnavailable { .. } => ErrorPage::ProviderUnavailable,
            Self::StoreUnavailable => ErrorPage::StoreUnavailable,
            Self::RateLimited { .. } => ErrorPage::RateLimited,
            Self::Login(page) => *page,
            Self::Upstream(UpstreamError::Timeout) => ErrorPage::UpstreamTimeout,
            Self::Upstream(_) => ErrorPage::UpstreamUnavailable,
            Self::Internal => ErrorPage::Internal,
        }
    }

    /// Status of the answer.
    pub(super) fn status(&self) -> StatusCode {
        self.page().status()
    }

    /// Stable `reason` of the answer and of the access log.
    pub(super) fn reason(&self) -> &'static str {
        self.page().reason()
    }

    /// One sentence for programs' authors.
    pub(super) fn detail(&self) -> &'static str {
        match self {
            Self::Malformed(rule) => rule,
            other => other.page().explanation(),
        }
    }

    /// `Retry-After`, where waiting helps.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::ProviderUnavailable { retry_after } | Self::RateLimited { retry_after } => {
                Some((*retry_after).max(Duration::from_secs(1)))
            }
            other => (other.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(SOON),
        }
    }

    /// Label in `denied_total`, for those that are denials.
    pub(super) fn denied(&self) -> Option<Denied> {
        Some(match self {
            Self::Malformed(_) | Self::Method { .. } => Denied::Malformed,
            Self::HeaderTooLarge | Self::BodyTooLarge => Denied::TooLarge,
            Self::Misdirected => Denied::Misdirected,
            Self::NoRoute => Denied::NoRoute,
            Self::RouteDenied => Denied::Route,
            Self::Claims => Denied::Claims,
            Self::Scopes => Denied::Scopes,
            Self::CrossSite => Denied::CrossSite,
            Self::RateLimited { .. } => Denied::RateLimited,
            _ => return None,
        })
    }

    /// Label in `unauthenticated_total`, for those that are.
    pub(super) fn unauthenticated(&self) -> Option<Unauthenticated> {
        match self {
            Self::Unauthenticated(reason) => Some(*reason),
            Self::ProviderUnavailable { .. } => Some(Unauthenticated::ProviderUnavailable),
            Self::StoreUnavailable => Some(Unauthenticated::StoreUnavailable),
            _ => None,
        }
    }

    /// Whether the connection must be closed: where a message ends can no longer be told, or its body is not wanted.
    pub(super) fn closes(&self) -> bool {
        matches!(
            self,
            Self::Malformed(_) | Self::HeaderTooLarge | Self::BodyTooLarge | Self::BodyTooSlow
        )
    }
}
