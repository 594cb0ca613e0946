//! Makes every HTTP call to a provider, and sorts how it ended.
//!
//! Each call has a deadline, a cap on the answer, and a metric; no redirect is followed and no proxy asked (META-04).
//!
//! There is no connection reuse. A kept-alive connection that the provider closes just as a request goes out fails that
//! request after bytes were written: a refresh would then be ambiguous for nothing. Calls are rare (one per session and
//! token lifetime), and TLS session resumption makes the new connection cheap. HTTP/1.1 alone for the same reason: one
//! request, one connection, one outcome.

mod form;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::Value;
use tokio::time::Instant;
use url::Url;

use self::form::{Sent, TrackedBody, Withheld};
use super::pause::retry_after;
use super::presence::Presence;
use super::{Acted, CallError, Claims};
use crate::clock::{self, SharedClock};
use crate::config::model;
use crate::metrics::{CallResult, Endpoint, Metrics};
use crate::secret::RefreshToken;

pub(super) use self::form::Form;

/// The only maker of HTTP calls to one provider.
#[derive(Debug)]
pub(super) struct Caller {
    provider: Arc<str>,
    client: reqwest::Client,
    clock: SharedClock,
    metrics: Arc<Metrics>,
    presence: Presence,
}

/// One call.
#[derive(Debug)]
pub(super) struct Request<'a> {
    /// Label of the metrics.
    pub(super) endpoint: Endpoint,
    /// Where to.
    pub(super) url: &'a Url,
    /// Deadline for all of it: name resolution to the last byte of the answer.
    pub(super) within: Duration,
    /// `Authorization`, already marked sensitive.
    pub(super) authorization: Option<HeaderValue>,
    /// With a form it is a POST, else a GET.
    pub(super) form: Option<Form>,
}

/// An answer with status 2xx.
#[derive(Debug)]
pub(super) struct Reply {
    headers: HeaderMap,
    body: Bytes,
}

/// Why a call brought nothing.
#[derive(Debug)]
pub(super) struct Failed {
    /// Label of the metrics.
    pub(super) result: CallResult,
    /// How long the provider wants to be left alone (429 and 503).
    pub(super) retry_after: Option<Duration>,
    /// For whoever asked.
    pub(super) error: CallError,
}

/// What is wrong with an answer of status 2xx.
#[derive(Debug)]
pub(super) enum BadAnswer {
    /// It cannot be read: part of it, or somebody else's, may have got in between.
    Unreadable(&'static str),
    /// It was read to its end, and is the provider's, but does not say what it must.
    Unusable {
        /// Short text for the log.
        reason: &'static str,
        /// The refresh token in it.
        refresh_token: Option<RefreshToken>,
    },
}

impl From<&'static str> for BadAnswer {
    fn from(reason: &'static str) -> Self {
        Self::Unreadable(reason)
    }
}

impl From<Failed> for CallError {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

impl Reply {
    /// The body as JSON object. HTML and other types are refused unread; an absent or vague type is not held against
    /// a body that parses.
    pub(super) fn json(&self) -> Result<Claims, BadAnswer> {
        const VAGUE: [&str; 3] = ["text/plain", "text/javascript", "application/octet-stream"];
        let media = self.media_type();
        let fits = media.is_empty()
            || media == "application/json"
            || media.ends_with("+json")
            || VAGUE.contains(&media.as_str());
        if !fits {
            return Err("the answer is not JSON".into());
        }
        serde_json::from_slice(&self.body).map_err(|_| "the answer is no JSON object".into())
    }

    /// The body as JSON of any kind, whatever its type says.
    pub(super) fn any_json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// The body as text.
    pub(super) fn text(&self) -> Result<&str, &'static str> {
        std::str::from_utf8(&self.body).map_err(|_| "the answer is no text")
    }

    /// The media type in lower case, without parameters; empty when absent.
    pub(super) fn media_type(&self) -> String {
        self.headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split(';').next())
            .map(|value| value.trim().to_ascii_lowercase())
            .unwrap_or_default()
    }

    /// The header fields.
    pub(super) fn headers(&self) -> &HeaderMap {
        &self.headers
    }
}

impl Caller {
    /// Makes the client; reaches out to nobody.
    pub(super) fn new(
        config: &model::Provider,
        clock: SharedClock,
        metrics: Arc<Metrics>,
    ) -> Result<Self, String> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::config(config.ca_pem.as_deref())?)
            .http1_only()
            .pool_max_idle_per_host(0)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .referer(false)
            // Part of every deadline, so that a provider that cannot be reached shows as such and leaves time to say so.
            .connect_timeout(config.timeout.mul_f64(0.75))
            .user_agent(concat!("daypass/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|_| "the HTTP client cannot be set up".to_owned())?;
        Ok(Self {
            provider: Arc::clone(&config.name),
            client,
            clock,
            metrics,
            presence: Presence::default(),
        })
    }

    /// What the calls have told of whether the provider is there.
    pub(super) fn presence(&self) -> &Presence {
        &self.presence
    }

    /// Makes the call; `read` turns a 2xx answer into what was asked for.
    ///
    /// # Cancel safety
    /// Dropping the future drops the connection and with it the answer. Whoever cannot afford to lose an answer (a
    /// rotated refresh token) runs this in a task of its own.
    pub(super) async fn call<T>(
        &self,
        request: Request<'_>,
        read: impl FnOnce(&Reply) -> Result<T, BadAnswer>,
    ) -> Result<T, Failed> {
        let began = Instant::now();
        let endpoint = request.endpoint;
        let outcome = self.attempt(request, read).await;
        let took = began.elapsed();
        let result = outcome
            .as_ref()
            .map_or_else(|failed| failed.result, |_| CallResult::Ok);
        self.presence.note(began, result);
        self.metrics
            .provider_called(&self.provider, endpoint, result, took);
        tracing::debug!(
            provider = %self.provider,
            idp.endpoint = endpoint.label(),
            idp.result = result.label(),
            error = outcome.as_ref().err().map(|failed| tracing::field::display(&failed.error)),
            "called the provider"
        );
        outcome
    }

    async fn attempt<T>(
        &self,
        request: Request<'_>,
        read: impl FnOnce(&Reply) -> Result<T, BadAnswer>,
    ) -> Result<T, Failed> {
        let sent = Sent::default();
        let is_form = request.form.is_some();
        let within = request.within;
        let answer = clock::within(within, self.exchange(request, &sent))
            .await
            .unwrap_or_else(|| {
                let reason = "no answer in time";
                Err(unavailable(
                    CallResult::Timeout,
                    reason,
                    sent.acted().settled(),
                ))
            })?;
        if is_form && let Some(code) = oauth_error(&answer.body) {
            // Some providers say 200 and mean an error (REFRESH-19).
            return Err(refused(code));
        }
        read(&answer).map_err(|bad| match bad {
            BadAnswer::Unreadable(reason) => {
                unavailable(CallResult::Invalid, reason, sent.acted().settled())
            }
            BadAnswer::Unusable {
                reason,
                refresh_token,
            } => Failed {
                result: CallResult::Invalid,
                retry_after: None,
                error: CallError::Unusable {
                    reason,
                    refresh_token,
                },
            },
        })
    }

    /// Sends, and reads a 2xx answer to its end.
    async fn exchange(&self, request: Request<'_>, sent: &Sent) -> Result<Reply, Failed> {
        let mut builder = match &request.form {
            None => self.client.get(request.url.clone()),
            Some(form) => self
                .client
                .post(request.url.clone())
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(reqwest::Body::wrap(TrackedBody::new(form, sent.clone()))),
        }
        .header(ACCEPT, "application/json");
        if let Some(value) = request.authorization {
            builder = builder.header(AUTHORIZATION, value);
        }
        let mut response = builder.send().await.map_err(|error| {
            let (result, reason) = sort(&error);
            unavailable(result, reason, sent.acted())
        })?;
        let status = response.status();
        if !status.is_success() {
            // Counts also when the deadline strikes while the error is read.
            sent.in_vain();
            return Err(self.refusal(response, request.form.is_some(), sent).await);
        }
        let body = match read_body(&mut response).await {
            Ok(body) => body,
            Err((CallResult::Connection, reason)) => {
                return Err(unavailable(CallResult::Connection, reason, sent.acted()));
            }
            Err((result, reason)) => {
                return Err(unavailable(result, reason, sent.acted().settled()));
            }
        };
        Ok(Reply {
            headers: std::mem::take(response.headers_mut()),
            body,
        })
    }

    /// Sorts an answer that is no success. Only the body of a 4xx is read at all.
    async fn refusal(&self, mut response: reqwest::Response, is_form: bool, sent: &Sent) -> Failed {
        let status = response.status();
        let wait = retry_after(response.headers(), self.clock.now());
        let (result, reason) = match status.as_u16() {
            429 => {
                return Failed {
                    result: CallResult::RateLimited,
                    retry_after: wait,
                    error: CallError::RateLimited { retry_after: wait },
                };
            }
            408 => (
                CallResult::Timeout,
                "it gave up waiting for our request (408)",
            ),
            500 => (CallResult::ServerError, "it answered 500"),
            502 => (CallResult::ServerError, "it answered 502"),
            503 => (CallResult::ServerError, "it answered 503"),
            504 => (CallResult::ServerError, "it answered 504"),
            505.. => (CallResult::ServerError, "it answered 5xx"),
            400..=499 => {
                // Elsewhere `error` is just a word: a key set's `invalid_grant` must not end a session.
                if is_form
                    && let Ok(body) = read_body(&mut response).await
                    && let Some(code) = oauth_error(&body)
                {
                    return refused(code);
                }
                let reason = match status.as_u16() {
                    401 => "it answered 401 without an OAuth error",
                    403 => "it answered 403 without an OAuth error",
                    404 => "it answered 404",
                    _ => "it answered 4xx without an OAuth error",
                };
                (CallResult::ClientError, reason)
            }
            300..=399 => (
                CallResult::Invalid,
                "it answered with a redirect, which is not followed",
            ),
            _ => (CallResult::Invalid, "it answered with an unexpected status"),
        };
        Failed {
            result,
            retry_after: wait.filter(|_| status == StatusCode::SERVICE_UNAVAILABLE),
            error: unavailable(result, reason, sent.acted()).error,
        }
    }
}

async fn read_body(response: &mut reqwest::Response) -> Result<Bytes, (CallResult, &'static str)> {
    let too_large = (CallResult::Invalid, "the answer is larger than 1 MiB");
    if response
        .content_length()
        .is_some_and(|length| length > BODY_LIMIT as u64)
    {
        return Err(too_large);
    }
    let mut body = BytesMut::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > BODY_LIMIT => return Err(too_large),
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Ok(body.freeze()),
            Err(_) => return Err((CallResult::Connection, "the answer broke off")),
        }
    }
}

/// The `error` of an OAuth error answer (RFC 6749 §5.2), cut to its allowed characters and 64 of them.
fn oauth_error(body: &[u8]) -> Option<String> {
    // A derived struct would take a list for an object.
    let answer: Claims = serde_json::from_slice(body).ok()?;
    let code: String = answer
        .get("error")?
        .as_str()?
        .chars()
        .filter(|c| matches!(c, ' '..='~') && !matches!(c, '"' | '\\'))
        .take(64)
        .collect();
    (!code.is_empty()).then_some(code)
}

fn refused(code: String) -> Failed {
    if matches!(code.as_str(), "temporarily_unavailable" | "server_error") {
        // Says nothing about the grant (REFRESH-13).
        let reason = "it says that it cannot serve now";
        return unavailable(CallResult::ServerError, reason, Acted::No);
    }
    Failed {
        result: CallResult::ClientError,
        retry_after: None,
        error: CallError::OAuth { code },
    }
}

fn unavailable(result: CallResult, reason: &'static str, acted: Acted) -> Failed {
    Failed {
        result,
        retry_after: None,
        error: CallError::Unavailable { reason, acted },
    }
}

/// Says in fixed words why there was no answer: the error's own text may hold a URL.
fn sort(error: &reqwest::Error) -> (CallResult, &'static str) {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = source {
        if cause.is::<Withheld>() {
            return (CallResult::Connection, HELD_BACK);
        }
        match cause.downcast_ref::<rustls::Error>() {
            Some(rustls::Error::InvalidCertificate(_)) => {
                return (CallResult::Connection, "its TLS certificate is not trusted");
            }
            Some(_) => return (CallResult::Connection, "the TLS handshake failed"),
            None => {}
        }
        let io = cause.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused) {
            return (CallResult::Connection, "it refused the connection");
        }
        // The source of an I/O error is the source of what it holds; what it holds must be asked for.
        source = match io.and_then(std::io::Error::get_ref) {
            Some(held) => Some(held),
            None => cause.source(),
        };
    }
    match (error.is_connect(), error.is_timeout()) {
        (true, true) => (CallResult::Timeout, "no connection in time"),
        (true, false) => (CallResult::Connection, "no connection, or no such host"),
        (false, true) => (CallResult::Timeout, "no answer in time"),
        (false, false) => (CallResult::Connection, "the connection broke off"),
    }
}

/// Nothing was sent, by our own doing.
pub(super) const HELD_BACK: &str = "it was held back: the lease may have run out";
/// Far above any metadata document or token answer (META-04).
const BODY_LIMIT: usize = 1024 * 1024;

#[cfg(test)]
mod tests;
