//! The applications' spans that anomalies belong to: links as probes tell them, and the sources that they are known from.

pub mod exemplars;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod store;
pub mod tap;
mod watcher;

use jitterscope_ebpf::abi::{
    SPAN_ROLE_CLIENT, SPAN_ROLE_SERVER, SPAN_SOURCE_INSTRUMENTATION, SPAN_SOURCE_THREAD, SPAN_SOURCE_WIRE,
    span_link,
};
use jitterscope_semconv::{
    attribute as key,
    value::{SpanLinkRole, SpanLinkSource},
};
use opentelemetry_proto::tonic::common::v1::KeyValue;

use crate::batch::attributes::key_value;

pub use store::SpanStore;

/// The span that something belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Of the trace.
    pub trace_id: [u8; 16],
    /// Of the span; zero where only the trace is known.
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
            SPAN_SOURCE_THREAD => SpanLinkSource::Thread,
            SPAN_SOURCE_INSTRUMENTATION => SpanLinkSource::Instrumentation,
            _ => return None,
        };
        let role = match u32::from(raw.role) {
            SPAN_ROLE_CLIENT => SpanLinkRole::Client,
            SPAN_ROLE_SERVER => SpanLinkRole::Server,
            _ => return None,
        };
        Some(Self { trace_id: raw.trace_id, span_id: raw.span_id, flags: raw.flags, source, role })
    }

    /// The span's id as OTLP has it: empty where it is not known.
    pub fn span_id(&self) -> Vec<u8> {
        if self.span_id == [0; 8] { Vec::new() } else { self.span_id.to_vec() }
    }

    /// What says how it was made.
    pub fn attributes(&self) -> [KeyValue; 2] {
        [
            key_value(&key::SPAN_LINK_SOURCE, self.source.as_str()),
            key_value(&key::SPAN_LINK_ROLE, self.role.as_str()),
        ]
    }
}
