//! Tells a page at once what becomes of its session (`session/events`, a stream of server-sent events).
//!
//! Nothing is queued: an event is made of the session as it is when it is written. Listening does not count as use.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode};
use pingora::proxy::Session as Exchange;
use pingora::{Error, ErrorType};
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::clock::SharedClock;
use crate::config::model::Config;
use crate::metrics::StreamEnd;
use crate::session::{Found, SessionId};
use crate::streams::feed::{Feed, Kind, Times};
use crate::streams::{Bond, Listening, Step, Streams, Watch};

use super::again;
use super::answer::Answer;
use super::context::Context;
use super::ending;

/// Silence on the wire at most: proxies and load balancers cut connections after 30 s of it and more.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Longest wait for a page to take what was written. An event is smaller than any socket's buffer, so whoever takes so
/// long has not read for many of them.
const SLOW: Duration = Duration::from_secs(10);
/// When a page connects again after its stream broke off, in milliseconds.
const RETRY: u16 = 3000;

/// A page that listens to its session.
#[derive(Debug)]
pub(super) struct Events {
    config: Arc<Config>,
    streams: Streams,
    clock: SharedClock,
    watch: Watch,
    feed: Feed,
    found: Found,
    /// Held for its `Drop`.
    _listening: Listening,
}

/// Why the stream ends.
#[derive(Debug)]
enum End {
    Session(StreamEnd),
    Drain,
}

impl Events {
    /// A page begins to listen; `None` when there are enough already.
    pub(super) fn new(
        config: &Arc<Config>,
        streams: &Streams,
        clock: &SharedClock,
        head: &Parts,
        id: SessionId,
        found: Found,
    ) -> Option<Self> {
        let last = head.headers.get("last-event-id");
        Some(Self {
            _listening: streams.listen(&id)?,
            watch: Watch::patient(streams, id, bond(config), found.clone()),
            feed: Feed::open(last.map(|id| id.to_str().unwrap_or("?")), &found),
            config: config.clone(),
            streams: streams.clone(),
            clock: clock.clone(),
            found,
        })
    }

    /// The head of the answer.
    pub(super) fn head() -> Answer {
        let fixed = [
            (header::CONTENT_TYPE, "text/event-stream"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            // nginx would collect what must arrive at once.
            (HeaderName::from_static("x-accel-buffering"), "no"),
        ];
        fixed
            .into_iter()
            .fold(Answer::empty(StatusCode::OK), |answer, (name, value)| {
                answer.with(name, HeaderValue::from_static(value))
            })
    }

    /// Tells until the session is over, the page leaves or the process ends.
    ///
    /// # Errors
    /// When the page is gone, or does not read.
    pub(super) async fn tell(
        mut self: Box<Self>,
        exchange: &mut Exchange,
        ctx: &mut Context,
        answer: Answer,
    ) -> pingora::Result<()> {
        let only_head = exchange.req_header().method == Method::HEAD;
        let head = answer.begin(exchange, ctx.request_id.to_value(), only_head);
        head.await?;
        if only_head {
            return Ok(());
        }
        ctx.streaming = true;
        ctx.series().stream(true);
        let opening = self.opening();
        write(exchange, opening, false).await?;
        let end = self.follow(exchange).await?;
        let last = match end {
            End::Session(why) => {
                ctx.ended = Some(why);
                ctx.series().metrics().stream_closed(why);
                self.ended(why)
            }
            End::Drain => going_away(),
        };
        write(exchange, last, true).await
    }

    async fn follow(&mut self, exchange: &mut Exchange) -> pingora::Result<End> {
        let mut beat = Instant::now() + HEARTBEAT;
        loop {
            let notice = self.next_notice();
            let limit = notice.map_or(beat, |notice| notice.min(beat));
            let step = tokio::select! {
                biased;
                () = self.streams.draining() => return Ok(End::Drain),
                step = self.watch.next(Some(limit)) => step,
                // Whatever comes: no more is expected of a GET.
                _ = exchange.as_downstream_mut().read_body_or_idle(true) => {
                    return Err(Error::explain(ErrorType::ConnectionClosed, "page left").into_down());
                }
            };
            let text = match step {
                Step::Over(why) => return Ok(End::Session(why)),
                Step::Lives(found) => {
                    self.found = found;
                    self.news()
                }
                Step::Quiet => {
                    // What was announced may have moved away: requests do not wake anybody.
                    if notice == Some(limit) || self.feed.is_expiring() {
                        self.watch.look_now();
                    }
                    if Instant::now() < beat {
                        continue;
                    }
                    ":\n\n".to_owned()
                }
            };
            if !text.is_empty() {
                write(exchange, text, false).await?;
                beat = Instant::now() + HEARTBEAT;
            }
        }
    }

    fn times(&self) -> Times {
        let session = &self.config.session;
        Times {
            lifetime: session.lifetime,
            idle: session.idle_timeout.filter(|idle| !idle.is_zero()),
            bond: bond(&self.config),
        }
    }

    fn next_notice(&self) -> Option<Instant> {
        let now = self.clock.now();
        let at = Feed::next(&self.found, self.times(), now)?;
        Instant::now().checked_add(at.left(now))
    }

    /// How long to wait before connecting again, and the id to come back with; what is missed is told at once.
    fn opening(&mut self) -> String {
        let news = self.news();
        // A block without data is no event, but its id is remembered.
        format!("retry: {RETRY}\nid: {}\n\n{news}", self.feed.id())
    }

    /// What the page does not know yet, as events.
    fn news(&mut self) -> String {
        let now = self.clock.now();
        let mut text = String::new();
        let kinds = self.feed.look(&self.found, self.times(), now);
        for kind in kinds {
            let name = match kind {
                Kind::Expiring => "expiring",
                Kind::Refreshed => "refreshed",
            };
            let data = super::session_json::session(&self.config, &self.found, now);
            let id = self.feed.id();
            // JSON has no line breaks of its own.
            let _ = write!(text, "event: {name}\nid: {id}\ndata: {data}\n\n");
        }
        text
    }

    fn ended(&self, why: StreamEnd) -> String {
        let data = over(&self.config, why);
        format!("event: ended\ndata: {data}\n\n")
    }
}

/// A page's session hangs on its token when any route shows it.
fn bond(config: &Config) -> Bond {
    Bond::with_token(config.shows_tokens())
}

/// What `ended` carries: the `reason` that the next request's 401 will have.
fn over(config: &Config, why: StreamEnd) -> serde_json::Value {
    json!({
        "active": false,
        "reason": ending::refusal(why).reason(),
        "login_url": again::login(config, None),
    })
}

/// Pages come back soon, to another process, and not all at once.
fn going_away() -> String {
    let mut random = [0; 2];
    crate::seal::random(&mut random);
    let retry = 500 + u16::from_be_bytes(random) % RETRY;
    format!("retry: {retry}\n: going away\n\n")
}

async fn write(exchange: &mut Exchange, text: String, end: bool) -> pingora::Result<()> {
    let written = exchange.write_response_body(Some(Bytes::from(text)), end);
    match timeout(SLOW, written).await {
        Ok(written) => written.map_err(Error::into_down),
        Err(_) => Err(Error::explain(ErrorType::WriteTimedout, "page does not read").into_down()),
    }
}

#[cfg(test)]
mod tests;
