//! Remembers every secret this test process issued or received, to prove that none shows up where it must not.
//!
//! The one deliberate global of the test machinery: providers and cookie jars put in what they see, every
//! [`Daypass`](crate::daypass::Daypass) checks its log and metrics against all of it when it is dropped, so each
//! test is a log-hygiene test without saying so.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

static ISSUED: Mutex<Option<Issued>> = Mutex::new(None);

/// Shorter values would be found in innocent text.
const SHORTEST: usize = 16;
/// Bits of the sieve's index.
const SIEVE: u32 = 20;

/// What is remembered, and an index by the beginnings: logs are long, and secrets many.
#[derive(Debug)]
struct Issued {
    kinds: BTreeMap<String, &'static str>,
    heads: HashMap<[u8; SHORTEST], Vec<String>>,
    /// Whether any secret begins with bytes that hash to this place: spares most look-ups.
    sieve: Vec<bool>,
}

impl Issued {
    fn new() -> Self {
        Self {
            kinds: BTreeMap::new(),
            heads: HashMap::new(),
            sieve: vec![false; 1 << SIEVE],
        }
    }

    fn record(&mut self, kind: &'static str, value: &str) {
        let Some(head) = value.as_bytes().first_chunk() else {
            return;
        };
        if self.kinds.insert(value.to_owned(), kind).is_none() {
            self.sieve[place(head)] = true;
            self.heads.entry(*head).or_default().push(value.to_owned());
        }
    }

    /// The first place of each secret in `text`.
    fn found_in(&self, text: &str) -> BTreeMap<&str, usize> {
        let mut found = BTreeMap::new();
        for (at, window) in text.as_bytes().windows(SHORTEST).enumerate() {
            let Some(head) = window.first_chunk() else {
                continue;
            };
            if !self.sieve[place(head)] {
                continue;
            }
            for value in self.heads.get(head).into_iter().flatten() {
                if text.as_bytes()[at..].starts_with(value.as_bytes()) {
                    found.entry(value.as_str()).or_insert(at);
                }
            }
        }
        found
    }
}

/// Fibonacci hashing of the first eight bytes.
fn place(head: &[u8; SHORTEST]) -> usize {
    let first = head
        .first_chunk()
        .map_or(0, |first| u64::from_le_bytes(*first));
    let place = first.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - SIEVE);
    usize::try_from(place).expect("twenty bits fit")
}

fn known() -> MutexGuard<'static, Option<Issued>> {
    ISSUED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Remembers `value`; `kind` is what a failing test prints instead of it.
pub fn record(kind: &'static str, value: &str) {
    known().get_or_insert_with(Issued::new).record(kind, value);
}

/// Everything remembered so far, with its kind.
pub fn issued() -> Vec<(String, &'static str)> {
    let issued = known();
    let kinds = issued.iter().flat_map(|issued| &issued.kinds);
    kinds.map(|(value, kind)| (value.clone(), *kind)).collect()
}

/// Kinds of the secrets that stand in `text`, each with the line it was first seen in (the secret blanked out).
pub fn leaks_in(text: &str) -> Vec<String> {
    let issued = known();
    let Some(issued) = issued.as_ref() else {
        return Vec::new();
    };
    let leak = |(value, at): (&str, usize)| {
        let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let end = text[at..]
            .find('\n')
            .map_or(text.len(), |length| at + length);
        let line = text[start..end].replace(value, "<SECRET>");
        format!("{} in: {line}", issued.kinds[value])
    };
    issued.found_in(text).into_iter().map(leak).collect()
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
