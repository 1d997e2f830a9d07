//! Events under construction: one `ResourceLogs` per entity.

use std::{sync::Arc, time::Duration};

use jitterscope_semconv::{Event, SCHEMA_URL};
use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
};

use super::{entities::ByEntity, scope};
use crate::{
    pods::{Entity, Origin},
    spans::Link,
};

/// Something that happened, as a probe tells it.
#[derive(Debug)]
pub struct Occurrence {
    /// What kind of event it is.
    pub event: &'static Event,
    /// When, in nanoseconds since the epoch.
    pub time_unix_nano: u64,
    /// To whom.
    pub origin: Origin,
    /// One sentence that an operator understands without the documentation.
    pub body: String,
    /// The facts.
    pub attributes: Vec<KeyValue>,
    /// The application's span that it belongs to.
    pub link: Option<Link>,
    /// How long it lasted, to its time; zero for a moment's, and where nobody asks.
    pub lasted: Duration,
}

/// The events of one turn at the ring.
#[derive(Default)]
pub struct Logs {
    records: ByEntity<LogRecord>,
}

impl Logs {
    /// Adds an event of `entity`, observed at `observed` (nanoseconds since the epoch).
    pub fn add(&mut self, entity: &Arc<Entity>, observed: u64, occurrence: Occurrence) {
        self.records.add(entity, record(observed, occurrence));
    }

    /// Records so far.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The finished request.
    pub fn finish(self) -> ExportLogsServiceRequest {
        ExportLogsServiceRequest { resource_logs: self.records.finish(resource_logs) }
    }
}

fn resource_logs(entity: &Entity, log_records: Vec<LogRecord>) -> ResourceLogs {
    ResourceLogs {
        resource: Some(entity.resource.clone()),
        scope_logs: vec![ScopeLogs { scope: Some(scope()), log_records, schema_url: SCHEMA_URL.to_owned() }],
        schema_url: SCHEMA_URL.to_owned(),
    }
}

fn record(observed: u64, occurrence: Occurrence) -> LogRecord {
    let Occurrence { link, mut attributes, .. } = occurrence;
    attributes.extend(link.iter().flat_map(Link::attributes));
    LogRecord {
        time_unix_nano: occurrence.time_unix_nano,
        observed_time_unix_nano: observed,
        severity_number: occurrence.event.severity,
        event_name: occurrence.event.name.to_owned(),
        body: Some(AnyValue { value: Some(any_value::Value::StringValue(occurrence.body)) }),
        attributes,
        trace_id: link.map(|link| link.trace_id.to_vec()).unwrap_or_default(),
        span_id: link.map(|link| link.span_id()).unwrap_or_default(),
        flags: link.map_or(0, |link| link.flags.into()),
        ..LogRecord::default()
    }
}
