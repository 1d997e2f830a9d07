//! OTLP under construction: one `ResourceMetrics` or `ResourceLogs` per entity.
//!
//! A probe says what, who and how much. Units, grouping by entity, start times and limits are decided here.

pub mod attributes;
mod logs;
mod series;

use std::{collections::HashMap, sync::Arc, time::Instant};

use jitterscope_semconv::{Instrument, Metric, SCHEMA_URL, SCOPE_NAME};
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::InstrumentationScope,
    metrics::v1::{
        AggregationTemporality, Gauge, Metric as OtlpMetric, NumberDataPoint, ResourceMetrics, ScopeMetrics,
        Sum, metric::Data, number_data_point,
    },
};

use self::attributes::{Pair, key_value, key_values};
pub use self::{
    logs::{Logs, Occurrence},
    series::{SERIES_LIMIT, Series},
};
use crate::pods::Entity;

/// Attribute sets of one metric on one entity. The OpenTelemetry SDK's own default; what is beyond it goes
/// into one point with `otel.metric.overflow`.
const ATTRIBUTE_SETS: usize = 2000;

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

struct Points {
    metric: &'static Metric,
    points: Vec<NumberDataPoint>,
    overflow: Option<i64>,
}

impl<'a> Batch<'a> {
    /// A batch of points taken at `now`, nanoseconds since the epoch.
    pub fn new(series: &'a mut Series, now: u64) -> Self {
        series.begin(now);
        Self { series, now, entities: Vec::new(), index: HashMap::new() }
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
    /// A counter's value as the kernel has it: cumulative, never negative.
    pub fn counter(&mut self, metric: &'static Metric, attributes: &[Pair<'_>], value: u64) {
        let entity = self.batch.entities[self.slot].entity.key;
        let start = self.batch.series.start(entity, metric, attributes, self.started, value);
        self.push(metric, attributes, start, value.cast_signed());
    }

    /// A current amount or reading: it has no start.
    pub fn amount(&mut self, metric: &'static Metric, attributes: &[Pair<'_>], value: i64) {
        let start = self.started.unwrap_or(0);
        self.push(metric, attributes, start, value);
    }

    fn push(&mut self, metric: &'static Metric, attributes: &[Pair<'_>], start: u64, value: i64) {
        if self.pending {
            return;
        }
        let time = self.batch.now;
        let target = self.points(metric);
        if target.points.len() < ATTRIBUTE_SETS {
            target.points.push(point(key_values(attributes), start, time, value));
        } else {
            target.overflow = Some(target.overflow.unwrap_or(0).wrapping_add(value));
        }
    }

    fn points(&mut self, metric: &'static Metric) -> &mut Points {
        let metrics = &mut self.batch.entities[self.slot].metrics;
        let slot =
            metrics.iter().rposition(|known| std::ptr::eq(known.metric, metric)).unwrap_or_else(|| {
                metrics.push(Points { metric, points: Vec::new(), overflow: None });
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

impl Points {
    fn finish(mut self, now: u64) -> OtlpMetric {
        if let Some(value) = self.overflow {
            let overflow = key_value(&jitterscope_semconv::attribute::OTEL_METRIC_OVERFLOW, true);
            self.points.push(point(vec![overflow], now, now, value));
        }
        OtlpMetric {
            name: self.metric.name.to_owned(),
            description: self.metric.brief.to_owned(),
            unit: self.metric.unit.to_owned(),
            metadata: Vec::new(),
            data: Some(data(self.metric.instrument, self.points)),
        }
    }
}

fn data(instrument: Instrument, data_points: Vec<NumberDataPoint>) -> Data {
    match instrument {
        Instrument::Gauge => Data::Gauge(Gauge { data_points }),
        Instrument::Counter | Instrument::UpDownCounter | Instrument::Histogram => Data::Sum(Sum {
            data_points,
            aggregation_temporality: AggregationTemporality::Cumulative.into(),
            is_monotonic: matches!(instrument, Instrument::Counter),
        }),
    }
}

fn point(
    attributes: Vec<opentelemetry_proto::tonic::common::v1::KeyValue>,
    start: u64,
    time: u64,
    value: i64,
) -> NumberDataPoint {
    NumberDataPoint {
        attributes,
        start_time_unix_nano: start,
        time_unix_nano: time,
        value: Some(number_data_point::Value::AsInt(value)),
        ..NumberDataPoint::default()
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

    use super::*;
    use crate::pods::EntityKind;

    fn entity(key: u64, pending: bool) -> Arc<Entity> {
        let pending_until = pending.then(|| Instant::now() + std::time::Duration::from_secs(60));
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
        assert_eq!(last.value, Some(number_data_point::Value::AsInt(10)));
    }

    #[test]
    fn points_of_an_entity_whose_names_are_still_to_come_wait() {
        let mut series = Series::default();
        let mut batch = Batch::new(&mut series, 100);
        batch.entity(&entity(1, true), None).counter(&metric::TCP_SEGMENTS, &[], 5);
        assert!(batch.finish().is_none());
    }
}
