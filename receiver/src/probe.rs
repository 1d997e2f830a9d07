//! What a probe is: the `Probe` trait, its `Definition`, and `PROBES`, the only list of probes.

use jitterscope_semconv::{Event, Metric};

/// The only list of probes. Configuration keys, help texts, the documentation's table and the tests derive from it.
pub const PROBES: &[&Definition] = &[];

/// Everything that is known of a probe before it runs.
pub struct Definition {
    /// Name, as in the configuration: lowercase, one word.
    pub name: &'static str,
    /// When to use it: the symptom, in one sentence.
    pub use_when: &'static str,
    /// Where its numbers come from.
    pub source: Source,
    /// What it costs on the node.
    pub overhead: Overhead,
    /// Whether it runs without being named in the configuration.
    pub default: bool,
    /// Linux capabilities that it needs beyond reading `/proc`, as in capabilities(7).
    pub capabilities: &'static [&'static str],
    /// Settings of its own beyond `enabled`, `required` and `interval`.
    pub options: &'static [ProbeOption],
    /// The metrics that it emits.
    pub metrics: &'static [&'static Metric],
    /// The events that it emits.
    pub events: &'static [&'static Event],
}

/// Where a probe's numbers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Files below `/proc`.
    Procfs,
    /// Netlink sockets.
    Netlink,
    /// eBPF programs.
    Ebpf,
}

/// What a probe costs on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overhead {
    /// Not measurable in an application's throughput.
    Low,
    /// Up to one percent of it.
    Medium,
    /// More than that.
    High,
}

/// A setting that only some probes have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeOption {
    /// `events.rate` and `events.burst`: the limit of events per entity.
    Events,
    /// `stack`: kernel stacks on events.
    Stack,
    /// `interfaces`: names of the interfaces to leave out.
    ExcludedInterfaces,
}
