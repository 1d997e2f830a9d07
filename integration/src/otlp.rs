//! Both ends of OTLP for tests of delivery: a server that answers as it is told, and destinations of the receiver with
//! numbered points, records and spans to send there.

pub mod certificates;
pub mod deliver;
pub mod place;
pub mod proxy;
pub mod server;

use http::HeaderMap;
pub use jitterscope::export::Signal;
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
    trace::v1::ExportTraceServiceRequest,
};
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric::Data};
use prost::{Message, bytes::Bytes};

/// The two protocols, as the configuration names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC.
    Grpc,
    /// HTTP with protobuf.
    Http,
}

impl Protocol {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Grpc, Self::Http];

    /// The value of the setting.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http/protobuf",
        }
    }
}

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct Received {
    /// Path of its URL, or the whole URL where it was written in full.
    pub path: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Which signal.
    pub signal: Signal,
    /// The numbers of the points, records or spans in it, in order.
    pub numbers: Vec<u64>,
    /// The message.
    pub body: Bytes,
}

/// The numbers in an encoded request: the times of its points or records, the beginnings of its spans.
///
/// # Errors
/// It is no such request.
pub fn numbers(signal: Signal, body: &[u8]) -> Result<Vec<u64>, prost::DecodeError> {
    Ok(match signal {
        Signal::Metrics => {
            let resources = ExportMetricsServiceRequest::decode(body)?.resource_metrics.into_iter();
            let scopes = resources.flat_map(|of| of.scope_metrics);
            scopes.flat_map(|scope| scope.metrics).flat_map(|metric| times(&metric)).collect()
        }
        Signal::Logs => {
            let resources = ExportLogsServiceRequest::decode(body)?.resource_logs.into_iter();
            let scopes = resources.flat_map(|of| of.scope_logs);
            scopes.flat_map(|scope| scope.log_records).map(|record| record.time_unix_nano).collect()
        }
        Signal::Traces => {
            let resources = ExportTraceServiceRequest::decode(body)?.resource_spans.into_iter();
            let scopes = resources.flat_map(|of| of.scope_spans);
            scopes.flat_map(|scope| scope.spans).map(|span| span.start_time_unix_nano).collect()
        }
    })
}

fn times(metric: &Metric) -> Vec<u64> {
    match &metric.data {
        Some(Data::Gauge(gauge)) => gauge.data_points.iter().map(|point| point.time_unix_nano).collect(),
        // None of the numbered points.
        _ => Vec::new(),
    }
}
