//! Histograms of durations as the kernel fills them (`hist.h`): OpenTelemetry's exponential buckets of seconds at
//! scale 2, that is four to each doubling, with upper bounds inclusive.

use zerocopy::{FromZeros as _, IntoBytes as _};

use crate::abi::{HISTOGRAM_BUCKETS, histogram};
use crate::{Constant, Merge};

/// How many buckets a histogram has: 32 doublings.
pub const BUCKETS: usize = HISTOGRAM_BUCKETS as usize;
/// OpenTelemetry's scale: bounds are powers of 2^(2^-scale).
pub const SCALE: i32 = 2;
/// Bounds between the buckets.
const BOUNDS: usize = BUCKETS - 1;
/// Name of the common variable, in `hist.h`.
const VARIABLE: &str = "histogram_bounds";

/// Which durations the buckets hold. Those below the first or above the last one count in these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// OpenTelemetry's index of the first bucket: it holds durations above 2^(lowest / 4) seconds.
    pub lowest: i32,
}

impl Range {
    /// 30 ns to 128 s: from the resolution of a pair of clock readings to TCP's longest retransmission timeout.
    pub const LATENCY: Self = Self { lowest: -100 };
    /// 1 ms to 48 days: how long connections live.
    pub const LIFETIME: Self = Self { lowest: -40 };

    /// The bounds as the program needs them at load time.
    pub fn bounds(self) -> Bounds {
        let bound = |bucket: usize| bound_ns(self.lowest + bucket as i32 + 1);
        Bounds(std::array::from_fn(bound))
    }

    /// Whether a duration is within the bounds of a bucket. The first and the last one also hold what is beyond.
    pub fn holds(self, bucket: u32, ns: u64) -> bool {
        let index = self.lowest + bucket as i32;
        bound_ns(index) < ns && ns <= bound_ns(index + 1)
    }
}

/// 2^(0/4) … 2^(3/4) seconds in units of 10^-18 ns, rounded down.
const QUARTERS: [u128; 4] = [
    1_000_000_000_000_000_000_000_000_000,
    1_189_207_115_002_721_066_717_499_970,
    1_414_213_562_373_095_048_801_688_724,
    1_681_792_830_507_429_086_062_250_952,
];
/// Those units in one nanosecond.
const UNITS: u128 = 1_000_000_000_000_000_000;

/// The largest whole number of nanoseconds that is not above 2^(index / 4) seconds. Integers, for `f64` has too few digits
/// for days.
fn bound_ns(index: i32) -> u64 {
    let (doublings, quarter) = (index.div_euclid(4), index.rem_euclid(4));
    let base = QUARTERS[quarter as usize];
    let (up, down) = (doublings.max(0), (-doublings).max(0));
    ((base << up) / (UNITS << down)) as u64
}

/// Load-time constant of a program with histograms.
#[derive(Clone, Debug)]
pub struct Bounds([u64; BOUNDS]);

impl Bounds {
    /// The bounds of all histograms of a program without others.
    pub fn constant(&self) -> Constant<'_> {
        self.named(VARIABLE)
    }

    /// The bounds in a variable of the program's own.
    pub fn named<'a>(&'a self, name: &'a str) -> Constant<'a> {
        Constant { name, value: self.0.as_bytes() }
    }

    /// Counts one duration as `observe` of `hist.h` does.
    pub fn observe(&self, histogram: &mut histogram, ns: u64) {
        let bucket = self.0.partition_point(|bound| *bound < ns);
        histogram.buckets[bucket] += 1;
        histogram.sum += ns;
    }
}

impl Default for histogram {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

impl histogram {
    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

impl Merge for histogram {
    fn merge(&mut self, other: &Self) {
        self.sum += other.sum;
        self.buckets.iter_mut().zip(other.buckets).for_each(|(bucket, more)| *bucket += more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether `ns` is at most 2^(index / 4) seconds, in integers: ns^4 against 10^36 · 2^index.
    fn is_within(ns: u64, index: i32) -> bool {
        let mut left = Big::one();
        (0..4).for_each(|_| left.multiply(ns));
        let mut right = Big::one();
        (0..4).for_each(|_| right.multiply(1_000_000_000));
        if index >= 0 {
            right.shift(index as u32);
        } else {
            left.shift(index.unsigned_abs());
        };
        left.0.iter().rev().le(right.0.iter().rev())
    }

    /// 512 bits, least significant word first.
    struct Big([u64; 8]);

    impl Big {
        fn one() -> Self {
            Self([1, 0, 0, 0, 0, 0, 0, 0])
        }

        fn multiply(&mut self, by: u64) {
            let mut carry = 0_u128;
            for word in &mut self.0 {
                carry += u128::from(*word) * u128::from(by);
                *word = carry as u64;
                carry >>= 64;
            }
            assert_eq!(carry, 0, "512 bits suffice");
        }

        fn shift(&mut self, by: u32) {
            (0..by).for_each(|_| self.multiply(2));
        }
    }

    #[test]
    fn every_bound_is_the_last_nanosecond_of_its_bucket() {
        for range in [Range::LATENCY, Range::LIFETIME] {
            for (bucket, bound) in range.bounds().0.into_iter().enumerate() {
                let index = range.lowest + bucket as i32 + 1;
                assert!(is_within(bound, index), "{bound} ns is above 2^({index}/4) s");
                assert!(!is_within(bound + 1, index), "{bound} + 1 ns is not above 2^({index}/4) s");
            }
        }
    }

    #[test]
    fn a_bucket_holds_what_is_counted_in_it_within_its_bounds() {
        let bounds = Range::LATENCY.bounds();
        for bound in bounds.0 {
            for ns in [bound, bound + 1] {
                let mut counted = histogram::default();
                bounds.observe(&mut counted, ns);
                let bucket = counted.buckets.iter().position(|count| *count == 1).unwrap() as u32;
                // The longest is beyond the bounds of the last one, and not of those around.
                assert_eq!(Range::LATENCY.holds(bucket, ns), ns <= bound_ns(28), "{ns}");
                assert!(!Range::LATENCY.holds(bucket + 1, ns));
            }
        }
        assert!(!Range::LATENCY.holds(0, 1) && Range::LATENCY.holds(0, 35));
    }

    #[test]
    fn bounds_rise_and_cover_what_they_promise() {
        let Bounds(latency) = Range::LATENCY.bounds();
        assert!(latency.is_sorted());
        assert_eq!((latency[0], latency[BOUNDS - 1]), (35, 107_634_741_152));
        assert_eq!(latency[99], 1_000_000_000);
    }
}
