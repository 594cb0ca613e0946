//! Runs a request through pingora's phases, which only call the rest.
//!
//! `early_request_filter` reads the head strictly, `request_filter` decides and answers what is ours, `upstream_peer` and
//! `upstream_request_filter` forward, `response_filter` cleans the way back, `logging` accounts. A `Context` carries
//! the request; it holds the configuration the request began with.

mod account;
mod again;
mod answer;
mod context;
mod cookies;
mod decide;
mod ending;
mod endpoints;
mod events;
mod forward;
mod guard;
mod intake;
pub mod live;
mod refusal;
mod respond;
mod session_json;
pub mod upstream;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::header;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Digest;
use pingora::proxy::{FailToProxy, HttpProxy, ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType};

use crate::clock::SharedClock;
use crate::config::model::TokenKind;
use crate::metrics::UpstreamError;
use crate::refresh::Refresher;
use crate::streams::{Bond, Seat};
use crate::web::forwarded::Client;
use crate::web::trace::RequestId;

use answer::Answer;
use context::Context;
pub use context::InFlight;
use decide::Asked;
use endpoints::Endpoints;
pub use guard::Guarded;
use intake::Taken;
use live::Live;
use refusal::Refusal;

/// Longest silence on a stream (WebSocket, server-sent events) in either direction.
const STREAM_SILENCE: Duration = Duration::from_secs(3600);
/// Longest wait for the next piece of a request body (where a route does not say otherwise), and for a client to take the
/// next piece of an answer.
const CLIENT_SILENCE: Duration = Duration::from_secs(60);
/// Attempts to connect before giving up; more than one only when the name has several addresses.
const CONNECTS: u8 = 3;

/// The proxy.
#[derive(Debug)]
pub struct Proxy {
    live: Arc<ArcSwap<Live>>,
    refresher: Arc<Refresher>,
    clock: SharedClock,
    in_flight: Arc<InFlight>,
}

impl Proxy {
    /// Puts it together.
    pub fn new(
        live: Arc<ArcSwap<Live>>,
        refresher: Arc<Refresher>,
        clock: SharedClock,
        in_flight: Arc<InFlight>,
    ) -> Self {
        Self {
            live,
            refresher,
            clock,
            in_flight,
        }
    }

    /// The application that connections are handed to. `keepalive` idle upstream connections are kept in all.
    pub fn into_app(self, keepalive: usize) -> Guarded<Self> {
        let conf = pingora::server::configuration::ServerConf {
            upstream_keepalive_pool_size: keepalive.max(1),
            max_retries: usize::from(CONNECTS),
            ..Default::default()
        };
        let mut proxy = HttpProxy::new(self, Arc::new(conf));
        proxy.handle_init_modules();
        Guarded::new(proxy)
    }

    async fn answer(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        taken: Result<Taken, Refusal>,
    ) -> pingora::Result<Option<Answer>> {
        let refusal = match taken {
            Ok(Taken::Own(endpoint)) => {
                ctx.own = true;
                ctx.decision = "own";
                let endpoints = Endpoints {
                    ctx,
                    refresher: &self.refresher,
                    clock: &self.clock,
                };
                return endpoints.answer(endpoint, session).await.map(Some);
            }
            Ok(Taken::Routed) => {
                let live = &ctx.live;
                // `take_in` has just set the route.
                let Some(route) = ctx.route.map(|index| &live.config.routes[index]) else {
                    return Ok(None);
                };
                let asked = Asked {
                    route,
                    head: session.req_header(),
                    upgrade: ctx.upgrade,
                    waited: &ctx.waited,
                };
                let now = self.clock.now();
                match decide::decide(live, &self.refresher, &asked, now, &mut ctx.session).await {
                    Ok(signed_in) => {
                        if let Some((id, signed_in)) = signed_in {
                            if route.token.kind == TokenKind::Access {
                                let left = decide::token_left(&signed_in, self.clock.now());
                                live.own.metrics().token_forwarded(left);
                            }
                            ctx.said.0 = session.req_header().method.clone();
                            let bond = Bond::with_token(route.token.kind != TokenKind::None);
                            ctx.seat = guard::mount(session, &live.streams, id, bond);
                            ctx.session = Some(signed_in);
                        }
                        ctx.decision = "forward";
                        return Ok(None);
                    }
                    Err(refusal) => refusal,
                }
            }
            Err(refusal) => refusal,
        };
        let head = session.req_header().as_owned_parts();
        Ok(Some(respond::refuse_or_login(ctx, &head, refusal).await))
    }
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        // Who sent it is known once the head is looked at.
        let nobody = Client {
            ip: std::net::Ipv4Addr::UNSPECIFIED.into(),
            proto_https: false,
            host: None,
            peer: None,
            trusted: false,
        };
        Context::new(
            self.live.load_full(),
            RequestId::unknown(),
            nobody,
            &self.in_flight,
        )
    }

    async fn request_filter(
        &self,
        session: &mut Session,
        ctx: &mut Context,
    ) -> pingora::Result<bool> {
        guard::header_read(session);
        let taken = intake::take_in(session, ctx);
        let silence = match ctx.route {
            Some(_) if ctx.upgrade => STREAM_SILENCE,
            Some(route) => ctx.live.config.routes[route].limits.timeout,
            None => CLIENT_SILENCE,
        };
        // Each deadline is a timer per read or write: a request without body has nothing more to read.
        if ctx.has_body || ctx.upgrade {
            session.set_read_timeout(Some(silence));
        }
        let Some(answer) = self.answer(session, ctx, taken).await? else {
            return Ok(false);
        };
        ctx.answered = Some(answer.status());
        ctx.began = Some(Instant::now());
        match ctx.events_of.take() {
            Some(events) => events.tell(session, ctx, answer).await?,
            None => answer.write(session, ctx.request_id.to_value()).await?,
        }
        Ok(true)
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        ctx: &mut Context,
    ) -> pingora::Result<Box<HttpPeer>> {
        let route = ctx
            .route
            .ok_or_else(|| Error::explain(ErrorType::InternalError, "no route"))?;
        let live = &ctx.live;
        let upstream = live.routes[route]
            .upstream
            .as_ref()
            .ok_or_else(|| Error::explain(ErrorType::InternalError, "route without upstream"))?;
        ctx.connects += 1;
        ctx.connecting = Some(Instant::now());
        // A retry sends the body again from its start.
        ctx.body = 0;
        let Ok(mut peer) = upstream.peer().await else {
            ctx.unresolved = true;
            ctx.connected();
            return Err(Error::explain(ErrorType::ConnectError, "name not resolved").into_up());
        };
        let limit = live.config.routes[route].limits.timeout;
        let silence = if ctx.upgrade || ctx.events {
            // The client says that a stream will come; the upstream must still begin its answer in time.
            guard::answer_within(session, Some(limit));
            STREAM_SILENCE
        } else {
            upstream
                .config
                .read_timeout
                .min(live.config.routes[route].limits.timeout)
        };
        peer.options.read_timeout = Some(silence);
        if ctx.has_body || ctx.upgrade {
            // A head alone always fits into the socket's buffer.
            peer.options.write_timeout = Some(silence);
        }
        if ctx.upgrade {
            upstream.for_upgrade(&mut peer);
        }
        Ok(Box::new(peer))
    }

    async fn connected_to_upstream(
        &self,
        _: &mut Session,
        reused: bool,
        _: &HttpPeer,
        _: std::os::unix::io::RawFd,
        _: Option<&Digest>,
        ctx: &mut Context,
    ) -> pingora::Result<()> {
        // One that was kept is taken up at once.
        if !reused {
            ctx.connected();
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        _: &mut Session,
        upstream: &mut RequestHeader,
        ctx: &mut Context,
    ) -> pingora::Result<()> {
        if let Some(index) = ctx.route {
            let live = &ctx.live;
            forward::request(upstream, ctx, &live.table.routes()[index])?;
        }
        ctx.sent = Some(Instant::now());
        Ok(())
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        _: bool,
        ctx: &mut Context,
    ) -> pingora::Result<()> {
        if session.was_upgraded() {
            if let (Some((_, received)), Some(bytes)) = (&mut ctx.frames, body) {
                received.passed(bytes);
            }
        } else if let (Some(chunk), Some(route)) = (body, ctx.route) {
            ctx.body += chunk.len() as u64;
            if ctx.body > ctx.live.config.routes[route].limits.body {
                ctx.refusal = Some(Refusal::BodyTooLarge);
                return Err(
                    Error::explain(ErrorType::HTTPStatus(413), "body too large").into_down()
                );
            }
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> pingora::Result<()> {
        let Some(index) = ctx.route else {
            return Ok(());
        };
        if head.status == http::StatusCode::SWITCHING_PROTOCOLS && !ctx.upgrade {
            // Nobody asked for it (RFC 9110 §15.2.2): what would follow is no HTTP, and no answer to this request.
            let error = Error::explain(ErrorType::InvalidHTTPHeader, "unasked upgrade");
            return Err(error.into_up());
        }
        let live = &ctx.live;
        if !head.status.is_informational() || head.status == http::StatusCode::SWITCHING_PROTOCOLS {
            if ctx.upgrade || ctx.events {
                guard::answer_within(session, None);
            }
            if let (Some(sent), Some(upstream)) = (ctx.sent, &live.routes[index].upstream) {
                let took = sent.elapsed();
                ctx.upstream_took = Some(took);
                upstream.series.answered(took);
            }
            ctx.said.1 = Some(head.status);
            let upgraded = head.status == http::StatusCode::SWITCHING_PROTOCOLS;
            let kind = head.headers.get(header::CONTENT_TYPE);
            let begins = |with: &[u8]| kind.is_some_and(|kind| kind.as_bytes().starts_with(with));
            let streams = upgraded || begins(b"text/event-stream");
            if upgraded {
                ctx.frames = Some(Default::default());
            }
            if (streams || begins(b"application/grpc")) && !ctx.streaming {
                ctx.streaming = true;
                live.routes[index].series.stream(true);
            }
            if streams {
                session.set_write_timeout(Some(STREAM_SILENCE));
                if let Some(seat) = &ctx.seat {
                    seat.watch();
                }
            } else if !is_small(head) {
                // What is small fits into the socket's buffer: nothing to wait for, and a timer saved.
                session.set_write_timeout(Some(CLIENT_SILENCE));
            }
        }
        forward::response(head, ctx, &live.table.routes()[index])
    }

    fn response_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        _: bool,
        ctx: &mut Context,
    ) -> pingora::Result<Option<Duration>> {
        if let (Some((sent, _)), Some(bytes)) = (&mut ctx.frames, body) {
            sent.passed(bytes);
        }
        Ok(None)
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Context) {
        let status = session.response_written().map(|head| head.status);
        account::account(ctx, &session.req_header().method, status);
        // What is left of the request's body is still to be read, and ends with the session.
        if error.is_none()
            && session.as_downstream_mut().is_body_done()
            && let Some(seat) = ctx.seat.take()
        {
            seat.answered();
        }
    }

    fn fail_to_connect(
        &self,
        _: &mut Session,
        _: &HttpPeer,
        ctx: &mut Context,
        mut error: Box<Error>,
    ) -> Box<Error> {
        ctx.connected();
        // Nothing was sent, so any method may try the next address.
        let more = ctx
            .route
            .and_then(|index| ctx.live.routes[index].upstream.as_ref())
            .is_some_and(|upstream| upstream.has_alternatives());
        error.set_retry(more && ctx.connects < CONNECTS);
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Context,
    ) -> FailToProxy {
        if let Some(why) = ctx.seat.as_ref().and_then(Seat::ended) {
            return ending::end(session, ctx, error, why).await;
        }
        let refusal = match error.etype() {
            ErrorType::HTTPStatus(413) => Some(Refusal::BodyTooLarge),
            ErrorType::HTTPStatus(_) => {
                Some(Refusal::Malformed("The message cannot be forwarded."))
            }
            _ => match error.esource() {
                // The upstream waited for the rest of the body, too: whose clock strikes first is chance.
                ErrorSource::Upstream
                    if *error.etype() == ErrorType::ReadTimedout
                        && ctx.has_body
                        && !session.as_downstream_mut().is_body_done() =>
                {
                    Some(Refusal::BodyTooSlow)
                }
                ErrorSource::Upstream => Some(Refusal::Upstream(upstream_error(
                    error.etype(),
                    ctx.unresolved,
                ))),
                // The client is gone, or its message broke off: nobody is left to answer.
                ErrorSource::Downstream
                    if matches!(
                        error.etype(),
                        ErrorType::WriteError
                            | ErrorType::ReadError
                            | ErrorType::ConnectionClosed
                            | ErrorType::WriteTimedout
                    ) =>
                {
                    None
                }
                ErrorSource::Downstream if *error.etype() == ErrorType::ReadTimedout => {
                    Some(Refusal::BodyTooSlow)
                }
                ErrorSource::Downstream => Some(Refusal::Malformed("The message cannot be read.")),
                ErrorSource::Internal | ErrorSource::Unset => Some(Refusal::Internal),
            },
        };
        let mut code = 0;
        if let Some(refusal) = refusal {
            if let (Refusal::Upstream(reason), Some(upstream)) = (
                &refusal,
                ctx.route
                    .and_then(|index| ctx.live.routes[index].upstream.clone()),
            ) {
                ctx.live
                    .own
                    .metrics()
                    .upstream_error(&upstream.config.name, *reason);
                tracing::warn!(
                    upstream = &*upstream.config.name,
                    reason = reason.label(),
                    request.id = ctx.request_id.as_str(),
                    "upstream gave no answer"
                );
            } else if refusal == Refusal::Internal {
                tracing::error!(
                    kind = error.etype().as_str(),
                    request.id = ctx.request_id.as_str(),
                    "request failed"
                );
            }
            code = refusal.status().as_u16();
            if session.response_written().is_none() {
                ctx.began = Some(Instant::now());
                let head = session.req_header().as_owned_parts();
                let answer = respond::refuse(ctx, &head, &refusal).closing(true);
                let _ = answer.write(session, ctx.request_id.to_value()).await;
            } else {
                ctx.refusal = Some(refusal);
            }
        }
        FailToProxy {
            error_code: code,
            can_reuse_downstream: false,
        }
    }

    /// pingora's own lines hold request targets and header bytes: `logging` and `fail_to_proxy` say what is worth saying.
    fn suppress_error_log(&self, _: &Session, _: &Context, _: &Error) -> bool {
        true
    }

    fn request_summary(&self, _: &Session, ctx: &Context) -> String {
        ctx.request_id.as_str().to_owned()
    }
}

/// Whether an answer fits into the socket's buffer whatever the client does.
fn is_small(head: &ResponseHeader) -> bool {
    const SMALL: u64 = 16 * 1024;
    let length = head.headers.get(header::CONTENT_LENGTH);
    length
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok())
        .is_some_and(|length| length <= SMALL)
}

fn upstream_error(kind: &ErrorType, unresolved: bool) -> UpstreamError {
    match kind {
        _ if unresolved => UpstreamError::Resolve,
        ErrorType::ConnectTimedout | ErrorType::ReadTimedout | ErrorType::WriteTimedout => {
            UpstreamError::Timeout
        }
        ErrorType::ConnectRefused
        | ErrorType::ConnectNoRoute
        | ErrorType::ConnectError
        | ErrorType::ConnectProxyFailure
        | ErrorType::SocketError => UpstreamError::Connect,
        ErrorType::TLSHandshakeFailure
        | ErrorType::TLSHandshakeTimedout
        | ErrorType::InvalidCert
        | ErrorType::HandshakeError => UpstreamError::Tls,
        _ => UpstreamError::Protocol,
    }
}
