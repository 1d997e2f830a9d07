//! Reads what a receiver wrote as OTLP/JSON, one request a line.

use opentelemetry_proto::tonic::{
    collector::{logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest},
    metrics::v1::{NumberDataPoint, metric::Data, number_data_point},
    resource::v1::Resource,
};

/// One point with what it is about.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    pub(crate) resource: Resource,
    pub(crate) metric: String,
    pub(crate) point: NumberDataPoint,
}

impl Point {
    /// Its value.
    pub(crate) fn value(&self) -> i64 {
        match self.point.value {
            Some(number_data_point::Value::AsInt(value)) => value,
            other => panic!("{} is no whole number: {other:?}", self.metric),
        }
    }

    /// Whether it is about the network namespace of this name.
    pub(crate) fn is_of(&self, netns: &str) -> bool {
        format!("{:?}", self.resource).contains(&format!("\"{netns}\""))
    }
}

/// The complete lines of an output: the last one may be half written.
fn lines(output: &str) -> impl Iterator<Item = &str> {
    output.split_inclusive('\n').filter(|line| line.ends_with('\n'))
}

/// The requests with metrics. Every line must be a request of metrics or logs.
pub(crate) fn metrics(output: &str) -> Vec<ExportMetricsServiceRequest> {
    let of_metrics = |line: &str| {
        if line.starts_with("{\"resourceLogs\"") {
            serde_json::from_str::<ExportLogsServiceRequest>(line).unwrap();
            return None;
        }
        assert!(line.starts_with("{\"resourceMetrics\""), "{line}");
        Some(serde_json::from_str(line).unwrap())
    };
    lines(output).filter_map(of_metrics).collect()
}

/// How many events there are about the network namespace of this name.
pub(crate) fn events_of(output: &str, netns: &str) -> usize {
    let logs = lines(output).filter(|line| line.starts_with("{\"resourceLogs\""));
    let requests = logs.map(|line| serde_json::from_str::<ExportLogsServiceRequest>(line).unwrap());
    let resources = requests.flat_map(|request| request.resource_logs);
    let of_it = resources.filter(|logs| format!("{:?}", logs.resource).contains(&format!("\"{netns}\"")));
    of_it.flat_map(|logs| logs.scope_logs).map(|scope| scope.log_records.len()).sum()
}

/// All points of a metric, in the order of their lines.
pub(crate) fn points(output: &str, metric: &str) -> Vec<Point> {
    metrics(output).iter().flat_map(|request| points_of(request, metric)).collect()
}

/// The points of a metric in one request, but those that only say that a series has ended.
pub(crate) fn points_of(request: &ExportMetricsServiceRequest, wanted: &str) -> Vec<Point> {
    let mut points = Vec::new();
    for resource in &request.resource_metrics {
        let metrics = resource.scope_metrics.iter().flat_map(|scope| &scope.metrics);
        for metric in metrics.filter(|metric| metric.name == wanted) {
            let data = match &metric.data {
                Some(Data::Sum(sum)) => &sum.data_points,
                Some(Data::Gauge(gauge)) => &gauge.data_points,
                _ => continue,
            };
            let resource = resource.resource.clone().unwrap_or_default();
            let of = |point: &NumberDataPoint| Point {
                resource: resource.clone(),
                metric: metric.name.clone(),
                point: point.clone(),
            };
            points.extend(data.iter().filter(|point| point.value.is_some()).map(of));
        }
    }
    points
}

/// Names of all metrics.
pub(crate) fn metric_names(output: &str) -> Vec<String> {
    let requests = metrics(output);
    let resources = requests.iter().flat_map(|request| &request.resource_metrics);
    let metrics = resources.flat_map(|resource| &resource.scope_metrics).flat_map(|scope| &scope.metrics);
    metrics.map(|metric| metric.name.clone()).collect()
}
