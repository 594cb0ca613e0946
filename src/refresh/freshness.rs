//! Tells how fresh an access token is, from nothing but its own times.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::session::Tokens;

/// How fresh an access token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Forward it.
    Fresh,
    /// Forward it, and renew it in the background.
    Ageing,
    /// Do not forward it.
    Expired,
}

/// Classifies tokens by their own expiry, never by the session's age.
///
/// Ageing begins `refresh_before` its expiry, or half-way through a short life; up to a tenth of that later, so that
/// tokens issued together are not renewed together. What is left for the way to the upstream, at most five seconds and a
/// tenth of the life, counts as expired already.
pub fn freshness(tokens: &Tokens, now: Timestamp, refresh_before: Duration) -> Freshness {
    let life = tokens.expires_at.left(tokens.refreshed_at);
    let left = tokens.expires_at.left(now);
    if tokens.usable_until() <= now {
        return Freshness::Expired;
    }
    if from_the_future(tokens, now) {
        return Freshness::Ageing;
    }
    let window = refresh_before.min(life / 2) / 1000 * (1000 - jitter(tokens.refreshed_at));
    if left <= window {
        Freshness::Ageing
    } else {
        Freshness::Fresh
    }
}

/// The clock was set back: by the token's own times it would be fresh for longer than it ever was. Replicas whose clocks
/// differ by less than that do not renew each other's tokens.
pub(super) fn from_the_future(tokens: &Tokens, now: Timestamp) -> bool {
    let life = tokens.expires_at.left(tokens.refreshed_at);
    tokens.refreshed_at > now.plus(life.max(SKEW))
}

/// Clocks that differ by no more than this are right (PRODUCT §7).
const SKEW: Duration = Duration::from_secs(60);

/// 0..=100, the same on all replicas because all know when the token was issued.
fn jitter(issued: Timestamp) -> u32 {
    // Fibonacci hashing: neighbouring milliseconds land far apart.
    let spread = issued
        .as_millis()
        .cast_unsigned()
        .wrapping_mul(0x9E37_79B9_7F4A_7C15);
    u32::try_from((spread >> 32) % 101).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::testing::{START, tokens};

    fn of(life: Duration, left: Duration, before: u64) -> Freshness {
        let mut tokens = tokens(0, START);
        tokens.expires_at = START.plus(life);
        let now = tokens.expires_at.minus(left);
        freshness(&tokens, now, Duration::from_secs(before))
    }

    #[test]
    fn a_token_ages_by_its_own_life() {
        // REFRESH-10, REFRESH-11. Window ends may move by a tenth: rows keep clear of that.
        use Freshness::{Ageing, Expired, Fresh};
        let s = Duration::from_secs;
        let ms = Duration::from_millis;
        for (name, life, left, before, want) in [
            ("new", s(300), s(300), 60, Fresh),
            ("before the window", s(300), s(61), 60, Fresh),
            ("inside the window", s(300), s(53), 60, Ageing),
            ("last moments", s(300), ms(5001), 60, Ageing),
            ("no time for the way", s(300), s(5), 60, Expired),
            ("over", s(300), s(0), 60, Expired),
            ("short life, first half", s(10), ms(5001), 60, Fresh),
            ("short life, second half", s(10), ms(4400), 60, Ageing),
            ("short life, at its margin", s(10), s(1), 60, Expired),
            ("short life, before its margin", s(10), ms(1001), 60, Ageing),
            ("one second, new", s(1), s(1), 60, Fresh),
            ("no window", s(300), ms(5001), 0, Fresh),
            ("no life", s(0), s(0), 60, Expired),
            ("window beyond the life", s(3600), s(3000), u64::MAX, Fresh),
            ("issued by a clock that is ahead", s(300), s(599), 60, Fresh),
            ("issued in the future", s(300), s(601), 60, Ageing),
            ("short life, a clock in order", s(10), s(69), 60, Fresh),
            ("short life, issued in the future", s(10), s(71), 60, Ageing),
        ] {
            assert_eq!(of(life, left, before), want, "{name}");
        }
    }

    #[test]
    fn windows_differ_by_no_more_than_a_tenth() {
        let mut seen = std::collections::HashSet::new();
        for ms in 0..1000 {
            let jitter = jitter(Timestamp::from_millis(START.as_millis() + ms));
            assert!(jitter <= 100);
            seen.insert(jitter);
        }
        assert!(seen.len() > 90, "spread over the range");
    }
}
