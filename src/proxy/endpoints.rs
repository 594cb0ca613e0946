//! Answers our own endpoints under `base_path`; nothing of them is ever forwarded.

use std::sync::Arc;
use std::time::Duration;

use http::header;
use http::request::Parts;
use http::{Method, StatusCode};
use pingora::proxy::Session as Exchange;

use crate::clock::SharedClock;
use crate::config::model::{Config, CrossSite, Origin};
use crate::logout::Next;
use crate::metrics::LogoutKind;
use crate::pages::ErrorPage;
use crate::refresh::Refresher;
use crate::session::{Lookup, Session, SessionId, StoreError};
use crate::web::fetch;
use crate::web::redirect::ReturnTo;

use super::answer::Answer;
use super::context::Context;
use super::cookies;
use super::live::Live;
use super::refusal::Refusal;
use super::respond;

mod login;
mod session;
mod told;

/// Largest form: an authorization response or a logout.
const FORM: usize = 64 * 1024;
/// Longest wait for a form's bytes.
const FORM_WAIT: Duration = Duration::from_secs(10);
/// One of our endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// `login`
    Login,
    /// `callback` or `callback/<provider>`
    Callback(Option<String>),
    /// `logout`
    Logout,
    /// `logout/callback`
    LogoutCallback,
    /// `logout/local`
    LogoutLocal,
    /// `logout/backchannel`
    BackChannel,
    /// `logout/frontchannel`
    FrontChannel,
    /// `session`
    Session,
    /// `session/refresh`
    SessionRefresh,
    /// `session/events`
    SessionEvents,
    /// Nothing we know.
    Unknown,
}

impl Endpoint {
    /// The endpoint of a canonical path, if it is below `base_path`.
    pub(super) fn of(path: &str, base_path: &str) -> Option<Self> {
        let rest = path.strip_prefix(base_path)?;
        if !rest.is_empty() && !rest.starts_with('/') {
            return None;
        }
        Some(match rest.trim_start_matches('/') {
            "login" => Self::Login,
            "callback" => Self::Callback(None),
            "logout" => Self::Logout,
            "logout/callback" => Self::LogoutCallback,
            "logout/local" => Self::LogoutLocal,
            "logout/backchannel" => Self::BackChannel,
            "logout/frontchannel" => Self::FrontChannel,
            "session" => Self::Session,
            "session/refresh" => Self::SessionRefresh,
            "session/events" => Self::SessionEvents,
            other => match other.strip_prefix("callback/") {
                Some(provider) if !provider.is_empty() && !provider.contains('/') => {
                    Self::Callback(Some(provider.to_owned()))
                }
                _ => Self::Unknown,
            },
        })
    }

    fn allows(&self) -> &'static str {
        match self {
            Self::Callback(_) | Self::Logout => "GET, POST",
            Self::LogoutLocal | Self::BackChannel | Self::SessionRefresh => "POST",
            Self::Login
            | Self::LogoutCallback
            | Self::FrontChannel
            | Self::Session
            | Self::SessionEvents
            | Self::Unknown => "GET",
        }
    }
}

/// What the endpoints need beside the request.
#[derive(Debug)]
pub(super) struct Endpoints<'a> {
    /// The request's context.
    pub(super) ctx: &'a mut Context,
    /// Renews tokens.
    pub(super) refresher: &'a Arc<Refresher>,
    /// Time.
    pub(super) clock: &'a SharedClock,
}

impl Endpoints<'_> {
    /// Answers a request to `endpoint`.
    ///
    /// # Errors
    /// When the client is gone.
    pub(super) async fn answer(
        self,
        endpoint: Endpoint,
        exchange: &mut Exchange,
    ) -> pingora::Result<Answer> {
        let head = exchange.req_header().as_owned_parts();
        let allowed = endpoint.allows();
        if endpoint == Endpoint::Unknown {
            return Ok(self.refuse(&head, &Refusal::NoRoute));
        }
        let method = if head.method == Method::HEAD {
            &Method::GET
        } else {
            &head.method
        };
        if !allowed.split(", ").any(|allow| allow == method.as_str()) {
            return Ok(self.refuse(&head, &Refusal::Method { allow: allowed }));
        }
        let acts = matches!(endpoint, Endpoint::Callback(_) | Endpoint::Logout);
        if acts && head.method == Method::HEAD {
            // Whoever only asks what would be answered has nothing done (RFC 9110 §9.2.1).
            return Ok(Answer::empty(StatusCode::NO_CONTENT));
        }
        let form = if head.method == Method::POST {
            match self.ctx.waited.on(read_form(exchange)).await? {
                Some(form) => form,
                None if endpoint == Endpoint::BackChannel => {
                    return Ok(self.back_channel(&head, None).await);
                }
                None => return Ok(self.refuse(&head, &Refusal::BodyTooLarge)),
            }
        } else {
            String::new()
        };
        Ok(match endpoint {
            Endpoint::Login => self.login(&head).await,
            Endpoint::Callback(provider) => {
                let query = if head.method == Method::POST {
                    form.as_str()
                } else {
                    head.uri.query().unwrap_or_default()
                };
                self.callback(&head, provider.as_deref(), query).await
            }
            Endpoint::Logout => self.logout(&head, &form).await,
            Endpoint::LogoutCallback => self.logout_callback(&head),
            Endpoint::LogoutLocal => self.logout_local(&head).await,
            Endpoint::BackChannel => self.back_channel(&head, Some(&form)).await,
            Endpoint::FrontChannel => self.front_channel(&head).await,
            Endpoint::Session => self.session(&head).await,
            Endpoint::SessionRefresh => self.session_refresh(&head).await,
            Endpoint::SessionEvents => self.session_events(&head).await,
            Endpoint::Unknown => self.refuse(&head, &Refusal::NoRoute),
        })
    }

    fn live(&self) -> &Arc<Live> {
        &self.ctx.live
    }

    fn config(&self) -> &Config {
        &self.ctx.live.config
    }

    fn origin(&self) -> &Origin {
        &self.ctx.live.config.public_origins[self.ctx.origin]
    }

    fn refuse(self, head: &Parts, refusal: &Refusal) -> Answer {
        respond::refuse(self.ctx, head, refusal)
    }

    fn return_to(&self, candidate: Option<&str>) -> String {
        let config = self.config();
        candidate
            .and_then(|text| {
                ReturnTo::parse(
                    text,
                    self.origin(),
                    &config.public_origins,
                    &config.base_path,
                )
            })
            .map_or_else(|| "/".to_owned(), ReturnTo::into_string)
    }

    async fn logout(self, head: &Parts, form: &str) -> Answer {
        if fetch::is_prefetch(&head.headers) {
            // Looking ahead ends no session either.
            return Answer::empty(StatusCode::NO_CONTENT);
        }
        let redirect = parameter(head.uri.query().unwrap_or_default(), "redirect")
            .or_else(|| parameter(form, "redirect"));
        let config = self.live().config.clone();
        let redirect = redirect
            .and_then(|text| {
                ReturnTo::parse(
                    &text,
                    self.origin(),
                    &config.public_origins,
                    &config.base_path,
                )
            })
            .map(ReturnTo::into_string);
        let from_anywhere =
            head.method != Method::POST && fetch::may_come_from_anywhere(&head.headers);
        if from_anywhere || asked_elsewhere(head, &config) {
            // A foreign page may not log anyone out, but it may ask (CSRF-06).
            return respond::confirm_logout(self.ctx, redirect.as_deref()).await;
        }
        match self.end(head, LogoutKind::RpInitiated, redirect).await {
            Ok((next, session)) => {
                self.ctx.decision = "signed_out";
                self.ctx.session = session;
                let answer = match next {
                    Next::Location(location) => Answer::redirect(StatusCode::SEE_OTHER, &location),
                    Next::SignedOut => respond::signed_out(self.ctx),
                };
                answer.with(header::SET_COOKIE, cookies::clear_session(&config))
            }
            Err(_) => self.refuse(head, &Refusal::Login(ErrorPage::LogoutFailed)),
        }
    }

    fn logout_callback(self, head: &Parts) -> Answer {
        let state = parameter(head.uri.query().unwrap_or_default(), "state");
        match self.live().logout.returned(state.as_deref()) {
            Some(location) => Answer::redirect(StatusCode::SEE_OTHER, &location),
            None => respond::signed_out(self.ctx),
        }
    }

    async fn logout_local(self, head: &Parts) -> Answer {
        let config = self.live().config.clone();
        if asked_elsewhere(head, &config) {
            return self.refuse(head, &Refusal::CrossSite);
        }
        match self.end(head, LogoutKind::Local, None).await {
            Ok((_, session)) => {
                self.ctx.decision = "signed_out";
                self.ctx.session = session;
                Answer::empty(StatusCode::NO_CONTENT)
                    .with(header::SET_COOKIE, cookies::clear_session(&config))
            }
            Err(_) => self.refuse(head, &Refusal::StoreUnavailable),
        }
    }

    /// Ends every session the request carries: with cookies planted by a sibling host among them, whose is whose cannot be
    /// told, and "signed out" must be true (COOKIE-07). The first that is alive leads to its provider.
    async fn end(
        &self,
        head: &Parts,
        kind: LogoutKind,
        redirect: Option<String>,
    ) -> Result<(Next, Option<Arc<Session>>), StoreError> {
        let mut carried: Vec<SessionId> = cookies::sessions(self.config(), head).collect();
        if carried.len() > 1 {
            for at in 0..carried.len() {
                if matches!(
                    self.live().sessions.peek(&carried[at]).await?,
                    Lookup::Found(_)
                ) {
                    carried.swap(0, at);
                    break;
                }
            }
        }
        let logout = &self.live().logout;
        for planted in carried.iter().skip(1) {
            logout
                .end(LogoutKind::Local, self.origin(), Some(planted), None)
                .await?;
        }
        // Deleting is quick beside the provider's metadata, where those have to be fetched.
        let ended = logout.end(kind, self.origin(), carried.first(), redirect);
        self.ctx.waited.on(ended).await
    }
}

/// Whether a page of another site asks. The method does not count here: a GET that ends a session does harm, too.
fn asked_elsewhere(head: &Parts, config: &Config) -> bool {
    fetch::cross_site(
        &Method::POST,
        &head.headers,
        false,
        &config.public_origins,
        &CrossSite::Deny,
    )
}

/// The first value of a parameter, decoded.
fn parameter(query: &str, name: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes())
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

/// Reads a form; `None` when it is too large or not a form.
async fn read_form(exchange: &mut Exchange) -> pingora::Result<Option<String>> {
    let mut form = Vec::new();
    let deadline = tokio::time::Instant::now() + FORM_WAIT;
    loop {
        let Ok(chunk) =
            tokio::time::timeout_at(deadline, exchange.as_downstream_mut().read_request_body())
                .await
        else {
            return Ok(None);
        };
        let Some(chunk) = chunk? else { break };
        if form.len() + chunk.len() > FORM {
            return Ok(None);
        }
        form.extend_from_slice(&chunk);
    }
    Ok(Some(String::from_utf8(form).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_whole_paths_below_the_base() {
        for (path, want) in [
            ("/oauth2/login", Some(Endpoint::Login)),
            ("/oauth2/callback", Some(Endpoint::Callback(None))),
            (
                "/oauth2/callback/acme",
                Some(Endpoint::Callback(Some("acme".into()))),
            ),
            ("/oauth2/callback/", Some(Endpoint::Unknown)),
            ("/oauth2/callback/a/b", Some(Endpoint::Unknown)),
            ("/oauth2/session/refresh", Some(Endpoint::SessionRefresh)),
            ("/oauth2/logout/backchannel", Some(Endpoint::BackChannel)),
            ("/oauth2/logout/backchannel/acme", Some(Endpoint::Unknown)),
            ("/oauth2/logout/frontchannel", Some(Endpoint::FrontChannel)),
            ("/oauth2/session/events", Some(Endpoint::SessionEvents)),
            ("/oauth2/session/events/x", Some(Endpoint::Unknown)),
            ("/oauth2", Some(Endpoint::Unknown)),
            ("/oauth2/nothing", Some(Endpoint::Unknown)),
            ("/oauth2x/login", None),
            ("/login", None),
        ] {
            assert_eq!(Endpoint::of(path, "/oauth2"), want, "{path}");
        }
    }
}
