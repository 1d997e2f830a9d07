//! When a series began, and what is remembered of it.

use jitterscope_semconv::metric;

use super::*;
use crate::pods::EntityKind;

const PROBE: &str = "tcp";

fn entity(key: u64) -> Arc<Entity> {
    let (name, resource) = (key.to_string(), opentelemetry_proto::tonic::resource::v1::Resource::default());
    Arc::new(Entity { kind: EntityKind::Netns, key, pod: None, name, resource, pending_until: None })
}

fn start(series: &mut Series, entity: u64, origin: Option<u64>, value: u64) -> u64 {
    let metric = &metric::TCP_SEGMENT_RETRANSMITS;
    series.place(entity, &Seen { metric, attributes: &[], origin, value, told: true }).start
}

fn collect(series: &mut Series, now: u64, origin: Option<u64>, value: u64) -> u64 {
    series.begin(now);
    series.of(PROBE);
    series.meet(&entity(1));
    let start = start(series, 1, origin, value);
    series.end();
    start
}

#[test]
fn a_series_without_known_origin_starts_at_its_first_point_and_stays_there() {
    let mut series = Series::default();
    assert_eq!(collect(&mut series, 100, None, 7), 100);
    assert_eq!(collect(&mut series, 200, None, 7), 100);
    assert_eq!(collect(&mut series, 300, None, 9), 100);
}

#[test]
fn a_counter_that_fell_starts_anew_after_the_collection_before() {
    let mut series = Series::default();
    collect(&mut series, 100, Some(50), 7);
    assert_eq!(collect(&mut series, 200, Some(50), 3), 100);
    assert_eq!(collect(&mut series, 300, Some(50), 4), 100);
}

#[test]
fn a_later_origin_is_a_new_start_even_when_the_value_rose() {
    let mut series = Series::default();
    collect(&mut series, 100, Some(50), 7);
    assert_eq!(collect(&mut series, 200, Some(150), 8), 150);
}

#[test]
fn a_series_that_is_gone_is_forgotten_with_all_that_was_only_for_it() {
    let mut series = Series::default();
    collect(&mut series, 100, None, 7);
    for now in [200, 300, 400] {
        series.begin(now);
        series.of(PROBE);
        series.end();
    }
    assert_eq!(series.remembered(PROBE), 0);
    assert!(series.entities.is_empty() && series.sets.is_empty() && series.probes[0].admitted.is_empty());
}

#[test]
fn each_probe_has_a_memory_of_its_own_that_is_full_by_itself() {
    let mut series = Series::default();
    series.begin(100);
    for (probe, entities) in [("many", SERIES_LIMIT as u64 + 3), ("few", 2)] {
        series.of(probe);
        for entity in 0..entities {
            start(&mut series, entity, None, 1);
        }
    }
    series.end();
    let remembered = ["many", "few", "none"].map(|probe| series.remembered(probe));
    assert_eq!(remembered, [SERIES_LIMIT, 2, 0]);
}
