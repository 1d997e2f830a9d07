//! The whole of it on one machine: an instrumented application with a fault on one in a hundred requests, jitterscope, a
//! Collector, Prometheus and Jaeger; for some requests that were hit it prints the log record, the exemplar and the trace.
//! `demo [SECONDS]`: for so long, or until Ctrl-C; what it started ends with it.
#![expect(clippy::print_stdout, reason = "what it is for")]

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use jitterscope_integration::collector::Collector;
use jitterscope_integration::jaeger::{Jaeger, Span};
use jitterscope_integration::join::role_of;
use jitterscope_integration::network::{Family, Network};
use jitterscope_integration::prometheus::Prometheus;
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::requirements;
use jitterscope_integration::shop::{self, Language, Load, Part};
use jitterscope_integration::telemetry::Record;
use jitterscope_semconv::{event, metric};
use serde_json::Value;

/// A shop of moderate size, for as long as anyone looks at it.
const LOAD: Load = Load { connections: 16, streams: 1, rate: 200, seconds: 7 * 24 * 3600, every: 100 };
/// Requests that are shown.
const SHOWN: usize = 6;
/// The counter whose exemplars show an event.
const COUNTERS: [(&str, &str); 3] = [
    (event::TCP_RETRANSMITTED.name, metric::TCP_RETRANSMITS.name),
    (event::PACKET_DROPPED.name, metric::PACKET_DROPS.name),
    (event::TCP_RESET.name, metric::TCP_RESETS.name),
];
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(500);

/// Everything that runs; ended in this order.
struct Demo {
    _client: Part,
    _server: Part,
    receiver: Receiver,
    _links: Collector,
    /// In place of Loki: what came is in files.
    logs: Collector,
    jaeger: Jaeger,
    prometheus: Prometheus,
    network: Network,
}

fn main() -> Result<()> {
    let seconds = std::env::args().nth(1).map(|text| text.parse()).transpose().context("demo [SECONDS]")?;
    let end = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    ensure!(
        requirements::met(&["ip", "nft"]) && Language::Go.is_there(),
        "integration/setup.sh test sets it up"
    );
    let interrupted = Arc::new(AtomicBool::new(false));
    listen(&interrupted)?;
    let is_over = || interrupted.load(Relaxed) || end.is_some_and(|end| Instant::now() >= end);
    let mut demo = Demo::start()?;
    println!("Jaeger      {}", demo.jaeger.page());
    println!("Prometheus  http://{}", demo.prometheus.address());
    println!("{} requests a second, one of {} is hit; Ctrl-C ends it all\n", LOAD.rate, LOAD.every);
    let mut shown = HashSet::new();
    while !is_over() {
        if shown.len() < SHOWN {
            demo.show_next(&mut shown)?;
        }
        std::thread::sleep(PAUSE);
    }
    // By Ctrl-C it has been told to end already.
    let _ = demo.receiver.stop();
    println!("{} requests shown; everything ends", shown.len());
    Ok(())
}

/// Notes that it is to end.
fn listen(interrupted: &Arc<AtomicBool>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let interrupted = Arc::clone(interrupted);
    std::thread::spawn(move || {
        runtime.block_on(async {
            let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
            tokio::select! {
                result = tokio::signal::ctrl_c() => result,
                _ = terminated.recv() => Ok(()),
            }
        })?;
        interrupted.store(true, Relaxed);
        std::io::Result::Ok(())
    });
    Ok(())
}

impl Demo {
    fn start() -> Result<Self> {
        let missing = "integration/setup.sh test builds it";
        let jaeger = Jaeger::start()?.context(missing)?;
        let prometheus = Prometheus::start()?.context(missing)?;
        let logs = Collector::start()?.context(missing)?;
        let links = Collector::links(jaeger.address(), &prometheus.endpoint(), &logs.http_endpoint())?;
        let links = links.context(missing)?;
        let network = Network::new()?;
        shop::relay(&network, links.http_address())?;
        shop::inject(&network)?;
        let set = ["interval=1s", "spans.sources.wire=true", "spans.anomaly_spans.enabled=true"];
        let endpoint = links.endpoint();
        let mut arguments = vec!["--endpoint", &endpoint];
        arguments.extend(set.iter().flat_map(|setting| ["--set", setting]));
        let receiver = Receiver::start(&arguments)?;
        let server = shop::serve(Language::Go, &network, Family::V4)?;
        let client = shop::ask(Language::Go, &network, Family::V4, LOAD)?;
        Ok(Self {
            _client: client,
            _server: server,
            receiver,
            _links: links,
            logs,
            jaeger,
            prometheus,
            network,
        })
    }

    /// Shows requests of which record, exemplar and trace have come, one for each kind of anomaly at a look.
    fn show_next(&self, shown: &mut HashSet<String>) -> Result<()> {
        let exemplars = self.prometheus.exemplars("{__name__=~\"jitterscope_.+\"}").unwrap_or_default();
        let mut kinds = HashSet::new();
        let is_ours = |record: &Record| role_of(&record.resource, &self.network).is_some();
        for record in self.logs.received()?.records().filter(|one| !one.trace.is_empty() && is_ours(one)) {
            let is_new = !shown.contains(&record.trace) && !kinds.contains(&record.event);
            let Some(exemplar) = exemplars.iter().find(|one| is_new && is_of(one, &record)) else { continue };
            let spans = self.jaeger.spans(&record.trace).unwrap_or_default();
            let is_whole = spans.iter().any(|span| span.id == record.span)
                && spans.iter().any(|span| span.parent == record.span && span.name == record.event);
            if is_whole && shown.len() < SHOWN {
                self.show(&record, exemplar, &spans);
                shown.insert(record.trace.clone());
                kinds.insert(record.event.clone());
            }
        }
        Ok(())
    }

    fn show(&self, record: &Record, (series, exemplar): &(Value, Value), spans: &[Span]) {
        println!("log       {}  trace_id={} span_id={}", record.event, record.trace, record.span);
        println!("          {}", record.body);
        println!("exemplar  {}  {} {}", name(series), exemplar["labels"], text(&exemplar["value"]));
        println!("trace     {}", self.jaeger.link(&record.trace));
        let roots = spans.iter().filter(|span| spans.iter().all(|other| other.id != span.parent));
        roots.for_each(|root| tree(root, spans, root.start, 0));
        println!();
    }
}

/// A span with what is below it, indented: when it began after `start`, and for how long it went on.
fn tree(span: &Span, spans: &[Span], start: u64, depth: usize) {
    let milliseconds = |microseconds: u64| microseconds as f64 / 1e3;
    let (at, lasted) = (milliseconds(span.start.saturating_sub(start)), milliseconds(span.duration));
    let name = format!("{:indent$}{} {}", "", span.name, span.url, indent = 2 * depth);
    println!("          {name:<60} at {at:7.3} ms for {lasted:7.3} ms");
    let mut below: Vec<_> = spans.iter().filter(|child| child.parent == span.id).collect();
    below.sort_by_key(|child| child.start);
    below.into_iter().for_each(|child| tree(child, spans, start, depth + 1));
}

/// Whether an exemplar is of the span of a record, with the counter of its event.
fn is_of((series, exemplar): &(Value, Value), record: &Record) -> bool {
    let counter = COUNTERS.iter().find(|(event, _)| *event == record.event);
    let is_its = |(_, counter): &(_, &str)| name(series).starts_with(&counter.replace('.', "_"));
    counter.is_some_and(is_its) && exemplar["labels"]["span_id"] == *record.span
}

fn name(series: &Value) -> String {
    text(&series["__name__"])
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
