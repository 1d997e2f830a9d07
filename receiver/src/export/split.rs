//! Requests split by their encoded size, so that no gRPC server refuses one for good.
//!
//! What is too large is halved: by entity, then by metric, then by point. Nothing is copied but a resource.

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    logs::v1::{ResourceLogs, ScopeLogs},
    metrics::v1::{Metric, ResourceMetrics, ScopeMetrics, metric::Data},
    trace::v1::{ResourceSpans, ScopeSpans},
};
use prost::{Message, bytes::Bytes};

use super::Payload;

/// Bytes of one request before compression. gRPC servers refuse messages over 4 MiB by default; the rest is
/// room for the frame.
pub(super) const REQUEST_BYTES: usize = 4 * 1024 * 1024 - 64 * 1024;

/// One encoded request and how many points, records or spans it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Encoded {
    /// The protobuf message.
    pub(super) bytes: Bytes,
    /// Its points, records or spans.
    pub(super) items: u64,
}

/// The payload as encoded requests of at most `limit` bytes, in order, and the number of items that are too
/// large on their own.
pub(super) fn encode(payload: &Payload, limit: usize) -> (Vec<Encoded>, u64) {
    let mut parts = Parts { limit, requests: Vec::new(), too_large: 0 };
    match payload {
        Payload::Metrics(metrics) => parts.whole_or_halved(&metrics.request),
        Payload::Logs(request) => parts.whole_or_halved(request),
        Payload::Traces(request) => parts.whole_or_halved(request),
    }
    (parts.requests, parts.too_large)
}

struct Parts {
    limit: usize,
    requests: Vec<Encoded>,
    too_large: u64,
}

impl Parts {
    /// Most requests fit; only one that does not is copied, to be taken apart.
    fn whole_or_halved<R: Halve + Message + Clone>(&mut self, request: &R) {
        if request.encoded_len() <= self.limit {
            self.push(request);
        } else {
            self.put(request.clone());
        }
    }

    fn push(&mut self, request: &(impl Halve + Message)) {
        self.requests.push(Encoded { bytes: request.encode_to_vec().into(), items: request.items() });
    }

    fn put<R: Halve + Message>(&mut self, request: R) {
        if request.encoded_len() <= self.limit {
            return self.push(&request);
        }
        let items = request.items();
        match request.halve() {
            Some((first, second)) => {
                self.put(first);
                self.put(second);
            }
            None => self.too_large += items,
        }
    }
}

/// Points, records or spans of a request.
pub(super) fn items(request: &impl Halve) -> u64 {
    request.items()
}

/// A message that can be split in two that hold the same together.
pub(super) trait Halve: Sized {
    /// Both halves; `None` when there is one item or none.
    fn halve(self) -> Option<(Self, Self)>;
    /// Points, records or spans in it.
    fn items(&self) -> u64;
}

/// Halves a list, or its only element; `join` makes a message of each half.
fn halve_list<T: Halve, M>(mut list: Vec<T>, join: impl Fn(Vec<T>) -> M) -> Option<(M, M)> {
    if list.len() > 1 {
        let second = list.split_off(list.len() / 2);
        return Some((join(list), join(second)));
    }
    let (first, second) = list.pop()?.halve()?;
    Some((join(vec![first]), join(vec![second])))
}

fn total<T: Halve>(list: &[T]) -> u64 {
    list.iter().map(Halve::items).sum()
}

impl Halve for ExportMetricsServiceRequest {
    fn halve(self) -> Option<(Self, Self)> {
        halve_list(self.resource_metrics, |resource_metrics| Self { resource_metrics })
    }
    fn items(&self) -> u64 {
        total(&self.resource_metrics)
    }
}

impl Halve for ResourceMetrics {
    fn halve(mut self) -> Option<(Self, Self)> {
        let list = std::mem::take(&mut self.scope_metrics);
        halve_list(list, |scope_metrics| Self { scope_metrics, ..self.clone() })
    }
    fn items(&self) -> u64 {
        total(&self.scope_metrics)
    }
}

impl Halve for ScopeMetrics {
    fn halve(mut self) -> Option<(Self, Self)> {
        let list = std::mem::take(&mut self.metrics);
        halve_list(list, |metrics| Self { metrics, ..self.clone() })
    }
    fn items(&self) -> u64 {
        total(&self.metrics)
    }
}

impl Halve for Metric {
    fn halve(mut self) -> Option<(Self, Self)> {
        let second = split_points(self.data.as_mut()?)?;
        let rest = Self { data: Some(second), ..self.clone() };
        Some((self, rest))
    }
    fn items(&self) -> u64 {
        self.data.as_ref().map_or(0, point_count) as u64
    }
}

fn point_count(data: &Data) -> usize {
    match data {
        Data::Gauge(gauge) => gauge.data_points.len(),
        Data::Sum(sum) => sum.data_points.len(),
        Data::Histogram(histogram) => histogram.data_points.len(),
        Data::ExponentialHistogram(histogram) => histogram.data_points.len(),
        Data::Summary(summary) => summary.data_points.len(),
    }
}

/// Takes the second half of the points out of `data`.
fn split_points(data: &mut Data) -> Option<Data> {
    fn half<T>(points: &mut Vec<T>) -> Option<Vec<T>> {
        (points.len() > 1).then(|| points.split_off(points.len() / 2))
    }
    macro_rules! split {
        ($kind:path, $message:expr) => {{
            let data_points = half(&mut $message.data_points)?;
            let mut rest = $message.clone();
            rest.data_points = data_points;
            $kind(rest)
        }};
    }
    Some(match data {
        Data::Gauge(message) => split!(Data::Gauge, message),
        Data::Sum(message) => split!(Data::Sum, message),
        Data::Histogram(message) => split!(Data::Histogram, message),
        Data::ExponentialHistogram(message) => split!(Data::ExponentialHistogram, message),
        Data::Summary(message) => split!(Data::Summary, message),
    })
}

impl Halve for ExportLogsServiceRequest {
    fn halve(self) -> Option<(Self, Self)> {
        halve_list(self.resource_logs, |resource_logs| Self { resource_logs })
    }
    fn items(&self) -> u64 {
        total(&self.resource_logs)
    }
}

impl Halve for ResourceLogs {
    fn halve(mut self) -> Option<(Self, Self)> {
        let list = std::mem::take(&mut self.scope_logs);
        halve_list(list, |scope_logs| Self { scope_logs, ..self.clone() })
    }
    fn items(&self) -> u64 {
        total(&self.scope_logs)
    }
}

impl Halve for ScopeLogs {
    fn halve(mut self) -> Option<(Self, Self)> {
        if self.log_records.len() < 2 {
            return None;
        }
        let log_records = self.log_records.split_off(self.log_records.len() / 2);
        let rest = Self { log_records, scope: self.scope.clone(), schema_url: self.schema_url.clone() };
        Some((self, rest))
    }
    fn items(&self) -> u64 {
        self.log_records.len() as u64
    }
}

impl Halve for ExportTraceServiceRequest {
    fn halve(self) -> Option<(Self, Self)> {
        halve_list(self.resource_spans, |resource_spans| Self { resource_spans })
    }
    fn items(&self) -> u64 {
        total(&self.resource_spans)
    }
}

impl Halve for ResourceSpans {
    fn halve(mut self) -> Option<(Self, Self)> {
        let list = std::mem::take(&mut self.scope_spans);
        halve_list(list, |scope_spans| Self { scope_spans, ..self.clone() })
    }
    fn items(&self) -> u64 {
        total(&self.scope_spans)
    }
}

impl Halve for ScopeSpans {
    fn halve(mut self) -> Option<(Self, Self)> {
        if self.spans.len() < 2 {
            return None;
        }
        let spans = self.spans.split_off(self.spans.len() / 2);
        let rest = Self { spans, scope: self.scope.clone(), schema_url: self.schema_url.clone() };
        Some((self, rest))
    }
    fn items(&self) -> u64 {
        self.spans.len() as u64
    }
}

#[cfg(test)]
mod tests;
