//! Output for people: a sentence for each event as it happens, and what changed per entity each interval; or the
//! very requests as OTLP/JSON, one a line, as the Collector's file exporter writes them.

mod durations;
mod event;
mod report;

use std::io::{self, Write};

use jitterscope_semconv::{Attribute, attribute as key};
use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value},
    resource::v1::Resource,
};

use self::report::Report;
use super::Payload;

/// Digits of a container's id that people see, as in `docker ps`.
const SHORT_ID: usize = 12;

/// Writes for people.
pub struct Text {
    out: Box<dyn Write + Send>,
    /// Whether metrics are reported too, or events alone.
    metrics: bool,
    report: Report,
}

impl Text {
    /// A writer to `out`; without `metrics` it tells events only.
    pub fn new(out: Box<dyn Write + Send>, metrics: bool) -> Self {
        Self { out, metrics, report: Report::default() }
    }

    /// A writer of one collection: totals in place of rates.
    pub fn totals(out: Box<dyn Write + Send>) -> Self {
        Self { out, metrics: true, report: Report::totals() }
    }

    /// Writes the events of a request at once; keeps its points for the next report.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn write(&mut self, payload: &Payload) -> io::Result<()> {
        match payload {
            Payload::Logs(request) => {
                for resource in &request.resource_logs {
                    let name = entity_name(resource.resource.as_ref());
                    let records = resource.scope_logs.iter().flat_map(|scope| &scope.log_records);
                    for record in records {
                        writeln!(self.out, "{}", event::line(&name, record))?;
                    }
                }
            }
            Payload::Metrics(metrics) if self.metrics => self.report.add(&metrics.request),
            // A span says what its event has said.
            Payload::Metrics(_) | Payload::Traces(_) => {}
        }
        self.out.flush()
    }

    /// Whether points wait for a report.
    pub fn pending(&self) -> bool {
        self.report.pending()
    }

    /// Writes the report of the interval.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.report.write(&mut self.out)?;
        self.out.flush()
    }
}

/// Writes a request as one line of OTLP/JSON.
///
/// # Errors
/// The output cannot be written.
pub fn json_line(out: &mut dyn Write, payload: &Payload) -> io::Result<()> {
    // As one piece: standard output hands on every thousand bytes by itself, a system call each.
    let mut line = match payload {
        Payload::Metrics(metrics) => serde_json::to_vec(&metrics.request)?,
        Payload::Logs(request) => serde_json::to_vec(request)?,
        Payload::Traces(request) => serde_json::to_vec(request)?,
    };
    line.push(b'\n');
    out.write_all(&line)?;
    out.flush()
}

/// What an entity is called in a line: the shortest name that an operator recognizes.
fn entity_name(resource: Option<&Resource>) -> String {
    let attributes = resource.map(|resource| resource.attributes.as_slice()).unwrap_or_default();
    let get = |key: &Attribute| Some(attribute(attributes, key.key)).filter(|text| !text.is_empty());
    let container = || get(&key::CONTAINER_ID).map(|id| id.chars().take(SHORT_ID).collect::<String>());
    let pod = || match (get(&key::K8S_NAMESPACE_NAME), get(&key::K8S_POD_NAME)) {
        (Some(namespace), Some(name)) => Some(format!("{namespace}/{name}")),
        _ => get(&key::K8S_POD_UID).map(|uid| format!("pod/{uid}")),
    };
    let netns =
        || get(&key::NETNS_NAME).or_else(|| get(&key::NETNS_INODE)).map(|name| format!("netns/{name}"));
    match pod() {
        Some(pod) => get(&key::K8S_CONTAINER_NAME)
            .or_else(container)
            .map_or(pod.clone(), |container| format!("{pod}/{container}")),
        None => container()
            .map(|id| format!("container/{id}"))
            .or_else(netns)
            .unwrap_or_else(|| "host".to_owned()),
    }
}

/// The value of an attribute as text; empty when it is not there.
fn attribute(attributes: &[KeyValue], key: &str) -> String {
    let value = attributes
        .iter()
        .find(|attribute| attribute.key == key)
        .and_then(|attribute| attribute.value.as_ref());
    value.map(text_of).unwrap_or_default()
}

fn text_of(value: &AnyValue) -> String {
    match &value.value {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::BoolValue(truth)) => truth.to_string(),
        Some(any_value::Value::DoubleValue(number)) => number.to_string(),
        _ => String::new(),
    }
}

/// Local time of day with milliseconds.
fn time_of_day(unix_nano: u64) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(unix_nano)).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M:%S%.3f").to_string()
}
