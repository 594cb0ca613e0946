//! Notes at the connection where a request is and on whose session it rides, and bounds how long a stream's upstream may take
//! to begin its answer.
//!
//! An HTTP/1.1 connection carries one request at a time: its watch in `listen` ends it when a step does not come. In
//! HTTP/2 only the one stream may end: its future is dropped here.

use std::future::poll_fn;
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::H2Options;
use pingora::proxy::{HttpProxy, ProxyHttp, Session};
use pingora::server::ShutdownWatch;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::listen::Activity;
use crate::session::SessionId;
use crate::streams::{Bond, Cut, Seat, Streams};

/// An HTTP/2 connection without streams is closed after this.
const H2_IDLE: Duration = Duration::from_secs(75);

/// What may end an HTTP/2 stream: its answer has not begun when it must have, or its session is over.
#[derive(Debug, Default)]
struct Limit {
    answer_by: Mutex<Option<Instant>>,
    changed: Notify,
    cut: OnceLock<Arc<Cut>>,
}

tokio::task_local! {
    static LIMIT: Arc<Limit>;
}

/// A request's header has been read.
pub(super) fn header_read(session: &Session) {
    if let Some(activity) = Activity::of(session.as_downstream()) {
        activity.is_busy();
    }
}

/// Notes that the request rides on a session: when that is over, it ends. `None` only where there is no connection of ours.
pub(super) fn mount(
    session: &Session,
    streams: &Streams,
    id: SessionId,
    bond: Bond,
) -> Option<Seat> {
    let downstream = session.as_downstream();
    let riders = Activity::of(downstream)?.riders();
    if !downstream.is_http2() {
        return Some(riders.mount(streams, id, bond, None));
    }
    let cut = LIMIT.try_with(|this| this.cut.get_or_init(Arc::default).clone());
    Some(riders.mount(streams, id, bond, Some(cut.ok()?)))
}

/// Sets, or with `None` lifts, the time by which the answer must have begun. Only for requests whose reads are not
/// limited otherwise: when it passes there is no answer, just an end.
pub(super) fn answer_within(session: &Session, limit: Option<Duration>) {
    let downstream = session.as_downstream();
    if downstream.is_http2() {
        let _ = LIMIT.try_with(|this| {
            *this.answer_by.lock() = limit.map(|limit| Instant::now() + limit);
            this.changed.notify_one();
        });
        return;
    }
    match (Activity::of(downstream), limit) {
        (Some(activity), Some(limit)) => activity.expect_within(limit),
        (Some(activity), None) => activity.is_busy(),
        (None, _) => {}
    }
}

/// A proxy whose connections cannot be held without sending a request.
pub struct Guarded<P> {
    proxy: Arc<HttpProxy<P>>,
    options: HttpServerOptions,
}

impl<P> std::fmt::Debug for Guarded<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Guarded(..)")
    }
}

impl<P> Guarded<P> {
    pub(super) fn new(proxy: HttpProxy<P>) -> Self {
        let mut options = HttpServerOptions::default();
        options.h2_idle_timeout = Some(H2_IDLE);
        Self {
            proxy: Arc::new(proxy),
            options,
        }
    }
}

#[async_trait]
impl<P> HttpServerApp for Guarded<P>
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync,
{
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        if !session.is_http2() {
            if let Some(activity) = Activity::of(&session) {
                activity.waits();
            }
            return self.proxy.process_new_http(session, shutdown).await;
        }
        let limit = Arc::new(Limit::default());
        let request = self.proxy.process_new_http(session, shutdown);
        let request = LIMIT.scope(limit.clone(), request);
        tokio::pin!(request);
        loop {
            let answer_by = *limit.answer_by.lock();
            tokio::select! {
                biased;
                next = &mut request => return next,
                () = limit.changed.notified() => {}
                () = cut_off(&limit) => return None,
                () = reached(answer_by) => {
                    tracing::warn!("upstream began no answer to a stream in time; stream closed");
                    return None;
                }
            }
        }
    }

    async fn http_cleanup(&self) {
        self.proxy.http_cleanup().await;
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }

    fn h2_options(&self) -> Option<H2Options> {
        None
    }
}

/// Resolves when the request's session is over. What it rides on becomes known while the request is polled, just before.
async fn cut_off(limit: &Limit) {
    poll_fn(|cx| match limit.cut.get() {
        Some(cut) if cut.poll(cx) => Poll::Ready(()),
        _ => Poll::Pending,
    })
    .await;
}

async fn reached(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
