//! Delivery: each destination has a task of its own with a bounded queue, so that a slow one does not hold up
//! the others, and probe tasks never wait.

mod account;
mod answer;
mod client;
mod connect;
mod disk;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod grpc;
mod http;
mod line;
mod outbox;
mod owners;
mod queue;
mod retry;
mod sender;
mod shape;
mod split;
mod task;
pub mod text;
mod trust;

use std::sync::Arc;

use jitterscope_semconv::value::Signal as SignalName;
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
    trace::v1::ExportTraceServiceRequest,
};

pub(crate) use self::disk::WAL_BYTES;
pub use self::{
    account::{DestinationAccount, Terms},
    answer::Accepted,
    client::{BuildError, Client},
    outbox::{Outbox, OutboxHandle},
    retry::Refusal,
    task::{Destination, Exporters, Sink},
};
use crate::account::Account;

/// Points in one OTLP request, and whose they are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics {
    /// The request.
    pub request: ExportMetricsServiceRequest,
    /// The key of the entity that each of its resources describes, which stays when the entity is told of under other
    /// names; empty where resources never change.
    pub keys: Vec<u64>,
}

impl From<ExportMetricsServiceRequest> for Metrics {
    fn from(request: ExportMetricsServiceRequest) -> Self {
        Self { request, keys: Vec::new() }
    }
}

/// One OTLP request on its way.
#[derive(Clone, Debug)]
pub enum Payload {
    /// Points.
    Metrics(Metrics),
    /// Events.
    Logs(ExportLogsServiceRequest),
    /// Spans.
    Traces(ExportTraceServiceRequest),
}

/// The signals that leave the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// Points.
    Metrics,
    /// Events.
    Logs,
    /// Spans.
    Traces,
}

impl Signal {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Metrics, Self::Logs, Self::Traces];

    /// In the order of what they are worth, the least first: later points supersede earlier ones, a span says what an
    /// event has said, and events are what an operator waits for.
    pub const BY_WORTH: [Self; 3] = [Self::Metrics, Self::Traces, Self::Logs];

    /// Its name in telemetry.
    pub fn name(self) -> &'static str {
        match self {
            Self::Metrics => SignalName::Metrics.as_str(),
            Self::Logs => SignalName::Logs.as_str(),
            Self::Traces => SignalName::Traces.as_str(),
        }
    }
}

impl Payload {
    /// Which signal it is.
    pub fn signal(&self) -> Signal {
        match self {
            Self::Metrics(_) => Signal::Metrics,
            Self::Logs(_) => Signal::Logs,
            Self::Traces(_) => Signal::Traces,
        }
    }

    /// Its points, records or spans.
    pub fn items(&self) -> u64 {
        match self {
            Self::Metrics(metrics) => split::items(&metrics.request),
            Self::Logs(request) => split::items(request),
            Self::Traces(request) => split::items(request),
        }
    }
}

/// A request and whose account its records are in.
pub struct Delivery {
    /// What is sent.
    pub payload: Payload,
    /// Whose records they are; `None` for points, for spans and for the receiver's own telemetry.
    pub account: Option<Arc<Account>>,
}
