//! The applications' spans that anomalies belong to: links as probes tell them, and the sources that they are known from.

pub mod exemplars;
pub mod tap;

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use jitterscope_ebpf::{
    Kernel, LoadError, Merge as _,
    abi::{SPAN_ROLE_CLIENT, SPAN_ROLE_SERVER, SPAN_SOURCE_WIRE, span_counts, span_link},
    spans::{Spans, Wire},
};
use jitterscope_semconv::{
    attribute as key,
    value::{SpanLinkRole, SpanLinkSource},
};
use opentelemetry_proto::tonic::common::v1::KeyValue;

use self::tap::Tap;
use crate::batch::attributes::key_value;

/// The span that something belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Of the trace.
    pub trace_id: [u8; 16],
    /// Of the span.
    pub span_id: [u8; 8],
    /// Of the W3C trace context.
    pub flags: u8,
    /// How it is known.
    pub source: SpanLinkSource,
    /// On which side of the request something happened.
    pub role: SpanLinkRole,
}

impl Link {
    /// Whether the application's own spans of this trace are recorded (W3C trace context, `sampled`).
    pub fn is_sampled(&self) -> bool {
        self.flags & 1 != 0
    }

    /// As the kernel's programs tell it; `None` where none is known.
    pub fn of(raw: &span_link) -> Option<Self> {
        let source = match u32::from(raw.source) {
            SPAN_SOURCE_WIRE => SpanLinkSource::Wire,
            _ => return None,
        };
        let role = match u32::from(raw.role) {
            SPAN_ROLE_CLIENT => SpanLinkRole::Client,
            SPAN_ROLE_SERVER => SpanLinkRole::Server,
            _ => return None,
        };
        Some(Self { trace_id: raw.trace_id, span_id: raw.span_id, flags: raw.flags, source, role })
    }

    /// What says how it was made.
    pub fn attributes(&self) -> [KeyValue; 2] {
        [
            key_value(&key::SPAN_LINK_SOURCE, self.source.as_str()),
            key_value(&key::SPAN_LINK_ROLE, self.role.as_str()),
        ]
    }
}

/// The sources of one receiver. The supervisor opens and closes them, telemetry reads what became of what they found.
#[derive(Default)]
pub struct SpanStore {
    wire: ArcSwapOption<Wire>,
    /// Counted by programs that are gone.
    before: ArcSwapOption<span_counts>,
    /// The source `tap`, which is no program.
    pub tap: Tap,
}

impl SpanStore {
    /// Loads the programs of `wire`, unless they run.
    ///
    /// # Errors
    /// The kernel refuses them, or there is no cgroup v2 hierarchy.
    pub fn open(&self, kernel: &Kernel) -> Result<(), LoadError> {
        if self.wire.load().is_none() {
            self.wire.store(Some(Arc::new(Wire::open(kernel)?)));
        }
        Ok(())
    }

    /// Ends them; what they counted stays.
    pub fn close(&self) {
        self.before.store(self.wire_counts().map(Arc::new));
        self.wire.store(None);
    }

    /// Whether there are any.
    pub fn are_open(&self) -> bool {
        self.wire.load().is_some()
    }

    /// Calls `with` with what they know, for programs that read it.
    pub fn with<T>(&self, with: impl FnOnce(Option<&Spans>) -> T) -> T {
        with(self.wire.load().as_ref().map(|wire| &wire.spans))
    }

    /// What became of what a source found; `None` when it never ran.
    pub fn counts(&self, source: &SpanLinkSource) -> Option<span_counts> {
        if *source == SpanLinkSource::Tap { self.tap.counts() } else { self.wire_counts() }
    }

    fn wire_counts(&self) -> Option<span_counts> {
        let before = self.before.load().as_deref().copied();
        let now = self.wire.load().as_ref().and_then(|wire| wire.counts(SPAN_SOURCE_WIRE).ok());
        let (Some(mut sum), Some(now)) = (before, now) else { return before.or(now) };
        sum.merge(&now);
        Some(sum)
    }
}
