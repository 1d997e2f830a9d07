//! Whatever the kernel counts, in whatever shape it is told: the differences of a series add up to what its totals grew by,
//! and explicit buckets hold what the exponential ones do.

use std::{collections::BTreeMap, sync::Arc};

use jitterscope_semconv::{attribute as key, metric};
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value},
    metrics::v1::{
        ExponentialHistogram, ExponentialHistogramDataPoint, HistogramDataPoint, NumberDataPoint,
        ResourceMetrics, ScopeMetrics, Sum, exponential_histogram_data_point::Buckets,
        number_data_point::Value,
    },
    resource::v1::Resource,
};
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    batch::{Batch, Series, attributes::key_value},
    pods::{Entity, EntityKind},
};

/// When the destinations began to be told.
const SINCE: u64 = 1000;
/// Series of a collection.
const SERIES: usize = 4;
/// Buckets that values fall into, from this index on: below, within and above the explicit bounds.
const BUCKETS: usize = 120;
const LOWEST: i32 = -96;

/// What happens to a series between two collections.
#[derive(Clone, Debug)]
enum Step {
    /// It counts so much, in this bucket.
    Counts(u64, usize),
    /// It is not told of.
    Missing,
    /// It ends; if it comes back, it goes on where it was.
    Ends,
    /// It begins anew and has counted so much since.
    Restarts(u64, usize),
}

fn steps() -> impl Strategy<Value = Vec<[Step; SERIES]>> {
    let counts = || (0..1000_u64, 0..BUCKETS);
    let step = prop_oneof![
        6 => counts().prop_map(|(count, bucket)| Step::Counts(count, bucket)),
        1 => Just(Step::Missing),
        1 => Just(Step::Ends),
        1 => counts().prop_map(|(count, bucket)| Step::Restarts(count, bucket)),
    ];
    vec(vec(step, SERIES).prop_map(|steps| steps.try_into().expect("as many as there are series")), 1..30)
}

/// A series in the kernel.
#[derive(Clone, Debug)]
struct Kernel {
    start: u64,
    buckets: [u64; BUCKETS],
    /// All that it ever counted.
    all: [u64; BUCKETS],
}

impl Kernel {
    fn add(&mut self, count: u64, bucket: usize) {
        self.buckets[bucket] += count;
        self.all[bucket] += count;
    }

    fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

fn settings(settings: &str) -> Destination {
    let set = vec![("export.otlp".to_owned(), format!("[{{endpoint: 'http://a:1', {settings}}}]"))];
    let sources = crate::config::Sources { set, ..crate::config::Sources::default() };
    sources.load(crate::probe::PROBES).expect("settings").export.otlp.remove(0)
}

/// The points of one collection at `time`: of each series that is there, a counter and a histogram.
fn collection(kernels: &[Kernel], there: &[Option<u32>], time: u64) -> Payload {
    let (mut numbers, mut histograms) = (Vec::new(), Vec::new());
    for (at, (kernel, flags)) in kernels.iter().zip(there).enumerate() {
        let Some(flags) = *flags else { continue };
        let value = Some(AnyValue { value: Some(any_value::Value::IntValue(at as i64)) });
        let attributes = vec![KeyValue { key: "series".into(), value, ..KeyValue::default() }];
        let (start_time_unix_nano, time_unix_nano, ended) = (kernel.start, time, flags == 1);
        numbers.push(NumberDataPoint {
            attributes: attributes.clone(),
            start_time_unix_nano,
            time_unix_nano,
            flags,
            value: (!ended).then(|| Value::AsInt(kernel.count().cast_signed())),
            ..NumberDataPoint::default()
        });
        let buckets = Buckets { offset: LOWEST, bucket_counts: kernel.buckets.to_vec() };
        histograms.push(ExponentialHistogramDataPoint {
            attributes,
            start_time_unix_nano,
            time_unix_nano,
            flags,
            scale: 2,
            count: if ended { 0 } else { kernel.count() },
            sum: (!ended).then(|| kernel.count() as f64),
            positive: (!ended).then_some(buckets),
            ..ExponentialHistogramDataPoint::default()
        });
    }
    let sum = Sum { data_points: numbers, aggregation_temporality: 2, is_monotonic: true };
    let histogram = ExponentialHistogram { data_points: histograms, aggregation_temporality: 2 };
    let metric = |name: &str, data| Metric { name: name.into(), data: Some(data), ..Metric::default() };
    let metrics =
        vec![metric("counter", Data::Sum(sum)), metric("durations", Data::ExponentialHistogram(histogram))];
    let scope_metrics = vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }];
    let resource_metrics = vec![ResourceMetrics { scope_metrics, ..ResourceMetrics::default() }];
    Payload::Metrics(ExportMetricsServiceRequest { resource_metrics }.into())
}

/// What a destination was told: of each series the sum of its differences, and the counts of its buckets.
#[derive(Default)]
struct Told {
    counts: BTreeMap<i64, u64>,
    buckets: BTreeMap<i64, Vec<u64>>,
    /// When the last point of each ended.
    ends: BTreeMap<i64, u64>,
}

fn series(attributes: &[KeyValue]) -> i64 {
    match attributes[0].value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::IntValue(number)) => *number,
        other => panic!("{other:?}"),
    }
}

impl Told {
    fn add(&mut self, payload: &Payload) {
        let Payload::Metrics(metrics) = payload else { panic!("metrics") };
        let metrics = metrics.request.resource_metrics.iter().flat_map(|of| &of.scope_metrics[0].metrics);
        for metric in metrics {
            match metric.data.as_ref() {
                Some(Data::Sum(sum)) => sum.data_points.iter().for_each(|point| self.number(point)),
                Some(Data::Histogram(all)) => all.data_points.iter().for_each(|point| self.explicit(point)),
                Some(Data::ExponentialHistogram(all)) => {
                    all.data_points.iter().for_each(|point| self.exponential(point));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn number(&mut self, point: &NumberDataPoint) {
        let series = series(&point.attributes);
        let end = self.ends.insert(series, point.time_unix_nano);
        assert!(point.start_time_unix_nano <= point.time_unix_nano);
        assert!(end.is_none_or(|end| point.start_time_unix_nano >= end), "told twice: {point:?}, {end:?}");
        if let Some(Value::AsInt(value)) = point.value {
            *self.counts.entry(series).or_default() += value.cast_unsigned();
        }
    }

    fn exponential(&mut self, point: &ExponentialHistogramDataPoint) {
        let sums = self.buckets.entry(series(&point.attributes)).or_insert_with(|| vec![0; BUCKETS]);
        if let Some(buckets) = &point.positive {
            let offset = usize::try_from(buckets.offset - LOWEST).expect("not below the lowest");
            sums[offset..].iter_mut().zip(&buckets.bucket_counts).for_each(|(sum, count)| *sum += count);
        }
        assert_eq!(point.sum.unwrap_or_default(), point.count as f64);
    }

    fn explicit(&mut self, point: &HistogramDataPoint) {
        assert_eq!(point.bucket_counts.iter().sum::<u64>(), point.count);
        assert_eq!(point.explicit_bounds.len() + 1, point.bucket_counts.len());
        let sums = self
            .buckets
            .entry(series(&point.attributes))
            .or_insert_with(|| vec![0; point.bucket_counts.len()]);
        sums.iter_mut().zip(&point.bucket_counts).for_each(|(sum, count)| *sum += count);
    }
}

/// The counts of exponential buckets up to each explicit bound, which is the upper end of one of them.
fn up_to_bounds(buckets: &[u64]) -> Vec<u64> {
    let bounds = explicit::BOUNDS.iter().map(|bound| (bound.log2() * 4.0).round() as i32);
    let up_to =
        |bound: i32| buckets.iter().zip(LOWEST..).filter(move |(_, at)| *at < bound).map(|(count, _)| count);
    bounds.map(|bound| up_to(bound).sum()).chain([buckets.iter().sum()]).collect()
}

fn running(counts: &[u64]) -> Vec<u64> {
    counts
        .iter()
        .scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        })
        .collect()
}

fn named(name: &str) -> Arc<Entity> {
    let (kind, name) = (EntityKind::Netns, name.to_owned());
    let attributes = vec![key_value(&key::NETNS_NAME, name.as_str())];
    let resource = Resource { attributes, ..Resource::default() };
    Arc::new(Entity { kind, key: 1, pod: None, name, resource, pending_until: None })
}

/// What is told of an entity of some name that has counted so much: by its name, start and time of the point, and value.
fn told_of(
    shape: &mut Shape,
    series: &mut Series,
    name: &str,
    now: u64,
    count: u64,
) -> Vec<(String, u64, u64, Option<i64>)> {
    let mut batch = Batch::new(series, now);
    batch.of("tcp");
    batch.entity(&named(name), Some(SINCE + 10)).counter(&metric::TCP_SEGMENTS, &[], count);
    let payload = Payload::Metrics(batch.finish().expect("a point"));
    let (Payload::Metrics(told), 0) = shape.apply(&payload).expect("another shape") else {
        panic!("all is told")
    };
    let point = |of: &ResourceMetrics| {
        let name =
            of.resource.as_ref().and_then(|resource| resource.attributes[0].value.as_ref()?.value.clone());
        let (Some(any_value::Value::StringValue(name)), Some(Data::Sum(sum))) =
            (name, &of.scope_metrics[0].metrics[0].data)
        else {
            panic!("a sum of somebody: {of:?}")
        };
        let [point] = sum.data_points.as_slice() else { panic!("a point") };
        let value = match point.value {
            Some(Value::AsInt(value)) => Some(value),
            _ => None,
        };
        assert_eq!(point.flags == 1, value.is_none());
        (name, point.start_time_unix_nano, point.time_unix_nano, value)
    };
    told.request.resource_metrics.iter().map(point).collect()
}

#[test]
fn under_other_names_the_differences_go_on_where_those_under_the_former_ones_ended() {
    let mut shape = Shape::of(&settings("temporality: delta"), SINCE);
    let mut series = Series::default();
    let mut told = |name, now, count| told_of(&mut shape, &mut series, name, now, count);
    let of = |name: &str, start, time, value| (name.to_owned(), start, time, value);
    assert_eq!(told("before", SINCE + 100, 70), [of("before", SINCE + 10, SINCE + 100, Some(70))]);
    let renamed = told("after", SINCE + 200, 75);
    let ended = of("before", SINCE + 100, SINCE + 200, None);
    assert_eq!(renamed, [of("after", SINCE + 100, SINCE + 200, Some(5)), ended]);
    assert_eq!(told("after", SINCE + 300, 78), [of("after", SINCE + 200, SINCE + 300, Some(3))]);
}

proptest! {
    #[test]
    fn differences_in_either_kind_of_bucket_add_up_to_what_the_kernel_counted(steps in steps()) {
        let mut shapes = ["temporality: delta", "temporality: delta, histograms: explicit"]
            .map(|text| (Shape::of(&settings(text), SINCE), Told::default()));
        // One in four has counted before anybody was told.
        let start = |at: usize| if at == 0 { 5 } else { SINCE + 10 };
        let new = |at| Kernel { start: start(at), buckets: [0; BUCKETS], all: [0; BUCKETS] };
        let mut kernels: [Kernel; SERIES] = std::array::from_fn(new);
        kernels[0].buckets[7] = 1_000_000;
        let mut collected = vec![collection(&kernels, &[Some(0); SERIES], SINCE + 50)];
        for (time, steps) in (SINCE + 100..).step_by(100).zip(&steps) {
            let mut there = [Some(0); SERIES];
            for ((kernel, step), there) in kernels.iter_mut().zip(steps).zip(&mut there) {
                match step {
                    Step::Counts(count, bucket) => kernel.add(*count, *bucket),
                    Step::Missing => *there = None,
                    Step::Ends => *there = Some(1),
                    Step::Restarts(count, bucket) => {
                        (kernel.start, kernel.buckets) = (time - 50, [0; BUCKETS]);
                        kernel.add(*count, *bucket);
                    }
                }
            }
            collected.push(collection(&kernels, &there, time));
        }
        // What was missing at the end is told of once more.
        collected.push(collection(&kernels, &[Some(0); SERIES], SINCE + 1_000_000));
        for payload in &collected {
            for (shape, told) in &mut shapes {
                told.add(&shape.apply(payload).expect("another shape").0);
            }
        }
        let [(_, exponential), (_, explicit)] = &shapes;
        for (series, kernel) in (0..).zip(&kernels) {
            let counted = kernel.all.iter().sum::<u64>();
            prop_assert_eq!(exponential.counts[&series], counted);
            prop_assert_eq!(explicit.counts[&series], counted);
            prop_assert_eq!(exponential.buckets[&series].as_slice(), kernel.all.as_slice());
            prop_assert_eq!(running(&explicit.buckets[&series]), up_to_bounds(&kernel.all));
        }
    }
}
