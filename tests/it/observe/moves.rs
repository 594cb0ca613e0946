//! Shows that each metric of the contract is there from the first scrape, and moves when it should (OBS-03, OBS-04).

mod requests;
mod sessions;

use std::collections::BTreeSet;

use daypass_testbed::daypass::{Daypass, Metrics, Setup};
use daypass_testbed::echo::Echo;
use daypass_testbed::ports;
use daypass_testbed::provider::Provider;
use daypass_testbed::raw::wait_for;
use daypass_testbed::redis::Redis;
use serde_json::json;

use super::PATIENCE;
use crate::BINARY;

type Labels<'a> = &'a [(&'a str, &'a str)];

#[test]
fn every_documented_metric_is_there_from_the_first_scrape() {
    let (provider, echo) = (Provider::start(), Echo::start());
    let daypass = Daypass::ready(BINARY, Setup::new(&provider, &echo.url()));
    let metrics = daypass.metrics();
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let text = std::fs::read_to_string(file).expect("docs/metrics.md");
    let documented: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `daypass_")?.split('`').next())
        .filter(|name| !name.contains(' '))
        .collect();
    assert!(documented.len() > 20, "{documented:?}");
    for name in documented {
        let name = format!("daypass_{name}");
        let histogram = format!("{name}_count");
        assert!(
            metrics.has(&name, &[]) || metrics.has(&histogram, &[]),
            "{name} is not there"
        );
    }
    for name in [
        "cpu_seconds_total",
        "open_fds",
        "max_fds",
        "resident_memory_bytes",
        "virtual_memory_bytes",
        "start_time_seconds",
    ] {
        assert!(
            metrics.has(&format!("process_{name}"), &[]),
            "process_{name}"
        );
    }
    let zero: [(&str, Labels); 12] = [
        (
            "http_requests_total",
            &[("route", "private"), ("access", "session")],
        ),
        (
            "denied_total",
            &[("route", "public"), ("reason", "cross_site")],
        ),
        (
            "unauthenticated_total",
            &[("route", "private"), ("reason", "revoked")],
        ),
        (
            "logins_total",
            &[("provider", "provider"), ("result", "success")],
        ),
        ("logouts_total", &[("kind", "local")]),
        ("session_ends_total", &[("reason", "refresh_rejected")]),
        (
            "token_refreshes_total",
            &[("provider", "provider"), ("result", "rejected")],
        ),
        (
            "provider_requests_total",
            &[("endpoint", "token"), ("result", "timeout")],
        ),
        (
            "store_operations_total",
            &[("op", "load"), ("result", "timeout")],
        ),
        ("upstream_errors_total", &[("reason", "connect")]),
        ("streams_active", &[("route", "private")]),
        ("config_reloads_total", &[("result", "rejected")]),
    ];
    for (name, labels) in zero {
        let name = format!("daypass_{name}");
        assert!(metrics.has(&name, labels), "{name}{labels:?} is not there");
        assert!(
            metrics.sum(&name, labels).abs() < 0.5,
            "{name}{labels:?} is not zero"
        );
    }
    let build = [("version", env!("CARGO_PKG_VERSION"))];
    assert!((metrics.sum("daypass_build_info", &build) - 1.0).abs() < f64::EPSILON);
}

/// Remembers a scrape, to compare later ones with.
struct Watch<'a> {
    daypass: &'a Daypass,
    before: Metrics,
}

impl<'a> Watch<'a> {
    fn new(daypass: &'a Daypass) -> Self {
        Self {
            daypass,
            before: daypass.metrics(),
        }
    }

    /// Each of these has grown since the last call. Counting may end a moment after the answer.
    fn grew(&mut self, step: &str, series: &[(&str, Labels)]) {
        for (name, labels) in series {
            let name = format!("daypass_{name}");
            let grown = wait_for(PATIENCE, || {
                let now = self.daypass.metric(&name, labels);
                (now >= self.before.sum(&name, labels) + 0.999).then_some(())
            });
            assert!(
                grown.is_some(),
                "{step}: {name}{labels:?} did not grow from {}",
                self.before.sum(&name, labels)
            );
        }
        self.before = self.daypass.metrics();
    }
}

fn setup(provider: &Provider, echo: &Echo, redis: &Redis) -> Setup {
    let url = echo.url();
    Setup::new(provider, &url).redis(redis).set("session.refresh_before", "0s").routes(json!([
        {"name": "public", "path_prefix": "/public", "access": "public", "upstream": url},
        {"name": "nobody", "path_prefix": "/nobody", "upstream": url, "require": {"claims": {"groups": ["nobody"]}}},
        {"name": "scoped", "path_prefix": "/scoped", "upstream": url, "require": {"scopes": ["orders.read"]}},
        {"name": "closed", "path_prefix": "/closed", "access": "deny"},
        {"name": "dead", "path_prefix": "/dead", "access": "public", "upstream": format!("http://{}", ports::free())},
        {"name": "private", "path_prefix": "/app", "upstream": url, "limits": {"body": "1KiB"}},
    ]))
}

/// Status of an answer, waited for on a thread that may block.
fn status_of(
    answer: impl Future<Output = Result<daypass_testbed::client::Response, daypass_testbed::Failure>>,
) -> u16 {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(answer))
        .expect("an answer")
        .status
}
