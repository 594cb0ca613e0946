//! Sends log lines to stderr, and lets nothing through that was not written by daypass itself.
//!
//! Libraries below us log header blocks and buffers at `debug` and `trace` (h2 frames, pingora's unparsable requests), and
//! those hold cookies and tokens. So only targets of our own are enabled, at any level: `daypass*`, `access`, `audit`.

use tracing::Metadata;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::{Context, Filter, Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::model::{LogFormat, Logging};

/// Target of the access log: one line per request.
pub const ACCESS: &str = "access";
/// Target of the audit log: login, logout, refresh failure, denial, revocation.
pub const AUDIT: &str = "audit";

/// Starts logging. `level_override` is the value of `RUST_LOG`: a bare level (`debug`), or comma-separated
/// `target=level` pairs of our own targets. `color` is whether text lines may be coloured (`NO_COLOR`, terminal).
pub fn start(logging: &Logging, level_override: Option<&str>, color: bool) -> Levels {
    let (filter, handle) = reload::Layer::new(Ours::new(logging.level, level_override));
    let layer = match logging.format {
        LogFormat::Json => tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_writer(std::io::stderr)
            .with_filter(filter)
            .boxed(),
        LogFormat::Text => tracing_subscriber::fmt::layer()
            .with_ansi(color)
            .with_writer(std::io::stderr)
            .with_filter(filter)
            .boxed(),
    };
    // A second start in one process (tests) keeps the first.
    let _ = Registry::default().with(layer).try_init();
    Levels {
        handle,
        level_override: level_override.map(str::to_owned),
    }
}

/// Sets the level while the process runs.
#[derive(Debug)]
pub struct Levels {
    handle: reload::Handle<Ours, Registry>,
    /// `RUST_LOG` goes on overriding.
    level_override: Option<String>,
}

impl Levels {
    /// `logging.level` has changed, or not.
    pub fn set(&self, level: LevelFilter) {
        let ours = Ours::new(level, self.level_override.as_deref());
        // Fails only where another subscriber was there first, which has levels of its own.
        let _ = self.handle.reload(ours);
    }
}

/// Enables our own targets only.
#[derive(Debug)]
struct Ours {
    default: LevelFilter,
    targets: Vec<(String, LevelFilter)>,
}

impl Ours {
    fn new(level: LevelFilter, level_override: Option<&str>) -> Self {
        let mut ours = Self {
            default: level,
            targets: Vec::new(),
        };
        let directives = level_override
            .into_iter()
            .flat_map(|text| text.split(','))
            .map(str::trim)
            // An empty text would parse as `error`.
            .filter(|text| !text.is_empty());
        for directive in directives {
            match directive.split_once('=') {
                Some((target, level)) => {
                    if let Ok(level) = level.parse() {
                        ours.targets.push((target.to_owned(), level));
                    }
                }
                None => {
                    if let Ok(level) = directive.parse() {
                        ours.default = level;
                    }
                }
            }
        }
        // The longest target decides.
        ours.targets
            .sort_by_key(|(target, _)| std::cmp::Reverse(target.len()));
        ours
    }

    fn level_of(&self, target: &str) -> LevelFilter {
        let ours = target == ACCESS
            || target == AUDIT
            || target == "daypass"
            || target.starts_with("daypass::");
        if !ours {
            return LevelFilter::OFF;
        }
        let named = self.targets.iter().find(|(name, _)| {
            target
                .strip_prefix(name.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        });
        match named {
            Some((_, level)) => *level,
            // These are no chatter: `logging.access_log` turns one of them off, and only by name does `RUST_LOG`.
            None if target == ACCESS || target == AUDIT => self.default.max(LevelFilter::INFO),
            None => self.default,
        }
    }
}

impl<S> Filter<S> for Ours {
    fn enabled(&self, meta: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        *meta.level() <= self.level_of(meta.target())
    }

    fn callsite_enabled(&self, meta: &'static Metadata<'static>) -> tracing::subscriber::Interest {
        // The answer depends on the call site alone, so it is asked once.
        if *meta.level() <= self.level_of(meta.target()) {
            tracing::subscriber::Interest::always()
        } else {
            tracing::subscriber::Interest::never()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_silent_at_every_level() {
        for (name, override_, target, want) in [
            ("ours at default", None, "daypass::web", LevelFilter::INFO),
            ("access at default", None, "access", LevelFilter::INFO),
            (
                "h2 logs frames",
                Some("trace"),
                "h2::codec",
                LevelFilter::OFF,
            ),
            (
                "servers log buffers",
                Some("hyper=trace"),
                "hyper::proto",
                LevelFilter::OFF,
            ),
            (
                "a name that only starts like ours",
                Some("trace"),
                "daypass_other",
                LevelFilter::OFF,
            ),
            (
                "one of ours is turned up",
                Some("warn,daypass::config=debug"),
                "daypass::config::read",
                LevelFilter::DEBUG,
            ),
            (
                "the others follow the bare level",
                Some("warn,daypass::config=debug"),
                "daypass::web",
                LevelFilter::WARN,
            ),
            (
                "access can be turned off",
                Some("access=off"),
                "access",
                LevelFilter::OFF,
            ),
            (
                "access and audit are not turned down with the rest",
                Some("error"),
                "access",
                LevelFilter::INFO,
            ),
            (
                "and follow it up",
                Some("debug"),
                "audit",
                LevelFilter::DEBUG,
            ),
            (
                "audit can be turned off by name",
                Some("info,audit=off"),
                "audit",
                LevelFilter::OFF,
            ),
            (
                "nonsense is ignored",
                Some("=,x=y,,"),
                "daypass",
                LevelFilter::INFO,
            ),
        ] {
            assert_eq!(
                Ours::new(LevelFilter::INFO, override_).level_of(target),
                want,
                "{name}"
            );
        }
    }

    #[test]
    fn the_configured_level_leaves_access_and_audit_log_alone() {
        for level in [LevelFilter::OFF, LevelFilter::ERROR, LevelFilter::WARN] {
            let ours = Ours::new(level, None);
            assert_eq!(ours.level_of("daypass::web"), level);
            for target in [ACCESS, AUDIT] {
                assert_eq!(ours.level_of(target), LevelFilter::INFO, "{level} {target}");
            }
        }
    }
}
