//! Whose points are told, how, and until when.

use jitterscope_semconv::{attribute as key, metric};
use opentelemetry_proto::tonic::{
    common::v1::any_value::Value::StringValue as Str,
    metrics::v1::{Metric as OtlpMetric, NumberDataPoint, Sum, metric::Data},
    resource::v1::Resource,
};

use super::{
    attributes::{key_value, key_values},
    series::ATTRIBUTE_SETS,
    *,
};
use crate::pods::EntityKind;

fn entity(key: u64, pending: bool) -> Arc<Entity> {
    named(key, pending, "one")
}

fn named(key: u64, pending: bool, name: &str) -> Arc<Entity> {
    let pending_until = pending.then(|| Instant::now() + Duration::from_secs(60));
    let attributes = vec![key_value(&key::NETNS_NAME, name)];
    let resource = Resource { attributes, ..Resource::default() };
    let (kind, name) = (EntityKind::Netns, name.to_owned());
    Arc::new(Entity { kind, key, pod: None, name, resource, pending_until })
}

fn sum(metric: &OtlpMetric) -> &Sum {
    match &metric.data {
        Some(Data::Sum(sum)) => sum,
        other => panic!("a sum was expected: {other:?}"),
    }
}

#[test]
fn points_of_one_entity_are_grouped_by_metric_with_unit_and_kind_of_the_registry() {
    let mut series = Series::default();
    let mut batch = Batch::new(&mut series, 100);
    for direction in ["receive", "transmit"] {
        let attributes = [(&key::NETWORK_IO_DIRECTION, direction.into())];
        batch.entity(&entity(1, false), Some(50)).counter(&metric::TCP_SEGMENTS, &attributes, 7);
    }
    batch.entity(&entity(1, false), Some(50)).amount(&metric::TCP_CONNECTION_ESTABLISHED, &[], 3);
    let request = batch.finish().expect("points were emitted").request;
    let [resource] = request.resource_metrics.as_slice() else { panic!("one entity") };
    let [segments, established] = resource.scope_metrics[0].metrics.as_slice() else { panic!("two metrics") };
    assert_eq!((segments.unit.as_str(), sum(segments).is_monotonic), ("{segment}", true));
    assert_eq!(sum(segments).data_points.len(), 2);
    assert_eq!(sum(segments).data_points[0].start_time_unix_nano, 50);
    assert!(!sum(established).is_monotonic);
}

/// The points of so many attribute sets of one metric, each of which counts to five; `first` is told of first.
fn many(series: &mut Series, now: u64, sets: i64, first: i64) -> Vec<NumberDataPoint> {
    let mut batch = Batch::new(series, now);
    batch.of("tcp");
    for number in (first..sets).chain(0..first) {
        let attributes = [(&key::SOURCE_PORT, number.into())];
        batch.entity(&entity(1, false), Some(50)).counter(&metric::TCP_SEGMENTS, &attributes, 5);
    }
    let request = batch.finish().expect("points were emitted").request;
    sum(&request.resource_metrics[0].scope_metrics[0].metrics[0]).data_points.clone()
}

#[test]
fn attribute_sets_past_the_limit_add_up_in_one_overflow_point_and_stay_there() {
    let sets = i64::from(ATTRIBUTE_SETS);
    let mut series = Series::default();
    for (now, first) in [(100, 0), (200, 2), (300, sets)] {
        let points = many(&mut series, now, sets + 2, first);
        assert_eq!(points.len(), ATTRIBUTE_SETS as usize + 1);
        let (last, own) = points.split_last().expect("the overflow point");
        assert_eq!(last.attributes[0].key, OTEL_METRIC_OVERFLOW.key);
        assert_eq!((last.value, last.start_time_unix_nano), (Some(Number::AsInt(10)), 50));
        let numbers =
            |point: &NumberDataPoint| point.attributes == key_values(&[(&key::SOURCE_PORT, sets.into())]);
        assert!(!own.iter().any(numbers), "who comes first changes nothing");
    }
    // One of those is gone: what is left of it began anew.
    let points = many(&mut series, 400, sets + 1, 0);
    let last = points.last().expect("the overflow point");
    assert_eq!((last.value, last.start_time_unix_nano), (Some(Number::AsInt(5)), 300));
    // Both are gone, and have never had a point that could end; that of both does.
    many(&mut series, 500, sets, 0);
    let points = many(&mut series, 600, sets, 0);
    let ended: Vec<_> = points.iter().filter(|point| point.flags == 1).collect();
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].attributes[0].key, OTEL_METRIC_OVERFLOW.key);
    // There is room again for others.
    let points = many(&mut series, 700, sets, 0);
    assert!(points.len() == ATTRIBUTE_SETS as usize && points.iter().all(|point| point.flags == 0));
}

#[test]
fn a_counter_past_63_bits_begins_anew_and_is_never_negative() {
    let mut series = Series::default();
    let mut collect = |now, value| {
        let mut batch = Batch::new(&mut series, now);
        batch.entity(&entity(1, false), Some(50)).counter(&metric::TCP_SEGMENTS, &[], value);
        let request = batch.finish().expect("points were emitted").request;
        let point = sum(&request.resource_metrics[0].scope_metrics[0].metrics[0]).data_points[0].clone();
        (point.start_time_unix_nano, point.value)
    };
    assert_eq!(collect(100, u64::MAX >> 1), (50, Some(Number::AsInt(i64::MAX))));
    assert_eq!(collect(200, (1 << 63) + 4), (100, Some(Number::AsInt(4))));
    assert_eq!(collect(300, u64::MAX), (100, Some(Number::AsInt(i64::MAX))));
    assert_eq!(collect(400, 7), (300, Some(Number::AsInt(7))));
}

#[test]
fn points_of_an_entity_whose_names_are_still_to_come_wait() {
    let mut series = Series::default();
    let mut batch = Batch::new(&mut series, 100);
    batch.entity(&entity(1, true), None).counter(&metric::TCP_SEGMENTS, &[], 5);
    assert!(batch.finish().is_none());
}

/// What a collection tells of a namespace, if it is there: a counter, an amount and durations.
fn collect(series: &mut Series, now: u64, of: Option<&Arc<Entity>>) -> Option<ExportMetricsServiceRequest> {
    let mut batch = Batch::new(series, now);
    batch.of("tcp");
    if let Some(entity) = of {
        let mut emit = batch.entity(entity, Some(50));
        emit.counter(&metric::TCP_SEGMENTS, &[(&key::NETWORK_IO_DIRECTION, "receive".into())], now);
        emit.amount(&metric::TCP_CONNECTION_ESTABLISHED, &[], 3);
        let mut durations = histogram::default();
        durations.buckets[99] = 1;
        emit.histogram(&metric::TCP_HANDSHAKE_DURATION, &[], Range::LATENCY, &durations);
    }
    batch.finish().map(|metrics| metrics.request)
}

/// Whose series end in a request: name of the entity, of the metric, the point's start and time.
fn ends(request: &ExportMetricsServiceRequest) -> Vec<(String, String, u64, u64)> {
    let mut ends = Vec::new();
    for of in &request.resource_metrics {
        let resource = of.resource.as_ref().expect("a resource");
        let Some(Str(name)) = resource.attributes[0].value.as_ref().and_then(|value| value.value.clone())
        else {
            panic!("no name: {resource:?}")
        };
        for metric in &of.scope_metrics[0].metrics {
            let mut add = |flags: u32, start, time, empty| {
                assert!(flags == 0 || empty, "an end has no value: {metric:?}");
                if flags == 1 {
                    ends.push((name.clone(), metric.name.clone(), start, time));
                }
            };
            match metric.data.as_ref().expect("points") {
                Data::Sum(sum) => sum.data_points.iter().for_each(|point| {
                    add(point.flags, point.start_time_unix_nano, point.time_unix_nano, point.value.is_none());
                }),
                Data::ExponentialHistogram(all) => all.data_points.iter().for_each(|point| {
                    let empty = point.count == 0 && point.sum.is_none() && point.positive.is_none();
                    add(point.flags, point.start_time_unix_nano, point.time_unix_nano, empty);
                }),
                other => panic!("{other:?}"),
            }
        }
    }
    ends
}

/// The ends of all series of a namespace.
fn all_of(name: &str, time: u64) -> Vec<(String, String, u64, u64)> {
    let metrics =
        [&metric::TCP_SEGMENTS, &metric::TCP_CONNECTION_ESTABLISHED, &metric::TCP_HANDSHAKE_DURATION];
    let mut all: Vec<_> = metrics.map(|metric| (name.to_owned(), metric.name.to_owned(), 50, time)).into();
    all.sort();
    all
}

fn sorted_ends(request: Option<ExportMetricsServiceRequest>) -> Vec<(String, String, u64, u64)> {
    let mut all: Vec<_> = request.into_iter().flat_map(|request| ends(&request)).collect();
    all.sort();
    all
}

#[test]
fn every_series_of_an_entity_that_is_gone_ends_once_after_a_collection_that_may_have_failed() {
    let mut series = Series::default();
    let there = entity(1, false);
    assert!(sorted_ends(collect(&mut series, 100, Some(&there))).is_empty());
    assert!(collect(&mut series, 200, None).is_none(), "it may be there and not be readable");
    assert!(sorted_ends(collect(&mut series, 300, Some(&there))).is_empty());
    assert!(collect(&mut series, 400, None).is_none());
    assert_eq!(sorted_ends(collect(&mut series, 500, None)), all_of("one", 500));
    assert!(collect(&mut series, 600, None).is_none());
    assert_eq!(series.remembered("tcp"), 0);
}

#[test]
fn a_collection_of_other_probes_ends_nothing() {
    let mut series = Series::default();
    collect(&mut series, 100, Some(&entity(1, false)));
    for now in [200, 300, 400] {
        let mut batch = Batch::new(&mut series, now);
        batch.of("udp");
        assert!(batch.finish().is_none());
    }
    assert_eq!(series.remembered("tcp"), 3);
}

#[test]
fn under_new_names_the_series_of_the_former_ones_end() {
    let mut series = Series::default();
    collect(&mut series, 100, Some(&named(1, false, "before")));
    // As with each scan of the node: another one that says the same.
    assert!(sorted_ends(collect(&mut series, 200, Some(&named(1, false, "before")))).is_empty());
    let renamed = collect(&mut series, 300, Some(&named(1, false, "after")));
    assert_eq!(renamed.as_ref().map(|request| request.resource_metrics.len()), Some(2));
    assert_eq!(sorted_ends(renamed), all_of("before", 300));
    assert!(collect(&mut series, 400, None).is_none());
    assert_eq!(sorted_ends(collect(&mut series, 500, None)), all_of("after", 500));
}

#[test]
fn what_was_never_told_does_not_end() {
    let mut series = Series::default();
    assert!(collect(&mut series, 100, Some(&entity(1, true))).is_none());
    for now in [200, 300, 400] {
        assert!(collect(&mut series, now, None).is_none());
    }
}

#[test]
fn the_series_of_a_probe_that_is_switched_off_end_at_once_and_those_of_others_stay() {
    let mut series = Series::default();
    collect(&mut series, 100, Some(&entity(1, false)));
    assert!(Batch::end_of(&mut series, "udp", 150).is_none());
    assert_eq!(
        sorted_ends(Batch::end_of(&mut series, "tcp", 200).map(|metrics| metrics.request)),
        all_of("one", 200)
    );
    assert!(Batch::end_of(&mut series, "tcp", 300).is_none());
}
