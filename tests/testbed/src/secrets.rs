//! Remembers every secret this test process issued or received, to prove that none shows up where it must not.
//!
//! The one deliberate global of the test machinery: providers and cookie jars put in what they see, every
//! [`Daypass`](crate::daypass::Daypass) checks its log and metrics against all of it when it is dropped, so each
//! test is a log-hygiene test without saying so.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

static ISSUED: Mutex<BTreeMap<String, &'static str>> = Mutex::new(BTreeMap::new());

/// Shorter values would be found in innocent text.
const SHORTEST: usize = 16;

/// Remembers `value`; `kind` is what a failing test prints instead of it.
pub fn record(kind: &'static str, value: &str) {
    if value.len() >= SHORTEST {
        ISSUED
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(value.to_owned(), kind);
    }
}

/// Everything remembered so far, with its kind.
pub fn issued() -> Vec<(String, &'static str)> {
    ISSUED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
        .map(|(value, kind)| (value.clone(), *kind))
        .collect()
}

/// Kinds of the secrets that stand in `text`, each with the line it was first seen in (the secret blanked out).
pub fn leaks_in(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (value, kind) in issued() {
        if let Some(at) = text.find(&value) {
            let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
            let end = text[at..]
                .find('\n')
                .map_or(text.len(), |length| at + length);
            found.push(format!(
                "{kind} in: {}",
                text[start..end].replace(&value, "<SECRET>")
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leak_is_named_without_being_repeated() {
        record("refresh token", "leak-test-0123456789");
        let leaks = leaks_in("first\nsecond leak-test-0123456789 end\nthird");
        assert_eq!(leaks, ["refresh token in: second <SECRET> end"]);
        assert!(leaks_in("nothing to see").is_empty());
    }

    #[test]
    fn short_values_are_not_looked_for() {
        record("claim", "jane");
        assert!(leaks_in("jane signed in").is_empty());
    }
}
