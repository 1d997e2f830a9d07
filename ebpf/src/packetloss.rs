//! The packet-loss program from user space: what it is loaded with, its counters, events and settings.

mod harmless;
mod reasons;

use std::io;

use aya::include_bytes_aligned;
use zerocopy::{FromZeros as _, IntoBytes as _};

use crate::abi::{
    HARMLESS_RANGES, VERDICT_LOSS, account, drop_event, drop_key, limiter, limiter_key, neighbour,
    neighbour_key, range, settings,
};
use crate::btf::Btf;
use crate::symbols::{FunctionRange, function_ranges};
use crate::{
    Constant, Kernel, LoadError, LoadOptions, Loaded, Merge, Object, PerCpuTable, Ring, Table, TableError,
};

pub use harmless::{By, HARMLESS, Harmless, Only};
pub use reasons::Reasons;

/// The tracepoint without which there is no packet loss to see.
const TRACEPOINT: &str = "kfree_skb";

/// Name of SYNs refused by a full accept queue: the kernel's own name of their counter, for it gives no reason.
pub const LISTEN_OVERFLOWS: &str = "ListenOverflows";

impl Object {
    /// `packetloss.bpf.c`.
    pub const PACKETLOSS: Self = Self {
        name: "packetloss",
        elf: include_bytes_aligned!(concat!(env!("OUT_DIR"), "/packetloss.o")),
        optional: &["tcp_conn_request"],
    };
}

impl Merge for account {
    fn merge(&mut self, other: &Self) {
        self.seen += other.seen;
        self.submitted += other.submitted;
        self.suppressed += other.suppressed;
        self.lost += other.lost;
        self.overflow += other.overflow;
        self.ignored += other.ignored;
    }
}

/// What is decided when the program is loaded.
#[derive(Clone, Debug)]
pub struct Options {
    /// Inode of the host's network namespace: what is dropped there may be on behalf of a container.
    pub host_netns: u32,
    /// Most combinations of namespace, cgroup, reason, … counted apart; the rest is `account.overflow`.
    pub drops: u32,
    /// Bytes of the event ring, a power of two and a multiple of the page size.
    pub ring: u32,
    /// Most entities whose events are limited each by itself.
    pub limiters: u32,
    /// Hooks to leave alone.
    pub without: Vec<String>,
}

impl Options {
    /// Room for a node: 8192 series, 1024 namespaces, and 256 KiB of events, which is some 500.
    pub fn new(host_netns: u32) -> Self {
        Self { host_netns, drops: 8192, ring: 256 * 1024, limiters: 1024, without: Vec::new() }
    }
}

/// The program, attached. Dropping it detaches it.
#[derive(Debug)]
pub struct PacketLoss {
    loaded: Loaded,
    /// Counters of dropped packets.
    pub drops: PerCpuTable<drop_key, u64>,
    /// Addresses of containers behind bridges; the owner keeps them in step with the namespaces there are.
    pub neighbours: Table<neighbour_key, neighbour>,
    accounts: PerCpuTable<u32, account>,
    settings: Table<u32, settings>,
    limiters: Table<limiter_key, limiter>,
    node_limiter: Table<u32, limiter>,
    events: Option<Ring>,
    reasons: Reasons,
    harmless: Vec<HarmlessFunction>,
}

impl PacketLoss {
    /// Loads and attaches the program. No event is submitted before [`Self::configure`].
    pub fn open(kernel: &Kernel, options: &Options) -> Result<Self, LoadError> {
        let reasons = Reasons::read(kernel.btf());
        let harmless = harmless_functions().unwrap_or_default();
        let constants = Constants::new(kernel.btf(), options, &reasons, &harmless);
        let without: Vec<&str> = options.without.iter().map(String::as_str).collect();
        let mut loaded = Object::PACKETLOSS.load(&LoadOptions {
            kernel,
            constants: &constants.list(),
            entries: &[("drops", options.drops), ("events", options.ring), ("limiters", options.limiters)],
            without: &without,
        })?;
        Ok(Self {
            drops: loaded.per_cpu_table("drops")?,
            neighbours: loaded.table("neighbours")?,
            accounts: loaded.per_cpu_table("accounts")?,
            settings: loaded.table("settings")?,
            limiters: loaded.table("limiters")?,
            node_limiter: loaded.table("node_limiter")?,
            events: Some(loaded.ring("events")?),
            loaded,
            reasons,
            harmless,
        })
    }

    /// Attached and missing hooks, programs, maps.
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// Stops counting; what was counted and what is in the ring stays.
    pub fn detach(&mut self) {
        self.loaded.detach();
    }

    /// Names of the reasons in keys and events.
    pub fn reasons(&self) -> &Reasons {
        &self.reasons
    }

    /// The functions of the running kernel whose frees without a reason are not counted.
    pub fn harmless(&self) -> &[HarmlessFunction] {
        &self.harmless
    }

    /// What the program saw and did: `seen = submitted + suppressed + lost`.
    pub fn account(&self) -> Result<account, TableError> {
        Ok(self.accounts.get(&0)?.unwrap_or(account::new_zeroed()))
    }

    /// Entities whose events are limited each by itself now.
    pub fn limited(&self) -> Result<usize, TableError> {
        self.limiters.for_each(|_, _| {})
    }

    /// Takes the ring of [`drop_event`] records; `None` when it has been taken.
    pub fn events(&mut self) -> Option<Ring> {
        self.events.take()
    }

    /// Limits the events to `rate` a second and entity with bursts of `burst`, and sets whether they carry the
    /// kernel's stack. Takes effect at once; every entity starts with a full burst again.
    pub fn configure(&self, rate: u32, burst: u32, stack: bool) -> Result<(), TableError> {
        self.settings.insert(&0, &settings { rate, burst, stack: stack.into(), reserved: 0 })?;
        self.limiters.retain(|_, _| false)?;
        self.node_limiter.insert(&0, &limiter::new_zeroed())
    }

    /// Removes what is kept for a namespace that is gone: its limiter, neighbours and counters. Their last
    /// values are given to `last`.
    pub fn forget(
        &self,
        netns: u32,
        cookie: u64,
        mut last: impl FnMut(&drop_key, u64),
    ) -> Result<(), TableError> {
        self.limiters.retain(|k, _| (k.netns, k.netns_cookie) != (netns, cookie))?;
        self.neighbours.retain(|_, n| (n.netns, n.netns_cookie) != (netns, cookie))?;
        let mut gone = Vec::new();
        self.drops.for_each(|key, packets| {
            if (key.netns, key.netns_cookie) == (netns, cookie) {
                gone.push((*key, *packets));
            }
        })?;
        for (key, packets) in gone {
            self.drops.remove(&key)?;
            last(&key, packets);
        }
        Ok(())
    }
}

/// A function of [`HARMLESS`] as the running kernel has it.
#[derive(Clone, Debug)]
pub struct HarmlessFunction {
    /// Where its code is.
    pub function: FunctionRange,
    /// Which packets, and why.
    pub row: Harmless,
}

/// Where the functions of [`HARMLESS`] are in the running kernel; fails where the kernel hides its symbols.
fn harmless_functions() -> io::Result<Vec<HarmlessFunction>> {
    let named = |row: &Harmless| match row.by {
        By::Function(name) => Some((name, *row)),
        By::Reason(_) => None,
    };
    let (names, rows): (Vec<&str>, Vec<Harmless>) = HARMLESS.iter().filter_map(named).unzip();
    let found = function_ranges(&names)?.into_iter().take(HARMLESS_RANGES as usize);
    let with_row =
        |function: FunctionRange| Some(HarmlessFunction { row: *rows.get(function.wanted)?, function });
    Ok(found.filter_map(with_row).collect())
}

/// Values of the C file's constants.
struct Constants {
    host_netns: u32,
    arguments: u32,
    not_specified: u32,
    verdicts: [u8; 256],
    ranges: [range; HARMLESS_RANGES as usize],
    count: u32,
}

impl Constants {
    fn new(btf: &Btf, options: &Options, reasons: &Reasons, harmless: &[HarmlessFunction]) -> Self {
        let mut ranges = [range::new_zeroed(); HARMLESS_RANGES as usize];
        for (slot, HarmlessFunction { function, row }) in ranges.iter_mut().zip(harmless) {
            *slot = range { start: function.start, end: function.end, verdict: row.verdict().into() };
        }
        Self {
            host_netns: options.host_netns,
            arguments: btf.tracepoint_arguments(TRACEPOINT).unwrap_or(2) as u32,
            not_specified: reasons.value("SKB_DROP_REASON_NOT_SPECIFIED").unwrap_or(0),
            verdicts: verdicts(reasons),
            ranges,
            count: harmless.len() as u32,
        }
    }

    fn list(&self) -> [Constant<'_>; 6] {
        [
            Constant { name: "host_netns", value: self.host_netns.as_bytes() },
            Constant { name: "arguments", value: self.arguments.as_bytes() },
            Constant { name: "reason_not_specified", value: self.not_specified.as_bytes() },
            Constant { name: "verdicts", value: &self.verdicts },
            Constant { name: "harmless_ranges", value: self.ranges.as_bytes() },
            Constant { name: "harmless_count", value: self.count.as_bytes() },
        ]
    }
}

/// What each of the kernel's reasons is, by [`HARMLESS`].
fn verdicts(reasons: &Reasons) -> [u8; 256] {
    let mut verdicts = [VERDICT_LOSS as u8; 256];
    for row in HARMLESS {
        let By::Reason(name) = row.by else { continue };
        let slot = reasons.value(name).and_then(|value| verdicts.get_mut(value as usize));
        slot.into_iter().for_each(|slot| *slot = row.verdict() as u8);
    }
    verdicts
}

/// The kernel's record of one dropped packet.
pub type Event = drop_event;
