//! The points of one metric on one entity, until they are one OTLP metric.

use jitterscope_ebpf::{
    Merge as _,
    abi::histogram,
    histogram::{Range, SCALE},
};
use jitterscope_semconv::{Instrument, Metric, attribute::OTEL_METRIC_OVERFLOW};
use opentelemetry_proto::tonic::{
    common::v1::KeyValue,
    metrics::v1::{
        AggregationTemporality, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge,
        Metric as OtlpMetric, NumberDataPoint, Sum, exponential_histogram_data_point::Buckets, metric::Data,
        number_data_point::Value as Number,
    },
};

use super::attributes::{Pair, key_value, key_values};

/// Attribute sets of one metric on one entity. The OpenTelemetry SDK's own default; what is beyond it goes
/// into one point with `otel.metric.overflow`.
pub(super) const ATTRIBUTE_SETS: usize = 2000;

/// Time that a point is about: its start and its end, nanoseconds since the epoch.
type Times = (u64, u64);

/// What a point says.
pub(super) enum Value {
    Number(Number),
    Durations(Range, Box<histogram>),
}

impl From<Number> for Value {
    fn from(number: Number) -> Self {
        Self::Number(number)
    }
}

impl Value {
    /// Adds a value of the same metric.
    fn add(&mut self, other: Self) {
        match (self, other) {
            (Self::Number(Number::AsInt(sum)), Self::Number(Number::AsInt(more))) => {
                *sum = sum.wrapping_add(more);
            }
            (Self::Number(Number::AsDouble(sum)), Self::Number(Number::AsDouble(more))) => *sum += more,
            (Self::Durations(_, sum), Self::Durations(_, more)) => sum.merge(&more),
            // A metric has one type of value, which its probe emits.
            _ => debug_assert!(false, "values of two types in one metric"),
        }
    }
}

pub(super) struct Points {
    pub(super) metric: &'static Metric,
    numbers: Vec<NumberDataPoint>,
    histograms: Vec<ExponentialHistogramDataPoint>,
    overflow: Option<Value>,
}

impl Points {
    pub(super) fn new(metric: &'static Metric) -> Self {
        Self { metric, numbers: Vec::new(), histograms: Vec::new(), overflow: None }
    }

    /// One more point; past the limit it goes into the overflow.
    pub(super) fn add(&mut self, attributes: &[Pair<'_>], times: Times, value: Value) {
        if self.numbers.len() + self.histograms.len() < ATTRIBUTE_SETS {
            self.push(key_values(attributes), times, value);
            return;
        }
        match &mut self.overflow {
            Some(sum) => sum.add(value),
            none => *none = Some(value),
        }
    }

    fn push(&mut self, attributes: Vec<KeyValue>, times: Times, value: Value) {
        match value {
            Value::Number(number) => self.numbers.push(number_point(attributes, times, number)),
            Value::Durations(range, value) => {
                self.histograms.push(histogram_point(attributes, times, range, &value));
            }
        }
    }

    /// The finished metric, whose overflow ends `now`.
    pub(super) fn finish(mut self, now: u64) -> OtlpMetric {
        if let Some(value) = self.overflow.take() {
            self.push(vec![key_value(&OTEL_METRIC_OVERFLOW, true)], (now, now), value);
        }
        OtlpMetric {
            name: self.metric.name.to_owned(),
            description: self.metric.brief.to_owned(),
            unit: self.metric.unit.to_owned(),
            metadata: Vec::new(),
            data: Some(data(self.metric.instrument, self.numbers, self.histograms)),
        }
    }
}

fn data(
    instrument: Instrument,
    numbers: Vec<NumberDataPoint>,
    histograms: Vec<ExponentialHistogramDataPoint>,
) -> Data {
    let aggregation_temporality = AggregationTemporality::Cumulative.into();
    match instrument {
        Instrument::Gauge => Data::Gauge(Gauge { data_points: numbers }),
        Instrument::Counter | Instrument::UpDownCounter => Data::Sum(Sum {
            data_points: numbers,
            aggregation_temporality,
            is_monotonic: matches!(instrument, Instrument::Counter),
        }),
        Instrument::Histogram => Data::ExponentialHistogram(ExponentialHistogram {
            data_points: histograms,
            aggregation_temporality,
        }),
    }
}

fn number_point(attributes: Vec<KeyValue>, (start, time): Times, value: Number) -> NumberDataPoint {
    NumberDataPoint {
        attributes,
        start_time_unix_nano: start,
        time_unix_nano: time,
        value: Some(value),
        ..NumberDataPoint::default()
    }
}

fn histogram_point(
    attributes: Vec<KeyValue>,
    (start, time): Times,
    range: Range,
    value: &histogram,
) -> ExponentialHistogramDataPoint {
    ExponentialHistogramDataPoint {
        attributes,
        start_time_unix_nano: start,
        time_unix_nano: time,
        count: value.count(),
        sum: Some(value.sum as f64 / 1e9),
        scale: SCALE,
        positive: Some(buckets(range, value)),
        ..ExponentialHistogramDataPoint::default()
    }
}

/// The buckets from the first to the last that is not empty.
fn buckets(range: Range, value: &histogram) -> Buckets {
    let filled = |count: &u64| *count > 0;
    let first = value.buckets.iter().position(filled).unwrap_or(0);
    let end = value.buckets.iter().rposition(filled).map_or(first, |last| last + 1);
    Buckets { offset: range.lowest + first as i32, bucket_counts: value.buckets[first..end].to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn durations(counts: &[(usize, u64)], sum: u64) -> histogram {
        let mut value = histogram { sum, ..histogram::default() };
        counts.iter().for_each(|(bucket, count)| value.buckets[*bucket] = *count);
        value
    }

    #[test]
    fn a_histogram_carries_its_filled_buckets_under_their_index() {
        let value = durations(&[(99, 3), (101, 1)], 4_500_000_000);
        let point = histogram_point(Vec::new(), (1, 2), Range::LATENCY, &value);
        let positive = point.positive.expect("buckets");
        // The bucket up to one second is number 99 of the range, and has the index -1.
        assert_eq!((positive.offset, positive.bucket_counts), (-1, vec![3, 0, 1]));
        assert_eq!((point.count, point.sum, point.zero_count, point.scale), (4, Some(4.5), 0, 2));
    }

    #[test]
    fn an_empty_histogram_has_no_buckets() {
        let point = histogram_point(Vec::new(), (1, 2), Range::LATENCY, &durations(&[], 0));
        assert_eq!((point.count, point.positive.expect("buckets").bucket_counts), (0, Vec::new()));
    }
}
