//! Exponential buckets as explicit ones. Every explicit bound is a bound of the kernel's buckets, so that no count has to be
//! split between two.

use std::{collections::BTreeMap, sync::LazyLock};

use opentelemetry_proto::tonic::metrics::v1::{
    DataPointFlags, Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Histogram,
    HistogramDataPoint, exemplar::Value,
};

/// The bounds are 2^(index / 4) seconds of these: from 0.95 µs to 9.5 s.
const LOWEST: i32 = -80;
const HIGHEST: i32 = 13;

pub(super) static BOUNDS: LazyLock<Vec<f64>> =
    LazyLock::new(|| (LOWEST..=HIGHEST).map(|index| (f64::from(index) / 4.0).exp2()).collect());

/// The same distribution, with what is beyond the bounds in the first and the last bucket.
pub(super) fn histogram(exponential: &ExponentialHistogram) -> Histogram {
    Histogram {
        data_points: exponential.data_points.iter().map(point).collect(),
        aggregation_temporality: exponential.aggregation_temporality,
    }
}

fn point(from: &ExponentialHistogramDataPoint) -> HistogramDataPoint {
    let mut counts = vec![0; BOUNDS.len() + 1];
    counts[0] += from.zero_count;
    for (index, count) in (0..).zip(from.positive.iter().flat_map(|buckets| &buckets.bucket_counts)) {
        let index = from.positive.as_ref().map_or(0, |buckets| buckets.offset) + index;
        counts[place(index)] += count;
    }
    HistogramDataPoint {
        attributes: from.attributes.clone(),
        start_time_unix_nano: from.start_time_unix_nano,
        time_unix_nano: from.time_unix_nano,
        count: from.count,
        // Prometheus ends the series of a sum only where there is one.
        sum: from.sum.or((from.flags & DataPointFlags::NoRecordedValueMask as u32 != 0).then_some(0.0)),
        bucket_counts: counts,
        explicit_bounds: BOUNDS.clone(),
        exemplars: latest(&from.exemplars),
        flags: from.flags,
        min: from.min,
        max: from.max,
    }
}

/// The last exemplar of each bucket: buckets beyond the bounds have become one.
fn latest(all: &[Exemplar]) -> Vec<Exemplar> {
    let mut latest: BTreeMap<usize, &Exemplar> = BTreeMap::new();
    for one in all {
        let Some(Value::AsDouble(value)) = one.value else { continue };
        let bucket = BOUNDS.partition_point(|bound| *bound < value);
        let shown = latest.entry(bucket).or_insert(one);
        if shown.time_unix_nano < one.time_unix_nano {
            *shown = one;
        }
    }
    latest.into_values().cloned().collect()
}

/// The explicit bucket of an exponential one, which holds what is above 2^(index / 4) and up to 2^((index + 1) / 4): the one
/// with that upper bound.
fn place(index: i32) -> usize {
    usize::try_from((index + 1).clamp(LOWEST, HIGHEST + 1) - LOWEST).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use jitterscope_ebpf::histogram::{Range, SCALE};
    use opentelemetry_proto::tonic::metrics::v1::exponential_histogram_data_point::Buckets;

    use super::*;

    /// One duration, as the kernel's buckets hold it.
    fn exponential(seconds: f64) -> ExponentialHistogramDataPoint {
        let ns = (seconds * 1e9).round() as u64;
        let mut kernel = jitterscope_ebpf::abi::histogram::default();
        Range::LATENCY.bounds().observe(&mut kernel, ns);
        let buckets = Buckets { offset: Range::LATENCY.lowest, bucket_counts: kernel.buckets.to_vec() };
        ExponentialHistogramDataPoint {
            count: 1,
            sum: Some(seconds),
            scale: SCALE,
            positive: Some(buckets),
            ..ExponentialHistogramDataPoint::default()
        }
    }

    #[test]
    fn every_duration_is_in_the_explicit_bucket_that_its_value_belongs_to() {
        let mut seconds = 5e-8;
        while seconds < 100.0 {
            let point = point(&exponential(seconds));
            let ns = (seconds * 1e9).round() / 1e9;
            let expected = BOUNDS.partition_point(|bound| *bound < ns);
            assert_eq!(point.bucket_counts.iter().position(|count| *count == 1), Some(expected), "{seconds}");
            assert_eq!(point.bucket_counts.iter().sum::<u64>(), 1);
            seconds *= 1.0137;
        }
    }

    #[test]
    fn every_bucket_keeps_its_last_exemplar() {
        let shown = |value: f64, time_unix_nano: u64| Exemplar {
            time_unix_nano,
            value: Some(Value::AsDouble(value)),
            ..Exemplar::default()
        };
        // What is shorter than the bounds or longer has one bucket each.
        let all = [(1e-7, 2), (2e-7, 3), (3e-7, 1), (0.9, 4), (1.0, 3), (1.1, 5), (10.0, 7), (90.0, 6)];
        let exemplars = all.map(|(value, time)| shown(value, time)).to_vec();
        let point = point(&ExponentialHistogramDataPoint { exemplars, ..exponential(1.0) });
        let times: Vec<u64> = point.exemplars.iter().map(|one| one.time_unix_nano).collect();
        assert_eq!(times, [3, 4, 5, 7]);
    }

    #[test]
    fn the_bounds_are_those_that_are_documented_and_rise() {
        assert_eq!(BOUNDS.len(), 94);
        assert!(BOUNDS[0] < 1e-6 && BOUNDS[93] > 9.0 && BOUNDS[93] < 10.0);
        assert!(BOUNDS.is_sorted_by(|a, b| a < b));
        assert_eq!(BOUNDS[80], 1.0);
    }
}
