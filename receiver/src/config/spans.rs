//! `spans` and `exemplars`: how anomalies are linked to the applications' spans, and which are shown with the counters.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::reader::Reader;

/// Shorter than a round trip finds nothing, longer than an hour is no request.
const AGES: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);

/// Nothing is sent sooner, and who looks for the cause of something does not wait longer.
const WAITS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(300);

/// How anomalies are linked to spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spans {
    /// Which sources there are.
    pub sources: SpanSources,
    /// Spans that a Collector sends; None for no such.
    pub tap: Option<Tap>,
    /// For how long after a request anomalies of its connection are its.
    pub max_age: Duration,
    /// How many spans of anomalies a probe may make in a second; None: none are made.
    pub anomaly_spans: Option<u32>,
}

/// The sources of spans that are programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanSources {
    /// The heads of requests as they pass.
    pub wire: bool,
    /// What threads that send say in their memory.
    pub thread: bool,
    /// What OpenTelemetry eBPF Instrumentation says of threads that send.
    pub instrumentation: bool,
}

/// Where a Collector sends a copy of the node's spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tap {
    /// Where they are taken.
    pub endpoint: SocketAddr,
    /// How long an event waits for its span.
    pub wait: Duration,
}

impl SpanSources {
    /// Whether there is one.
    pub fn any(self) -> bool {
        self.wire || self.thread || self.instrumentation
    }
}

/// What probes that link anomalies to spans need to know. Equal settings mean that a reload leaves the probe alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Links {
    /// How spans are known: programs are made for these.
    pub sources: SpanSources,
    /// For how long after a request anomalies of its connection are its.
    pub max_age: Duration,
    /// Which of them are shown with the counters.
    pub exemplars: ExemplarFilter,
}

/// Which anomalies are shown with the counters that count them: OpenTelemetry's exemplar filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExemplarFilter {
    /// Those of spans that are recorded.
    TraceBased,
    /// All.
    AlwaysOn,
    /// None.
    AlwaysOff,
}

impl Spans {
    /// What probes need to know; None while there is no source.
    pub(super) fn links(&self, exemplars: ExemplarFilter) -> Option<Links> {
        let sources = self.sources;
        sources.any().then_some(Links { sources, max_age: self.max_age, exemplars })
    }
}

pub(super) fn read(r: &mut Reader<'_>) -> Spans {
    let wire = "traceparent of HTTP/1 and HTTP/2 requests, read from every packet of TCP as it passes";
    let thread = "OpenTelemetry thread context, read from the memory of threads that send by TCP or connect";
    let instrumentation =
        "traces of threads, as OpenTelemetry eBPF Instrumentation pins them in /sys/fs/bpf/otel";
    let (sources, tap) = r.section("sources", "how spans are known", |r| {
        let sources = SpanSources {
            wire: r.switch("wire", WIRE, wire),
            thread: r.switch("thread", THREAD, thread),
            instrumentation: r.switch("instrumentation", false, instrumentation),
        };
        (sources, r.section("tap", "spans that a Collector sends a copy of, when they have ended", tap))
    });
    Spans {
        sources,
        tap,
        // What clients and servers commonly wait for at most.
        max_age: r.duration(
            "max_age",
            Duration::from_secs(30),
            AGES,
            "how long after a request anomalies of its connection are linked to it",
        ),
        anomaly_spans: r.section(
            "anomaly_spans",
            "anomalies as spans too, for backends that show traces alone",
            anomaly_spans,
        ),
    }
}

/// None unless they are wanted: a backend for traces keeps each of them whole.
fn anomaly_spans(r: &mut Reader<'_>) -> Option<u32> {
    let enabled = r.switch("enabled", false, "a child of each recorded span for each anomaly that hit it");
    let rate = r.count("rate", 100, 1..=100_000, "at most so many a second, of each probe on the node");
    enabled.then_some(rate)
}

/// None unless it is wanted: events wait for their spans.
fn tap(r: &mut Reader<'_>) -> Option<Tap> {
    let enabled = r.switch("enabled", false, "links events that no other source links, of HTTP/1 alone");
    let default = SocketAddr::from(([127, 0, 0, 1], 4327));
    let help = "OTLP over HTTP, path /v1/traces; who reaches it can forge links, so keep it on the node";
    let parse = |text: &str| text.parse().ok();
    let endpoint = r.scalar("endpoint", &default.to_string(), "ADDRESS:PORT", help, parse).unwrap_or(default);
    // SDKs send after 5 s, a Collector batches; then there is a span's own length.
    let help = "how long an event waits for its span, and a request may go on after it";
    let wait = r.duration("wait", Duration::from_secs(10), WAITS, help);
    enabled.then_some(Tap { endpoint, wait })
}

/// What it costs stands in the documentation of the settings.
const WIRE: bool = false;
/// It looks into the memory of others, which nobody should do unasked, and a lie is found out by `wire` only.
const THREAD: bool = false;

pub(super) fn exemplars(r: &mut Reader<'_>) -> ExemplarFilter {
    let words = [
        ("trace_based", ExemplarFilter::TraceBased),
        ("always_on", ExemplarFilter::AlwaysOn),
        ("always_off", ExemplarFilter::AlwaysOff),
    ];
    let help = "anomalies shown with the counters, while there are span links: of recorded spans, all, none";
    r.choice("exemplars", &words, help).unwrap_or(ExemplarFilter::TraceBased)
}
