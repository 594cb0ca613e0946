//! Looks the hot path's series up once, so that counting a request costs a few atomic additions.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{Method, StatusCode};
use prometheus::{Histogram, IntCounter, IntGauge};

use super::{CacheResult, Metrics};

/// Codes that nearly all answers have; the others are looked up each time.
const CODES: [u16; 18] = [
    200, 201, 202, 204, 206, 301, 302, 303, 304, 400, 401, 403, 404, 409, 500, 502, 503, 504,
];

/// Series of the session cache.
#[derive(Debug)]
pub struct CacheSeries([IntCounter; CacheResult::ALL.len()]);

impl CacheSeries {
    /// Looks the series up.
    pub fn new(metrics: &Metrics) -> Self {
        Self(std::array::from_fn(|at| {
            let label = CacheResult::ALL[at].label();
            let requests = &metrics.session_cache_requests_total;
            requests.with_label_values(&[label])
        }))
    }

    /// A session was looked up.
    pub fn count(&self, result: CacheResult) {
        self.0[result as usize].inc();
    }
}

/// Series of one route.
#[derive(Debug)]
pub struct RouteSeries {
    metrics: Arc<Metrics>,
    route: Arc<str>,
    access: &'static str,
    requests: [[OnceLock<IntCounter>; CODES.len()]; METHODS.len()],
    duration: Histogram,
    overhead: Histogram,
    streams: IntGauge,
}

const METHODS: [&str; 8] = [
    "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "other",
];

/// A method's label: one of the usual ones, else `other`, so that clients cannot make series up.
pub fn method_label(method: &Method) -> &'static str {
    METHODS[method_index(method)]
}

fn method_index(method: &Method) -> usize {
    METHODS
        .iter()
        .position(|known| *known == method.as_str())
        .unwrap_or(METHODS.len() - 1)
}

impl RouteSeries {
    /// Looks the series up, and starts them at zero.
    pub fn new(metrics: &Arc<Metrics>, route: &Arc<str>, access: &'static str) -> Self {
        metrics.know_route(route);
        // Method and status of what will come are open; one series shows that the metric is there.
        metrics
            .http_requests_total
            .with_label_values(&[&**route, access, METHODS[0], "200"]);
        Self {
            metrics: metrics.clone(),
            route: route.clone(),
            access,
            requests: Default::default(),
            duration: metrics
                .http_request_duration_seconds
                .with_label_values(&[&**route]),
            overhead: metrics.overhead_seconds.with_label_values(&[&**route]),
            streams: metrics.streams_active.with_label_values(&[&**route]),
        }
    }

    /// The route's name.
    pub fn route(&self) -> &Arc<str> {
        &self.route
    }

    /// Label of the access mode.
    pub fn access(&self) -> &'static str {
        self.access
    }

    /// The metrics these belong to.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// A request was answered. `own` is the time spent in daypass.
    pub fn answered(&self, method: &Method, status: StatusCode, took: Duration, own: Duration) {
        let method = method_index(method);
        let code = status.as_u16();
        match CODES.iter().position(|known| *known == code) {
            Some(column) => self.requests[method][column]
                .get_or_init(|| self.counter(METHODS[method], code))
                .inc(),
            None => self.counter(METHODS[method], code).inc(),
        }
        self.duration.observe(took.as_secs_f64());
        self.overhead.observe(own.as_secs_f64());
    }

    /// A stream opened (or, with `false`, closed).
    pub fn stream(&self, open: bool) {
        if open {
            self.streams.inc();
        } else {
            self.streams.dec();
        }
    }

    fn counter(&self, method: &str, code: u16) -> IntCounter {
        let mut digits = [b'0'; 3];
        for (digit, divisor) in digits.iter_mut().zip([100, 10, 1]) {
            *digit += u8::try_from(code / divisor % 10).unwrap_or(0);
        }
        let code = std::str::from_utf8(&digits).unwrap_or("000");
        self.metrics.http_requests_total.with_label_values(&[
            &*self.route,
            self.access,
            method,
            code,
        ])
    }
}

/// Series of one upstream.
#[derive(Debug)]
pub struct UpstreamSeries {
    duration: Histogram,
}

impl UpstreamSeries {
    /// Looks the series up, and starts them at zero.
    pub fn new(metrics: &Metrics, upstream: &str) -> Self {
        metrics.know_upstream(upstream);
        Self {
            duration: metrics
                .upstream_request_duration_seconds
                .with_label_values(&[upstream]),
        }
    }

    /// The upstream's response header came after `took`.
    pub fn answered(&self, took: Duration) {
        self.duration.observe(took.as_secs_f64());
    }
}
