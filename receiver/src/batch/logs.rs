//! Events under construction: one `ResourceLogs` per entity.

use std::{collections::HashMap, sync::Arc};

use jitterscope_semconv::{Event, SCHEMA_URL};
use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
};

use super::scope;
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
}

/// The events of one turn at the ring.
#[derive(Default)]
pub struct Logs {
    entities: Vec<(Arc<Entity>, Vec<LogRecord>)>,
    index: HashMap<u64, usize>,
    records: usize,
}

impl Logs {
    /// Adds an event of `entity`, observed at `observed` (nanoseconds since the epoch).
    pub fn add(&mut self, entity: &Arc<Entity>, observed: u64, occurrence: Occurrence) {
        let next = self.entities.len();
        let slot = *self.index.entry(entity.key).or_insert(next);
        if slot == next {
            self.entities.push((Arc::clone(entity), Vec::new()));
        }
        self.entities[slot].1.push(record(observed, occurrence));
        self.records += 1;
    }

    /// Records so far.
    pub fn len(&self) -> usize {
        self.records
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// The finished request.
    pub fn finish(self) -> ExportLogsServiceRequest {
        let resource_logs =
            self.entities.into_iter().map(|(entity, records)| resource_logs(&entity, records)).collect();
        ExportLogsServiceRequest { resource_logs }
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
        span_id: link.map(|link| link.span_id.to_vec()).unwrap_or_default(),
        flags: link.map_or(0, |link| link.flags.into()),
        ..LogRecord::default()
    }
}
