//! Runs an HTTP server on a thread of its own, and can stop it as if its machine were gone.

use std::fmt;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

/// Body of every answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, Cut>;
/// What a handler gives; `Err` cuts the connection without an answer.
pub(crate) type Answer = Result<Response<Body>, Cut>;

/// The connection is to be cut here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut;

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("cut on purpose")
    }
}

impl std::error::Error for Cut {}

/// Who is at the other end of a request's connection (an extension of the request).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// What is spoken on a port.
#[derive(Clone)]
pub(crate) enum Wire {
    /// HTTP/1.1, upgrades included.
    Http1,
    /// HTTP/2 with prior knowledge.
    H2c,
    /// TLS; ALPN decides.
    Tls(Arc<rustls::ServerConfig>),
}

/// A running server; stops when dropped.
#[derive(Debug)]
pub(crate) struct Host {
    runtime: Option<Runtime>,
}

impl Host {
    /// Starts an empty host; add ports with [`Host::serve`].
    pub(crate) fn new(name: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(name)
            .enable_all()
            .build()
            .expect("a runtime starts");
        Self {
            runtime: Some(runtime),
        }
    }

    /// Binds `address` and answers with `handler` there.
    pub(crate) fn serve<H, F>(&self, address: SocketAddr, wire: Wire, handler: H) -> SocketAddr
    where
        H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Answer> + Send + 'static,
    {
        let listener = bind(address);
        let bound = listener
            .local_addr()
            .expect("a bound socket has an address");
        let runtime = self
            .runtime
            .as_ref()
            .expect("ports are added while the host runs");
        let entered = runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener).expect("the socket suits tokio");
        drop(entered);
        runtime.spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, peer)) => {
                        // Small answers must not wait for a delayed acknowledgement.
                        let _ = stream.set_nodelay(true);
                        tokio::spawn(connection(stream, peer, wire.clone(), handler.clone()));
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        });
        bound
    }

    /// Closes every port and connection; returns when connecting is refused.
    pub(crate) fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A runtime must not be waited for on a thread of another one.
            let stopper =
                std::thread::spawn(move || runtime.shutdown_timeout(Duration::from_secs(2)));
            let _ = stopper.join();
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn connection<H, F>(stream: tokio::net::TcpStream, peer: SocketAddr, wire: Wire, handler: H)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        handler(request)
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .max_buf_size(2 << 20);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(2 << 20);
    // How a connection ends is the test's business, not ours.
    let _ = match wire {
        Wire::Http1 => {
            let only = builder.http1_only();
            only.serve_connection_with_upgrades(TokioIo::new(stream), service)
                .await
        }
        Wire::H2c => {
            let only = builder.http2_only();
            only.serve_connection(TokioIo::new(stream), service).await
        }
        Wire::Tls(config) => match TlsAcceptor::from(config).accept(stream).await {
            Ok(stream) => {
                builder
                    .serve_connection_with_upgrades(TokioIo::new(stream), service)
                    .await
            }
            Err(_) => return,
        },
    };
}

/// Binds at once, or as soon as a server that was just stopped has let go of the port.
fn bind(address: SocketAddr) -> TcpListener {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match TcpListener::bind(address) {
            Ok(listener) => {
                listener
                    .set_nonblocking(true)
                    .expect("a socket can be set non-blocking");
                return listener;
            }
            Err(error) if Instant::now() > deadline => panic!("cannot bind {address}: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// A body that is there at once.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// An answer with one content type and no caching.
pub(crate) fn respond(status: u16, content_type: &str, body: impl Into<Bytes>) -> Response<Body> {
    Response::builder()
        .status(status)
        .header("content-type", content_type)
        .header("cache-control", "no-store")
        .body(full(body))
        .expect("fixed headers are valid")
}

/// A JSON answer.
pub(crate) fn json(status: u16, value: &serde_json::Value) -> Response<Body> {
    respond(status, "application/json", value.to_string())
}
