//! OTLP under construction: one `ResourceMetrics` or `ResourceLogs` per entity.
//!
//! A probe says what, who and how much. Units, grouping by entity, start times and limits are decided here.

pub mod attributes;
mod logs;
mod points;
mod series;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jitterscope_ebpf::{abi::histogram, histogram::Range};
use jitterscope_semconv::{Metric, SCHEMA_URL, SCOPE_NAME};
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::InstrumentationScope,
    metrics::v1::{ResourceMetrics, ScopeMetrics, number_data_point::Value as Number},
};

use self::{
    attributes::Pair,
    points::{Points, Value},
};
pub use self::{
    logs::{Logs, Occurrence},
    series::{SERIES_LIMIT, Series},
};
use crate::pods::Entity;

/// The metrics of one collection.
pub struct Batch<'a> {
    series: &'a mut Series,
    now: u64,
    entities: Vec<EntityMetrics>,
    index: HashMap<u64, usize>,
}

struct EntityMetrics {
    entity: Arc<Entity>,
    metrics: Vec<Points>,
}

impl<'a> Batch<'a> {
    /// A batch of points taken at `now`, nanoseconds since the epoch.
    pub fn new(series: &'a mut Series, now: u64) -> Self {
        series.begin(now);
        Self { series, now, entities: Vec::new(), index: HashMap::new() }
    }

    /// What follows is this probe's: its series are remembered apart from those of others.
    pub fn of(&mut self, probe: &'static str) {
        self.series.of(probe);
    }

    /// Where the points of `entity` go. `started` is when its counters began at zero, in nanoseconds since the
    /// epoch, where that is known.
    pub fn entity(&mut self, entity: &Arc<Entity>, started: Option<u64>) -> Emitter<'_, 'a> {
        let next = self.entities.len();
        let slot = *self.index.entry(entity.key).or_insert(next);
        if slot == next {
            self.entities.push(EntityMetrics { entity: Arc::clone(entity), metrics: Vec::new() });
        }
        let pending = entity.pending_until.is_some_and(|until| Instant::now() < until);
        Emitter { batch: self, slot, started, pending }
    }

    /// The finished request; `None` when nothing was emitted.
    pub fn finish(self) -> Option<ExportMetricsServiceRequest> {
        self.series.end();
        let now = self.now;
        let resource_metrics: Vec<_> = self
            .entities
            .into_iter()
            .filter(|entity| !entity.metrics.is_empty())
            .map(|entity| entity.finish(now))
            .collect();
        (!resource_metrics.is_empty()).then_some(ExportMetricsServiceRequest { resource_metrics })
    }
}

/// Emits the points of one entity.
pub struct Emitter<'b, 'a> {
    batch: &'b mut Batch<'a>,
    slot: usize,
    started: Option<u64>,
    /// The entity's names are still to come: cumulative points wait for them without loss, so that no series
    /// begins under another resource than it goes on with.
    pending: bool,
}

impl Emitter<'_, '_> {
    /// A counter's value as the kernel has it: cumulative, never negative. OTLP's integers end at 63 bits: a counter that
    /// passes them begins anew.
    pub fn counter(&mut self, metric: &'static Metric, attributes: &[Pair<'_>], value: u64) {
        let value = value & i64::MAX.cast_unsigned();
        let start = self.start(metric, attributes, value);
        self.push(metric, attributes, start, Number::AsInt(value.cast_signed()).into());
    }

    /// Accumulated time as the kernel has it: cumulative, emitted in seconds.
    pub fn time(&mut self, metric: &'static Metric, attributes: &[Pair<'_>], value: Duration) {
        let nanos = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
        let start = self.start(metric, attributes, nanos);
        self.push(metric, attributes, start, Number::AsDouble(value.as_secs_f64()).into());
    }

    /// A distribution of durations as the kernel has it: cumulative, of buckets that `range` tells, emitted in seconds.
    pub fn histogram(
        &mut self,
        metric: &'static Metric,
        attributes: &[Pair<'_>],
        range: Range,
        value: &histogram,
    ) {
        let start = self.start(metric, attributes, value.count());
        self.push(metric, attributes, start, Value::Durations(range, Box::new(*value)));
    }

    /// A current amount: it has no start.
    pub fn amount(&mut self, metric: &'static Metric, attributes: &[Pair<'_>], value: i64) {
        let start = self.started.unwrap_or(0).min(self.batch.now);
        self.push(metric, attributes, start, Number::AsInt(value).into());
    }

    /// A current reading that is no whole number: it has no start.
    pub fn reading(&mut self, metric: &'static Metric, attributes: &[Pair<'_>], value: f64) {
        let start = self.started.unwrap_or(0).min(self.batch.now);
        self.push(metric, attributes, start, Number::AsDouble(value).into());
    }

    /// When a cumulative series began. `value`: anything of it that never falls.
    fn start(&mut self, metric: &'static Metric, attributes: &[Pair<'_>], value: u64) -> u64 {
        let entity = self.batch.entities[self.slot].entity.key;
        self.batch.series.start(entity, metric, attributes, self.started, value)
    }

    fn push(&mut self, metric: &'static Metric, attributes: &[Pair<'_>], start: u64, value: Value) {
        if self.pending {
            return;
        }
        let time = self.batch.now;
        self.points(metric).add(attributes, (start, time), value);
    }

    fn points(&mut self, metric: &'static Metric) -> &mut Points {
        let metrics = &mut self.batch.entities[self.slot].metrics;
        let slot =
            metrics.iter().rposition(|known| std::ptr::eq(known.metric, metric)).unwrap_or_else(|| {
                metrics.push(Points::new(metric));
                metrics.len() - 1
            });
        &mut metrics[slot]
    }
}

impl EntityMetrics {
    fn finish(self, now: u64) -> ResourceMetrics {
        ResourceMetrics {
            resource: Some(self.entity.resource.clone()),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(scope()),
                metrics: self.metrics.into_iter().map(|points| points.finish(now)).collect(),
                schema_url: SCHEMA_URL.to_owned(),
            }],
            schema_url: SCHEMA_URL.to_owned(),
        }
    }
}

/// The instrumentation scope of everything that the receiver sends.
pub fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: SCOPE_NAME.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

#[cfg(test)]
mod tests {
    use jitterscope_semconv::{attribute as key, metric};
    use opentelemetry_proto::tonic::metrics::v1::{Metric as OtlpMetric, Sum, metric::Data};

    use super::{points::ATTRIBUTE_SETS, *};
    use crate::pods::EntityKind;

    fn entity(key: u64, pending: bool) -> Arc<Entity> {
        let pending_until = pending.then(|| Instant::now() + Duration::from_secs(60));
        let resource = opentelemetry_proto::tonic::resource::v1::Resource::default();
        Arc::new(Entity {
            kind: EntityKind::Netns,
            key,
            pod: None,
            name: key.to_string(),
            resource,
            pending_until,
        })
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
        let request = batch.finish().expect("points were emitted");
        let [resource] = request.resource_metrics.as_slice() else { panic!("one entity") };
        let [segments, established] = resource.scope_metrics[0].metrics.as_slice() else {
            panic!("two metrics")
        };
        assert_eq!((segments.unit.as_str(), sum(segments).is_monotonic), ("{segment}", true));
        assert_eq!(sum(segments).data_points.len(), 2);
        assert_eq!(sum(segments).data_points[0].start_time_unix_nano, 50);
        assert!(!sum(established).is_monotonic);
    }

    #[test]
    fn attribute_sets_past_the_limit_add_up_in_one_overflow_point() {
        let mut series = Series::default();
        let mut batch = Batch::new(&mut series, 100);
        for number in 0..=ATTRIBUTE_SETS as i64 + 1 {
            let attributes = [(&key::SOURCE_PORT, number.into())];
            batch.entity(&entity(1, false), None).counter(&metric::TCP_SEGMENTS, &attributes, 5);
        }
        let request = batch.finish().expect("points were emitted");
        let points = &sum(&request.resource_metrics[0].scope_metrics[0].metrics[0]).data_points;
        assert_eq!(points.len(), ATTRIBUTE_SETS + 1);
        let last = points.last().expect("the overflow point");
        assert_eq!(last.attributes[0].key, key::OTEL_METRIC_OVERFLOW.key);
        assert_eq!(last.value, Some(Number::AsInt(10)));
    }

    #[test]
    fn a_counter_past_63_bits_begins_anew_and_is_never_negative() {
        let mut series = Series::default();
        series.keep(Duration::from_secs(1));
        let mut collect = |now, value| {
            let mut batch = Batch::new(&mut series, now);
            batch.entity(&entity(1, false), Some(50)).counter(&metric::TCP_SEGMENTS, &[], value);
            let request = batch.finish().expect("points were emitted");
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
}
