//! The pass over all sockets and descriptors from user space: what it is loaded with, one run, and its results.

use std::io;

use zerocopy::{FromZeros as _, IntoBytes as _};

use crate::abi::{
    descriptor_sums, entity as holder, flow, flow_key, histogram, pass, socket_key, socket_sums,
};
use crate::btf::Btf;
use crate::histogram::Range;
use crate::{Constant, Kernel, LoadError, LoadOptions, Loaded, Object, Table, TableError};

/// Hook of the pass.
const ITERATOR: &str = "task_file";

/// Number of the first pass: zero is what nothing was ever seen by.
const FIRST: u64 = 1;

/// Tables of descriptors that several tasks share, `tables` in descriptor.h.
const TABLES: u32 = 16_384;

/// Passes after which an entry that none of them counted in is removed: at the default interval five minutes, in which
/// the zero has reached every backend.
const FORGOTTEN_AFTER: u64 = 20;

/// The buckets of round-trip times: 1 µs is the kernel's resolution.
pub const ROUND_TRIP: Range = Range::LATENCY;

/// What is decided when the program is loaded.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether traffic by peer is counted, with a program that sees every connection end.
    pub flow: bool,
    /// Whether the typed way to a file's socket is used where the kernel has it (5.11).
    pub typed: bool,
    /// Most combinations of holder, protocol, family and state; the rest is `pass.uncounted`.
    pub sockets: u32,
    /// Most sockets that several descriptors share and are counted once all the same; the rest is `pass.unmarked`.
    pub shared: u32,
    /// Most peers counted apart; the rest goes into [`Sockets::flow_rest`].
    pub flows: u32,
}

impl Default for Options {
    /// Room for a node of 250 pods. Kernel memory is used as entries are made.
    fn default() -> Self {
        Self { flow: false, typed: true, sockets: 16_384, shared: 65_536, flows: 16_384 }
    }
}

/// Why a pass did not give a result.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// A map.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The kernel refused the walk, or ended it.
    #[error("a pass over all open files: {0}")]
    Walk(#[from] io::Error),
    /// It returned before the last file.
    #[error("a pass over all open files ended early")]
    Early,
}

/// The programs, loaded. Dropping it unloads them.
#[derive(Debug)]
pub struct Sockets {
    loaded: Loaded,
    passes: Table<u32, pass>,
    sockets: Table<socket_key, socket_sums>,
    descriptors: Table<holder, descriptor_sums>,
    rtt: Table<holder, histogram>,
    shared: Table<u64, u64>,
    tables: Table<u64, u64>,
    flows: Option<Table<flow_key, flow>>,
    flow_rest: Option<Table<u32, flow>>,
    /// Marks after which their maps are emptied.
    roomy: u64,
    emptied_at: u64,
}

impl Sockets {
    /// Loads the program; nothing runs before [`Self::pass`], but for `flow` what sees connections end.
    pub fn open(kernel: &Kernel, options: &Options) -> Result<Self, LoadError> {
        let typed = u32::from(options.typed && has_sock_from_file(kernel.btf()));
        let bounds = ROUND_TRIP.bounds();
        let entries = [("sockets", options.sockets), ("shared", options.shared), ("flows", options.flows)];
        let object = if options.flow { Object::FLOWS } else { Object::SOCKETS };
        let loaded = object.load(&LoadOptions {
            constants: &[Constant { name: "sock_from_file", value: typed.as_bytes() }, bounds.constant()],
            entries: if options.flow { &entries } else { &entries[..2] },
            ..LoadOptions::new(kernel)
        })?;
        let passes = loaded.table("passes")?;
        passes.insert(&0, &pass { number: FIRST, ..pass::new_zeroed() })?;
        Ok(Self {
            passes,
            sockets: loaded.table("sockets")?,
            descriptors: loaded.table("descriptors")?,
            rtt: loaded.table("rtt")?,
            shared: loaded.table("shared")?,
            tables: loaded.table("tables")?,
            flows: options.flow.then(|| loaded.table("flows")).transpose()?,
            flow_rest: options.flow.then(|| loaded.table("flow_rest")).transpose()?,
            loaded,
            roomy: u64::from(options.shared.min(TABLES)) / 2,
            emptied_at: 0,
        })
    }

    /// Programs and maps.
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// Visits every open file once, and returns what the pass says of itself. What earlier passes added up over sockets
    /// and descriptors is gone; round-trip times and flows go on.
    pub fn pass(&mut self) -> Result<pass, PassError> {
        let before = self.account()?;
        let walked = self.loaded.iterate(ITERATOR);
        let after = self.account()?;
        if after.ended != before.number {
            // The next one must not go on with what this one has added up.
            self.passes.insert(&0, &pass { number: before.number + 1, ..after })?;
        }
        walked?;
        if after.ended != before.number {
            return Err(PassError::Early);
        }
        self.make_room(&after)?;
        Ok(after)
    }

    /// What the passes say of themselves.
    pub fn account(&self) -> Result<pass, TableError> {
        Ok(self.passes.get(&0)?.unwrap_or(pass::new_zeroed()))
    }

    /// Calls `visit` with the sums of each kind of socket; of kinds that the last pass did not see any more, with zeros.
    /// Returns how many there are.
    pub fn sockets(&self, visit: impl FnMut(&socket_key, &socket_sums)) -> Result<usize, TableError> {
        let mut visit = visit;
        let ended = self.account()?.ended;
        self.sockets.for_each(|key, sums| {
            let gone = socket_sums { pass: sums.pass, ..socket_sums::new_zeroed() };
            visit(key, if sums.pass == ended { sums } else { &gone });
        })
    }

    /// Calls `visit` with the descriptors of each holder that the last pass saw; returns how many entries there are.
    pub fn descriptors(&self, visit: impl FnMut(&holder, &descriptor_sums)) -> Result<usize, TableError> {
        let mut visit = visit;
        let ended = self.account()?.ended;
        self.descriptors.for_each(|holder, sums| {
            let gone = descriptor_sums { pass: sums.pass, ..descriptor_sums::new_zeroed() };
            visit(holder, if sums.pass == ended { sums } else { &gone });
        })
    }

    /// Calls `visit` with the round-trip times of each holder's connections; returns how many there are.
    pub fn round_trips(&self, visit: impl FnMut(&holder, &histogram)) -> Result<usize, TableError> {
        self.rtt.for_each(visit)
    }

    /// Calls `visit` with the traffic with each peer; returns how many there are.
    pub fn flows(&self, visit: impl FnMut(&flow_key, &flow)) -> Result<usize, TableError> {
        self.flows.as_ref().map_or(Ok(0), |flows| flows.for_each(visit))
    }

    /// The traffic with peers for which there was no room.
    pub fn flow_rest(&self) -> Result<flow, TableError> {
        let rest = self.flow_rest.as_ref().map_or(Ok(None), |rest| rest.get(&0))?;
        Ok(rest.unwrap_or(flow::new_zeroed()))
    }

    /// Removes everything of those for which `is_gone`, but flows of the last pass: their owner may be too new to be known.
    pub fn forget(&self, is_gone: impl Fn(&holder) -> bool) -> Result<(), TableError> {
        let ended = self.account()?.ended;
        self.sockets.retain(|key, _| !is_gone(&key.entity))?;
        self.descriptors.retain(|holder, _| !is_gone(holder))?;
        self.rtt.retain(|holder, _| !is_gone(holder))?;
        self.retain_flows(|key, flow| flow.pass >= ended || !is_gone(&key.entity)).map(drop)
    }

    /// Removes the peers with which no connection was seen for so many passes; returns how many.
    pub fn forget_silent(&self, passes: u64) -> Result<usize, TableError> {
        let ended = self.account()?.ended;
        self.retain_flows(|_, flow| flow.pass + passes > ended)
    }

    fn retain_flows(&self, keep: impl FnMut(&flow_key, &flow) -> bool) -> Result<usize, TableError> {
        self.flows.as_ref().map_or(Ok(0), |flows| flows.retain(keep))
    }

    /// Empties the maps of marks before they fill up, and removes kinds of sockets and holders that are long gone.
    fn make_room(&mut self, after: &pass) -> Result<(), TableError> {
        if after.marks - self.emptied_at > self.roomy {
            self.shared.retain(|_, _| false)?;
            self.tables.retain(|_, _| false)?;
            self.emptied_at = after.marks;
        }
        self.sockets.retain(|_, sums| sums.pass + FORGOTTEN_AFTER > after.ended)?;
        self.descriptors.retain(|_, sums| sums.pass + FORGOTTEN_AFTER > after.ended).map(drop)
    }
}

/// Whether the helper exists by which a program gets from a file to its socket with types.
fn has_sock_from_file(btf: &Btf) -> bool {
    let helpers = btf.enumerators("bpf_func_id").unwrap_or_default();
    helpers.iter().any(|(name, _)| name == "BPF_FUNC_sock_from_file")
}
