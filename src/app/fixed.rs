//! Names what a reload cannot change, so that nobody waits for it to happen.

use crate::config::model::Config;

/// Keys that differ from what the process `started` with and wait for a restart. docs/configuration.md lists them all.
pub(super) fn waiting(started: &Config, now: &Config) -> Vec<String> {
    let mut keys = Vec::new();
    if started.logging.format != now.logging.format {
        keys.push("logging.format".to_owned());
    }
    for upstream in &now.upstreams {
        // The pool of idle connections is made once, for all upstreams.
        let before = started.upstreams.iter().find(|u| u.name == upstream.name);
        if before.is_some_and(|before| before.keepalive != upstream.keepalive) {
            keys.push(format!("upstreams.{}.keepalive", upstream.name));
        }
    }
    keys
}
