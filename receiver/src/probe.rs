//! What a probe is: the `Probe` trait, its `Definition`, and `PROBES`, the only list of probes.

mod biolatency;
mod cgroups;
mod command;
pub(crate) mod connection;
mod conntrack;
mod conntrackevents;
mod errno;
mod family;
mod fd;
mod flow;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub mod homes;
mod io;
mod ip;
mod ipvs;
mod kernellatency;
mod machine;
mod maps;
mod netdev;
mod netiftxlatency;
mod observed;
mod packet;
pub mod packetloss;
mod pressure;
mod qdisc;
mod rdma;
mod schedlatency;
mod shown;
mod sock;
mod socketlatency;
mod softirq;
mod softnet;
mod sums;
pub mod task;
mod tcp;
mod tcpconnect;
mod tcpext;
mod tcpreset;
mod tcpretrans;
mod tcpsummary;
mod udp;
mod virtcmdlatency;

use std::{os::fd::BorrowedFd, sync::Arc, time::Duration};

use jitterscope_ebpf::{TooShort, spans::Spans};
use jitterscope_semconv::{Event, Metric};

pub use self::machine::Machine;
use crate::{
    account::KernelAccount,
    batch::{Batch, Occurrence},
    clock::Clock,
    config::ProbeSettings,
    pods::Snapshot,
    round::{Round, netlink::Wanted},
};

/// The only list of probes. Configuration keys, help texts, the documentation's table and the tests derive from it.
pub const PROBES: &[&Definition] = &[
    &packetloss::DEFINITION,
    &tcpretrans::DEFINITION,
    &tcpreset::DEFINITION,
    &tcpconnect::DEFINITION,
    &softirq::DEFINITION,
    &schedlatency::DEFINITION,
    &biolatency::DEFINITION,
    &netiftxlatency::DEFINITION,
    &socketlatency::DEFINITION,
    &virtcmdlatency::DEFINITION,
    &kernellatency::DEFINITION,
    &tcp::DEFINITION,
    &tcpext::DEFINITION,
    &udp::DEFINITION,
    &ip::DEFINITION,
    &io::DEFINITION,
    &pressure::DEFINITION,
    &netdev::DEFINITION,
    &softnet::DEFINITION,
    &sock::DEFINITION,
    &ipvs::DEFINITION,
    &qdisc::DEFINITION,
    &conntrack::DEFINITION,
    &conntrackevents::DEFINITION,
    &rdma::DEFINITION,
    &flow::DEFINITION,
    &tcpsummary::DEFINITION,
    &fd::DEFINITION,
];

/// What a probe does. It says what, who and how much; units, grouping, start times and limits are the batch's
/// business, resolving whom an event belongs to is the task's.
pub trait Probe: Send {
    /// Reads its counters and emits them.
    ///
    /// # Errors
    /// Its source cannot be read; the probe is tried again with the next round.
    fn collect(&mut self, round: &Round<'_>, batch: &mut Batch<'_>) -> Result<(), CollectError>;

    /// What it reads over netlink inside the namespaces of a round.
    fn wanted(&self) -> Wanted {
        Wanted::default()
    }

    /// Takes over settings that changed while it runs. A probe without options has nothing to do.
    ///
    /// # Errors
    /// The kernel refuses them.
    fn reconfigure(&mut self, _settings: &ProbeSettings) -> Result<(), CollectError> {
        Ok(())
    }

    /// Whether it must be told which namespaces there are, because it listens inside of each: [`Probe::follow`].
    fn follows(&self) -> bool {
        false
    }

    /// Takes note of the namespaces that there are, about once a second.
    fn follow(&mut self, _pods: &Arc<Snapshot>) {}

    /// Readable while events wait in the ring; `None` for a probe without events.
    fn events(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// The next event of the ring; `None` when none waits.
    ///
    /// # Errors
    /// The record is not what the program writes.
    fn next_event(&mut self, _clock: &Clock) -> Option<Result<Occurrence, TooShort>> {
        None
    }

    /// Stops counting, so that the last collection and the last events add up; what was counted stays.
    fn detach(&mut self) {}

    /// What the kernel counted for the probe's account since it was attached.
    fn account(&self) -> KernelAccount {
        KernelAccount::default()
    }

    /// Maps and programs that it holds.
    fn usage(&self) -> Usage {
        Usage::default()
    }

    /// What it cannot see on this kernel although it runs.
    fn limitation(&self) -> Option<String> {
        None
    }
}

/// What a probe is opened with.
pub struct Opening<'a> {
    /// Its settings.
    pub settings: &'a ProbeSettings,
    /// The running kernel.
    pub machine: &'a Machine,
    /// What is known of the applications' spans; `None`: its anomalies are not to be linked to them.
    pub spans: Option<&'a Spans>,
}

/// Why a probe cannot run here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Skip {
    /// It lacks privileges.
    #[error("needs {capabilities}: {reason}")]
    Privilege {
        /// The capabilities that it needs.
        capabilities: String,
        /// What was refused.
        reason: String,
    },
    /// The kernel lacks something.
    #[error("{0}")]
    Missing(String),
    /// Something broke that may work another time.
    #[error("{0}; it is tried again")]
    Temporary(String),
    /// The machine has none of what it watches: nothing is wrong with that.
    #[error("{0}; it is tried again")]
    Absent(String),
}

/// Why a collection did not work.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// A map of the kernel.
    #[error(transparent)]
    Kernel(#[from] jitterscope_ebpf::TableError),
    /// The pass over sockets and descriptors.
    #[error(transparent)]
    Sockets(#[from] crate::round::sockets::SocketsError),
}

/// What a probe holds in the kernel.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Its maps.
    pub maps: Vec<jitterscope_ebpf::MapUsage>,
    /// Entries in use of the maps that fill up, by name.
    pub entries: Vec<(&'static str, u64)>,
    /// Its programs.
    pub programs: Vec<jitterscope_ebpf::ProgramStats>,
    /// What they are attached to, and how.
    pub hooks: Vec<(String, jitterscope_ebpf::Form)>,
}

impl Usage {
    /// What an attached object holds; empty where the kernel does not say.
    pub fn of(object: &jitterscope_ebpf::Loaded) -> Self {
        Self {
            maps: object.maps().unwrap_or_default(),
            entries: Vec::new(),
            programs: object.programs().unwrap_or_default(),
            hooks: object.attachments().iter().map(|on| (on.hook.clone(), on.form)).collect(),
        }
    }
}

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
    /// Opens it: loads, attaches, finds its files.
    pub open: fn(&Opening<'_>) -> Result<Box<dyn Probe>, Skip>,
}

impl Definition {
    /// Whether the probe waits for events, and so has a task of its own. All others share one, round by round.
    pub fn has_own_task(&self) -> bool {
        !self.events.is_empty()
    }
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
    /// `per_cpu`: a series for each CPU.
    PerCpu,
    /// `exclude_interfaces`: names of the interfaces to leave out, and which these are unless it is said.
    ExcludedInterfaces(&'static [&'static str]),
    /// `children`: numbers of what hangs below too.
    Children,
    /// `census`: everything in the table counted by what it is.
    Census,
    /// `threshold`: what took less is no event; and how long that is unless it is said.
    Threshold(Duration),
    /// Its anomalies can be linked to spans: no key of its own, see `spans`.
    Spans,
    /// `sampling`: one of so many flows is looked at; and how many unless it is said. 1: all.
    Sampling(u32),
}
