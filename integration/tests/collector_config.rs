//! The Collector configurations of `otel-config/`: the built Collector takes them, and telemetry goes through them.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use jitterscope_integration::network::free_addresses;
use jitterscope_integration::tools;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, metric::Data,
    number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;

/// Far more than a Collector takes to start on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn the_built_collector_takes_every_configuration() {
    let Some(collector) = tools::path_or_skip("collector", "otelcol") else { return };
    for file in configurations() {
        let mut command = Command::new(&collector);
        command
            .args(["validate", "--config"])
            .arg(&file)
            .env("BACKEND_ENDPOINT", "127.0.0.1:4317")
            .env("TRACES_ENDPOINT", "127.0.0.1:4317")
            .env("METRICS_ENDPOINT", "http://127.0.0.1:9090/api/v1/otlp")
            .env("LOGS_ENDPOINT", "http://127.0.0.1:3100/otlp")
            .env("K8S_NODE_NAME", "node");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test]
async fn a_collector_on_the_node_keeps_two_pods_apart_and_passes_everything_on() {
    let Some(program) = tools::path_or_skip("collector", "otelcol") else { return };
    let output = tempfile::tempdir().unwrap();
    let [backend, node, prometheus, health] = free_addresses().unwrap();
    let _backend = Collector::start(
        &program,
        "file.yaml",
        &[("OTLP_ENDPOINT", &backend), ("OUTPUT_DIR", path(output.path()))],
    );
    let _node = Collector::start(
        &program,
        "node.yaml",
        &[
            ("OTLP_ENDPOINT", &node),
            ("BACKEND_ENDPOINT", &backend),
            ("BACKEND_INSECURE", "true"),
            ("PROMETHEUS_ENDPOINT", &prometheus),
            ("HEALTH_ENDPOINT", &health),
            ("K8S_NODE_NAME", "node-1"),
            // There is no API server here.
            ("K8S_AUTH_TYPE", "none"),
            ("K8S_PASSTHROUGH", "true"),
        ],
    );
    until("the backend listens", || TcpStream::connect(&backend).ok());
    until("the node's Collector is healthy", || get(&health, "/")?.contains(" 200 OK").then_some(()));

    let to = format!("http://{node}");
    MetricsServiceClient::connect(to.clone()).await.unwrap().export(two_pods_and_the_node()).await.unwrap();
    LogsServiceClient::connect(to).await.unwrap().export(one_log_record()).await.unwrap();

    let page = until("both pods are in Prometheus", || {
        get(&prometheus, "/metrics")
            .filter(|page| page.contains("uid-a") && page.contains("uid-b") && page.contains("node-1"))
    });
    let series: Vec<_> = page.lines().filter(|line| line.starts_with("test_packets_total{")).collect();
    assert_eq!(series.len(), 3, "{page}");
    let metrics =
        until("the metrics reached the backend", || written(output.path(), "metrics.json", "uid-b"));
    assert!(metrics.contains("uid-a"), "{metrics}");
    assert!(metrics.contains("node-1"), "the node's own resource has the node's name: {metrics}");
    until("the log record reached the backend", || written(output.path(), "logs.json", "test.event"));
}

/// A running Collector; ended when dropped.
struct Collector(Child);

impl Collector {
    fn start(program: &Path, configuration: &str, environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(program);
        command.arg("--config").arg(tools::repository().join("otel-config").join(configuration));
        command.arg("--set=service::telemetry::logs::level=warn");
        Self(command.envs(environment.iter().copied()).spawn().unwrap())
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// All files of `otel-config/` that configure a Collector; the manifest builds one.
fn configurations() -> Vec<PathBuf> {
    let files = std::fs::read_dir(tools::repository().join("otel-config")).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    let found: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|end| end == "yaml") && !path.ends_with("builder.yaml"))
        .collect();
    assert!(found.len() >= 2, "{found:?}");
    found
}

fn two_pods_and_the_node() -> ExportMetricsServiceRequest {
    let resources =
        [vec![("k8s.pod.uid", "uid-a")], vec![("k8s.pod.uid", "uid-b")], vec![("host.name", "host-1")]];
    let resource_metrics = resources.map(|attributes| ResourceMetrics {
        resource: Some(resource(&attributes)),
        scope_metrics: vec![ScopeMetrics { metrics: vec![counter()], ..ScopeMetrics::default() }],
        ..ResourceMetrics::default()
    });
    ExportMetricsServiceRequest { resource_metrics: resource_metrics.into() }
}

fn counter() -> Metric {
    let point = NumberDataPoint {
        start_time_unix_nano: now() - 1_000_000_000,
        time_unix_nano: now(),
        value: Some(number_data_point::Value::AsInt(7)),
        ..NumberDataPoint::default()
    };
    let sum = Sum {
        data_points: vec![point],
        aggregation_temporality: AggregationTemporality::Cumulative.into(),
        is_monotonic: true,
    };
    Metric { name: "test.packets".into(), data: Some(Data::Sum(sum)), ..Metric::default() }
}

fn one_log_record() -> ExportLogsServiceRequest {
    let record = LogRecord { event_name: "test.event".into(), time_unix_nano: now(), ..LogRecord::default() };
    let scope = ScopeLogs { log_records: vec![record], ..ScopeLogs::default() };
    let logs = ResourceLogs {
        resource: Some(resource(&[("k8s.pod.uid", "uid-a")])),
        scope_logs: vec![scope],
        ..ResourceLogs::default()
    };
    ExportLogsServiceRequest { resource_logs: vec![logs] }
}

fn resource(attributes: &[(&str, &str)]) -> Resource {
    let attribute = |(key, value): &(&str, &str)| KeyValue {
        key: (*key).to_owned(),
        value: Some(AnyValue { value: Some(Value::StringValue((*value).to_owned())) }),
        ..KeyValue::default()
    };
    Resource { attributes: attributes.iter().map(attribute).collect(), ..Resource::default() }
}

fn now() -> u64 {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap();
    u64::try_from(now.as_nanos()).unwrap()
}

fn get(address: &str, target: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {target} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn written(directory: &Path, file: &str, part: &str) -> Option<String> {
    let mut content = String::new();
    File::open(directory.join(file)).ok()?.read_to_string(&mut content).ok()?;
    content.contains(part).then_some(content)
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Polls until there is an answer, with a deadline.
fn until<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = poll() {
            return answer;
        }
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
