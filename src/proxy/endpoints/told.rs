//! Answers the provider's logouts: back-channel by a POST of its server, front-channel in a frame of the browser's.

use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::json;

use crate::logout::{BackChannelError, FrontChannelError};
use crate::session::SessionId;
use crate::web::fetch;

use super::super::answer::Answer;
use super::super::cookies;
use super::super::refusal::{Refusal, SOON};
use super::{Endpoints, parameter};

impl Endpoints<'_> {
    /// Back-Channel Logout §2.5 to §2.8. `form` is `None` when there was too much of it, or too slowly.
    ///
    /// A failure of ours is a 503 and not the 400 of §2.8: a provider that tries again must know that it is worth it.
    pub(super) async fn back_channel(self, head: &Parts, form: Option<&str>) -> Answer {
        let told = match logout_token(head, form) {
            // The provider's keys may have to be fetched first.
            Ok(token) => {
                let told = self.live().logout.back_channel(&token);
                self.ctx.waited.on(told).await
            }
            Err(rule) => Err(BackChannelError::Invalid(rule)),
        };
        let (status, error, detail) = match told {
            Ok(()) => {
                self.ctx.decision = "signed_out";
                return Answer::empty(StatusCode::OK);
            }
            Err(BackChannelError::Invalid(rule)) => {
                (StatusCode::BAD_REQUEST, "invalid_request", rule)
            }
            Err(BackChannelError::Unavailable(why)) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "temporarily_unavailable",
                why,
            ),
        };
        self.ctx.decision = "refuse";
        let body = json!({"error": error, "error_description": detail});
        let answer = Answer::json(status, "application/json", body.to_string());
        // What is left of a body that was not read ends with its connection.
        let answer = answer.closing(form.is_none());
        if status == StatusCode::SERVICE_UNAVAILABLE {
            return answer.with(header::RETRY_AFTER, HeaderValue::from(SOON.as_secs()));
        }
        answer
    }

    /// Front-Channel Logout §2. Without `iss` and `sid` nobody knows which session is meant, and any page could ask.
    pub(super) async fn front_channel(self, head: &Parts) -> Answer {
        if fetch::is_prefetch(&head.headers) {
            return Answer::empty(StatusCode::NO_CONTENT);
        }
        let query = head.uri.query().unwrap_or_default();
        let (Some(issuer), Some(sid)) = (parameter(query, "iss"), parameter(query, "sid")) else {
            return self.refuse(head, &Refusal::Malformed("`iss` and `sid` are needed"));
        };
        if head.method == Method::HEAD {
            return Answer::framed(&[]);
        }
        let carried: Vec<SessionId> = cookies::sessions(self.config(), head).collect();
        let logout = &self.live().logout;
        let told = logout.front_channel(self.origin(), &issuer, &sid, &carried);
        match told.await {
            Ok(done) => {
                let answer = Answer::framed(&done.framed_by);
                let clear = done.own.then(|| cookies::clear_session(self.config()));
                self.ctx.decision = "signed_out";
                match clear {
                    Some(clear) => answer.with(header::SET_COOKIE, clear),
                    None => answer,
                }
            }
            Err(FrontChannelError::UnknownIssuer) => {
                self.refuse(head, &Refusal::Malformed("`iss` is none of our providers"))
            }
            Err(FrontChannelError::Unavailable) => self.refuse(head, &Refusal::StoreUnavailable),
        }
    }
}

/// The one logout token of a form (LOGOUT-06).
fn logout_token(head: &Parts, form: Option<&str>) -> Result<String, &'static str> {
    let kind = head.headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err("the body is no form");
    }
    let form = form.ok_or("the body is too large, or did not arrive in time")?;
    let mut tokens = form_urlencoded::parse(form.as_bytes())
        .filter(|(name, _)| name == "logout_token")
        .map(|(_, token)| token.into_owned());
    match (tokens.next(), tokens.next()) {
        (Some(token), None) => Ok(token),
        (None, _) => Err("`logout_token` is missing"),
        (Some(_), Some(_)) => Err("`logout_token` is there more than once"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_holds_one_logout_token_or_none_at_all() {
        let plain = "application/x-www-form-urlencoded";
        for (name, kind, form, want) in [
            ("one", plain, Some("logout_token=a.b.c"), Ok("a.b.c")),
            (
                "with a charset",
                "Application/X-WWW-Form-URLEncoded; charset=utf-8",
                Some("logout_token=a"),
                Ok("a"),
            ),
            (
                "others beside it",
                plain,
                Some("x=1&logout_token=a&y=2"),
                Ok("a"),
            ),
            ("none", plain, Some("x=1"), Err("`logout_token` is missing")),
            ("no body", plain, Some(""), Err("`logout_token` is missing")),
            (
                "two",
                plain,
                Some("logout_token=a&logout_token=a"),
                Err("`logout_token` is there more than once"),
            ),
            (
                "too large",
                plain,
                None,
                Err("the body is too large, or did not arrive in time"),
            ),
            (
                "JSON",
                "application/json",
                Some("logout_token=a"),
                Err("the body is no form"),
            ),
            (
                "untyped",
                "",
                Some("logout_token=a"),
                Err("the body is no form"),
            ),
        ] {
            let request = http::Request::post("/").header(header::CONTENT_TYPE, kind);
            let (head, ()) = request.body(()).unwrap().into_parts();
            let got = logout_token(&head, form);
            assert_eq!(got.as_deref().map_err(|rule| *rule), want, "{name}");
        }
    }
}
