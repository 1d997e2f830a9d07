//! Destinations of the receiver, run in the test's own process, and what is sent to them.
#![expect(clippy::unwrap_used, reason = "a part of tests, which end at the first surprise")]
#![expect(clippy::missing_panics_doc, reason = "its checks are assertions")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use jitterscope::config::{self, Sources};
use jitterscope::export::{
    Client, Delivery, Destination, DestinationAccount, Exporters, Outbox, Payload, Sink, Terms,
};
use jitterscope::probe::PROBES;
use jitterscope_semconv::value::ExporterDropCause;
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
    trace::v1::ExportTraceServiceRequest,
};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric::Data, number_data_point::Value,
};
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};

use super::Signal;

/// Far more than a delivery takes here, with several retries.
const PATIENCE: Duration = Duration::from_secs(60);

/// Running destinations. Dropping it leaves their tasks to the runtime.
pub struct Bed {
    exporters: Exporters,
    outbox: Outbox,
}

/// Destinations by their settings as in a file, each the inside of a table.
///
/// # Panics
/// They are wrong.
#[must_use]
pub fn destinations(settings: &[&str]) -> Vec<config::Destination> {
    let list: Vec<String> = settings.iter().map(|one| format!("{{{one}}}")).collect();
    let set = vec![("export.otlp".to_owned(), format!("[{}]", list.join(", ")))];
    Sources { set, ..Sources::default() }.load(PROBES).unwrap_or_else(|error| panic!("{error}")).export.otlp
}

fn build(settings: &[&str]) -> Vec<Destination> {
    let numbered = destinations(settings).into_iter().enumerate();
    let build = |(at, settings): (usize, config::Destination)| Destination {
        name: format!("{at}"),
        sink: Sink::Otlp(Box::new(Client::new(&settings).unwrap()), Box::new(settings)),
    };
    numbered.map(build).collect()
}

impl Bed {
    /// Starts them; they are named by their numbers.
    #[must_use]
    pub fn start(settings: &[&str]) -> Self {
        let (exporters, outbox) = Exporters::start(build(settings));
        Self { exporters, outbox }
    }

    /// Changes them, as a reload does; the former ones end within a minute.
    pub fn change(&mut self, settings: &[&str]) {
        let (former, outbox) = self.exporters.change(build(settings));
        self.outbox = outbox;
        tokio::spawn(former.drain(PATIENCE));
    }

    /// Gives them a request with these numbers.
    pub fn send(&self, signal: Signal, numbers: impl IntoIterator<Item = u64>) {
        self.outbox.send(Delivery { payload: payload(signal, numbers), account: None });
    }

    /// Gives them a request.
    pub fn deliver(&self, payload: Payload) {
        self.outbox.send(Delivery { payload, account: None });
    }

    /// The account of one of them.
    #[must_use]
    pub fn account(&self, at: usize) -> Arc<DestinationAccount> {
        Arc::clone(&self.exporters.accounts()[at])
    }

    /// The terms of the first destination, of which the equation holds.
    #[must_use]
    pub fn terms(&self, signal: Signal) -> Terms {
        terms(&self.account(0), signal)
    }

    /// Waits until nothing of a signal waits at the first destination.
    pub async fn settled(&self, signal: Signal) -> Terms {
        until("everything is sent or given up", || Some(self.terms(signal)).filter(|terms| terms.queued == 0))
            .await
    }

    /// Ends it within a grace period; the terms at the end.
    pub async fn end(self, grace: Duration, signal: Signal) -> Terms {
        let account = self.account(0);
        drop(self.outbox);
        self.exporters.drain(grace).await;
        terms(&account, signal)
    }
}

/// The terms of an account at one instant, of which the equation holds.
#[must_use]
pub fn terms(account: &DestinationAccount, signal: Signal) -> Terms {
    let terms = account.terms(signal);
    let given = terms.produced + terms.recovered;
    assert_eq!(given, terms.delivered + terms.queued + given_up(&terms), "{terms:?}");
    terms
}

/// Items that were given up, over all causes.
#[must_use]
pub fn given_up(terms: &Terms) -> u64 {
    ExporterDropCause::ALL.iter().map(|cause| terms.dropped(*cause)).sum()
}

/// Asks until there is an answer.
///
/// # Panics
/// There is none in time.
pub async fn until<T>(what: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A request whose points, records or spans have these numbers as times.
pub fn payload(signal: Signal, numbers: impl IntoIterator<Item = u64>) -> Payload {
    let numbers = numbers.into_iter();
    match signal {
        Signal::Metrics => Payload::Metrics(metrics(numbers).into()),
        Signal::Logs => Payload::Logs(logs(numbers)),
        Signal::Traces => Payload::Traces(traces(numbers)),
    }
}

fn metrics(numbers: impl Iterator<Item = u64>) -> ExportMetricsServiceRequest {
    let point = |time_unix_nano| NumberDataPoint {
        time_unix_nano,
        value: Some(Value::AsInt(1)),
        ..NumberDataPoint::default()
    };
    let gauge = Gauge { data_points: numbers.map(point).collect() };
    let metric = Metric { name: "test".into(), data: Some(Data::Gauge(gauge)), ..Metric::default() };
    let scope = ScopeMetrics { metrics: vec![metric], ..ScopeMetrics::default() };
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics { scope_metrics: vec![scope], ..ResourceMetrics::default() }],
    }
}

fn logs(numbers: impl Iterator<Item = u64>) -> ExportLogsServiceRequest {
    let record =
        |time_unix_nano| LogRecord { time_unix_nano, event_name: "test".into(), ..LogRecord::default() };
    let scope = ScopeLogs { log_records: numbers.map(record).collect(), ..ScopeLogs::default() };
    ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs { scope_logs: vec![scope], ..ResourceLogs::default() }],
    }
}

fn traces(numbers: impl Iterator<Item = u64>) -> ExportTraceServiceRequest {
    let span = |start_time_unix_nano| Span { start_time_unix_nano, name: "test".into(), ..Span::default() };
    let scope = ScopeSpans { spans: numbers.map(span).collect(), ..ScopeSpans::default() };
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { scope_spans: vec![scope], ..ResourceSpans::default() }],
    }
}
