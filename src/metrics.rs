//! Holds every metric daypass exposes, with closed sets of labels.
//!
//! Labels are enums or names from the configuration, never a path, host, user or error text. The doc comments of the
//! fields are the HELP texts' long form; `docs/metrics.md` lists them and a golden test pins the list.

use std::time::Duration;

use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

mod labels;
mod series;
pub use labels::{
    CacheResult, CallResult, Denied, Endpoint, Lane, LoginResult, LogoutKind, RefreshResult,
    ReloadResult, SessionEnd, StoreOp, StoreResult, StreamEnd, Unauthenticated, UpstreamError,
};
pub use series::{CacheSeries, RouteSeries, UpstreamSeries, method_label};

/// Every metric, registered in one registry.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Requests answered.
    pub http_requests_total: IntCounterVec,
    /// Time from the request header to the end of the answer.
    pub http_request_duration_seconds: HistogramVec,
    /// Time spent in daypass before the request went upstream.
    pub overhead_seconds: HistogramVec,
    /// Time from the request going upstream to the upstream's response header.
    pub upstream_request_duration_seconds: HistogramVec,
    upstream_errors_total: IntCounterVec,
    unauthenticated_total: IntCounterVec,
    denied_total: IntCounterVec,
    logins_total: IntCounterVec,
    logouts_total: IntCounterVec,
    session_ends_total: IntCounterVec,
    session_cache_requests_total: IntCounterVec,
    /// Sessions of Redis held in this process.
    pub session_cache_entries: IntGauge,
    /// 1 while Redis tells of every changed session.
    pub session_cache_tracking: IntGauge,
    token_refreshes_total: IntCounterVec,
    token_refresh_duration_seconds: HistogramVec,
    token_refresh_waits_seconds: Histogram,
    token_refresh_shared_total: IntCounter,
    token_remaining_seconds: Histogram,
    provider_requests_total: IntCounterVec,
    provider_request_duration_seconds: HistogramVec,
    provider_circuit_open: IntGaugeVec,
    store_operations_total: IntCounterVec,
    store_operation_duration_seconds: HistogramVec,
    /// 1 while the session store answers.
    pub store_connected: IntGauge,
    /// Upgraded connections and other open streams.
    pub streams_active: IntGaugeVec,
    streams_closed_total: IntCounterVec,
    config_reloads_total: IntCounterVec,
    config_loaded_timestamp_seconds: Gauge,
}

/// From 100 µs to 60 s: a proxied request on loopback up to the longest stalled one.
const LATENCY: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0,
];
/// Own time is microseconds unless something is wrong.
const OVERHEAD: &[f64] = &[
    0.000_005, 0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.01,
    0.05, 0.25, 1.0, 5.0,
];
/// What an access token has left: seconds to a day.
const REMAINING: &[f64] = &[
    1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0,
];

impl Metrics {
    /// Registers everything in a registry of its own.
    ///
    /// # Errors
    /// When the process collector or a name clashes, which is a bug.
    #[expect(
        clippy::too_many_lines,
        reason = "a list: each metric is named once, here"
    )]
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new_custom(Some("daypass".into()), None)?;
        // `process_*` carries no prefix of ours: dashboards know it by its plain name.
        let r = &registry;
        let metrics = Self {
            http_requests_total: counters(
                r,
                "http_requests_total",
                "Requests answered.",
                &["route", "access", "method", "code"],
            )?,
            http_request_duration_seconds: histograms(
                r,
                "http_request_duration_seconds",
                "Time from request header to end of answer.",
                &["route"],
                LATENCY,
            )?,
            overhead_seconds: histograms(
                r,
                "overhead_seconds",
                "Time spent in daypass, upstream excluded.",
                &["route"],
                OVERHEAD,
            )?,
            upstream_request_duration_seconds: histograms(
                r,
                "upstream_request_duration_seconds",
                "Time until the upstream's response header.",
                &["upstream"],
                LATENCY,
            )?,
            upstream_errors_total: counters(
                r,
                "upstream_errors_total",
                "Requests an upstream gave no answer to.",
                &["upstream", "reason"],
            )?,
            unauthenticated_total: counters(
                r,
                "unauthenticated_total",
                "Requests without usable session.",
                &["route", "reason"],
            )?,
            denied_total: counters(r, "denied_total", "Requests refused.", &["route", "reason"])?,
            logins_total: counters(
                r,
                "logins_total",
                "Logins finished, by result.",
                &["provider", "result"],
            )?,
            logouts_total: counters(r, "logouts_total", "Logouts, by kind.", &["kind"])?,
            session_ends_total: counters(
                r,
                "session_ends_total",
                "Sessions ended, by reason.",
                &["reason"],
            )?,
            session_cache_requests_total: counters(
                r,
                "session_cache_requests_total",
                "Sessions looked up with Redis as store, by what the cache did for it.",
                &["result"],
            )?,
            session_cache_entries: gauge(
                r,
                "session_cache_entries",
                "Sessions of Redis held in this process.",
            )?,
            session_cache_tracking: gauge(
                r,
                "session_cache_tracking",
                "1 while Redis tells of every changed session.",
            )?,
            token_refreshes_total: counters(
                r,
                "token_refreshes_total",
                "Token refreshes, by result.",
                &["provider", "result"],
            )?,
            token_refresh_duration_seconds: histograms(
                r,
                "token_refresh_duration_seconds",
                "Time of a refresh from lease to stored answer.",
                &["provider"],
                LATENCY,
            )?,
            token_refresh_waits_seconds: histogram(
                r,
                "token_refresh_waits_seconds",
                "Time a request waited for a refresh.",
                LATENCY,
            )?,
            token_refresh_shared_total: counter(
                r,
                "token_refresh_shared_total",
                "Requests that joined a refresh under way.",
            )?,
            token_remaining_seconds: histogram(
                r,
                "token_remaining_seconds",
                "Life left in the access token when it was forwarded.",
                REMAINING,
            )?,
            provider_requests_total: counters(
                r,
                "provider_requests_total",
                "Calls to providers.",
                &["provider", "endpoint", "result"],
            )?,
            provider_request_duration_seconds: histograms(
                r,
                "provider_request_duration_seconds",
                "Time of a call to a provider.",
                &["provider", "endpoint"],
                LATENCY,
            )?,
            provider_circuit_open: gauges(
                r,
                "provider_circuit_open",
                "1 while token calls to a provider are held back because they failed one after the other.",
                &["provider", "calls"],
            )?,
            store_operations_total: counters(
                r,
                "store_operations_total",
                "Operations of the session store.",
                &["op", "result"],
            )?,
            store_operation_duration_seconds: histograms(
                r,
                "store_operation_duration_seconds",
                "Time of a store operation.",
                &["op"],
                LATENCY,
            )?,
            store_connected: gauge(r, "store_connected", "1 while the session store answers.")?,
            streams_active: gauges(
                r,
                "streams_active",
                "WebSockets, event streams and gRPC calls open now.",
                &["route"],
            )?,
            streams_closed_total: counters(
                r,
                "streams_closed_total",
                "Open answers ended because their session was over, by reason.",
                &["reason"],
            )?,
            config_reloads_total: counters(
                r,
                "config_reloads_total",
                "Configuration reloads.",
                &["result"],
            )?,
            config_loaded_timestamp_seconds: float_gauge(
                r,
                "config_loaded_timestamp_seconds",
                "When the serving configuration was loaded.",
            )?,
            registry: registry.clone(),
        };
        let build = gauges(
            r,
            "build_info",
            "Always 1; labels tell the build.",
            &["version", "revision"],
        )?;
        build
            .with_label_values(&[
                env!("CARGO_PKG_VERSION"),
                option_env!("DAYPASS_REVISION").unwrap_or("unknown"),
            ])
            .set(1);
        metrics.start_at_zero();
        Ok(metrics)
    }

    fn start_at_zero(&self) {
        for kind in LogoutKind::ALL {
            self.logouts_total.with_label_values(&[kind.label()]);
        }
        for reason in SessionEnd::ALL {
            self.session_ends_total.with_label_values(&[reason.label()]);
        }
        for reason in StreamEnd::ALL {
            self.streams_closed_total
                .with_label_values(&[reason.label()]);
        }
        for result in CacheResult::ALL {
            self.session_cache_requests_total
                .with_label_values(&[result.label()]);
        }
        for op in StoreOp::ALL {
            self.store_operation_duration_seconds
                .with_label_values(&[op.label()]);
            for result in StoreResult::ALL {
                self.store_operations_total
                    .with_label_values(&[op.label(), result.label()]);
            }
        }
        for result in ReloadResult::ALL {
            self.config_reloads_total
                .with_label_values(&[result.label()]);
        }
    }

    /// Makes a provider's series start at zero.
    pub fn know_provider(&self, provider: &str) {
        for result in LoginResult::ALL {
            self.logins_total
                .with_label_values(&[provider, result.label()]);
        }
        for result in RefreshResult::ALL {
            self.token_refreshes_total
                .with_label_values(&[provider, result.label()]);
        }
        self.token_refresh_duration_seconds
            .with_label_values(&[provider]);
        for lane in Lane::ALL {
            self.circuit(provider, *lane, false);
        }
        for endpoint in Endpoint::ALL {
            self.provider_request_duration_seconds
                .with_label_values(&[provider, endpoint.label()]);
            for result in CallResult::ALL {
                self.provider_requests_total.with_label_values(&[
                    provider,
                    endpoint.label(),
                    result.label(),
                ]);
            }
        }
    }

    /// Makes a route's series start at zero.
    pub fn know_route(&self, route: &str) {
        self.http_request_duration_seconds
            .with_label_values(&[route]);
        self.overhead_seconds.with_label_values(&[route]);
        self.streams_active.with_label_values(&[route]);
        for reason in Unauthenticated::ALL {
            self.unauthenticated_total
                .with_label_values(&[route, reason.label()]);
        }
        for reason in Denied::ALL {
            self.denied_total
                .with_label_values(&[route, reason.label()]);
        }
    }

    /// Makes an upstream's series start at zero.
    pub fn know_upstream(&self, upstream: &str) {
        self.upstream_request_duration_seconds
            .with_label_values(&[upstream]);
        for reason in UpstreamError::ALL {
            self.upstream_errors_total
                .with_label_values(&[upstream, reason.label()]);
        }
    }

    /// A request had no usable session.
    pub fn unauthenticated(&self, route: &str, reason: Unauthenticated) {
        self.unauthenticated_total
            .with_label_values(&[route, reason.label()])
            .inc();
    }

    /// A request was refused.
    pub fn denied(&self, route: &str, reason: Denied) {
        self.denied_total
            .with_label_values(&[route, reason.label()])
            .inc();
    }

    /// An upstream gave no answer.
    pub fn upstream_error(&self, upstream: &str, reason: UpstreamError) {
        self.upstream_errors_total
            .with_label_values(&[upstream, reason.label()])
            .inc();
    }

    /// A login ended.
    pub fn login(&self, provider: &str, result: LoginResult) {
        self.logins_total
            .with_label_values(&[provider, result.label()])
            .inc();
    }

    /// A session was logged out.
    pub fn logout(&self, kind: LogoutKind) {
        self.logouts_total.with_label_values(&[kind.label()]).inc();
    }

    /// A session ended.
    pub fn session_ended(&self, reason: SessionEnd) {
        self.session_ends_total
            .with_label_values(&[reason.label()])
            .inc();
    }

    /// An open answer was ended because its session was over.
    pub fn stream_closed(&self, reason: StreamEnd) {
        self.streams_closed_total
            .with_label_values(&[reason.label()])
            .inc();
    }

    /// A refresh ended after `took`.
    pub fn refreshed(&self, provider: &str, result: RefreshResult, took: Duration) {
        self.token_refreshes_total
            .with_label_values(&[provider, result.label()])
            .inc();
        self.token_refresh_duration_seconds
            .with_label_values(&[provider])
            .observe(took.as_secs_f64());
    }

    /// A request waited for a refresh; `shared` when another request had started it.
    pub fn waited_for_refresh(&self, waited: Duration, shared: bool) {
        self.token_refresh_waits_seconds
            .observe(waited.as_secs_f64());
        if shared {
            self.token_refresh_shared_total.inc();
        }
    }

    /// A token with `left` to live was forwarded.
    pub fn token_forwarded(&self, left: Duration) {
        self.token_remaining_seconds.observe(left.as_secs_f64());
    }

    /// A call to a provider ended after `took`.
    pub fn provider_called(
        &self,
        provider: &str,
        endpoint: Endpoint,
        result: CallResult,
        took: Duration,
    ) {
        self.provider_requests_total
            .with_label_values(&[provider, endpoint.label(), result.label()])
            .inc();
        self.provider_request_duration_seconds
            .with_label_values(&[provider, endpoint.label()])
            .observe(took.as_secs_f64());
    }

    /// Token calls to a provider are held back, or are no longer.
    pub fn circuit(&self, provider: &str, lane: Lane, open: bool) {
        self.provider_circuit_open
            .with_label_values(&[provider, lane.label()])
            .set(i64::from(open));
    }

    /// A store operation ended after `took`.
    pub fn store_operated(&self, op: StoreOp, result: StoreResult, took: Duration) {
        self.store_operations_total
            .with_label_values(&[op.label(), result.label()])
            .inc();
        self.store_operation_duration_seconds
            .with_label_values(&[op.label()])
            .observe(took.as_secs_f64());
    }

    /// A reload ended.
    pub fn reloaded(&self, result: ReloadResult) {
        self.config_reloads_total
            .with_label_values(&[result.label()])
            .inc();
    }

    /// A configuration began to serve.
    pub fn config_loaded(&self, at: crate::clock::Timestamp) {
        #[expect(
            clippy::cast_precision_loss,
            reason = "seconds since the epoch fit 52 bits"
        )]
        self.config_loaded_timestamp_seconds
            .set(at.as_secs() as f64);
    }

    /// All metrics in Prometheus text format 0.0.4.
    ///
    /// # Errors
    /// When a metric cannot be encoded, which is a bug.
    pub fn encode(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut out = Vec::with_capacity(32 * 1024);
        let encoder = TextEncoder::new();
        encoder.encode(&self.registry.gather(), &mut out)?;
        // The process collector reads /proc at each scrape and keeps its well-known names.
        let process = Registry::new();
        process.register(Box::new(
            prometheus::process_collector::ProcessCollector::for_self(),
        ))?;
        encoder.encode(&process.gather(), &mut out)?;
        Ok(out)
    }
}

fn register<C: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    metric: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn counters(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    register(r, IntCounterVec::new(Opts::new(name, help), labels)?)
}

fn counter(r: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    register(r, IntCounter::new(name, help)?)
}

fn histograms(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: &[f64],
) -> Result<HistogramVec, prometheus::Error> {
    register(
        r,
        HistogramVec::new(
            HistogramOpts::new(name, help).buckets(buckets.to_vec()),
            labels,
        )?,
    )
}

fn histogram(
    r: &Registry,
    name: &str,
    help: &str,
    buckets: &[f64],
) -> Result<Histogram, prometheus::Error> {
    register(
        r,
        Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?,
    )
}

fn gauge(r: &Registry, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
    register(r, IntGauge::new(name, help)?)
}

fn gauges(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, prometheus::Error> {
    register(r, IntGaugeVec::new(Opts::new(name, help), labels)?)
}

fn float_gauge(r: &Registry, name: &str, help: &str) -> Result<Gauge, prometheus::Error> {
    register(r, Gauge::new(name, help)?)
}

#[cfg(test)]
mod tests;
