//! Writes an answer of our own to the client.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, StatusCode, Version};
use pingora::http::ResponseHeader;
use pingora::proxy::Session;

use crate::pages::Page;

fn head(
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    request_id: HeaderValue,
) -> pingora::Result<ResponseHeader> {
    let mut head = ResponseHeader::build_no_case(status, Some(headers.len() + 4))?;
    head.insert_header(header::CACHE_CONTROL, "no-store")?;
    head.insert_header("x-request-id", request_id)?;
    for (name, value) in headers {
        head.append_header(name, value)?;
    }
    Ok(head)
}

/// Headers that keep other origins from reading or opening a page of ours.
const ISOLATION: [(HeaderName, &str); 2] = [
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

/// Body bytes taken and thrown away after an answer that did not wait for them, and for how long: a client that is still
/// sending reads no answer, and a connection closed over unread bytes is reset before it can.
const LINGER: (usize, Duration) = (16 * 1024 * 1024, Duration::from_secs(2));

async fn linger(session: &mut Session) {
    let (mut left, time) = LINGER;
    let read = async {
        let downstream = session.as_downstream_mut();
        while !downstream.is_body_done() {
            match downstream.read_request_body().await {
                Ok(Some(chunk)) => match left.checked_sub(chunk.len()) {
                    Some(rest) => left = rest,
                    None => return false,
                },
                Ok(None) => break,
                Err(_) => return false,
            }
        }
        true
    };
    // Whatever comes after an unread body cannot be told from it.
    if !matches!(tokio::time::timeout(time, read).await, Ok(true)) {
        session.set_keepalive(None);
    }
}

/// An answer of our own. Always `Cache-Control: no-store`.
#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
    close: bool,
}

impl Answer {
    /// An answer without body.
    pub(super) fn empty(status: StatusCode) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
            close: false,
        }
    }

    /// A redirect (RFC 9110 §15.4). A `location` that is no header value becomes a 500: it was made by us.
    pub(super) fn redirect(status: StatusCode, location: &str) -> Self {
        match HeaderValue::try_from(location) {
            Ok(location) => Self::empty(status).with(header::LOCATION, location),
            Err(_) => Self::empty(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }

    /// A JSON document of media type `kind`.
    pub(super) fn json(status: StatusCode, kind: &'static str, body: String) -> Self {
        let mut answer = Self::empty(status)
            .with(header::CONTENT_TYPE, HeaderValue::from_static(kind))
            .with(
                header::X_CONTENT_TYPE_OPTIONS,
                HeaderValue::from_static("nosniff"),
            );
        answer.body = Bytes::from(body);
        answer
    }

    /// An HTML page with its content security policy, and the headers that keep it from being framed or sniffed.
    pub(super) fn page(status: StatusCode, page: Page) -> Self {
        let csp = HeaderValue::try_from(page.csp)
            .unwrap_or(HeaderValue::from_static("default-src 'none'"));
        let fixed = [
            (header::CONTENT_TYPE, "text/html; charset=utf-8"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::X_FRAME_OPTIONS, "DENY"),
        ];
        let mut answer = Self::empty(status).with(header::CONTENT_SECURITY_POLICY, csp);
        answer.headers.extend(
            fixed
                .into_iter()
                .chain(ISOLATION)
                .map(|(name, value)| (name, HeaderValue::from_static(value))),
        );
        answer.body = Bytes::from(page.body);
        answer
    }

    /// The answer to a front-channel logout, which these origins may show in a frame, and no other.
    pub(super) fn framed(by: &[String]) -> Self {
        let ancestors = if by.is_empty() {
            "'none'".to_owned()
        } else {
            by.join(" ")
        };
        let csp = format!("default-src 'none'; base-uri 'none'; frame-ancestors {ancestors}");
        let csp = HeaderValue::try_from(csp).unwrap_or(HeaderValue::from_static(
            "default-src 'none'; frame-ancestors 'none'",
        ));
        let mut answer = Self::empty(StatusCode::OK)
            .with(header::CONTENT_SECURITY_POLICY, csp)
            .with(
                header::CONTENT_TYPE,
                HeaderValue::from_static("text/html; charset=utf-8"),
            )
            .with(
                header::X_CONTENT_TYPE_OPTIONS,
                HeaderValue::from_static("nosniff"),
            )
            .with(
                header::REFERRER_POLICY,
                HeaderValue::from_static("no-referrer"),
            );
        answer.body = Bytes::from_static(b"<!doctype html><title>Signed out</title>");
        answer
    }

    /// Sets a header in place of the one there is.
    #[must_use]
    pub(super) fn with_instead(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self.with(name, value)
    }

    /// Adds a header.
    #[must_use]
    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Closes the connection afterwards.
    #[must_use]
    pub(super) fn closing(mut self, close: bool) -> Self {
        self.close |= close;
        self
    }

    /// Status.
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// Writes the head of an answer whose body comes piece by piece; with `end` none comes.
    ///
    /// # Errors
    /// When the client is gone.
    pub(super) async fn begin(
        self,
        session: &mut Session,
        request_id: HeaderValue,
        end: bool,
    ) -> pingora::Result<()> {
        let mut head = head(self.status, self.headers, request_id)?;
        if session.req_header().version == Version::HTTP_11 {
            head.insert_header(header::TRANSFER_ENCODING, "chunked")?;
        }
        session.write_response_header(Box::new(head), end).await
    }

    /// Writes it. `request_id` lets a user quote the request.
    ///
    /// # Errors
    /// When the client is gone.
    pub(super) async fn write(
        self,
        session: &mut Session,
        request_id: HeaderValue,
    ) -> pingora::Result<()> {
        if self.close {
            session.set_keepalive(None);
        }
        let mut head = head(self.status, self.headers, request_id)?;
        let bodiless =
            self.status == StatusCode::NO_CONTENT || self.status == StatusCode::NOT_MODIFIED;
        if !bodiless {
            head.set_content_length(self.body.len())?;
        }
        let silent =
            bodiless || self.body.is_empty() || session.req_header().method == Method::HEAD;
        session
            .write_response_header(Box::new(head), silent)
            .await?;
        if !silent {
            session.write_response_body(Some(self.body), true).await?;
        }
        linger(session).await;
        Ok(())
    }
}
