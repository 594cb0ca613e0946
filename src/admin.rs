//! Serves `/metrics`, `/healthz` and `/readyz` on a port of their own, and knows what "ready" means.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use http::{Method, Response, StatusCode, header};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;

use crate::listen::Activity;
use crate::metrics::Metrics;

/// Whether this process should get traffic.
///
/// Ready means: configuration loaded, listeners bound, the session store reached once since the start, not draining. A
/// store that goes away later, or a provider that is down, does not make it unready: every replica would be, at once,
/// and cached or public answers are better than none (K8S-03).
#[derive(Debug, Default)]
pub struct Health {
    store_reached: AtomicBool,
    store_up: AtomicBool,
    providers_up: AtomicBool,
    draining: AtomicBool,
}

impl Health {
    /// The store answered (or did not).
    pub fn store(&self, up: bool) {
        self.store_up.store(up, Ordering::Relaxed);
        if up {
            self.store_reached.store(true, Ordering::Relaxed);
        }
    }

    /// All providers' metadata are at hand (or not).
    pub fn providers(&self, up: bool) {
        self.providers_up.store(up, Ordering::Relaxed);
    }

    /// Shutdown has begun.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether traffic should come.
    pub fn ready(&self) -> bool {
        self.store_reached.load(Ordering::Relaxed) && !self.draining.load(Ordering::Relaxed)
    }

    fn report(&self) -> String {
        let word = |good: bool, bad: &'static str| if good { "ok" } else { bad };
        let store = match (
            self.store_up.load(Ordering::Relaxed),
            self.store_reached.load(Ordering::Relaxed),
        ) {
            (true, _) => "ok",
            (false, true) => "unreachable",
            (false, false) => "not_reached_yet",
        };
        serde_json::json!({
            "status": word(self.ready(), "unready"),
            "checks": {
                "config": "ok",
                "listeners": "ok",
                "store": store,
                "providers": word(self.providers_up.load(Ordering::Relaxed), "unreachable"),
                "draining": word(!self.draining.load(Ordering::Relaxed), "draining"),
            },
        })
        .to_string()
    }
}

/// The admin application.
#[derive(Debug)]
pub struct Admin {
    metrics: Arc<Metrics>,
    health: Arc<Health>,
}

impl Admin {
    /// Puts it together.
    pub fn new(metrics: Arc<Metrics>, health: Arc<Health>) -> Self {
        Self { metrics, health }
    }

    fn answer(&self, method: &Method, path: &str) -> (StatusCode, &'static str, Vec<u8>) {
        const TEXT: &str = "text/plain; charset=utf-8";
        if method != Method::GET && method != Method::HEAD {
            return (StatusCode::METHOD_NOT_ALLOWED, TEXT, b"only GET\n".to_vec());
        }
        match path {
            "/metrics" => match self.metrics.encode() {
                Ok(body) => (
                    StatusCode::OK,
                    "text/plain; version=0.0.4; charset=utf-8",
                    body,
                ),
                Err(error) => {
                    tracing::error!(%error, "metrics cannot be encoded");
                    (StatusCode::INTERNAL_SERVER_ERROR, TEXT, Vec::new())
                }
            },
            // Liveness is this process's own pulse and nothing else (K8S-04).
            "/healthz" => (StatusCode::OK, TEXT, b"ok\n".to_vec()),
            "/readyz" => {
                let status = if self.health.ready() {
                    StatusCode::OK
                } else {
                    StatusCode::SERVICE_UNAVAILABLE
                };
                (
                    status,
                    "application/json",
                    self.health.report().into_bytes(),
                )
            }
            _ => (
                StatusCode::NOT_FOUND,
                TEXT,
                b"try /metrics, /healthz or /readyz\n".to_vec(),
            ),
        }
    }
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        if let Some(activity) = Activity::of(session) {
            activity.waits();
        }
        let head = session.req_header();
        let (status, kind, body) = self.answer(&head.method, head.uri.path());
        let length = body.len();
        let mut response = Response::new(if head.method == Method::HEAD {
            Vec::new()
        } else {
            body
        });
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
        headers.insert(header::CONTENT_LENGTH, header::HeaderValue::from(length));
        headers.insert(
            header::CACHE_CONTROL,
            header::HeaderValue::from_static("no-store"),
        );
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_waits_for_the_store_once_and_then_holds() {
        let health = Health::default();
        assert!(!health.ready(), "before the store was reached");
        health.store(true);
        assert!(health.ready(), "reached");
        health.store(false);
        assert!(
            health.ready(),
            "a store that goes away does not take every replica out"
        );
        assert!(health.report().contains("unreachable"));
        health.providers(false);
        assert!(health.ready(), "nor does a provider");
        health.drain();
        assert!(!health.ready(), "draining");
    }
}
