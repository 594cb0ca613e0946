//! Gives every request an id, and a place in a distributed trace (W3C Trace Context; OBS-09).
//!
//! The ids are unique, not secret: they come from a generator per thread, seeded by the operating system.

use std::cell::Cell;
use std::fmt;
use std::hash::{BuildHasher, RandomState};

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::headers::Edit;

/// What a user can quote and an operator can search for.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// Takes over the `X-Request-Id` of a trusted peer if it is 1 to 64 of `A-Z a-z 0-9 . _ -`; else makes one of 128 bits.
    pub fn of(headers: &HeaderMap, trusted: bool) -> Self {
        let mut sent = headers.get_all(X_REQUEST_ID).iter();
        match (sent.next(), sent.next()) {
            (Some(id), None) if trusted && is_fit(id.as_bytes()) => Self(id.clone()),
            _ => Self::generate(),
        }
    }

    /// Stands in until the head is looked at; never sent.
    pub fn unknown() -> Self {
        Self(HeaderValue::from_static("unknown"))
    }

    /// A fresh one.
    pub fn generate() -> Self {
        let mut text = [0; 32];
        hex(&mut text, &[random(), random()]);
        Self(HeaderValue::from_bytes(&text).expect("hexadecimal digits are visible ASCII"))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        // Checked or made of ASCII.
        self.0.to_str().unwrap_or_default()
    }

    /// The value of `X-Request-Id`.
    pub fn to_value(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Our place in a trace.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    id: [u64; 2],
    span: u64,
    sampled: bool,
    continued: bool,
}

impl Trace {
    /// Continues the trace of a valid `traceparent`, else begins one.
    ///
    /// A trace that begins here is marked as sampled: we record none ourselves, and services behind us that follow their
    /// parent's decision would record nothing either if we said no.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut sent = headers.get_all(TRACEPARENT).iter();
        let parent = match (sent.next(), sent.next()) {
            (Some(value), None) => parse(value.as_bytes()),
            _ => None,
        };
        let (trace, sampled, continued) = match parent {
            Some((trace, sampled)) => (trace, sampled, true),
            None => ([random_nonzero(), random()], true, false),
        };
        Self {
            id: trace,
            span: random_nonzero(),
            sampled,
            continued,
        }
    }

    /// Whether the trace began before us.
    pub fn continued(&self) -> bool {
        self.continued
    }

    /// The trace id, for logs.
    pub fn trace_id(&self) -> String {
        format!("{:016x}{:016x}", self.id[0], self.id[1])
    }

    /// The value of `traceparent`, version 00.
    pub fn to_value(&self) -> HeaderValue {
        let mut text = *b"00-________________________________-________________-00";
        hex(&mut text[3..35], &self.id);
        hex(&mut text[36..52], &[self.span]);
        if self.sampled {
            text[54] = b'1';
        }
        HeaderValue::from_bytes(&text).expect("hexadecimal digits and hyphens are visible ASCII")
    }

    /// Sets `traceparent`; `tracestate` stays only with the parent it came with.
    pub fn apply(&self, headers: &mut impl Edit) {
        if !self.continued && headers.fields().contains_key(TRACESTATE) {
            headers.remove(&TRACESTATE);
        }
        headers.set(TRACEPARENT, self.to_value());
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_value().to_str().unwrap_or_default())
    }
}

/// Reads `traceparent`: trace id and whether it is sampled. Later versions may be longer (Trace Context §4.3).
fn parse(text: &[u8]) -> Option<([u64; 2], bool)> {
    let (fixed, rest) = text.split_at_checked(55)?;
    let version = number(&fixed[..2])?;
    let fits = match version {
        0xFF => false,
        0 => rest.is_empty(),
        _ => rest.is_empty() || rest[0] == b'-',
    };
    if !fits || fixed[2] != b'-' || fixed[35] != b'-' || fixed[52] != b'-' {
        return None;
    }
    let trace = [number(&fixed[3..19])?, number(&fixed[19..35])?];
    let span = number(&fixed[36..52])?;
    let flags = number(&fixed[53..55])?;
    (trace != [0, 0] && span != 0).then_some((trace, flags & 1 == 1))
}

/// Lower-case hexadecimal digits, at most 16, as a number.
fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |sum, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(sum << 4 | u64::from(value))
    })
}

/// Writes numbers as 16 digits each.
fn hex(out: &mut [u8], numbers: &[u64]) {
    for (to, number) in out.chunks_exact_mut(16).zip(numbers) {
        for (pair, byte) in to.chunks_exact_mut(2).zip(number.to_be_bytes()) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
    }
}

/// Whether an id of another's making can stand in logs and headers.
fn is_fit(id: &[u8]) -> bool {
    (1..=64).contains(&id.len())
        && id
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// xoroshiro128++ (Blackman and Vigna), seeded from the operating system through the standard library's hasher keys.
fn random() -> u64 {
    thread_local! {
        static STATE: Cell<[u64; 2]> = {
            let keys = RandomState::new();
            // Zero twice would be a fixed point.
            Cell::new([keys.hash_one(1) | 1, keys.hash_one(2)])
        };
    }
    STATE.with(|state| {
        let [a, b] = state.get();
        let mixed = a ^ b;
        state.set([
            a.rotate_left(49) ^ mixed ^ (mixed << 21),
            mixed.rotate_left(28),
        ]);
        a.wrapping_add(b).rotate_left(17).wrapping_add(a)
    })
}

/// All zero is no id.
fn random_nonzero() -> u64 {
    random().max(1)
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        map
    }

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn valid_traces_are_continued_and_others_begun_anew() {
        for (name, sent, continued) in [
            ("valid", PARENT, true),
            (
                "not sampled",
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
                true,
            ),
            (
                "unknown flags",
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff",
                true,
            ),
            (
                "later version",
                "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                true,
            ),
            (
                "later version, longer",
                "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what",
                true,
            ),
            (
                "later version, junk",
                "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.what",
                false,
            ),
            (
                "version ff",
                "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                false,
            ),
            (
                "version 00, longer",
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
                false,
            ),
            (
                "upper case",
                "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
                false,
            ),
            (
                "zero trace",
                "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
                false,
            ),
            (
                "zero parent",
                "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
                false,
            ),
            (
                "short",
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
                false,
            ),
            (
                "wrong hyphens",
                "00-4bf92f3577b34da6a3ce929d0e0e47360-0f067aa0ba902b7-01",
                false,
            ),
            ("empty", "", false),
        ] {
            let mut map = map(&[("traceparent", sent), ("tracestate", "a=b,c=d")]);
            let trace = Trace::of(&map);
            trace.apply(&mut map);
            assert_eq!(trace.continued(), continued, "{name}");
            assert_eq!(
                map.contains_key("tracestate"),
                continued,
                "{name}: tracestate (OBS-09)"
            );
            let out = map["traceparent"].to_str().unwrap().to_owned();
            assert!(parse(out.as_bytes()).is_some(), "{name}: {out}");
            assert_eq!(&out[3..35], trace.trace_id(), "{name}");
            if continued {
                assert_eq!(out[3..35], sent[3..35], "{name}: trace id stays");
                assert_ne!(out[36..52], sent[36..52], "{name}: parent id is ours");
            }
            let sampled = !continued || !sent.ends_with("-00");
            assert_eq!(out.ends_with("-01"), sampled, "{name}");
        }
        let twice = map(&[("traceparent", PARENT), ("traceparent", PARENT)]);
        assert!(!Trace::of(&twice).continued());
    }

    #[test]
    fn request_ids_are_taken_over_from_trusted_peers_only() {
        for (name, sent, trusted, taken) in [
            ("trusted", "a-B_9.z", true, true),
            ("untrusted", "a-B_9.z", false, false),
            ("empty", "", true, false),
            ("longest", &*"a".repeat(64), true, true),
            ("too long", &*"a".repeat(65), true, false),
            ("space", "a b", true, false),
            ("quote", "a\"b", true, false),
            ("non-ASCII", "é", true, false),
        ] {
            let id = RequestId::of(&map(&[("x-request-id", sent)]), trusted);
            assert_eq!(id.as_str() == sent, taken, "{name}");
            assert!(is_fit(id.as_str().as_bytes()), "{name}");
        }
        let id = RequestId::of(&map(&[("x-request-id", "a"), ("x-request-id", "b")]), true);
        assert_eq!(id.as_str().len(), 32);
    }

    #[test]
    fn ids_do_not_repeat_within_or_across_threads() {
        let make = || {
            (0..2000)
                .map(|_| RequestId::generate().to_string())
                .collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(make)).collect();
        let ids: Vec<String> = threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect();
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
    }
}
