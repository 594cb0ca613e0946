//! Keeps `docs/metrics.md` true: the tables there are what this build exposes.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::*;

/// A registry in which every metric has a series, so that `gather` shows it.
fn populated() -> Metrics {
    let metrics = Metrics::new().expect("metrics register once");
    metrics.know_provider("p");
    metrics.know_route("r");
    metrics.know_upstream("u");
    metrics
        .http_requests_total
        .with_label_values(&["r", "session", "GET", "200"]);
    metrics
}

/// The table of metrics, sorted by name.
fn metric_rows(metrics: &Metrics) -> String {
    let mut out = String::from("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for family in metrics.registry.gather() {
        let kind = format!("{:?}", family.get_field_type()).to_lowercase();
        let series = family.get_metric();
        let labels: Vec<_> = series.first().map_or_else(Vec::new, |first| {
            let names = first.get_label().iter().map(|l| format!("`{}`", l.name()));
            names.collect()
        });
        let (name, labels) = (family.name(), labels.join(", "));
        let _ = writeln!(out, "| `{name}` | {kind} | {labels} | {} |", family.help());
    }
    out
}

/// The table of the closed labels: every value they can have.
fn label_rows() -> String {
    fn texts<T: Copy>(all: &[T], label: impl Fn(T) -> &'static str) -> String {
        let texts: Vec<_> = all.iter().map(|v| format!("`{}`", label(*v))).collect();
        texts.join(", ")
    }
    macro_rules! rows {
        ($($what:literal: $label:ident,)*) => {
            [$(($what, texts($label::ALL, $label::label)),)*]
        };
    }
    let rows = rows! {
        "`unauthenticated_total{reason}`": Unauthenticated,
        "`denied_total{reason}`": Denied,
        "`logins_total{result}`": LoginResult,
        "`logouts_total{kind}`": LogoutKind,
        "`session_ends_total{reason}`": SessionEnd,
        "`streams_closed_total{reason}`": StreamEnd,
        "`token_refreshes_total{result}`": RefreshResult,
        "`provider_requests_total{endpoint}`": Endpoint,
        "`provider_requests_total{result}`": CallResult,
        "`provider_circuit_open{calls}`": Lane,
        "`session_cache_requests_total{result}`": CacheResult,
        "`store_operations_total{op}`": StoreOp,
        "`store_operations_total{result}`": StoreResult,
        "`upstream_errors_total{reason}`": UpstreamError,
        "`config_reloads_total{result}`": ReloadResult,
    };
    let mut out = String::from("| label | values |\n|---|---|\n");
    for (what, values) in rows {
        let _ = writeln!(out, "| {what} | {values} |");
    }
    out
}

#[test]
fn the_documentation_lists_what_is_exposed() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
    let page = std::fs::read_to_string(path).expect("docs/metrics.md");
    let mut want = page.clone();
    for (mark, table) in [
        ("metrics", metric_rows(&populated())),
        ("labels", label_rows()),
    ] {
        let (open, close) = (format!("<!-- {mark} -->\n"), format!("<!-- /{mark} -->"));
        let (before, rest) = want.split_once(&open).expect("opening mark");
        let (_, after) = rest.split_once(&close).expect("closing mark");
        want = format!("{before}{open}{table}{close}{after}");
    }
    if std::env::var_os("DAYPASS_UPDATE_DOCS").is_some() {
        std::fs::write(path, &want).expect("docs/metrics.md is writable");
    } else {
        assert!(
            page == want,
            "docs/metrics.md is out of date: DAYPASS_UPDATE_DOCS=1 cargo test --lib metrics"
        );
    }
}

#[test]
fn the_documentation_names_nothing_else() {
    let page = include_str!("../../docs/metrics.md");
    let known = populated().registry.gather();
    let other = |c: char| !(c.is_ascii_lowercase() || c == '_');
    for word in page.split(other).filter(|w| w.starts_with("daypass_")) {
        let name = word.strip_suffix("_bucket").unwrap_or(word);
        assert!(known.iter().any(|f| f.name() == name), "{word}");
    }
}

#[test]
fn names_carry_our_prefix_and_their_unit() {
    for family in populated().registry.gather() {
        let name = family.name();
        assert!(name.starts_with("daypass_"), "{name}");
        let suffix = match format!("{:?}", family.get_field_type()).as_str() {
            "COUNTER" => "_total",
            "HISTOGRAM" => "_seconds",
            _ => "",
        };
        assert!(name.ends_with(suffix), "{name} lacks {suffix}");
    }
}

#[test]
fn series_start_at_zero() {
    let mut sums = BTreeMap::new();
    for family in populated().registry.gather() {
        for metric in family.get_metric() {
            *sums.entry(family.name().to_owned()).or_insert(0.0) +=
                metric.get_counter().get_value();
        }
    }
    for name in [
        "daypass_token_refreshes_total",
        "daypass_unauthenticated_total",
        "daypass_store_operations_total",
        "daypass_session_ends_total",
    ] {
        let sum = sums.get(name).copied();
        assert_eq!(sum, Some(0.0), "{name} is there before anything happened");
    }
}

#[test]
fn the_text_form_holds_the_process_beside_our_own() {
    let text = String::from_utf8(populated().encode().expect("encodes")).expect("UTF-8");
    for name in [
        "daypass_build_info{",
        "daypass_http_requests_total{",
        "process_resident_memory_bytes ",
    ] {
        assert!(
            text.lines().any(|line| line.starts_with(name)),
            "{name} is exposed"
        );
    }
}
