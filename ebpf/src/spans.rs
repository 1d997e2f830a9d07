//! What is known of the applications' spans: kept with the sockets by the programs that find it, read by the programs that
//! see anomalies.

pub mod instrumentation;
mod process;
mod threads;

use std::os::fd::OwnedFd;

use crate::abi::{SPAN_STORAGE_ADDRESS, SPAN_STORAGE_SOCKET, span_counts};
use crate::load::links::{BY_ADDRESS, CONTEXTS, COUNTS, PROCESSES, THREADS, THREADS_BY_ADDRESS};
use crate::{Kernel, Links, LoadError, LoadOptions, Loaded, Merge, Object, PerCpuTable, TableError};

pub use process::fuzz;
pub use threads::{Questions, Reads, Threads};

/// The helper by which tracing programs reach what is kept with a socket (5.11+).
const STORAGE_HELPER: &str = "bpf_sk_storage_get_tracing";
/// The hook that tells the end of a socket.
const END: &str = "tcp_destroy_sock";

/// Where it is kept, for programs that read it.
#[derive(Debug)]
pub struct Spans {
    /// `enum span_storage`.
    pub(crate) storage: u32,
    pub(crate) contexts: OwnedFd,
    pub(crate) threads: OwnedFd,
    pub(crate) processes: OwnedFd,
    pub(crate) counts: PerCpuTable<u32, span_counts>,
}

/// The source `wire`: requests of HTTP/1 as they pass. Dropping it detaches its programs.
#[derive(Debug)]
pub struct Wire {
    /// What it knows.
    pub spans: Spans,
    loaded: Loaded,
}

impl Spans {
    /// The maps of an object that has them for its own.
    fn of(loaded: &Loaded, storage: u32) -> Result<Self, TableError> {
        let (contexts, threads) = match storage {
            SPAN_STORAGE_SOCKET => (CONTEXTS, THREADS),
            _ => (BY_ADDRESS, THREADS_BY_ADDRESS),
        };
        Ok(Self {
            storage,
            contexts: loaded.share(contexts)?,
            threads: loaded.share(threads)?,
            processes: loaded.share(PROCESSES)?,
            counts: loaded.per_cpu_table(COUNTS)?,
        })
    }

    /// The same maps once more.
    ///
    /// # Errors
    /// There are too many descriptors.
    pub fn share(&self) -> std::io::Result<Self> {
        Ok(Self {
            storage: self.storage,
            contexts: self.contexts.try_clone()?,
            threads: self.threads.try_clone()?,
            processes: self.processes.try_clone()?,
            counts: self.counts.share()?,
        })
    }

    /// What became of the contexts that a source (`enum span_source`) found.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn counts(&self, source: u32) -> Result<span_counts, TableError> {
        Ok(self.counts.get(&source)?.unwrap_or_default())
    }
}

/// The best storage that the kernel has.
pub fn storage(kernel: &Kernel) -> u32 {
    if kernel.btf().has_function(STORAGE_HELPER) { SPAN_STORAGE_SOCKET } else { SPAN_STORAGE_ADDRESS }
}

/// Hooks that the owner of the maps can do without: what is kept with a socket goes with it.
fn unneeded(storage: u32) -> &'static [&'static str] {
    if storage == SPAN_STORAGE_ADDRESS { &[] } else { &[END] }
}

impl Wire {
    /// Loads and attaches its programs.
    ///
    /// # Errors
    /// The kernel refuses them, or there is no cgroup v2 hierarchy.
    pub fn open(kernel: &Kernel) -> Result<Self, LoadError> {
        Self::open_with(kernel, storage(kernel))
    }

    /// The same with a storage that need not be the best one.
    ///
    /// # Errors
    /// As of [`Self::open`].
    pub fn open_with(kernel: &Kernel, storage: u32) -> Result<Self, LoadError> {
        let without = unneeded(storage);
        let options = LoadOptions { links: Links::Owner(storage), without, ..LoadOptions::new(kernel) };
        let loaded = Object::WIRE.load(&options)?;
        Ok(Self { spans: Spans::of(&loaded, storage)?, loaded })
    }

    /// What became of the contexts that a source (`enum span_source`) found.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn counts(&self, source: u32) -> Result<span_counts, TableError> {
        self.spans.counts(source)
    }

    /// Attached hooks, programs, maps.
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }
}

impl Merge for span_counts {
    fn merge(&mut self, other: &Self) {
        self.captured += other.captured;
        self.used += other.used;
        self.expired += other.expired;
        self.ambiguous += other.ambiguous;
        self.conflicting += other.conflicting;
    }
}
