//! What arrived: OTLP/JSON lines, of the Collector's file exporter or of the receiver's standard output, as points,
//! records and spans that a test can ask for.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::{
    ExponentialHistogramDataPoint, Metric, NumberDataPoint, metric::Data, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::Value as Json;

/// Attributes by key, each value as text; lists are joined by commas.
pub type Attributes = BTreeMap<String, String>;

/// Everything that arrived, in the order of arrival within each signal.
#[derive(Clone, Debug, Default)]
pub struct Telemetry {
    /// Requests with points.
    pub metrics: Vec<ExportMetricsServiceRequest>,
    /// Requests with records.
    pub logs: Vec<ExportLogsServiceRequest>,
    /// Requests with spans.
    pub traces: Vec<ExportTraceServiceRequest>,
}

/// One number that arrived.
#[derive(Clone, Debug)]
pub struct Point {
    /// Of whom.
    pub resource: Attributes,
    /// Its own attributes.
    pub attributes: Attributes,
    /// Nanoseconds since the epoch.
    pub start: u64,
    /// Nanoseconds since the epoch.
    pub time: u64,
    /// The value; integers are exact up to 2⁵³.
    pub value: f64,
}

/// One distribution that arrived.
#[derive(Clone, Debug)]
pub struct Distribution {
    /// Of whom.
    pub resource: Attributes,
    /// Its own attributes.
    pub attributes: Attributes,
    /// Count, sum, scale, buckets and times.
    pub point: ExponentialHistogramDataPoint,
}

/// One event that arrived.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    /// Nanoseconds since the epoch.
    pub time: u64,
    /// Nanoseconds since the epoch.
    pub observed: u64,
    /// Its name.
    pub event: String,
    /// The sentence for people.
    pub body: String,
    /// The trace that it belongs to, in hexadecimal digits; empty: none is known.
    pub trace: String,
    /// The span in it, alike.
    pub span: String,
    /// Of whom.
    pub resource: Attributes,
    /// Its own attributes.
    pub attributes: Attributes,
}

impl Telemetry {
    /// Adds what is in a file. A last line without an end is still being written and is left out; no file is no telemetry.
    ///
    /// # Errors
    /// A line is none of the three kinds of request.
    pub fn read(&mut self, path: &Path) -> Result<()> {
        let text = fs::read_to_string(path).unwrap_or_default();
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            self.read_line(line).with_context(|| format!("{}: {line:.200}", path.display()))?;
        }
        Ok(())
    }

    /// Adds one line.
    ///
    /// # Errors
    /// It is none of the three kinds of request.
    pub fn read_line(&mut self, line: &str) -> Result<()> {
        let mut request: Json = serde_json::from_str(line)?;
        complete(&mut request);
        if request.get("resourceMetrics").is_some() {
            self.metrics.push(serde_json::from_value(request)?);
        } else if request.get("resourceSpans").is_some() {
            self.traces.push(serde_json::from_value(request)?);
        } else {
            self.logs.push(serde_json::from_value(request)?);
        }
        Ok(())
    }

    /// Every metric with the resource that it is of.
    pub fn metrics(&self) -> impl Iterator<Item = (&Resource, &Metric)> {
        let resources = self.metrics.iter().flat_map(|request| &request.resource_metrics);
        resources.flat_map(|of| {
            let metrics = of.scope_metrics.iter().flat_map(|scope| &scope.metrics);
            metrics.filter_map(|metric| Some((of.resource.as_ref()?, metric)))
        })
    }

    /// Every point of a metric that has a value, in order.
    pub fn points(&self, name: &str) -> impl Iterator<Item = Point> {
        self.all_points(name).filter(|(flags, _)| !is_end(*flags)).map(|(_, point)| point)
    }

    /// Every point that says that a series of a metric has ended, in order; also of a histogram.
    pub fn ends(&self, name: &str) -> Vec<Point> {
        let durations = self.all_distributions(name).filter(|one| is_end(one.point.flags)).map(|one| Point {
            resource: one.resource,
            attributes: one.attributes,
            start: one.point.start_time_unix_nano,
            time: one.point.time_unix_nano,
            value: f64::NAN,
        });
        let numbers = self.all_points(name).filter(|(flags, _)| is_end(*flags)).map(|(_, point)| point);
        numbers.chain(durations).collect()
    }

    fn all_points(&self, name: &str) -> impl Iterator<Item = (u32, Point)> {
        let metrics = self.metrics().filter(move |(_, metric)| metric.name == name);
        metrics.flat_map(|(resource, metric)| {
            let of = attributes(&resource.attributes);
            numbers(metric).iter().map(move |number| {
                let point = Point {
                    resource: of.clone(),
                    attributes: attributes(&number.attributes),
                    start: number.start_time_unix_nano,
                    time: number.time_unix_nano,
                    value: value(number),
                };
                (number.flags, point)
            })
        })
    }

    /// The last point of each series of a metric.
    #[must_use]
    pub fn last(&self, name: &str) -> Vec<Point> {
        let series =
            self.points(name).map(|point| ((point.resource.clone(), point.attributes.clone()), point));
        series.collect::<BTreeMap<_, _>>().into_values().collect()
    }

    /// The sum over the last points of the series that `wanted` takes.
    pub fn total(&self, name: &str, wanted: impl Fn(&Point) -> bool) -> u64 {
        let sum: f64 = self.last(name).iter().filter(|point| wanted(point)).map(|point| point.value).sum();
        sum as u64
    }

    /// Every distribution of a metric that has a value, in order.
    pub fn distributions(&self, name: &str) -> impl Iterator<Item = Distribution> {
        self.all_distributions(name).filter(|one| !is_end(one.point.flags))
    }

    fn all_distributions(&self, name: &str) -> impl Iterator<Item = Distribution> {
        let metrics = self.metrics().filter(move |(_, metric)| metric.name == name);
        metrics.flat_map(|(resource, metric)| {
            let of = attributes(&resource.attributes);
            histograms(metric).iter().map(move |point| Distribution {
                resource: of.clone(),
                attributes: attributes(&point.attributes),
                point: point.clone(),
            })
        })
    }

    /// Every record as it came.
    pub fn log_records(&self) -> impl Iterator<Item = &LogRecord> {
        let resources = self.logs.iter().flat_map(|request| &request.resource_logs);
        resources.flat_map(|of| &of.scope_logs).flat_map(|scope| &scope.log_records)
    }

    /// Every span with the resource that it is of.
    pub fn spans(&self) -> impl Iterator<Item = (Attributes, &Span)> {
        let resources = self.traces.iter().flat_map(|request| &request.resource_spans);
        resources.flat_map(|of| {
            let resource = of.resource.as_ref().map(|of| attributes(&of.attributes)).unwrap_or_default();
            let spans = of.scope_spans.iter().flat_map(|scope| &scope.spans);
            spans.map(move |span| (resource.clone(), span))
        })
    }

    /// Every record.
    pub fn records(&self) -> impl Iterator<Item = Record> {
        let resources = self.logs.iter().flat_map(|request| &request.resource_logs);
        resources.flat_map(|of| {
            let resource =
                of.resource.as_ref().map(|resource| attributes(&resource.attributes)).unwrap_or_default();
            let records = of.scope_logs.iter().flat_map(|scope| &scope.log_records);
            records.map(move |record| Record {
                time: record.time_unix_nano,
                observed: record.observed_time_unix_nano,
                event: record.event_name.clone(),
                body: text(record.body.as_ref()),
                trace: hex(&record.trace_id),
                span: hex(&record.span_id),
                resource: resource.clone(),
                attributes: attributes(&record.attributes),
            })
        })
    }
}

/// Adds the empty lists of entity references, which the Collector leaves out and the parser wants.
fn complete(request: &mut Json) {
    for of in ["resourceMetrics", "resourceLogs", "resourceSpans"] {
        let resources = request.get_mut(of).and_then(Json::as_array_mut).into_iter().flatten();
        let references =
            resources.filter_map(|of| of.pointer_mut("/resource/entityRefs")?.as_array_mut()).flatten();
        for reference in references.filter_map(Json::as_object_mut) {
            for list in ["idKeys", "descriptionKeys"] {
                reference.entry(list).or_insert_with(|| Json::Array(Vec::new()));
            }
        }
    }
}

/// Whether the flags of a point say that its series has ended (`NO_RECORDED_VALUE`).
fn is_end(flags: u32) -> bool {
    flags & 1 != 0
}

/// Whether an attribute is there with this value.
#[must_use]
pub fn has(attributes: &Attributes, key: &str, value: &str) -> bool {
    attributes.get(key).is_some_and(|found| found == value)
}

/// The points of a metric; none for a histogram.
#[must_use]
pub fn numbers(metric: &Metric) -> &[NumberDataPoint] {
    match &metric.data {
        Some(Data::Sum(sum)) => &sum.data_points,
        Some(Data::Gauge(gauge)) => &gauge.data_points,
        _ => &[],
    }
}

fn histograms(metric: &Metric) -> &[ExponentialHistogramDataPoint] {
    match &metric.data {
        Some(Data::ExponentialHistogram(all)) => &all.data_points,
        _ => &[],
    }
}

fn value(point: &NumberDataPoint) -> f64 {
    match point.value {
        Some(number_data_point::Value::AsInt(value)) => value as f64,
        Some(number_data_point::Value::AsDouble(value)) => value,
        None => f64::NAN,
    }
}

/// Bytes as two digits each, as ids of traces are written.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Attributes by key.
#[must_use]
pub fn attributes(list: &[KeyValue]) -> Attributes {
    list.iter().map(|one| (one.key.clone(), text(one.value.as_ref()))).collect()
}

fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(truth)) => truth.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(Value::ArrayValue(list)) => {
            list.values.iter().map(|value| text(Some(value))).collect::<Vec<_>>().join(",")
        }
        _ => String::new(),
    }
}
