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
        AggregationTemporality, DataPointFlags, Exemplar, ExponentialHistogram,
        ExponentialHistogramDataPoint, Gauge, Metric as OtlpMetric, NumberDataPoint, Sum,
        exponential_histogram_data_point::Buckets, metric::Data, number_data_point::Value as Number,
    },
};

use super::{
    attributes::{Pair, key_values},
    series::{ATTRIBUTE_SETS, Place, Seen, Series},
};

/// Time that a point is about: its start and its end, nanoseconds since the epoch.
pub type Times = (u64, u64);

/// What a point says.
pub(super) enum Value {
    Number(Number),
    /// A counter's, and an anomaly that it contains.
    Counted(i64, Option<Exemplar>),
    /// A distribution, and anomalies that it contains.
    Durations(Range, Box<histogram>, Vec<Exemplar>),
}

impl From<Number> for Value {
    fn from(number: Number) -> Self {
        Self::Number(number)
    }
}

impl Value {
    /// Anything of it that never falls while it counts.
    pub(super) fn rising(&self) -> u64 {
        match self {
            Self::Number(Number::AsInt(value)) | Self::Counted(value, _) => value.cast_unsigned(),
            Self::Number(Number::AsDouble(seconds)) => (seconds * 1e9) as u64,
            Self::Durations(_, value, _) => value.count(),
        }
    }

    /// Adds a value of the same metric.
    fn add(&mut self, other: Self) {
        match (self, other) {
            (Self::Number(Number::AsInt(sum)), Self::Number(Number::AsInt(more))) => {
                *sum = sum.wrapping_add(more);
            }
            (Self::Counted(sum, _), Self::Counted(more, _)) => *sum = sum.wrapping_add(more),
            (Self::Number(Number::AsDouble(sum)), Self::Number(Number::AsDouble(more))) => *sum += more,
            (Self::Durations(_, sum, _), Self::Durations(_, more, _)) => sum.merge(&more),
            // A metric has one type of value, which its probe emits.
            _ => debug_assert!(false, "values of two types in one metric"),
        }
    }
}

pub(super) struct Points {
    pub(super) metric: &'static Metric,
    numbers: Vec<NumberDataPoint>,
    histograms: Vec<ExponentialHistogramDataPoint>,
    /// The value for which there was no room, and since when it is counted.
    overflow: Option<(u64, Value)>,
}

impl Points {
    pub(super) fn new(metric: &'static Metric) -> Self {
        Self { metric, numbers: Vec::new(), histograms: Vec::new(), overflow: None }
    }

    /// One more value, at its place.
    pub(super) fn add(&mut self, attributes: &[Pair<'_>], place: Place, time: u64, value: Value) {
        let has_room = || self.numbers.len() + self.histograms.len() < ATTRIBUTE_SETS as usize;
        if place.own.unwrap_or_else(has_room) {
            self.push(key_values(attributes), (place.start, time), value);
        } else {
            self.overflow(place.start, value);
        }
    }

    /// Adds to the point of what has none of its own.
    pub(super) fn overflow(&mut self, start: u64, value: Value) {
        match &mut self.overflow {
            Some((first, sum)) => {
                *first = start.min(*first);
                sum.add(value);
            }
            none => *none = Some((start, value)),
        }
    }

    /// Makes a point of what has none of its own, a series like others: it falls where one that added to it is gone.
    pub(super) fn settle(&mut self, entity: u64, series: &mut Series, now: u64) {
        let Some((start, value)) = self.overflow.take() else { return };
        let attributes = [(&OTEL_METRIC_OVERFLOW, true.into())];
        let rises = matches!(self.metric.instrument, Instrument::Counter | Instrument::Histogram);
        let rising = if rises { value.rising() } else { 0 };
        let (metric, origin) = (self.metric, Some(start));
        let seen = Seen { metric, attributes: &attributes, origin, value: rising, told: true };
        let place = series.place(entity, &seen);
        self.push(key_values(&attributes), (if rises { place.start } else { start }, now), value);
    }

    fn push(&mut self, attributes: Vec<KeyValue>, times: Times, value: Value) {
        match value {
            Value::Number(number) => self.numbers.push(number_point(attributes, times, number)),
            Value::Counted(count, exemplar) => {
                let point = number_point(attributes, times, Number::AsInt(count));
                let exemplars = exemplar.into_iter().filter(|one| is_within(one, times)).collect();
                self.numbers.push(NumberDataPoint { exemplars, ..point });
            }
            Value::Durations(range, value, mut exemplars) => {
                exemplars.retain(|one| is_within(one, times));
                let point = histogram_point(attributes, times, range, &value);
                self.histograms.push(ExponentialHistogramDataPoint { exemplars, ..point });
            }
        }
    }

    /// The last point of a series: it has no value any more.
    pub(super) fn end(&mut self, attributes: &[Pair<'_>], (start, time): Times) {
        let flags = DataPointFlags::NoRecordedValueMask as u32;
        let (start_time_unix_nano, time_unix_nano) = (start, time);
        let attributes = key_values(attributes);
        match self.metric.instrument {
            Instrument::Histogram => self.histograms.push(ExponentialHistogramDataPoint {
                attributes,
                start_time_unix_nano,
                time_unix_nano,
                scale: SCALE,
                flags,
                ..ExponentialHistogramDataPoint::default()
            }),
            _ => self.numbers.push(NumberDataPoint {
                attributes,
                start_time_unix_nano,
                time_unix_nano,
                flags,
                ..NumberDataPoint::default()
            }),
        }
    }

    /// The finished metric.
    pub(super) fn finish(self) -> OtlpMetric {
        OtlpMetric {
            name: self.metric.name.to_owned(),
            description: self.metric.brief.to_owned(),
            unit: self.metric.unit.to_owned(),
            metadata: Vec::new(),
            data: Some(data(self.metric.instrument, self.numbers, self.histograms)),
        }
    }
}

/// Whether it is of the time that its point is about: after the start, up to the end.
pub fn is_within(exemplar: &Exemplar, (start, end): Times) -> bool {
    start < exemplar.time_unix_nano && exemplar.time_unix_nano <= end
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
    use jitterscope_semconv::metric::TCP_RETRANSMITS;

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
    fn a_point_shows_no_anomaly_of_another_time() {
        let mut points = Points::new(&TCP_RETRANSMITS);
        for time in [9, 10, 11, 20, 21] {
            let exemplar = Exemplar { time_unix_nano: time, ..Exemplar::default() };
            points.push(Vec::new(), (10, 20), Value::Counted(1, Some(exemplar)));
        }
        let shown = points.numbers.iter().flat_map(|point| &point.exemplars);
        assert_eq!(shown.map(|one| one.time_unix_nano).collect::<Vec<_>>(), [11, 20]);
        let exemplars = [10, 15, 25].map(|time_unix_nano| Exemplar { time_unix_nano, ..Exemplar::default() });
        let value = Box::new(durations(&[(99, 3)], 3_000_000_000));
        points.push(Vec::new(), (10, 20), Value::Durations(Range::LATENCY, value, exemplars.to_vec()));
        let shown = points.histograms.iter().flat_map(|point| &point.exemplars);
        assert_eq!(shown.map(|one| one.time_unix_nano).collect::<Vec<_>>(), [15]);
    }

    #[test]
    fn an_empty_histogram_has_no_buckets() {
        let point = histogram_point(Vec::new(), (1, 2), Range::LATENCY, &durations(&[], 0));
        assert_eq!((point.count, point.positive.expect("buckets").bucket_counts), (0, Vec::new()));
    }
}
