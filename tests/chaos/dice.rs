//! Draws everything that is left to chance, the same for the same seed on every machine.

use std::time::Duration;

/// SplitMix64: small, and good enough for bad luck.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Dice for one purpose: what others draw does not change what these do.
    pub(crate) fn new(seed: u64, purpose: &str) -> Self {
        let mut dice = Self(seed);
        for byte in purpose.bytes() {
            dice.0 = dice.next() ^ u64::from(byte);
        }
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// 0..count.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        let count = u64::try_from(count.max(1)).expect("a count fits");
        usize::try_from(self.next() % count).expect("less than a count")
    }

    /// Whether something of so many percent happens.
    pub(crate) fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    /// A time between these, in milliseconds.
    pub(crate) fn time(&mut self, from: usize, to: usize) -> Duration {
        let millis = from + self.below(to - from + 1);
        Duration::from_millis(u64::try_from(millis).expect("a time fits"))
    }

    /// One of these.
    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}
