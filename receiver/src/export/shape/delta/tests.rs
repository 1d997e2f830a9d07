//! The differences of a series add up to its total, whatever it does and whatever comes between.

use opentelemetry_proto::tonic::metrics::v1::{ExponentialHistogram, Sum};
use proptest::{collection::vec, prelude::*};

use super::*;

/// When the destination began to be told.
const SINCE: u64 = 1000;

/// An entity under the name that it always had.
fn of(entity: u64) -> Whose {
    Whose { entity, names: entity }
}

fn sum(start: u64, time: u64, value: i64) -> Data {
    let point = NumberDataPoint {
        start_time_unix_nano: start,
        time_unix_nano: time,
        value: Some(Value::AsInt(value)),
        ..NumberDataPoint::default()
    };
    Data::Sum(Sum { data_points: vec![point], aggregation_temporality: 2, is_monotonic: true })
}

/// Start, end and value of the difference that is told, if any.
fn told(baselines: &mut Baselines, start: u64, time: u64, value: i64) -> Option<(u64, u64, i64)> {
    let mut data = sum(start, time, value);
    let absorbed = baselines.difference(of(1), "m", &mut data);
    let Data::Sum(sum) = data else { panic!("still a sum") };
    assert_eq!(sum.aggregation_temporality, 1);
    assert_eq!(absorbed + sum.data_points.len() as u64, 1);
    let point = sum.data_points.first()?;
    let Some(Value::AsInt(value)) = point.value else { panic!("a whole number: {point:?}") };
    Some((point.start_time_unix_nano, point.time_unix_nano, value))
}

#[test]
fn what_was_counted_before_the_destination_was_told_is_only_a_baseline() {
    let mut baselines = Baselines::from(SINCE);
    assert_eq!(told(&mut baselines, 5, 1100, 70), None);
    assert_eq!(told(&mut baselines, 5, 1200, 75), Some((1100, 1200, 5)));
    assert_eq!(told(&mut baselines, 5, 1300, 75), Some((1200, 1300, 0)));
    // Nobody knows since when it counts: it starts with its first point.
    let mut unknown = Baselines::from(SINCE);
    assert_eq!(told(&mut unknown, 1100, 1100, 9), None);
    assert_eq!(told(&mut unknown, 1100, 1200, 10), Some((1100, 1200, 1)));
}

#[test]
fn what_began_later_and_what_began_anew_is_told_in_full() {
    let mut baselines = Baselines::from(SINCE);
    assert_eq!(told(&mut baselines, 1050, 1100, 4), Some((1050, 1100, 4)));
    assert_eq!(told(&mut baselines, 1150, 1200, 3), Some((1150, 1200, 3)));
    assert_eq!(told(&mut baselines, 1150, 1300, 2), Some((1150, 1300, 2)), "it fell without saying so");
    assert_eq!(told(&mut baselines, 1150, 1400, 7), Some((1300, 1400, 5)));
}

#[test]
fn an_exemplar_is_told_with_the_difference_of_its_time_alone() {
    let mut baselines = Baselines::from(SINCE);
    let mut shown = |time: u64, exemplars: &[u64]| {
        let Data::Sum(mut total) = sum(1050, time, time.cast_signed()) else { panic!() };
        let exemplar = |time: &u64| Exemplar { time_unix_nano: *time, ..Exemplar::default() };
        total.data_points[0].exemplars = exemplars.iter().map(exemplar).collect();
        let mut data = Data::Sum(total);
        baselines.difference(of(1), "m", &mut data);
        let Data::Sum(told) = data else { panic!("still a sum") };
        told.data_points[0].exemplars.iter().map(|one| one.time_unix_nano).collect::<Vec<_>>()
    };
    assert_eq!(shown(1100, &[1060]), [1060]);
    assert_eq!(shown(1200, &[1060, 1100, 1101, 1200]), [1101, 1200]);
    assert_eq!(shown(1300, &[]), [0; 0]);
}

#[test]
fn series_are_told_apart_by_entity_metric_and_attributes() {
    let mut baselines = Baselines::from(SINCE);
    let mut first = sum(1050, 1100, 1);
    baselines.difference(of(1), "m", &mut first);
    for (whose, metric) in [(2, "m"), (1, "n")] {
        let mut other = sum(1050, 1200, 9);
        baselines.difference(of(whose), metric, &mut other);
        assert_eq!(other, {
            let Data::Sum(mut expected) = sum(1050, 1200, 9) else { panic!() };
            expected.aggregation_temporality = 1;
            Data::Sum(expected)
        });
    }
}

#[test]
fn sums_that_may_fall_stay_totals() {
    let mut baselines = Baselines::from(SINCE);
    let mut data = sum(5, 1100, 70);
    if let Data::Sum(sum) = &mut data {
        sum.is_monotonic = false;
    }
    let before = data.clone();
    assert_eq!((baselines.difference(of(1), "m", &mut data), data), (0, before));
}

/// Start and time of the point that says that the series ends.
fn end(baselines: &mut Baselines, start: u64, time: u64) -> (u64, u64) {
    let mut data = sum(start, time, 0);
    if let Data::Sum(sum) = &mut data {
        sum.data_points[0].flags = DataPointFlags::NoRecordedValueMask as u32;
        sum.data_points[0].value = None;
    }
    assert_eq!(baselines.difference(of(1), "m", &mut data), 0);
    let Data::Sum(sum) = data else { panic!("still a sum") };
    let [point] = sum.data_points.as_slice() else { panic!("one point") };
    assert_eq!((point.flags, point.value), (1, None));
    (point.start_time_unix_nano, point.time_unix_nano)
}

#[test]
fn a_series_that_ended_is_told_so_and_forgotten_after_a_while() {
    let mut baselines = Baselines::from(SINCE);
    told(&mut baselines, 1050, 1100, 4);
    assert_eq!(end(&mut baselines, 1050, 1300), (1100, 1300));
    assert_eq!(end(&mut baselines, 7, 1300 + 2 * STALE), (7, 1300 + 2 * STALE), "nobody knows it");
    assert!(baselines.known.is_empty());
}

#[test]
fn what_comes_back_after_its_end_is_told_from_where_it_was_and_only_once() {
    let mut baselines = Baselines::from(SINCE);
    assert_eq!(told(&mut baselines, 1050, 1100, 4), Some((1050, 1100, 4)));
    end(&mut baselines, 1050, 1300);
    assert_eq!(told(&mut baselines, 1050, 1400, 6), Some((1300, 1400, 2)));
    // One that is no longer known by its start goes on from its first point.
    end(&mut baselines, 1050, 1600);
    assert_eq!(told(&mut baselines, 1700, 1700, 7), None);
    assert_eq!(told(&mut baselines, 1700, 1800, 9), Some((1700, 1800, 2)));
}

#[test]
fn what_is_told_later_under_other_names_begins_where_it_ended_under_the_former() {
    let mut baselines = Baselines::from(SINCE);
    told(&mut baselines, 1050, 1100, 4);
    assert_eq!(end(&mut baselines, 1050, 1300), (1100, 1300));
    let mut data = sum(1050, 1400, 6);
    baselines.difference(Whose { entity: 1, names: 2 }, "m", &mut data);
    let Data::Sum(sum) = data else { panic!("still a sum") };
    assert_eq!(
        (sum.data_points[0].start_time_unix_nano, &sum.data_points[0].value),
        (1300, &Some(Value::AsInt(2)))
    );
}

#[test]
fn what_ended_and_then_began_anew_is_told_in_full() {
    let mut baselines = Baselines::from(SINCE);
    told(&mut baselines, 1050, 1100, 4);
    end(&mut baselines, 1050, 1300);
    assert_eq!(told(&mut baselines, 1350, 1400, 6), Some((1350, 1400, 6)));
}

fn histogram(time: u64, offset: i32, counts: &[u64]) -> Data {
    let point = ExponentialHistogramDataPoint {
        start_time_unix_nano: 1050,
        time_unix_nano: time,
        count: counts.iter().sum(),
        sum: Some(counts.iter().sum::<u64>() as f64),
        scale: 2,
        positive: Some(Buckets { offset, bucket_counts: counts.to_vec() }),
        ..ExponentialHistogramDataPoint::default()
    };
    Data::ExponentialHistogram(ExponentialHistogram { data_points: vec![point], aggregation_temporality: 2 })
}

proptest! {
    #[test]
    fn differences_of_a_counter_add_up_to_its_total(steps in vec(0..1_000_000_i64, 1..50)) {
        let mut baselines = Baselines::from(SINCE);
        let (mut total, mut sum, mut end) = (0, 0, 1050);
        for (time, step) in (1100..).step_by(10).zip(&steps) {
            total += step;
            let (start, time, difference) = told(&mut baselines, 1050, time, total).unwrap();
            prop_assert_eq!(start, end, "no gap and no overlap");
            (end, sum) = (time, sum + difference);
        }
        prop_assert_eq!(sum, total);
    }

    #[test]
    fn differences_of_a_histogram_add_up_bucket_by_bucket(
        steps in vec((-20..20_i32, 1..1000_u64), 1..50)
    ) {
        let mut baselines = Baselines::from(SINCE);
        let (mut totals, mut sums) = (vec![0_u64; 40], vec![0_u64; 40]);
        for (time, (bucket, count)) in (1100..).step_by(10).zip(&steps) {
            totals[usize::try_from(bucket + 20).unwrap()] += count;
            // As the kernel's: from the first to the last that is not empty.
            let first = totals.iter().position(|count| *count > 0).unwrap();
            let last = totals.iter().rposition(|count| *count > 0).unwrap();
            let offset = i32::try_from(first).unwrap() - 20;
            let mut data = histogram(time, offset, &totals[first..=last]);
            prop_assert_eq!(baselines.difference(of(1), "m", &mut data), 0);
            let Data::ExponentialHistogram(told) = data else { panic!("still one") };
            let point = &told.data_points[0];
            prop_assert_eq!(point.count, *count);
            prop_assert_eq!(point.sum, Some(*count as f64));
            let buckets = point.positive.as_ref().unwrap();
            for (index, count) in (buckets.offset..).zip(&buckets.bucket_counts) {
                sums[usize::try_from(index + 20).unwrap()] += count;
            }
        }
        prop_assert_eq!(sums, totals);
    }
}
