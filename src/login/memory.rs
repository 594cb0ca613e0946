//! Remembers what outlives a reload: which states were consumed, and how often each client address logs in.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use governor::clock::{Clock as _, DefaultClock};
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use parking_lot::Mutex;

use super::state;
use crate::clock::Timestamp;

/// What outlives a reload: states already consumed, and log-ins per client address. Bounded.
pub struct Memory {
    consumed: Mutex<Consumed>,
    limiter: ArcSwapOption<Limiter>,
}

impl Memory {
    /// Empty.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            consumed: Mutex::default(),
            limiter: ArcSwapOption::empty(),
        })
    }

    /// Whether the transaction was consumed here already.
    pub(super) fn knows(&self, transaction: &[u8; 16], now: Timestamp) -> bool {
        self.consumed.lock().knows(transaction, now)
    }

    /// Consumes the transaction; `false` when it was consumed before. Of any number at the same time one gets `true`.
    pub(super) fn consume(&self, transaction: [u8; 16], now: Timestamp) -> bool {
        self.consumed.lock().insert(transaction, now)
    }

    /// Counts a login that starts at `client`.
    ///
    /// # Errors
    /// How long to wait when there were too many.
    pub(super) fn admit(&self, client: IpAddr, per_minute: NonZeroU32) -> Result<(), Duration> {
        let limiter = match &*self.limiter.load() {
            Some(limiter) if limiter.per_minute == per_minute => Arc::clone(limiter),
            // The first, or the configuration changed: counting starts anew.
            _ => {
                let limiter = Arc::new(Limiter::new(per_minute));
                self.limiter.store(Some(Arc::clone(&limiter)));
                limiter
            }
        };
        limiter.admit(client)
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").finish_non_exhaustive()
    }
}

/// Consumed transactions, oldest first. They expire with the transactions themselves.
#[derive(Default)]
struct Consumed {
    known: HashSet<[u8; 16]>,
    order: VecDeque<(Timestamp, [u8; 16])>,
}

/// Beyond this the oldest is forgotten; its code is then the provider's to refuse (RFC 6749 §4.1.2).
const MAX_CONSUMED: usize = 100_000;

impl Consumed {
    fn knows(&mut self, transaction: &[u8; 16], now: Timestamp) -> bool {
        self.expire(now);
        self.known.contains(transaction)
    }

    fn insert(&mut self, transaction: [u8; 16], now: Timestamp) -> bool {
        self.expire(now);
        if !self.known.insert(transaction) {
            return false;
        }
        if self.order.len() >= MAX_CONSUMED {
            self.forget_oldest();
        }
        self.order.push_back((now, transaction));
        true
    }

    fn expire(&mut self, now: Timestamp) {
        // A transaction of a replica whose clock is ahead opens for a little longer: keep its id for as long.
        let keep = state::LIFETIME + state::LIFETIME / 2;
        while self
            .order
            .front()
            .is_some_and(|(at, _)| at.plus(keep) < now)
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, oldest)) = self.order.pop_front() {
            self.known.remove(&oldest);
        }
    }
}

type Keyed = RateLimiter<Neighbourhood, HashMapStateStore<Neighbourhood>, DefaultClock>;

struct Limiter {
    per_minute: NonZeroU32,
    keyed: Keyed,
    clock: DefaultClock,
    until_tidy: AtomicU32,
}

/// Whom a limit is shared with: one IPv4 address, or one IPv6 /64, which is what a single customer gets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Neighbourhood(IpAddr);

/// Idle addresses are dropped every so many logins.
const TIDY_EVERY: u32 = 1024;
/// With this many addresses counted, newcomers share with a wider neighbourhood.
const CROWDED: usize = 50_000;

impl Limiter {
    fn new(per_minute: NonZeroU32) -> Self {
        Self {
            per_minute,
            keyed: RateLimiter::hashmap(Quota::per_minute(per_minute)),
            clock: DefaultClock::default(),
            until_tidy: AtomicU32::new(TIDY_EVERY),
        }
    }

    fn admit(&self, client: IpAddr) -> Result<(), Duration> {
        if self.until_tidy.fetch_sub(1, Ordering::Relaxed) <= 1 {
            self.until_tidy.store(TIDY_EVERY, Ordering::Relaxed);
            self.keyed.retain_recent();
            self.keyed.shrink_to_fit();
        }
        let crowded = self.keyed.len() >= CROWDED;
        let key = Neighbourhood::of(client, crowded);
        self.keyed
            .check_key(&key)
            .map_err(|until| until.wait_time_from(self.clock.now()))
    }
}

impl Neighbourhood {
    /// `crowded` widens it to one of 4096, which bounds the number of keys whatever addresses come.
    fn of(client: IpAddr, crowded: bool) -> Self {
        Self(match client.to_canonical() {
            IpAddr::V4(v4) if crowded => Ipv4Addr::from_bits(v4.to_bits() & 0xfff0_0000).into(),
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => {
                let kept = if crowded { 12 } else { 64 };
                Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << (128 - kept))).into()
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

    fn number(n: u64) -> [u8; 16] {
        u128::from(n).to_be_bytes()
    }

    /// FLOW-04, FLOW-06
    #[test]
    fn a_transaction_is_consumed_once_and_forgotten_when_it_could_not_be_used_anyway() {
        let memory = Memory::new();
        assert!(!memory.knows(&number(1), NOW));
        assert!(memory.consume(number(1), NOW));
        assert!(memory.knows(&number(1), NOW));
        assert!(!memory.consume(number(1), NOW.plus(state::LIFETIME)));
        assert!(!memory.knows(&number(1), NOW.plus(state::LIFETIME * 2)));
    }

    #[test]
    fn the_consumed_ones_are_bounded() {
        let mut consumed = Consumed::default();
        for n in 0..=MAX_CONSUMED as u64 {
            assert!(consumed.insert(number(n), NOW));
        }
        assert_eq!(consumed.known.len(), MAX_CONSUMED);
        assert_eq!(consumed.order.len(), MAX_CONSUMED);
        assert!(!consumed.knows(&number(0), NOW));
        assert!(consumed.knows(&number(1), NOW));
    }

    #[test]
    fn logins_are_counted_per_address_and_per_ipv6_prefix() {
        let two = NonZeroU32::new(2).unwrap();
        let memory = Memory::new();
        let admit = |client: &str| memory.admit(client.parse().unwrap(), two);
        assert!(admit("192.0.2.1").is_ok());
        assert!(admit("::ffff:192.0.2.1").is_ok());
        let wait = admit("192.0.2.1").unwrap_err();
        assert!(
            wait > Duration::ZERO && wait <= Duration::from_secs(30),
            "{wait:?}"
        );
        assert!(admit("192.0.2.2").is_ok());
        assert!(admit("2001:db8::1").is_ok());
        assert!(admit("2001:db8::2").is_ok());
        assert!(admit("2001:db8::3").is_err());
        assert!(admit("2001:db8:0:1::1").is_ok());
    }

    #[test]
    fn a_changed_limit_counts_anew() {
        let memory = Memory::new();
        let client = "192.0.2.1".parse().unwrap();
        let (one, two) = (NonZeroU32::MIN, NonZeroU32::new(2).unwrap());
        assert!(memory.admit(client, one).is_ok());
        assert!(memory.admit(client, one).is_err());
        assert!(memory.admit(client, two).is_ok());
    }

    #[test]
    fn a_crowd_of_addresses_cannot_fill_the_memory() {
        let limiter = Limiter::new(NonZeroU32::MIN);
        for n in 0..200_000_u32 {
            let _ = limiter.admit(Ipv4Addr::from_bits(n.wrapping_mul(2_654_435_761)).into());
        }
        assert!(
            limiter.keyed.len() <= CROWDED + 4096,
            "{}",
            limiter.keyed.len()
        );
    }
}
