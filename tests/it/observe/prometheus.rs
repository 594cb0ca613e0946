//! Shows that a real Prometheus, and its linter, take our metrics.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use daypass_testbed::client::Client;
use daypass_testbed::daypass::{Daypass, Setup};
use daypass_testbed::echo::Echo;
use daypass_testbed::ports;
use daypass_testbed::provider::Provider;
use daypass_testbed::raw::{self, wait_for};
use serde_json::Value;

use super::PATIENCE;
use crate::BINARY;
use crate::cli::process::Process;

const INSTALL: &str = "scripts/install-deps installs it (Debian package prometheus)";

/// OBS-01, before and after there was traffic.
#[tokio::test(flavor = "multi_thread")]
async fn the_linter_finds_nothing() {
    let (provider, echo) = (Provider::start(), Echo::start());
    let daypass = Daypass::ready(BINARY, Setup::new(&provider, &echo.url()));
    for round in ["at first", "after traffic"] {
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("promtool: {error}; {INSTALL}"));
        let text = daypass.metrics().text;
        let mut stdin = promtool.stdin.take().expect("piped");
        stdin.write_all(text.as_bytes()).expect("taken");
        drop(stdin);
        let output = promtool.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.trim().is_empty(),
            "{round}: {said}"
        );
        assert_eq!(
            Client::new()
                .browse(daypass.url("/"))
                .await
                .expect("login")
                .status,
            200
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_scrapes_us() {
    let (provider, echo) = (Provider::start(), Echo::start());
    let daypass = Daypass::ready(BINARY, Setup::new(&provider, &echo.url()));
    assert_eq!(
        Client::new()
            .browse(daypass.url("/"))
            .await
            .expect("login")
            .status,
        200
    );
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("prometheus.yml");
    let text = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n  - job_name: daypass\n    static_configs: [{{targets: ['{}']}}]\n",
        daypass.admin()
    );
    fs::write(&config, text).expect("written");
    let address = ports::free();
    let mut command = Command::new("prometheus");
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            folder.path().join("data").display()
        ))
        .arg(format!("--web.listen-address={address}"));
    assert!(
        Command::new("prometheus").arg("--version").output().is_ok(),
        "prometheus: {INSTALL}"
    );
    let prometheus = Process::spawn(&mut command);
    for (query, least) in [
        ("up", 1.0),
        ("daypass_build_info", 1.0),
        ("sum(daypass_logins_total)", 1.0),
        ("sum(daypass_http_request_duration_seconds_count)", 3.0),
        ("process_resident_memory_bytes", 1.0),
    ] {
        let value = wait_for(PATIENCE, || {
            let (_, body) = raw::get(address, &format!("/api/v1/query?query={query}"))?;
            let answer: Value = serde_json::from_str(&body).ok()?;
            let value = answer["data"]["result"][0]["value"][1]
                .as_str()?
                .parse::<f64>()
                .ok()?;
            (value >= least).then_some(value)
        });
        assert!(value.is_some(), "{query}: {}", prometheus.stderr());
    }
}
