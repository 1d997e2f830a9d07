//! OTLP under construction: one `ResourceMetrics`, `ResourceLogs` or `ResourceSpans` per entity.
//!
//! A probe says what, who and how much. Units, grouping by entity, start times and limits are decided here.

pub mod attributes;
mod entities;
mod logs;
pub mod points;
mod series;
mod traces;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jitterscope_ebpf::{abi::histogram, histogram::Range};
use jitterscope_semconv::{Metric, SCHEMA_URL, SCOPE_NAME, attribute::OTEL_METRIC_OVERFLOW};
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::InstrumentationScope,
    metrics::v1::{Exemplar, ResourceMetrics, ScopeMetrics, number_data_point::Value as Number},
};

use self::{
    attributes::{Pair, Value as AttributeValue},
    points::{Points, Value},
    series::{Ended, Owned, Seen},
};
pub use self::{
    logs::{Logs, Occurrence},
    series::{SERIES_LIMIT, Series},
    traces::{SpanLimit, Traces},
};
use crate::{export::Metrics, pods::Entity};

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
        self.series.meet(entity);
        let next = self.entities.len();
        let slot = *self.index.entry(entity.key).or_insert(next);
        if slot == next {
            self.entities.push(EntityMetrics::new(entity));
        }
        let pending = entity.pending_until.is_some_and(|until| Instant::now() < until);
        Emitter { batch: self, slot, started, pending }
    }

    /// The finished request, in which the series that are gone end; `None` when there is nothing to tell.
    pub fn finish(mut self) -> Option<Metrics> {
        for of in &mut self.entities {
            of.metrics.iter_mut().for_each(|points| points.settle(of.entity.key, self.series, self.now));
        }
        let ended = self.series.end();
        self.end(&ended);
        self.build()
    }

    /// Ends all series of a probe that is switched off, at `now`.
    pub fn end_of(series: &'a mut Series, probe: &str, now: u64) -> Option<Metrics> {
        let ended = series.end_of(probe, now);
        let mut batch = Self { series, now, entities: Vec::new(), index: HashMap::new() };
        batch.end(&ended);
        batch.build()
    }

    /// Tells of series that ended, each under the names that it was told under before.
    fn end(&mut self, ended: &[Ended]) {
        let mut slots: HashMap<*const Entity, usize> = HashMap::new();
        for end in ended {
            let slot = *slots.entry(Arc::as_ptr(&end.entity)).or_insert_with(|| self.slot(&end.entity));
            let attributes: Vec<_> = end.attributes.iter().map(Owned::pair).collect();
            self.entities[slot].points(end.metric).end(&attributes, (end.start, self.now));
        }
    }

    /// Where an entity's points are: those under other names do not count.
    fn slot(&mut self, entity: &Arc<Entity>) -> usize {
        let known = self.index.get(&entity.key).copied();
        known.filter(|slot| self.entities[*slot].entity.resource == entity.resource).unwrap_or_else(|| {
            self.entities.push(EntityMetrics::new(entity));
            self.entities.len() - 1
        })
    }

    fn build(self) -> Option<Metrics> {
        let entities = self.entities.into_iter().filter(|of| !of.metrics.is_empty());
        let (keys, resource_metrics): (Vec<u64>, Vec<_>) =
            entities.map(|of| (of.entity.key, of.finish())).unzip();
        let request = ExportMetricsServiceRequest { resource_metrics };
        (!keys.is_empty()).then_some(Metrics { request, keys })
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
        self.counter_with(metric, attributes, value, None);
    }

    /// The same with an anomaly that it contains.
    pub fn counter_with(
        &mut self,
        metric: &'static Metric,
        attributes: &[Pair<'_>],
        value: u64,
        exemplar: Option<Exemplar>,
    ) {
        let value = value & i64::MAX.cast_unsigned();
        self.rising(metric, attributes, Value::Counted(value.cast_signed(), exemplar));
    }

    /// Accumulated time as the kernel has it: cumulative, emitted in seconds.
    pub fn time(&mut self, metric: &'static Metric, attributes: &[Pair<'_>], value: Duration) {
        self.rising(metric, attributes, Number::AsDouble(value.as_secs_f64()).into());
    }

    /// A distribution of durations as the kernel has it: cumulative, of buckets that `range` tells, emitted in seconds.
    pub fn histogram(
        &mut self,
        metric: &'static Metric,
        attributes: &[Pair<'_>],
        range: Range,
        value: &histogram,
    ) {
        self.histogram_with(metric, attributes, range, value, Vec::new());
    }

    /// The same with anomalies that it contains, each within its bucket.
    pub fn histogram_with(
        &mut self,
        metric: &'static Metric,
        attributes: &[Pair<'_>],
        range: Range,
        value: &histogram,
        exemplars: Vec<Exemplar>,
    ) {
        self.rising(metric, attributes, Value::Durations(range, Box::new(*value), exemplars));
    }

    /// A current amount: it has no start.
    pub fn amount(&mut self, metric: &'static Metric, attributes: &[Pair<'_>], value: i64) {
        self.current(metric, attributes, Number::AsInt(value).into());
    }

    /// A current reading that is no whole number: it has no start.
    pub fn reading(&mut self, metric: &'static Metric, attributes: &[Pair<'_>], value: f64) {
        self.current(metric, attributes, Number::AsDouble(value).into());
    }

    fn rising(&mut self, metric: &'static Metric, attributes: &[Pair<'_>], value: Value) {
        self.push(metric, attributes, value.rising(), None, value);
    }

    fn current(&mut self, metric: &'static Metric, attributes: &[Pair<'_>], value: Value) {
        let start = self.started.unwrap_or(0).min(self.batch.now);
        self.push(metric, attributes, 0, Some(start), value);
    }

    /// `rising`: anything of the value that never falls. `start`: where that does not tell when the series began.
    fn push(
        &mut self,
        metric: &'static Metric,
        attributes: &[Pair<'_>],
        rising: u64,
        start: Option<u64>,
        value: Value,
    ) {
        let batch = &mut *self.batch;
        let of = &mut batch.entities[self.slot];
        if is_overflow(attributes) {
            let begun = start.or(self.started).unwrap_or(batch.now);
            if !self.pending {
                of.points(metric).overflow(begun, value);
            }
            return;
        }
        let seen = Seen { metric, attributes, origin: self.started, value: rising, told: !self.pending };
        let mut place = batch.series.place(of.entity.key, &seen);
        if !self.pending {
            place.start = start.unwrap_or(place.start);
            of.points(metric).add(attributes, place, batch.now, value);
        }
    }
}

/// Whether a probe itself tells of what it had no room for.
fn is_overflow(attributes: &[Pair<'_>]) -> bool {
    matches!(attributes, [(one, AttributeValue::Bool(true))] if one.key == OTEL_METRIC_OVERFLOW.key)
}

impl EntityMetrics {
    fn new(entity: &Arc<Entity>) -> Self {
        Self { entity: Arc::clone(entity), metrics: Vec::new() }
    }

    fn points(&mut self, metric: &'static Metric) -> &mut Points {
        let known = self.metrics.iter().rposition(|known| std::ptr::eq(known.metric, metric));
        let slot = known.unwrap_or_else(|| {
            self.metrics.push(Points::new(metric));
            self.metrics.len() - 1
        });
        &mut self.metrics[slot]
    }

    fn finish(self) -> ResourceMetrics {
        ResourceMetrics {
            resource: Some(self.entity.resource.clone()),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(scope()),
                metrics: self.metrics.into_iter().map(Points::finish).collect(),
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
mod properties;
#[cfg(test)]
mod tests;
