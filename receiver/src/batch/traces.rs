//! Spans of anomalies under construction: each a child of the application's span that was hit, so that backends that show
//! traces alone show it.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Instant,
};

use jitterscope_semconv::SCHEMA_URL;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    trace::v1::{ResourceSpans, ScopeSpans, Span, SpanFlags, span::SpanKind},
};

use super::{Occurrence, entities::ByEntity, scope};
use crate::{pods::Entity, spans::Link};

/// The spans of one turn at the ring.
#[derive(Default)]
pub struct Traces {
    spans: ByEntity<Span>,
}

impl Traces {
    /// Adds an anomaly of `entity` that hit a span. The span begins as long before the event as the anomaly lasted.
    pub fn add(&mut self, entity: &Arc<Entity>, occurrence: &Occurrence, link: &Link) {
        self.spans.add(entity, span(occurrence, link));
    }

    /// The finished request; `None` when nothing was added.
    pub fn finish(self) -> Option<ExportTraceServiceRequest> {
        (self.spans.len() > 0)
            .then(|| ExportTraceServiceRequest { resource_spans: self.spans.finish(resource_spans) })
    }
}

fn resource_spans(entity: &Entity, spans: Vec<Span>) -> ResourceSpans {
    ResourceSpans {
        resource: Some(entity.resource.clone()),
        scope_spans: vec![ScopeSpans { scope: Some(scope()), spans, schema_url: SCHEMA_URL.to_owned() }],
        schema_url: SCHEMA_URL.to_owned(),
    }
}

fn span(occurrence: &Occurrence, link: &Link) -> Span {
    let mut attributes = occurrence.attributes.clone();
    attributes.extend(link.attributes());
    let lasted = u64::try_from(occurrence.lasted.as_nanos()).unwrap_or(u64::MAX);
    // The parent is of another process.
    let parent = SpanFlags::ContextHasIsRemoteMask as u32 | SpanFlags::ContextIsRemoteMask as u32;
    Span {
        trace_id: link.trace_id.to_vec(),
        span_id: random_id().to_vec(),
        parent_span_id: link.span_id.to_vec(),
        flags: u32::from(link.flags) | parent,
        name: occurrence.event.name.to_owned(),
        kind: SpanKind::Internal.into(),
        start_time_unix_nano: occurrence.time_unix_nano.saturating_sub(lasted),
        end_time_unix_nano: occurrence.time_unix_nano,
        attributes,
        ..Span::default()
    }
}

/// As the trace context wants it: random, and not zero.
fn random_id() -> [u8; 8] {
    RandomState::new().hash_one(std::process::id()).max(1).to_be_bytes()
}

/// How many spans a probe may make: a burst of a second's, then at the rate. Events are limited for each entity, and a
/// backend for traces keeps each span whole: the limit here is for the node.
#[derive(Debug)]
pub struct SpanLimit {
    /// Spans a second.
    rate: f64,
    tokens: f64,
    last: Instant,
}

impl SpanLimit {
    /// A limit of so many spans a second, from `now` on.
    pub fn new(rate: u32, now: Instant) -> Self {
        Self { rate: rate.into(), tokens: rate.into(), last: now }
    }

    /// Whether there is room for one more.
    pub fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.last).as_secs_f64();
        self.last = self.last.max(now);
        self.tokens = (self.tokens + passed * self.rate).min(self.rate);
        let is_room = self.tokens >= 1.0;
        self.tokens -= f64::from(u8::from(is_room));
        is_room
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jitterscope_semconv::{
        event,
        value::{SpanLinkRole, SpanLinkSource},
    };

    use super::*;
    use crate::pods::Origin;

    #[test]
    fn a_span_is_a_child_of_the_one_that_was_hit_and_as_long_as_the_anomaly() {
        let link = Link {
            trace_id: [1; 16],
            span_id: [2; 8],
            flags: 1,
            source: SpanLinkSource::Wire,
            role: SpanLinkRole::Client,
        };
        let occurrence = Occurrence {
            event: &event::TCP_RETRANSMITTED,
            time_unix_nano: 100,
            origin: Origin::default(),
            body: String::new(),
            attributes: Vec::new(),
            link: Some(link),
            lasted: Duration::from_nanos(30),
        };
        let made = span(&occurrence, &link);
        assert_eq!((made.trace_id, made.parent_span_id), (vec![1; 16], vec![2; 8]));
        assert_eq!((made.start_time_unix_nano, made.end_time_unix_nano), (70, 100));
        assert_eq!((made.name.as_str(), made.flags), (event::TCP_RETRANSMITTED.name, 0x301));
        assert_eq!(made.attributes, link.attributes());
        assert_ne!(made.span_id, span(&occurrence, &link).span_id);
    }

    #[test]
    fn a_limit_gives_a_second_of_spans_at_once_and_then_its_rate() {
        let start = Instant::now();
        let mut limit = SpanLimit::new(10, start);
        let taken = |limit: &mut SpanLimit, at: Duration| (0..50).filter(|_| limit.take(start + at)).count();
        assert_eq!(taken(&mut limit, Duration::ZERO), 10);
        assert_eq!(taken(&mut limit, Duration::from_millis(310)), 3);
        assert_eq!(taken(&mut limit, Duration::from_secs(60)), 10);
    }
}
