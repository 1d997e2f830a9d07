//! The packet-loss program from user space: what it is loaded with, its counters, events and settings.

mod harmless;
mod reasons;

use std::sync::Arc;

use zerocopy::{FromZeros as _, IntoBytes as _};

use crate::abi::{HARMLESS_RANGES, VERDICT_LOSS, drop_event, drop_key, neighbour, neighbour_key, range};
use crate::btf::Btf;
use crate::spans::Spans;
use crate::symbols::{FunctionRange, Functions};
use crate::{Constant, Kernel, LoadError, Object, Observer, ObserverOptions, PerCpuTable, Table};

pub use harmless::{By, HARMLESS, Harmless, Only};
pub use reasons::Reasons;

/// The tracepoint without which there is no packet loss to see.
const TRACEPOINT: &str = "kfree_skb";

/// Name of SYNs refused by a full accept queue: the kernel's own name of their counter, for it gives no reason.
pub const LISTEN_OVERFLOWS: &str = "ListenOverflows";

/// What is decided when the program is loaded.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    /// Inode of the host's network namespace: what is dropped there may be on behalf of a container.
    pub host_netns: u32,
    /// Most combinations of namespace, cgroup, reason, … counted apart; the rest is `account.overflow`.
    pub drops: u32,
    /// Bytes of the event ring, a power of two and a multiple of the page size.
    pub ring: u32,
    /// Most entities whose events are limited each by itself.
    pub limiters: u32,
    /// Hooks to leave alone, or forms of them: see [`LoadOptions::without`].
    pub without: Vec<String>,
    /// What is known of spans.
    pub spans: Option<&'a Spans>,
}

impl Options<'_> {
    /// Room for a node: 8192 series, 1024 namespaces, and 256 KiB of events, which is some 500.
    pub fn new(host_netns: u32) -> Self {
        Self { host_netns, drops: 8192, ring: 256 * 1024, limiters: 1024, without: Vec::new(), spans: None }
    }
}

/// The program, attached. Dropping it detaches it.
#[derive(Debug)]
pub struct PacketLoss {
    /// Its account, limits and ring.
    pub observer: Observer,
    /// Counters of dropped packets.
    pub drops: PerCpuTable<drop_key, u64>,
    /// Addresses of containers behind bridges; the owner keeps them in step with the namespaces there are.
    pub neighbours: Table<neighbour_key, neighbour>,
    reasons: Arc<Reasons>,
    harmless: Vec<HarmlessFunction>,
}

impl PacketLoss {
    /// Loads and attaches the program. No event is submitted before [`Observer::configure`].
    ///
    /// # Errors
    /// The kernel refuses it, see [`LoadError`].
    pub fn open(kernel: &Kernel, options: &Options<'_>) -> Result<Self, LoadError> {
        let reasons = Reasons::read(kernel.btf());
        let harmless = harmless_functions(&kernel.functions());
        let constants = Constants::new(kernel.btf(), &reasons, &harmless);
        let without: Vec<&str> = options.without.iter().map(String::as_str).collect();
        let observer = Observer::open(
            &Object::PACKETLOSS,
            kernel,
            &ObserverOptions {
                host_netns: options.host_netns,
                constants: &constants.list(),
                entries: &[
                    ("drops", options.drops),
                    ("events", options.ring),
                    ("limiters", options.limiters),
                ],
                without: &without,
                spans: options.spans,
            },
        )?;
        Ok(Self {
            drops: observer.loaded().per_cpu_table("drops")?,
            neighbours: observer.loaded().table("neighbours")?,
            observer,
            reasons: Arc::new(reasons),
            harmless,
        })
    }

    /// Names of the reasons in keys and events.
    pub fn reasons(&self) -> &Arc<Reasons> {
        &self.reasons
    }

    /// The functions of the running kernel whose frees without a reason are not counted.
    pub fn harmless(&self) -> &[HarmlessFunction] {
        &self.harmless
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

/// Where the functions of [`HARMLESS`] are in the running kernel.
fn harmless_functions(functions: &Functions) -> Vec<HarmlessFunction> {
    let named = |row: &Harmless| match row.by {
        By::Function(name) => Some((name, *row)),
        By::Reason(_) => None,
    };
    let (names, rows): (Vec<&str>, Vec<Harmless>) = HARMLESS.iter().filter_map(named).unzip();
    let found = functions.ranges(&names).into_iter().take(HARMLESS_RANGES as usize);
    let with_row =
        |function: FunctionRange| Some(HarmlessFunction { row: *rows.get(function.wanted)?, function });
    found.filter_map(with_row).collect()
}

/// Values of the C file's constants.
struct Constants {
    arguments: u32,
    not_specified: u32,
    verdicts: [u8; 256],
    ranges: [range; HARMLESS_RANGES as usize],
    count: u32,
}

impl Constants {
    fn new(btf: &Btf, reasons: &Reasons, harmless: &[HarmlessFunction]) -> Self {
        let mut ranges = [range::new_zeroed(); HARMLESS_RANGES as usize];
        for (slot, HarmlessFunction { function, row }) in ranges.iter_mut().zip(harmless) {
            *slot = range { start: function.start, end: function.end, verdict: row.verdict().into() };
        }
        Self {
            arguments: btf.tracepoint_arguments(TRACEPOINT).unwrap_or(2) as u32,
            not_specified: reasons.value("SKB_DROP_REASON_NOT_SPECIFIED").unwrap_or(0),
            verdicts: verdicts(reasons),
            ranges,
            count: harmless.len() as u32,
        }
    }

    fn list(&self) -> [Constant<'_>; 5] {
        [
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
