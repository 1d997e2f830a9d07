//! What all programs that tell events have in common: the account, the limits of events, their settings and their ring.

use std::time::Duration;

use zerocopy::{FromZeros as _, IntoBytes as _};

use crate::abi::{account, entity, limiter, settings};
use crate::spans::Spans;
use crate::{
    Constant, Kernel, Links, LoadError, LoadOptions, Loaded, Merge, Object, PerCpuTable, Ring, Table,
    TableError,
};

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

/// What is decided when a program is loaded.
#[derive(Debug)]
pub struct ObserverOptions<'a> {
    /// Inode of the host's network namespace, in which events are limited by cgroup.
    pub host_netns: u32,
    /// Load-time constants of the program beyond the common ones.
    pub constants: &'a [Constant<'a>],
    /// Limits of maps that differ from the C file.
    pub entries: &'a [(&'a str, u32)],
    /// Hooks to leave alone.
    pub without: &'a [&'a str],
    /// What is known of spans, for programs that link anomalies to them.
    pub spans: Option<&'a Spans>,
}

impl ObserverOptions<'_> {
    /// The program as the C file has it.
    pub fn new(host_netns: u32) -> Self {
        Self { host_netns, constants: &[], entries: &[], without: &[], spans: None }
    }
}

/// Which events are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Telling {
    /// Events a second for each entity, in the long run.
    pub rate: u32,
    /// Events at once for each entity, after a quiet time.
    pub burst: u32,
    /// Whether they carry the kernel's stack, where the program has one.
    pub stack: bool,
    /// What took less is not told, where the program measures a time.
    pub threshold: Duration,
    /// One of so many flows is looked at, where the program knows flows; 0 and 1: all.
    pub sampling: u32,
    /// How long what is known of a request is believed.
    pub span_age: Duration,
    /// Which anomalies are shown with the counters: `enum exemplar_filter`.
    pub exemplars: u32,
}

impl From<&Telling> for settings {
    fn from(telling: &Telling) -> Self {
        let ns = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self {
            rate: telling.rate,
            burst: telling.burst,
            stack: telling.stack.into(),
            sampling: telling.sampling,
            threshold: ns(telling.threshold),
            span_age: ns(telling.span_age),
            exemplars: telling.exemplars,
            reserved: 0,
        }
    }
}

/// An attached program. Dropping it detaches it.
#[derive(Debug)]
pub struct Observer {
    loaded: Loaded,
    accounts: PerCpuTable<u32, account>,
    settings: Table<u32, settings>,
    limiters: Table<entity, limiter>,
    node_limiter: Table<u32, limiter>,
    events: Option<Ring>,
}

impl Observer {
    /// Loads and attaches the program. No event is submitted before [`Self::configure`].
    ///
    /// # Errors
    /// The kernel refuses it, see [`LoadError`].
    pub fn open(object: &Object, kernel: &Kernel, options: &ObserverOptions<'_>) -> Result<Self, LoadError> {
        let host = Constant { name: "host_netns", value: options.host_netns.as_bytes() };
        let constants = [options.constants, &[host]].concat();
        let mut loaded = object.load(&LoadOptions {
            kernel,
            constants: &constants,
            entries: options.entries,
            without: options.without,
            links: options.spans.map_or(Links::Off, Links::Reader),
            instrumentation: None,
        })?;
        Ok(Self {
            accounts: loaded.per_cpu_table("accounts")?,
            settings: loaded.table("settings")?,
            limiters: loaded.table("limiters")?,
            node_limiter: loaded.table("node_limiter")?,
            events: Some(loaded.ring("events")?),
            loaded,
        })
    }

    /// Attached and missing hooks, programs, maps.
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// Detaches the program; counters, account and events stay readable.
    pub fn detach(&mut self) {
        self.loaded.detach();
    }

    /// What the program saw and did: `seen = submitted + suppressed + lost`.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn account(&self) -> Result<account, TableError> {
        Ok(self.accounts.get(&0)?.unwrap_or(account::new_zeroed()))
    }

    /// Entities whose events are limited each by itself now.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn limited(&self) -> Result<usize, TableError> {
        self.limiters.for_each(|_, _| {})
    }

    /// Takes the ring of event records; `None` when it has been taken.
    pub fn events(&mut self) -> Option<Ring> {
        self.events.take()
    }

    /// Says which events are told. Takes effect at once; every entity starts with a full burst again.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn configure(&self, wanted: &Telling) -> Result<(), TableError> {
        self.settings.insert(&0, &wanted.into())?;
        self.limiters.retain(|_, _| false)?;
        self.node_limiter.insert(&0, &limiter::new_zeroed())
    }

    /// Removes the limiters for which `is_gone`.
    ///
    /// # Errors
    /// The map cannot be read or written.
    pub fn forget(&self, is_gone: impl Fn(&entity) -> bool) -> Result<(), TableError> {
        self.limiters.retain(|entity, _| !is_gone(entity)).map(drop)
    }
}
