//! The interval report: what changed per entity, as rates.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    io::{self, Write},
};

use jitterscope_semconv::attribute as key;
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::KeyValue,
    metrics::v1::{
        DataPointFlags, ExponentialHistogramDataPoint, Metric, NumberDataPoint, metric::Data,
        number_data_point,
    },
    resource::v1::Resource,
};

use super::{durations::Durations, entity_name, text_of, time_of_day};

/// Series whose last value is remembered for rates. Beyond them rows are left out.
const REMEMBERED: usize = 65_536;

/// Rows gathered for the next report, and the values that rates are taken against.
#[derive(Default)]
pub(super) struct Report {
    last: HashMap<String, Last>,
    rows: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    unchanged: usize,
    time: u64,
    pending: bool,
    /// One collection has no rates.
    totals: bool,
}

struct Last {
    value: Value,
    time: u64,
}

enum Value {
    Number(f64),
    Durations(Durations),
}

impl Value {
    /// What was added since `before`; `None`: the series began anew.
    fn since(&self, before: &Self) -> Option<Self> {
        match (self, before) {
            (Self::Number(now), Self::Number(before)) => {
                (now >= before).then_some(Self::Number(now - before))
            }
            (Self::Durations(now), Self::Durations(before)) => now.since(before).map(Self::Durations),
            _ => None,
        }
    }
}

impl Report {
    pub(super) fn totals() -> Self {
        Self { totals: true, ..Self::default() }
    }

    pub(super) fn pending(&self) -> bool {
        self.pending
    }

    pub(super) fn add(&mut self, request: &ExportMetricsServiceRequest) {
        for resource in &request.resource_metrics {
            if resource.resource.as_ref().is_none_or(is_receiver) {
                continue;
            }
            let entity = entity_name(resource.resource.as_ref());
            for metric in resource.scope_metrics.iter().flat_map(|scope| &scope.metrics) {
                self.metric(&entity, metric);
            }
        }
    }

    fn metric(&mut self, entity: &str, metric: &Metric) {
        match &metric.data {
            Some(Data::Sum(sum)) => self.numbers(entity, metric, &sum.data_points, sum.is_monotonic),
            Some(Data::Gauge(gauge)) => self.numbers(entity, metric, &gauge.data_points, false),
            Some(Data::ExponentialHistogram(all)) => self.histograms(entity, metric, &all.data_points),
            _ => {}
        }
    }

    fn numbers(&mut self, entity: &str, metric: &Metric, points: &[NumberDataPoint], monotonic: bool) {
        let rates = monotonic && !self.totals;
        for point in points.iter().filter(|point| !has_ended(point.flags)) {
            let labels = labels(&point.attributes);
            let time = self.see(point.time_unix_nano);
            let number = value(point);
            let shown = if rates {
                match self.change(entity, metric, &labels, time, Value::Number(number)) {
                    Some((Value::Number(change), seconds)) => Some(change / seconds),
                    _ => None,
                }
            } else {
                Some(number)
            };
            let cell = shown.filter(|shown| *shown != 0.0).map(|shown| amount(shown, &metric.unit, rates));
            self.show(entity, metric, &labels, cell);
        }
    }

    fn histograms(&mut self, entity: &str, metric: &Metric, points: &[ExponentialHistogramDataPoint]) {
        for point in points.iter().filter(|point| !has_ended(point.flags)) {
            let labels = labels(&point.attributes);
            let time = self.see(point.time_unix_nano);
            let all = Durations::of(point);
            let cell = if self.totals {
                all.quantiles()
                    .map(|quantiles| format!("{} {quantiles}", scaled(all.count() as f64).trim_end()))
            } else {
                match self.change(entity, metric, &labels, time, Value::Durations(all)) {
                    Some((Value::Durations(change), seconds)) => change.quantiles().map(|quantiles| {
                        format!("{} {quantiles}", amount(change.count() as f64 / seconds, "", true))
                    }),
                    _ => None,
                }
            };
            self.show(entity, metric, &labels, cell);
        }
    }

    /// Notes that there is a point of that time.
    fn see(&mut self, time: u64) -> u64 {
        self.pending = true;
        self.time = self.time.max(time);
        time
    }

    /// Change since the last point, and the seconds between them; `None` for the first.
    fn change(
        &mut self,
        entity: &str,
        metric: &Metric,
        labels: &str,
        time: u64,
        value: Value,
    ) -> Option<(Value, f64)> {
        let full = self.last.len() >= REMEMBERED;
        match self.last.entry(format!("{entity}\t{}\t{labels}", metric.name)) {
            Entry::Vacant(_) if full => None,
            Entry::Vacant(slot) => {
                slot.insert(Last { value, time });
                None
            }
            Entry::Occupied(mut slot) => {
                let before = slot.insert(Last { value, time });
                let seconds = time.saturating_sub(before.time) as f64 / 1e9;
                let change = slot.get().value.since(&before.value)?;
                (seconds > 0.0).then_some((change, seconds))
            }
        }
    }

    fn show(&mut self, entity: &str, metric: &Metric, labels: &str, cell: Option<String>) {
        match cell {
            Some(cell) => self.row(entity, metric, labels, &cell),
            None => self.unchanged += 1,
        }
    }

    fn row(&mut self, entity: &str, metric: &Metric, labels: &str, amount: &str) {
        let name = metric.name.strip_prefix("jitterscope.").unwrap_or(&metric.name);
        let cell = if labels.is_empty() { amount.to_owned() } else { format!("{labels} {amount}") };
        self.rows.entry(entity.to_owned()).or_default().entry(name.to_owned()).or_default().push(cell);
    }

    /// Writes what was gathered and forgets it, and the series that were not seen for ten minutes.
    pub(super) fn write(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let (rows, unchanged) = (std::mem::take(&mut self.rows), std::mem::take(&mut self.unchanged));
        if !std::mem::take(&mut self.pending) {
            return Ok(());
        }
        let oldest = self.time.saturating_sub(600_000_000_000);
        self.last.retain(|_, last| last.time >= oldest);
        writeln!(out, "── {} ─ {unchanged} rows of zero left out", time_of_day(self.time))?;
        for (entity, metrics) in rows {
            writeln!(out, "{entity}")?;
            for (name, cells) in metrics {
                writeln!(out, "  {name:<34} {}", cells.join("   "))?;
            }
        }
        Ok(())
    }
}

/// Whether it only says that its series has ended, which is nothing that a person has to be told.
fn has_ended(flags: u32) -> bool {
    flags & DataPointFlags::NoRecordedValueMask as u32 != 0
}

/// The receiver's own telemetry is for Collectors; a person asks for it where it matters.
fn is_receiver(resource: &Resource) -> bool {
    resource.attributes.iter().any(|attribute| attribute.key == key::SERVICE_NAME.key)
}

fn labels(attributes: &[KeyValue]) -> String {
    let values = attributes.iter().filter_map(|attribute| attribute.value.as_ref().map(text_of));
    values.collect::<Vec<_>>().join(" ")
}

fn value(point: &NumberDataPoint) -> f64 {
    match point.value {
        Some(number_data_point::Value::AsInt(number)) => number as f64,
        Some(number_data_point::Value::AsDouble(number)) => number,
        None => 0.0,
    }
}

/// An amount with its unit: bytes with a decimal prefix, everything else by its name in the registry.
fn amount(value: f64, unit: &str, rate: bool) -> String {
    let per = if rate { "/s" } else { "" };
    match unit {
        "By" => format!("{}B{per}", scaled(value)),
        _ => format!("{}{per}", scaled(value).trim_end()),
    }
}

fn scaled(value: f64) -> String {
    let steps = [(1e9, "G"), (1e6, "M"), (1e3, "k")];
    match steps.iter().find(|(step, _)| value.abs() >= *step) {
        Some((step, prefix)) => format!("{:.1} {prefix}", value / step),
        None if value.fract() == 0.0 => format!("{value:.0} "),
        None => format!("{value:.1} "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_short_and_carry_their_unit() {
        assert_eq!(amount(1_234_567.0, "By", true), "1.2 MB/s");
        assert_eq!(amount(12.0, "By", true), "12 B/s");
        assert_eq!(amount(1500.0, "{segment}", true), "1.5 k/s");
        assert_eq!(amount(0.25, "{segment}", true), "0.2/s");
        assert_eq!(amount(3.0, "{connection}", false), "3");
    }

    fn request(value: i64, seconds: u64) -> ExportMetricsServiceRequest {
        use jitterscope_semconv::metric;
        use opentelemetry_proto::tonic::metrics::v1::{ResourceMetrics, ScopeMetrics, Sum};
        let point = NumberDataPoint {
            time_unix_nano: seconds * 1_000_000_000,
            value: Some(number_data_point::Value::AsInt(value)),
            ..NumberDataPoint::default()
        };
        let data = Data::Sum(Sum { data_points: vec![point], is_monotonic: true, ..Sum::default() });
        let name = metric::TCP_SEGMENT_RESETS.name.to_owned();
        let metrics = vec![Metric { name, data: Some(data), ..Metric::default() }];
        let resource = ResourceMetrics {
            resource: Some(Resource::default()),
            scope_metrics: vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }],
            ..ResourceMetrics::default()
        };
        ExportMetricsServiceRequest { resource_metrics: vec![resource] }
    }

    fn written(report: &mut Report) -> String {
        let mut out = Vec::new();
        report.write(&mut out).expect("a vector takes everything");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn counters_are_shown_as_rates_and_rows_of_zero_are_counted() {
        let mut report = Report::default();
        report.add(&request(10, 100));
        assert!(written(&mut report).contains("1 rows of zero left out"));
        report.add(&request(30, 104));
        let text = written(&mut report);
        assert!(text.contains("host\n  tcp.segment.resets                 5/s"), "{text}");
        assert_eq!(written(&mut report), "");
    }

    #[test]
    fn the_end_of_a_series_is_no_row() {
        let mut report = Report::default();
        let mut end = request(0, 100);
        let metric = &mut end.resource_metrics[0].scope_metrics[0].metrics[0];
        let Some(Data::Sum(sum)) = &mut metric.data else { panic!("a sum") };
        sum.data_points[0].flags = 1;
        sum.data_points[0].value = None;
        report.add(&end);
        assert_eq!(written(&mut report), "");
    }

    #[test]
    fn one_collection_is_shown_in_totals() {
        let mut report = Report::totals();
        report.add(&request(10, 100));
        assert!(written(&mut report).contains("tcp.segment.resets                 10"));
    }
}
