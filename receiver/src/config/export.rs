//! `export`: where the telemetry goes, each destination with its connection, its trust and its queue.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::Endpoint;
use super::file;
use super::reader::Reader;
use crate::export::{Signal, WAL_BYTES};

/// Where the telemetry goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Export {
    /// OTLP destinations, each of which gets the signals it takes; without any, text output takes their place.
    pub otlp: Vec<Destination>,
}

/// One OTLP destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// How requests are sent there.
    pub protocol: Protocol,
    /// Whether a signal's own path goes after the endpoint's; for HTTP.
    pub append_path: bool,
    /// Which signals it gets.
    pub signals: Signals,
    /// Whether counters and histograms are told as totals or as differences.
    pub temporality: Temporality,
    /// What buckets histograms have.
    pub histograms: Histograms,
    /// How requests are compressed.
    pub compression: Compression,
    /// Sent with every request; the values are marked sensitive, so that no log shows them.
    pub headers: HeaderMap,
    /// How long a single request may take.
    pub timeout: Duration,
    /// Certificates of its own for an `https` endpoint.
    pub tls: Tls,
    /// Requests that wait, in bytes; the oldest is dropped and counted when more come.
    pub queue_memory: u64,
    /// Where they wait on disk, if they do.
    pub queue_disk: Option<DiskQueue>,
}

/// A queue on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskQueue {
    /// A directory that no other destination has.
    pub path: PathBuf,
    /// Bytes that it may take there.
    pub size: u64,
    /// What has waited longer is dropped and counted.
    pub max_age: Duration,
}

/// How requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP over gRPC.
    Grpc,
    /// OTLP over HTTP, as protobuf.
    HttpProtobuf,
}

/// The signals that a destination gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signals {
    /// Points.
    pub metrics: bool,
    /// Events.
    pub logs: bool,
    /// Spans of anomalies.
    pub traces: bool,
}

/// Whether values are totals or differences. Sums that may fall are totals in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Temporality {
    /// Totals.
    Cumulative,
    /// Differences.
    Delta,
    /// Differences where that saves memory: of histograms.
    LowMemory,
}

/// What buckets histograms have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Histograms {
    /// The kernel's own.
    Exponential,
    /// With bounds in every point, for backends that know no others.
    Explicit,
}

/// How requests are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As gzip.
    Gzip,
    /// As zstd.
    Zstd,
    /// Not at all.
    None,
}

/// Files of a destination's own certificates, looked at when the configuration is read, so that a missing one shows then;
/// what is in them is read by who connects, and again when they change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificate authority in PEM, in place of the system's.
    pub ca: Option<PathBuf>,
    /// The client's own certificate and key in PEM.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Whether the server's certificate is not verified.
    pub skip_verify: bool,
}

const ENDPOINTS: &str = "http://HOST:PORT, https://HOST:PORT, unix:///PATH; with a path for http/protobuf";

pub(super) fn read(r: &mut Reader<'_>) -> Export {
    let otlp = r.list("otlp", "destinations of OTLP; none: text on standard output", destination);
    let otlp: Vec<Destination> = otlp.into_iter().flatten().collect();
    let mut paths: Vec<_> = otlp.iter().filter_map(|one| Some(&one.queue_disk.as_ref()?.path)).collect();
    paths.sort_unstable();
    for same in paths.windows(2).filter(|pair| pair[0] == pair[1]) {
        let path = same[0].display().to_string();
        r.problem("otlp", Some(path), "two destinations have their queue.disk.path here, each needs its own");
    }
    Export { otlp }
}

/// None without an endpoint, which is then among the problems.
fn destination(r: &mut Reader<'_>) -> Option<Destination> {
    let endpoint = r.required(
        "endpoint",
        "http://127.0.0.1:4317",
        ENDPOINTS,
        "where it listens; with its port, unless it is the usual one",
        Endpoint::new,
    );
    let words = [("grpc", Protocol::Grpc), ("http/protobuf", Protocol::HttpProtobuf)];
    let protocol = r.choice("protocol", &words, "how requests are sent").unwrap_or(Protocol::Grpc);
    let endpoint = endpoint.filter(|endpoint| speaks(r, endpoint, protocol));
    let help = "/v1/metrics, /v1/logs and /v1/traces go after the endpoint's path; false: it is the whole URL of one signal";
    let append_path = r.switch("append_path", true, help);
    let signals = signals(r);
    if !append_path && (protocol == Protocol::Grpc || !signals.are_one()) {
        r.problem("append_path", None, "false needs protocol http/protobuf and a single signal");
    }
    let words = [
        ("cumulative", Temporality::Cumulative),
        ("delta", Temporality::Delta),
        ("lowmemory", Temporality::LowMemory),
    ];
    let help = "totals, or differences; lowmemory: differences of histograms alone";
    let temporality = r.choice("temporality", &words, help).unwrap_or(Temporality::Cumulative);
    let words = [("exponential", Histograms::Exponential), ("explicit", Histograms::Explicit)];
    let help = "buckets; explicit: 94 bounds from 1 µs to 10 s, four to each doubling";
    let histograms = r.choice("histograms", &words, help).unwrap_or(Histograms::Exponential);
    let words = [("gzip", Compression::Gzip), ("zstd", Compression::Zstd), ("none", Compression::None)];
    let compression = r.choice("compression", &words, "of requests").unwrap_or(Compression::Gzip);
    let headers = headers(r);
    let limits = Duration::from_millis(100)..=Duration::from_secs(300);
    let timeout = r.duration("timeout", Duration::from_secs(10), limits, "for a single request");
    let encrypted = !matches!(endpoint, Some(Endpoint::Http(_) | Endpoint::Unix(_)));
    let tls = r.section("tls", "certificates of its own, for https; read again when they change", |r| {
        tls(r, encrypted)
    });
    let (queue_memory, queue_disk) = r.section("queue", "requests that wait while it does not take them", |r| {
        let help = "for each signal; past it, the oldest are dropped and counted";
        let memory = r.size("memory", 16 << 20, (1 << 20)..=(1 << 30), help);
        let help = "also on disk, before they are sent, so that they outlive the process; the memory is for when it fails";
        (memory, r.section("disk", help, disk))
    });
    let endpoint = endpoint?;
    Some(Destination {
        endpoint,
        protocol,
        append_path,
        signals,
        temporality,
        histograms,
        compression,
        headers,
        timeout,
        tls,
        queue_memory,
        queue_disk,
    })
}

/// None without a path: then nothing goes to disk.
fn disk(r: &mut Reader<'_>) -> Option<DiskQueue> {
    let help = "a directory of this destination alone, made if it is not there; none: nothing is written";
    let path = r.file("path", help, file::directory);
    // What the store's own log may take, and as much again for requests.
    let limits = (2 * WAL_BYTES)..=(1 << 40);
    let size = r.size("size", 256 << 20, limits, "of all of it; past it, the oldest go, metrics before logs");
    let limits = Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 3600);
    let max_age =
        r.duration("max_age", Duration::from_secs(6 * 3600), limits, "what waited longer is dropped");
    Some(DiskQueue { path: path?, size, max_age })
}

/// Whether an endpoint is one of the protocol; reports why not.
fn speaks(r: &mut Reader<'_>, endpoint: &Endpoint, protocol: Protocol) -> bool {
    let reason = match (protocol, endpoint) {
        (Protocol::HttpProtobuf, Endpoint::Unix(_)) => "a Unix socket is for protocol grpc",
        (Protocol::Grpc, Endpoint::Http(uri) | Endpoint::Https(uri)) if uri.path() != "/" => {
            "a path is for protocol http/protobuf, gRPC has no use for it"
        }
        (Protocol::Grpc, Endpoint::Http(uri)) if uri.port_u16().is_none() => {
            "gRPC without TLS has no usual port, allowed: http://HOST:PORT"
        }
        _ => return true,
    };
    r.problem("endpoint", Some(endpoint.to_string()), reason);
    false
}

fn signals(r: &mut Reader<'_>) -> Signals {
    let names = Signal::ALL.map(Signal::name);
    let known = |text: &str| names.into_iter().find(|name| *name == text);
    let allowed = "metrics, logs, traces";
    let named = r.texts("signals", names.to_vec(), allowed, "which it gets", known);
    if named.is_empty() {
        r.problem("signals", None, format!("names none, allowed: a list of {allowed}"));
    }
    let has = |signal: Signal| named.contains(&signal.name());
    Signals { metrics: has(Signal::Metrics), logs: has(Signal::Logs), traces: has(Signal::Traces) }
}

fn headers(r: &mut Reader<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, written) in r.map("headers", "a table of names and texts", "sent with every request") {
        match header(&name, &written.text) {
            Some((name, value)) => _ = headers.insert(name, value),
            None => {
                let reason =
                    "allowed: the name of an HTTP header, not grpc-*, and a text of printable characters";
                r.problem_at(written.origin, &format!("headers.{name}"), None, reason);
            }
        }
    }
    headers
}

/// None for what HTTP does not allow, and for names that gRPC keeps for itself.
fn header(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::try_from(name).ok().filter(|name| !name.as_str().starts_with("grpc-"))?;
    let mut value = HeaderValue::try_from(value).ok()?;
    value.set_sensitive(true);
    Some((name, value))
}

fn tls(r: &mut Reader<'_>, encrypted: bool) -> Tls {
    const PLAIN: &str = "has no effect, the endpoint is not https";
    let ca =
        r.file("ca_file", "PEM of the certificate authority, in place of the system's", file::certificate);
    let cert = r.file("cert_file", "PEM of the client certificate", file::certificate);
    let key = r.file("key_file", "PEM of the client key", file::private_key);
    let skip_verify = r.switch(
        "insecure_skip_verify",
        false,
        "true: whoever answers is believed; for a test with certificates that nobody has signed",
    );
    if skip_verify && r.is_set("ca_file") {
        r.problem("ca_file", None, "has no effect with insecure_skip_verify");
    }
    for name in ["ca_file", "cert_file", "key_file"] {
        if !encrypted && r.is_set(name) {
            r.problem(name, None, PLAIN);
        }
    }
    if !encrypted && skip_verify {
        r.problem("insecure_skip_verify", None, PLAIN);
    }
    for (name, other) in [("cert_file", "key_file"), ("key_file", "cert_file")] {
        if r.is_set(name) && !r.is_set(other) {
            r.problem(name, None, format!("needs {other} beside it"));
        }
    }
    Tls { ca, client: cert.zip(key), skip_verify }
}

impl Signals {
    /// All.
    pub const ALL: Self = Self { metrics: true, logs: true, traces: true };

    /// Whether this one is among them.
    #[must_use]
    pub fn have(self, signal: Signal) -> bool {
        match signal {
            Signal::Metrics => self.metrics,
            Signal::Logs => self.logs,
            Signal::Traces => self.traces,
        }
    }

    fn are_one(self) -> bool {
        Signal::ALL.into_iter().filter(|signal| self.have(*signal)).count() == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_hidden_from_debug_output() {
        let (name, value) = header("Authorization", "Bearer secret").unwrap();
        assert_eq!(name, "authorization");
        assert!(!format!("{value:?}").contains("secret"));
    }

    #[test]
    fn headers_that_http_or_grpc_do_not_allow_are_refused() {
        assert!(header("a b", "x").is_none());
        assert!(header("a", "x\ny").is_none());
        assert!(header("grpc-timeout", "1S").is_none());
    }
}
