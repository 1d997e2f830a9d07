//! `probes`: which probes run, and how each does. The keys come from the probes' definitions.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::probe::{Definition, ProbeOption};

use super::pattern::Pattern;
use super::reader::Reader;
use super::spans::{ExemplarFilter, Links, Spans};

/// How often counters may be collected: more often costs more than it shows, less often than hourly is no monitoring.
pub(super) const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);

/// What an event may be: from every one to what no request survives.
const THRESHOLDS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(60);

/// Of how many flows one is looked at: beyond this it is chance whether there is one.
const SAMPLINGS: RangeInclusive<u32> = 1..=65_536;

/// Settings of every probe, by name.
pub type Probes = BTreeMap<&'static str, ProbeSettings>;

/// Which probes run when nothing is said of them by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Each probe's own default.
    Monitor,
    /// All that can.
    Troubleshoot,
    /// None.
    None,
}

/// How one probe runs. Equal settings mean that a reload leaves the probe alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeSettings {
    /// Whether it runs, as said of it or else by the profile.
    pub enabled: bool,
    /// Whether the receiver ends when it cannot.
    pub required: bool,
    /// Time between collections: its own or else the general one.
    pub interval: Duration,
    /// Limit of its events; None for a probe without.
    pub events: Option<EventLimit>,
    /// What took less is no event; None for a probe that measures no times.
    pub threshold: Option<Duration>,
    /// One of so many flows is looked at; 1, all, for a probe without.
    pub sampling: u32,
    /// How its anomalies are linked to spans; None for a probe that cannot, and while there is no source.
    pub links: Option<Links>,
    /// How many spans of anomalies it may make in a second; None: none.
    pub anomaly_spans: Option<u32>,
    /// Kernel stacks on events; false for a probe without.
    pub stack: bool,
    /// Interfaces to leave out; empty for a probe that knows none.
    pub exclude_interfaces: Vec<Pattern>,
    /// A series for each CPU; false for a probe that knows none.
    pub per_cpu: bool,
    /// Numbers of what hangs below too; false for a probe without.
    pub children: bool,
    /// Everything in the table counted by what it is; false for a probe without.
    pub census: bool,
}

/// Limit of a probe's events for each entity: its network namespace, else its cgroup, else the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventLimit {
    /// Events per second in the long run.
    pub rate: u32,
    /// Events at once after a quiet time.
    pub burst: u32,
}

impl Profile {
    fn enables(self, probe: &Definition) -> bool {
        match self {
            Self::Monitor => probe.default,
            Self::Troubleshoot => true,
            Self::None => false,
        }
    }
}

pub(super) fn read(
    r: &mut Reader<'_>,
    probes: &[&'static Definition],
    profile: Profile,
    interval: Duration,
) -> Probes {
    let one = |r: &mut Reader<'_>, probe: &'static Definition| {
        let settings = r.section(probe.name, probe.use_when, |r| read_one(r, probe, profile, interval));
        (probe.name, settings)
    };
    probes.iter().map(|probe| one(r, probe)).collect()
}

fn read_one(r: &mut Reader<'_>, probe: &Definition, profile: Profile, interval: Duration) -> ProbeSettings {
    let enabled = r.optional_switch("enabled", "whether it runs; unset: as the profile says");
    let required = r.switch("required", false, "exit code 69 when it cannot run; includes enabled");
    if required && enabled == Some(false) {
        r.problem("required", Some("true".into()), "contradicts enabled = false");
    }
    let own =
        r.optional_duration("interval", INTERVALS, "time between its collections; unset: the general one");
    let has = |option| probe.options.contains(&option);
    ProbeSettings {
        enabled: enabled.unwrap_or(required || profile.enables(probe)),
        required,
        interval: own.unwrap_or(interval),
        events: has(ProbeOption::Events).then(|| events(r)),
        threshold: threshold(r, probe),
        sampling: sampling(r, probe),
        links: None,
        anomaly_spans: None,
        stack: has(ProbeOption::Stack) && r.switch("stack", false, "kernel stack with every event"),
        per_cpu: has(ProbeOption::PerCpu)
            && r.switch("per_cpu", false, "a series for each CPU in place of their sum"),
        exclude_interfaces: exclude(r, probe),
        children: has(ProbeOption::Children) && r.switch("children", false, "what hangs below others too"),
        census: has(ProbeOption::Census)
            && r.switch("census", false, "everything counted by what it is, each time the whole table"),
    }
}

/// Tells the probes that can link their anomalies to spans how they are to do it.
pub(super) fn link(
    settings: &mut Probes,
    probes: &[&'static Definition],
    spans: &Spans,
    exemplars: ExemplarFilter,
) {
    for probe in probes.iter().filter(|probe| probe.options.contains(&ProbeOption::Spans)) {
        if let Some(settings) = settings.get_mut(probe.name) {
            settings.links = spans.links(exemplars);
            settings.anomaly_spans = spans.anomaly_spans;
        }
    }
}

/// A bad packet path repeats itself many times a second: a few events show it, the counters count it.
fn events(r: &mut Reader<'_>) -> EventLimit {
    r.section("events", "limit for each entity: network namespace, else cgroup, else node", |r| EventLimit {
        rate: r.count("rate", 20, 1..=100_000, "events per second in the long run"),
        burst: r.count("burst", 100, 1..=100_000, "events at once after a quiet time"),
    })
}

/// None for a probe that measures no times.
fn threshold(r: &mut Reader<'_>, probe: &Definition) -> Option<Duration> {
    let default = probe.options.iter().find_map(|option| match option {
        ProbeOption::Threshold(default) => Some(*default),
        _ => None,
    })?;
    Some(r.duration("threshold", default, THRESHOLDS, "what took less is counted but is no event"))
}

/// All flows for a probe that does not choose among them.
fn sampling(r: &mut Reader<'_>, probe: &Definition) -> u32 {
    let default = probe.options.iter().find_map(|option| match option {
        ProbeOption::Sampling(default) => Some(*default),
        _ => None,
    });
    let Some(default) = default else { return 1 };
    r.count("sampling", default, SAMPLINGS, "one of so many flows is looked at; 1: all")
}

/// Empty for a probe that knows no interfaces.
fn exclude(r: &mut Reader<'_>, probe: &Definition) -> Vec<Pattern> {
    let default = probe.options.iter().find_map(|option| match option {
        ProbeOption::ExcludedInterfaces(default) => Some(*default),
        _ => None,
    });
    let Some(default) = default else { return Vec::new() };
    r.texts(
        "exclude_interfaces",
        default.iter().filter_map(|name| Pattern::new(name)).collect(),
        "interface names with * and ?",
        "left out of its numbers",
        Pattern::new,
    )
}
