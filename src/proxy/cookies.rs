//! Reads and sets our two cookies: the session's, and the one that binds logins to the browser.

use std::time::Duration;

use http::HeaderValue;
use http::request::Parts;

use crate::config::model::Config;
use crate::session::SessionId;
use crate::web::cookie::{self, SetCookie};

/// Life of the login cookie: as long as a login may take.
const LOGIN: Duration = Duration::from_secs(15 * 60);

/// Cookies of our name that are looked at: a sibling application may have planted others under it (COOKIE-07).
const CANDIDATES: usize = 4;

/// The cookies of a request that can be a session's.
pub(super) fn sessions(config: &Config, head: &Parts) -> impl Iterator<Item = SessionId> {
    cookie::find(&head.headers, &config.session.cookie.name)
        .take(CANDIDATES)
        .filter_map(SessionId::parse)
}

/// The first of them.
pub(super) fn session(config: &Config, head: &Parts) -> Option<SessionId> {
    sessions(config, head).next()
}

/// The login cookie of a request.
pub(super) fn login<'h>(config: &Config, head: &'h Parts) -> Option<&'h str> {
    cookie::find(&head.headers, &config.session.cookie.login_name).next()
}

/// `Set-Cookie` of a session. It ends with the browser's; the server decides when the session does.
pub(super) fn set_session(config: &Config, id: &SessionId) -> HeaderValue {
    SetCookie::session(&config.session.cookie, id.expose(), None).to_value()
}

/// `Set-Cookie` that takes the session cookie back.
pub(super) fn clear_session(config: &Config) -> HeaderValue {
    SetCookie::session(&config.session.cookie, "", None).clear()
}

/// `Set-Cookie` of the login cookie.
pub(super) fn set_login(config: &Config, value: &str) -> HeaderValue {
    SetCookie::login(&config.session.cookie, value, Some(LOGIN)).to_value()
}
