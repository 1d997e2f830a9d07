//! Chance that can be repeated: a test prints its seed, and takes one from `JITTERSCOPE_SEED`.

use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::ops::Range;

/// A sequence that its seed repeats (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// By the seed of the environment, or a new one; it is printed in either case.
    #[must_use]
    pub fn new(what: &str) -> Self {
        let given = std::env::var("JITTERSCOPE_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| RandomState::new().hash_one(what) >> 32);
        // Where nobody reads it, nobody misses it.
        let _ = writeln!(std::io::stdout(), "{what}: JITTERSCOPE_SEED={seed}");
        Self(seed)
    }

    /// One of its own for a part of the test, whatever the others draw.
    #[must_use]
    pub fn part(&self, number: u64) -> Self {
        let mut part = Self(self.0 ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93));
        part.next();
        part
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number of a range.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }

    /// True in this many of a hundred cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.within(0..100) < percent
    }
}
