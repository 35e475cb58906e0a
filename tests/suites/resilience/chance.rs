//! Chance that is the same in every run.

use std::time::Duration;

/// A sequence of numbers from a seed (SplitMix64).
pub struct Chance(u64);

impl Chance {
    pub fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A moment before `end`.
    pub fn moment(&mut self, end: Duration) -> Duration {
        Duration::from_millis(self.next() % u64::try_from(end.as_millis()).unwrap().max(1))
    }
}
