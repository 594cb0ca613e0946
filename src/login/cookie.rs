//! Binds logins to a browser by one small sealed cookie, which also counts finished logins to break loops.
//!
//! All tabs share it, so it cannot pile up (FLOW-06), and being sealed it cannot be made outside (FLOW-08).

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::random;
use crate::clock::Timestamp;
use crate::seal::{KeyRing, Purpose};

/// The login cookie, opened.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LoginCookie {
    binding: [u8; 16],
    /// Logins finished before this moment do not count towards a loop.
    counts_from: Timestamp,
    /// Newest last, at most [`RING`].
    finished: Vec<Finished>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Finished {
    at: Timestamp,
    /// Start of the transaction's id: a reload of its callback is known on every replica (FLOW-20).
    id: [u8; 8],
}

/// Finished logins remembered.
const RING: usize = 4;
/// This many finished logins within [`LOOP_WINDOW`] make an automatic start a loop (FLOW-21).
const LOOP_COUNT: usize = 3;
const LOOP_WINDOW: Duration = Duration::from_secs(60);
/// Longer values are not ours.
const MAX_TEXT: usize = 512;
const VERSION: u8 = 1;

impl LoginCookie {
    /// For a browser that has none.
    pub(super) fn fresh() -> Self {
        Self {
            binding: random(),
            counts_from: Timestamp::from_millis(0),
            finished: Vec::new(),
        }
    }

    /// Opens a cookie's raw value; `None` for anything we did not seal.
    pub(super) fn open(keys: &KeyRing, raw: &str) -> Option<Self> {
        if raw.len() > MAX_TEXT {
            return None;
        }
        let sealed = BASE64_URL_SAFE_NO_PAD.decode(raw).ok()?;
        let plain = keys.open(Purpose::LoginCookie, &[], &[], &sealed).ok()?;
        Self::decode(&plain)
    }

    /// The cookie's value.
    pub(super) fn seal(&self, keys: &KeyRing) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(keys.seal(Purpose::LoginCookie, &[], &[], &self.encode()))
    }

    /// The second secret under which this browser's transactions are sealed.
    pub(super) fn binding(&self) -> &[u8] {
        &self.binding
    }

    /// Whether one more automatic login would go round in circles (FLOW-21).
    pub(super) fn loops(&self, now: Timestamp) -> bool {
        let from = self.counts_from.max(now.minus(LOOP_WINDOW));
        let counted = |login: &&Finished| login.at > from && login.at <= now;
        self.finished.iter().filter(counted).count() >= LOOP_COUNT
    }

    /// The user asked for a login: what was before is no loop.
    pub(super) fn forgive(&mut self, now: Timestamp) {
        self.counts_from = now;
    }

    /// A login was finished.
    pub(super) fn count(&mut self, now: Timestamp, transaction: &[u8; 16]) {
        if self.finished.len() >= RING {
            self.finished.remove(0);
        }
        self.finished.push(Finished {
            at: now,
            id: short(transaction),
        });
    }

    /// Whether this browser finished the transaction already.
    pub(super) fn has_finished(&self, transaction: &[u8; 16]) -> bool {
        let id = short(transaction);
        self.finished.iter().any(|login| login.id == id)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1 + 16 + 8 + RING * 16);
        out.push(VERSION);
        out.extend_from_slice(&self.binding);
        out.extend_from_slice(&self.counts_from.as_millis().to_be_bytes());
        for login in &self.finished {
            out.extend_from_slice(&login.at.as_millis().to_be_bytes());
            out.extend_from_slice(&login.id);
        }
        out
    }

    fn decode(plain: &[u8]) -> Option<Self> {
        let (&VERSION, rest) = plain.split_first()? else {
            return None;
        };
        let (&binding, rest) = rest.split_first_chunk::<16>()?;
        let (&counts_from, mut rest) = rest.split_first_chunk::<8>()?;
        let mut finished = Vec::with_capacity(RING);
        while !rest.is_empty() {
            let (&at, tail) = rest.split_first_chunk::<8>()?;
            let (&id, tail) = tail.split_first_chunk::<8>()?;
            if finished.len() == RING {
                return None;
            }
            finished.push(Finished {
                at: Timestamp::from_millis(i64::from_be_bytes(at)),
                id,
            });
            rest = tail;
        }
        Some(Self {
            binding,
            counts_from: Timestamp::from_millis(i64::from_be_bytes(counts_from)),
            finished,
        })
    }
}

fn short(transaction: &[u8; 16]) -> [u8; 8] {
    let mut id = [0; 8];
    id.copy_from_slice(&transaction[..8]);
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rp::fakes::keys;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn finished_at(ages: &[u64]) -> LoginCookie {
        let mut cookie = LoginCookie::fresh();
        for age in ages {
            cookie.count(NOW.minus(Duration::from_secs(*age)), &random());
        }
        cookie
    }

    #[test]
    fn a_cookie_survives_the_way_through_the_browser_and_stays_small() {
        let mut cookie = finished_at(&[50, 40, 30, 20, 10]);
        cookie.forgive(NOW);
        let text = cookie.seal(&keys());
        assert!(text.len() < 300, "{}", text.len());
        assert_eq!(LoginCookie::open(&keys(), &text), Some(cookie));
    }

    #[test]
    fn what_was_not_sealed_here_does_not_open() {
        let text = LoginCookie::fresh().seal(&keys());
        let mut flipped = text.clone().into_bytes();
        flipped[40] ^= 1;
        for (name, raw) in [
            ("empty", String::new()),
            ("not base64", "***".into()),
            ("truncated", text[..text.len() - 2].into()),
            ("flipped", String::from_utf8_lossy(&flipped).into_owned()),
            ("oversized", "A".repeat(4096)),
        ] {
            assert_eq!(LoginCookie::open(&keys(), &raw), None, "{name}");
        }
    }

    /// FLOW-21
    #[test]
    fn three_logins_within_a_minute_are_a_loop_unless_the_user_asked() {
        for (name, ages, want) in [
            ("none", &[][..], false),
            ("two", &[2, 1], false),
            ("three", &[3, 2, 1], true),
            ("three, one long ago", &[61, 2, 1], false),
            ("four, one long ago", &[61, 3, 2, 1], true),
        ] {
            assert_eq!(finished_at(ages).loops(NOW), want, "{name}");
        }
        let mut cookie = finished_at(&[3, 2, 1]);
        cookie.forgive(NOW);
        assert!(
            !cookie.loops(NOW),
            "an explicit login starts the count anew"
        );
    }

    /// FLOW-20
    #[test]
    fn finished_transactions_are_remembered_even_when_forgiven() {
        let id = random();
        let mut cookie = LoginCookie::fresh();
        cookie.count(NOW, &id);
        cookie.forgive(NOW);
        assert!(cookie.has_finished(&id));
        assert!(!cookie.has_finished(&random()));
    }
}
