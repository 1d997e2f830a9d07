//! The settings of the receiver, and the statements that read them: each key with default, limits and help.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use crate::probe::Definition;

use super::export::{self, Export};
use super::file;
use super::otel::Resource;
use super::probes::{self, INTERVALS, Probes, Profile};
use super::reader::Reader;
use super::spans::{self, ExemplarFilter, Spans};

/// A configuration in which everything is valid. Two that are equal need no reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Time between collections.
    pub interval: Duration,
    /// Which probes run when nothing is said of them by name.
    pub profile: Profile,
    /// Every probe's own settings.
    pub probes: Probes,
    /// Where the telemetry goes.
    pub export: Export,
    /// How anomalies are linked to the applications' spans.
    pub spans: Spans,
    /// Which anomalies are shown with the counters that count them.
    pub exemplars: ExemplarFilter,
    /// Whom signals are attributed to.
    pub entities: Entities,
    /// What is known of the kernel.
    pub kernel: Kernel,
    /// Where health is asked for; None for nowhere.
    pub health: Option<SocketAddr>,
    /// The receiver's own log, on standard error.
    pub log: Log,
    /// When events are printed on standard output.
    pub events_text: EventsText,
    /// How long the last collection and the flush may take once the receiver is told to end.
    pub shutdown_grace: Duration,
    /// What the environment says of the receiver's own resource.
    pub resource: Resource,
}

/// Whom signals are attributed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entities {
    /// Where pods' names come from.
    pub cri: Cri,
    /// Whether network namespaces without a container are entities too.
    pub netns: bool,
    /// Names of the labels of pods that their resources have, each once, in order.
    pub labels: Vec<String>,
}

/// The container runtime's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cri {
    /// The first of the usual ones that answers.
    Auto,
    /// None: containers keep their ids, without names.
    Off,
    /// This socket.
    Socket(PathBuf),
}

/// What is known of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// BTF of the running kernel where it has none of its own.
    pub btf: Option<PathBuf>,
    /// Where the counters of network namespaces come from.
    pub counters: Counters,
}

/// Where the counters of network namespaces come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counters {
    /// From a walk in the kernel where that can be loaded, else from procfs.
    Auto,
    /// From procfs.
    Procfs,
}

/// The receiver's own log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// Least severe level that is written.
    pub level: LevelFilter,
    /// How lines are written.
    pub format: LogFormat,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object each.
    Json,
}

/// When events are printed on standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventsText {
    /// When nothing is exported.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

impl Settings {
    /// Whether events are printed on standard output.
    #[must_use]
    pub fn prints_events(&self) -> bool {
        match self.events_text {
            EventsText::Auto => self.export.otlp.is_empty(),
            EventsText::On => true,
            EventsText::Off => false,
        }
    }
}

pub(super) fn read(r: &mut Reader<'_>, probes: &[&'static Definition], resource: Resource) -> Settings {
    // Fine enough for an alert within a minute, coarse enough to cost next to nothing.
    let interval = Duration::from_secs(15);
    let interval =
        r.duration("interval", interval, INTERVALS, "time between collections; a probe may have its own");
    let profile = profile(r);
    let mut settings = Settings {
        interval,
        profile,
        probes: r
            .section("probes", "each probe's own settings", |r| probes::read(r, probes, profile, interval)),
        export: r.section("export", "where the telemetry goes", export::read),
        exemplars: spans::exemplars(r),
        spans: r.section("spans", "links from anomalies to the applications' spans", spans::read),
        entities: r.section("entities", "whom signals are attributed to", entities),
        kernel: r.section("kernel", "what is known of the kernel", kernel),
        health: r.section("health", "liveness and readiness over HTTP", health),
        log: r.section("log", "the receiver's own log, on standard error", log),
        events_text: r.section("events", "readable events", events_text),
        shutdown_grace: r.section("shutdown", "what happens at the end", shutdown_grace),
        resource,
    };
    probes::link(&mut settings.probes, probes, &settings.spans, settings.exemplars);
    settings
}

fn profile(r: &mut Reader<'_>) -> Profile {
    let words =
        [("monitor", Profile::Monitor), ("troubleshoot", Profile::Troubleshoot), ("none", Profile::None)];
    let help = "what runs unless said of it by name: each probe's own default, all that can run, none";
    r.choice("profile", &words, help).unwrap_or(Profile::Monitor)
}

fn entities(r: &mut Reader<'_>) -> Entities {
    let allowed = "auto | off | unix:///PATH";
    let help = "socket of the container runtime, for pods' names; auto: the usual ones";
    Entities {
        cri: r.scalar("cri", "auto", allowed, help, cri).unwrap_or(Cri::Auto),
        netns: r.switch("netns", true, "network namespaces outside of containers are entities too"),
        labels: labels(r),
    }
}

/// Each is in every resource of every pod, so more is better left to the Collector, which asks Kubernetes.
const MOST_LABELS: usize = 32;

fn labels(r: &mut Reader<'_>) -> Vec<String> {
    let help = "labels of pods to tell with them as k8s.pod.label.NAME, as the container runtime got them when the pod began";
    let parse = |text: &str| is_label(text).then(|| text.to_owned());
    let mut labels = r.texts("labels", Vec::new(), "labels' names", help, parse);
    labels.sort_unstable();
    labels.dedup();
    if labels.len() > MOST_LABELS {
        r.problem("labels", None, format!("names {} labels, at most {MOST_LABELS} are told", labels.len()));
    }
    labels
}

/// Whether a label can have this name: at most 63 characters, and before them a domain and a slash if there is one
/// (`IsQualifiedName` in k8s.io/apimachinery, pkg/util/validation/validation.go).
fn is_label(text: &str) -> bool {
    let (prefix, name) = text.rsplit_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    let is_word = |text: &str, most: usize, others: &[char]| {
        let is_end = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        text.len() <= most
            && is_end(text.chars().next())
            && is_end(text.chars().next_back())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(&c))
    };
    let is_domain = |text: &str| {
        is_word(text, 253, &['-', '.']) && !text.contains("..") && text.to_ascii_lowercase() == text
    };
    is_word(name, 63, &['-', '_', '.']) && prefix.is_none_or(is_domain)
}

fn cri(text: &str) -> Option<Cri> {
    match text {
        "auto" => Some(Cri::Auto),
        "off" => Some(Cri::Off),
        other => other
            .strip_prefix("unix://")
            .filter(|path| path.starts_with('/'))
            .map(|path| Cri::Socket(path.into())),
    }
}

fn kernel(r: &mut Reader<'_>) -> Kernel {
    let words = [("auto", Counters::Auto), ("procfs", Counters::Procfs)];
    let help = "source of namespaces' counters; auto: an eBPF walk where it can be loaded, else procfs";
    Kernel {
        btf: r.file("btf", "BTF file for a kernel that does not bring its own", file::btf),
        counters: r.choice("counters", &words, help).unwrap_or(Counters::Auto),
    }
}

/// Next to the Collector's own default, 13133, so that both can share a host network.
fn health(r: &mut Reader<'_>) -> Option<SocketAddr> {
    let default = SocketAddr::from(([127, 0, 0, 1], 13134));
    let allowed = "ADDRESS:PORT | off";
    let help = "readable by all who reach it, so keep it on loopback";
    let parse = |text: &str| match text {
        "" | "off" => Some(None),
        address => address.parse().ok().map(Some),
    };
    r.scalar("endpoint", &default.to_string(), allowed, help, parse).unwrap_or(Some(default))
}

fn log(r: &mut Reader<'_>) -> Log {
    let levels = [
        ("info", LevelFilter::INFO),
        ("error", LevelFilter::ERROR),
        ("warn", LevelFilter::WARN),
        ("debug", LevelFilter::DEBUG),
        ("trace", LevelFilter::TRACE),
        ("off", LevelFilter::OFF),
    ];
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    Log {
        level: r.choice("level", &levels, "least severe level that is written").unwrap_or(LevelFilter::INFO),
        format: r.choice("format", &formats, "for people, or one object a line").unwrap_or(LogFormat::Text),
    }
}

fn events_text(r: &mut Reader<'_>) -> EventsText {
    let words = [("auto", EventsText::Auto), ("on", EventsText::On), ("off", EventsText::Off)];
    let help = "on standard output; auto: when there is no destination";
    r.choice("text", &words, help).unwrap_or(EventsText::Auto)
}

/// Well below the 30 s after which Kubernetes kills a pod.
fn shutdown_grace(r: &mut Reader<'_>) -> Duration {
    let limits = Duration::from_millis(100)..=Duration::from_secs(300);
    r.duration("grace", Duration::from_secs(5), limits, "for the last collection and the flush")
}
