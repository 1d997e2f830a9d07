//! A distribution of durations in a report: how many there were, and what half and all but one in a hundred were below.

use opentelemetry_proto::tonic::metrics::v1::ExponentialHistogramDataPoint;

/// Buckets of a point, from the one with the index `offset` on.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Durations {
    scale: i32,
    offset: i32,
    counts: Vec<u64>,
}

impl Durations {
    pub(super) fn of(point: &ExponentialHistogramDataPoint) -> Self {
        let positive = point.positive.clone().unwrap_or_default();
        Self { scale: point.scale, offset: positive.offset, counts: positive.bucket_counts }
    }

    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// What was added since `before`; `None`: the series began anew.
    pub(super) fn since(&self, before: &Self) -> Option<Self> {
        let index = |bucket: usize| self.offset + bucket as i32;
        let change = |(bucket, now): (usize, &u64)| now.checked_sub(before.at(index(bucket)));
        let counts: Vec<u64> = self.counts.iter().enumerate().map(change).collect::<Option<_>>()?;
        (self.count() >= before.count()).then(|| Self { counts, ..self.clone() })
    }

    fn at(&self, index: i32) -> u64 {
        let bucket = usize::try_from(index - self.offset).ok();
        bucket.and_then(|bucket| self.counts.get(bucket)).copied().unwrap_or(0)
    }

    /// The half's and the hundredth's bound; `None` without durations.
    pub(super) fn quantiles(&self) -> Option<String> {
        let bound = |fraction| self.quantile(fraction).map(seconds);
        Some(format!("p50 ≤ {} p99 ≤ {}", bound(0.5)?, bound(0.99)?))
    }

    /// The upper bound, in seconds, of the bucket in which `fraction` of all durations is reached.
    fn quantile(&self, fraction: f64) -> Option<f64> {
        let wanted = (self.count() as f64 * fraction).ceil().max(1.0) as u64;
        let mut below = 0;
        let bucket = self.counts.iter().position(|count| {
            below += count;
            below >= wanted
        })?;
        let bound = self.offset + bucket as i32 + 1;
        Some((f64::from(bound) / f64::from(self.scale).exp2()).exp2())
    }
}

/// A duration with three digits and its unit.
fn seconds(value: f64) -> String {
    let units = [(1.0, "s"), (1e-3, "ms"), (1e-6, "µs")];
    let (size, unit) = units.into_iter().find(|(size, _)| value >= *size).unwrap_or((1e-9, "ns"));
    let scaled = value / size;
    let digits = if scaled >= 100.0 {
        0
    } else if scaled >= 10.0 {
        1
    } else {
        2
    };
    format!("{scaled:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn durations(offset: i32, counts: &[u64]) -> Durations {
        Durations { scale: 2, offset, counts: counts.to_vec() }
    }

    #[test]
    fn quantiles_are_the_bounds_of_the_buckets_that_reach_them() {
        // Index -5 ends at 2^-1 s, index -1 at 1 s.
        let text = durations(-5, &[98, 0, 0, 0, 2]).quantiles();
        assert_eq!(text.as_deref(), Some("p50 ≤ 500 ms p99 ≤ 1.00 s"));
        assert_eq!(durations(0, &[]).quantiles(), None);
        assert_eq!(durations(0, &[0, 0]).quantiles(), None);
    }

    #[test]
    fn a_change_is_taken_bucket_by_bucket_also_when_the_first_bucket_moved() {
        let change = durations(-6, &[1, 5, 7]).since(&durations(-5, &[3, 7]));
        assert_eq!(change, Some(durations(-6, &[1, 2, 0])));
    }

    #[test]
    fn a_series_that_began_anew_has_no_change() {
        assert_eq!(durations(-5, &[3]).since(&durations(-5, &[4])), None);
        assert_eq!(durations(-5, &[3]).since(&durations(-9, &[4])), None);
    }
}
