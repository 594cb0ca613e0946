//! Carries one request through the phases, and accounts for it at the end however it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use tokio::sync::Notify;

use crate::clock::Waited;
use crate::metrics::{RouteSeries, StreamEnd};
use crate::session::Session;
use crate::streams::Seat;
use crate::streams::websocket::Frames;
use crate::web::forwarded::Client;
use crate::web::trace::RequestId;

use super::account;
use super::events::Events;
use super::live::Live;
use super::refusal::Refusal;

/// One request.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own about the request"
)]
pub struct Context {
    /// When its header had been read.
    pub(super) started: Instant,
    /// The configuration it began with; a reload in between does not concern it.
    pub(super) live: Arc<Live>,
    /// Its id, ours or a trusted proxy's.
    pub(super) request_id: RequestId,
    /// Who sent it, as far as that can be believed.
    pub(super) client: Client,
    /// Index of the public origin it came to.
    pub(super) origin: usize,
    /// It came to one of our own endpoints.
    pub(super) own: bool,
    /// Index of its route.
    pub(super) route: Option<usize>,
    /// Canonical path (before a rewrite), for the log.
    pub(super) path: Option<String>,
    /// Target to send upstream in origin-form, when it differs from what came in.
    pub(super) target: Option<Vec<u8>>,
    /// The session it rides on, or was refused with.
    pub(super) session: Option<Arc<Session>>,
    /// Hash of who has just signed in: the session is the store's by then.
    pub(super) signed_in: Option<String>,
    /// What was decided, for the log: `forward`, `login`, `refuse`, `own`.
    pub(super) decision: &'static str,
    /// Why it was refused.
    pub(super) refusal: Option<Refusal>,
    /// Status of our own answer, when we gave one.
    pub(super) answered: Option<StatusCode>,
    /// A body follows, or may.
    pub(super) has_body: bool,
    /// It asks for an upgrade.
    pub(super) upgrade: bool,
    /// It expects a stream of events.
    pub(super) events: bool,
    /// It is counted as an open stream.
    pub(super) streaming: bool,
    /// Its place among those that ride on a session.
    pub(super) seat: Option<Seat>,
    /// Method and status, for those that end before the account is made.
    pub(super) said: (Method, Option<StatusCode>),
    /// What went to the client of a WebSocket, and what came from it.
    pub(super) frames: Option<(Frames, Frames)>,
    /// Why it was ended before its time.
    pub(super) ended: Option<StreamEnd>,
    /// The page's listening to its session.
    pub(super) events_of: Option<Box<Events>>,
    /// Body bytes seen.
    pub(super) body: u64,
    /// When an upstream's connection was asked for.
    pub(super) connecting: Option<Instant>,
    /// When it went upstream.
    pub(super) sent: Option<Instant>,
    /// When an answer of our own began. How long it takes from then on is the client's doing, or a stream's.
    pub(super) began: Option<Instant>,
    /// How long it waited for others before either: for the provider, the upstream's connection, the client's form.
    pub(super) waited: Waited,
    /// How long the upstream took for its response header.
    pub(super) upstream_took: Option<Duration>,
    /// Attempts to connect.
    pub(super) connects: u8,
    /// Name resolution failed.
    pub(super) unresolved: bool,
    /// Accounted for in metrics and log.
    pub(super) accounted: bool,
    _in_flight: InFlightGuard,
}

impl Context {
    /// A request whose header has just been read.
    pub(super) fn new(
        live: Arc<Live>,
        request_id: RequestId,
        client: Client,
        in_flight: &Arc<InFlight>,
    ) -> Self {
        Self {
            started: Instant::now(),
            live,
            request_id,
            client,
            origin: 0,
            own: false,
            route: None,
            path: None,
            target: None,
            session: None,
            signed_in: None,
            decision: "refuse",
            refusal: None,
            answered: None,
            has_body: false,
            upgrade: false,
            events: false,
            streaming: false,
            seat: None,
            said: (Method::GET, None),
            frames: None,
            ended: None,
            events_of: None,
            body: 0,
            connecting: None,
            sent: None,
            began: None,
            waited: Waited::default(),
            upstream_took: None,
            connects: 0,
            unresolved: false,
            accounted: false,
            _in_flight: InFlight::enter(in_flight),
        }
    }

    /// The upstream's connection is there, or will not be: what that took was not ours.
    pub(super) fn connected(&mut self) {
        if let Some(since) = self.connecting.take() {
            self.waited.add(since.elapsed());
        }
    }

    /// The series it counts in.
    pub(super) fn series(&self) -> &RouteSeries {
        let live = &self.live;
        match self.route {
            Some(index) => &live.routes[index].series,
            None if self.own => &live.own,
            None => &live.unrouted,
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // `logging` is not called for requests whose future is dropped (a drain that ran out, a stream cut off): the gauge
        // must not leak, and who was cut off must be seen.
        self.ended = self
            .ended
            .or_else(|| self.seat.as_ref().and_then(Seat::ended));
        if self.ended.is_some() {
            let (method, status) = self.said.clone();
            account::account(self, &method, status);
        }
        if self.streaming {
            self.series().stream(false);
        }
    }
}

/// Counts requests under way, so that a drain knows when it is done.
#[derive(Debug, Default)]
pub struct InFlight {
    count: AtomicUsize,
    empty: Notify,
}

impl InFlight {
    fn enter(this: &Arc<Self>) -> InFlightGuard {
        this.count.fetch_add(1, Ordering::Relaxed);
        InFlightGuard(this.clone())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Resolves when there is none.
    ///
    /// # Cancel safety
    /// Cancel safe: it only looks.
    pub async fn drained(&self) {
        loop {
            let empty = self.empty.notified();
            if self.count() == 0 {
                return;
            }
            empty.await;
        }
    }
}

#[derive(Debug)]
struct InFlightGuard(Arc<InFlight>);

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.empty.notify_waiters();
        }
    }
}
