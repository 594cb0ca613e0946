//! Bounds how long a connection may take to send a request's header.
//!
//! pingora limits each read, not their sum: a byte a minute would hold a connection for ever. The request future is
//! dropped here when no header has been read in time; once it has, other limits apply.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::H2Options;
use pingora::proxy::{HttpProxy, ProxyHttp};
use pingora::server::ShutdownWatch;

/// Longest time from an idle connection to a complete request header: pingora's 60 s of keep-alive, and then some to send it.
const HEADER: Duration = Duration::from_secs(75);
/// An HTTP/2 connection without streams is closed after this.
const H2_IDLE: Duration = Duration::from_secs(75);

tokio::task_local! {
    static HEADER_READ: Arc<AtomicBool>;
}

/// To be called when a request's header has been read.
pub(super) fn header_read() {
    let _ = HEADER_READ.try_with(|read| read.store(true, Ordering::Release));
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
        let read = Arc::new(AtomicBool::new(false));
        let request =
            HEADER_READ.scope(read.clone(), self.proxy.process_new_http(session, shutdown));
        tokio::pin!(request);
        tokio::select! {
            biased;
            next = &mut request => return next,
            () = tokio::time::sleep(HEADER) => {}
        }
        if read.load(Ordering::Acquire) {
            request.await
        } else {
            None
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
