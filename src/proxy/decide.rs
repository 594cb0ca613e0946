//! Decides what becomes of a request on a route: forwarded (with or without session) or refused.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::request::Parts;

use crate::clock::{Timestamp, Waited};
use crate::config::model::{Access, Route, TokenKind};
use crate::metrics::Unauthenticated;
use crate::refresh::{Freshness, RefreshError, Refresher, freshness};
use crate::route;
use crate::session::{Found, Gone, Lookup, Session, SessionId, StoreError};
use crate::web::fetch;

use super::cookies;
use super::live::Live;
use super::refusal::{Refusal, SOON};

/// What the cookies of a request led to.
#[derive(Debug)]
pub(super) enum Presented {
    /// A live session.
    Session(SessionId, Found),
    /// None; with what is known of the one that is gone.
    None(Option<(SessionId, Gone)>),
}

/// Looks the request's session up. Counts as use when `touch`.
///
/// # Errors
/// [`StoreError`] when the store cannot be asked.
pub(super) async fn present(
    live: &Live,
    head: &Parts,
    touch: bool,
) -> Result<Presented, StoreError> {
    let mut gone = None;
    let mut live_one: Option<(SessionId, Found)> = None;
    for id in cookies::sessions(&live.config, head) {
        let lookup = if touch {
            live.sessions.load(&id).await?
        } else {
            live.sessions.peek(&id).await?
        };
        match lookup {
            // Two live sessions at once: one was planted by a sibling host, and which cannot be told (COOKIE-07).
            Lookup::Found(_)
                if live_one
                    .as_ref()
                    .is_some_and(|(other, _)| other.record_key() != id.record_key()) =>
            {
                return Ok(Presented::None(None));
            }
            Lookup::Found(found) => live_one = Some((id, found)),
            Lookup::Missing(why) => gone = Some((id, why)),
        }
    }
    Ok(match live_one {
        Some((id, found)) => Presented::Session(id, found),
        None => Presented::None(gone),
    })
}

/// As [`present`], for our own endpoints. A session whose last token has run out is over, if any route shows it, and so is
/// one whose provider was taken out of the configuration: as each request to a route is told.
///
/// # Errors
/// As there.
pub(super) async fn signed_in(
    live: &Live,
    head: &Parts,
    touch: bool,
    now: Timestamp,
) -> Result<Presented, StoreError> {
    Ok(match present(live, head, touch).await? {
        Presented::Session(id, found)
            if live.config.shows_tokens()
                && found
                    .session
                    .last_token_ends()
                    .is_some_and(|end| end <= now) =>
        {
            Presented::None(Some((id, Gone::Expired)))
        }
        Presented::Session(_, found) if live.provider_of(&found.session).is_none() => {
            Presented::None(None)
        }
        presented => presented,
    })
}

/// A request, as far as it matters to the decision.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    /// Its route.
    pub(super) route: &'a Route,
    /// Its head.
    pub(super) head: &'a Parts,
    /// It asks for an upgrade.
    pub(super) upgrade: bool,
    /// Told how long the provider was waited for.
    pub(super) waited: &'a Waited,
}

/// Decides about a request: whose it is, if not anybody's. `Ok(None)` is an anonymous request; `refused` is told whose
/// request was refused.
///
/// # Errors
/// Why it is refused.
pub(super) async fn decide(
    live: &Live,
    refresher: &Arc<Refresher>,
    asked: &Asked<'_>,
    now: Timestamp,
    refused: &mut Option<Arc<Session>>,
) -> Result<Option<(SessionId, Arc<Session>)>, Refusal> {
    let optional = match asked.route.access {
        Access::Deny => return Err(Refusal::RouteDenied),
        Access::Public => return Ok(None),
        Access::Optional => true,
        Access::Session => false,
    };
    let (id, found) = match present(live, asked.head, true).await {
        Ok(Presented::Session(id, found)) => (id, found),
        Ok(Presented::None(_)) if optional => return Ok(None),
        Ok(Presented::None(gone)) => {
            let why = reason(gone.map(|(_, why)| why));
            return Err(Refusal::Unauthenticated(why));
        }
        Err(StoreError(_)) => return Err(Refusal::StoreUnavailable),
    };
    match admit(live, refresher, asked, now, &id, &found).await {
        Ok(session) => Ok(Some((id, session))),
        Err(Refusal::Unauthenticated(_)) if optional => Ok(None),
        Err(refusal) => {
            *refused = Some(found.session);
            Err(refusal)
        }
    }
}

/// Decides about a request with a session: which one travels, its token renewed where that was due.
///
/// # Errors
/// Why it is refused; [`Refusal::Unauthenticated`] when the session is of no use here.
async fn admit(
    live: &Live,
    refresher: &Arc<Refresher>,
    asked: &Asked<'_>,
    now: Timestamp,
    id: &SessionId,
    found: &Found,
) -> Result<Arc<Session>, Refusal> {
    let (route, head) = (asked.route, asked.head);
    // From here on the request rides on the cookie: other sites may not make it do so (CSRF-01, WS-01).
    if fetch::cross_site(
        &head.method,
        &head.headers,
        asked.upgrade,
        &live.config.public_origins,
        &route.cross_site,
    ) {
        return Err(Refusal::CrossSite);
    }
    let unusable = |why| Err(Refusal::Unauthenticated(why));
    let Some(provider) = live.provider_of(&found.session) else {
        // The provider was taken out of the configuration: its sessions end with it.
        return unusable(Unauthenticated::NoSession);
    };
    if route
        .provider
        .is_some_and(|wanted| *live.providers[wanted].config().name != *found.session.provider)
    {
        return unusable(Unauthenticated::NoSession);
    }
    let freshness = freshness(
        &found.session.tokens,
        now,
        live.config.session.refresh_before,
    );
    let session = if route.token.kind == TokenKind::None {
        Arc::clone(&found.session)
    } else if freshness != Freshness::Fresh && fetch::is_prefetch(&head.headers) {
        // A page that is only looked ahead at spends no refresh token (FLOW-23).
        match freshness {
            Freshness::Expired => return Err(Refusal::ProviderUnavailable { retry_after: SOON }),
            Freshness::Fresh | Freshness::Ageing => Arc::clone(&found.session),
        }
    } else {
        // Only then is anybody waited for.
        let since = (freshness == Freshness::Expired).then(Instant::now);
        let usable = refresher
            .usable(id, found, provider, live.config.session.refresh_before)
            .await;
        if let Some(since) = since {
            asked.waited.add(since.elapsed());
        }
        match usable {
            Ok(session) => session,
            Err(RefreshError::Ended) => {
                return unusable(Unauthenticated::Revoked);
            }
            Err(RefreshError::NoRefreshToken) => {
                return unusable(Unauthenticated::Expired);
            }
            Err(RefreshError::Unavailable { retry_after }) => {
                return Err(Refusal::ProviderUnavailable { retry_after });
            }
            Err(RefreshError::Store) => return Err(Refusal::StoreUnavailable),
        }
    };
    let required = route::claims_match(&route.require, &session.claims, &session.tokens.scopes);
    if let Err(missing) = required {
        return Err(match missing {
            route::Denied::Scope(_) => Refusal::Scopes,
            route::Denied::Claim(_) => Refusal::Claims,
        });
    }
    let token_usable = match route.token.kind {
        TokenKind::Access => session.tokens.bearer.is_some(),
        TokenKind::Id => session
            .tokens
            .id
            .as_ref()
            .is_some_and(|id| id.expose().bytes().all(|byte| byte.is_ascii_graphic())),
        TokenKind::None => true,
    };
    if !token_usable {
        // The provider issued what is no header value.
        return Err(Refusal::Upstream(crate::metrics::UpstreamError::Protocol));
    }
    Ok(session)
}

/// The `reason` for a session that is not there.
pub(super) fn reason(gone: Option<Gone>) -> Unauthenticated {
    match gone {
        None | Some(Gone::Unknown) => Unauthenticated::NoSession,
        Some(Gone::Expired) => Unauthenticated::Expired,
        Some(Gone::Idle) => Unauthenticated::Idle,
        Some(Gone::Revoked) => Unauthenticated::Revoked,
    }
}

/// What is left of the access token's life, for the metric.
pub(super) fn token_left(session: &Session, now: Timestamp) -> Duration {
    session.tokens.expires_at.left(now)
}
