//! Bounds how long a connection may take to send a request's header, and a stream's upstream to begin its answer.
//!
//! pingora limits each read, not their sum: a byte a minute would hold a connection for ever. The request future is
//! dropped here when a deadline passes, and the connection with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::H2Options;
use pingora::proxy::{HttpProxy, ProxyHttp};
use pingora::server::ShutdownWatch;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::listen::Activity;

/// Longest time from an idle connection to a complete request header: pingora's 60 s of keep-alive, and then some to send it.
const HEADER: Duration = Duration::from_secs(75);
/// An HTTP/2 connection without streams is closed after this.
const H2_IDLE: Duration = Duration::from_secs(75);

/// What the request tells its guard.
#[derive(Debug, Default)]
struct Progress {
    header_read: AtomicBool,
    answer_by: Mutex<Option<Instant>>,
    changed: Notify,
}

tokio::task_local! {
    static PROGRESS: Arc<Progress>;
}

/// To be called when a request's header has been read.
pub(super) fn header_read() {
    let _ = PROGRESS.try_with(|progress| progress.header_read.store(true, Ordering::Release));
}

/// Sets, or with `None` lifts, the time by which the answer must have begun. Only for requests whose reads are not
/// limited otherwise: when it passes there is no answer, just an end.
pub(super) fn answer_within(limit: Option<Duration>) {
    let _ = PROGRESS.try_with(|progress| {
        *progress.answer_by.lock() = limit.map(|limit| Instant::now() + limit);
        progress.changed.notify_one();
    });
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
        Activity::of(&session);
        let progress = Arc::new(Progress::default());
        let request = PROGRESS.scope(
            progress.clone(),
            self.proxy.process_new_http(session, shutdown),
        );
        tokio::pin!(request);
        let header_by = Instant::now() + HEADER;
        let mut header_read = false;
        loop {
            let answer_by = *progress.answer_by.lock();
            let deadline = if header_read {
                answer_by
            } else {
                Some(answer_by.unwrap_or(header_by))
            };
            tokio::select! {
                biased;
                next = &mut request => return next,
                () = progress.changed.notified() => {}
                () = reached(deadline) => {
                    if answer_by.is_some_and(|by| by <= Instant::now()) {
                        tracing::warn!("upstream began no answer to a stream in time; connection closed");
                        return None;
                    }
                    if !progress.header_read.load(Ordering::Acquire) {
                        return None;
                    }
                    header_read = true;
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

async fn reached(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
