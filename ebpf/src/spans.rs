//! What is known of the applications' spans: kept with the sockets by the programs that find it, read by the programs that
//! see anomalies.

use std::os::fd::OwnedFd;

use crate::abi::{SPAN_STORAGE_ADDRESS, SPAN_STORAGE_SOCKET, span_counts};
use crate::load::links::{BY_ADDRESS, CONTEXTS, COUNTS};
use crate::{Kernel, Links, LoadError, LoadOptions, Loaded, Merge, Object, PerCpuTable, TableError};

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
    pub(crate) counts: OwnedFd,
}

/// The source `wire`: requests of HTTP/1 as they pass. Dropping it detaches its programs.
#[derive(Debug)]
pub struct Wire {
    /// What it knows.
    pub spans: Spans,
    loaded: Loaded,
    counts: PerCpuTable<u32, span_counts>,
}

/// The best storage that the kernel has.
pub fn storage(kernel: &Kernel) -> u32 {
    if kernel.btf().has_function(STORAGE_HELPER) { SPAN_STORAGE_SOCKET } else { SPAN_STORAGE_ADDRESS }
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
        let (map, without): (_, &[&str]) = match storage {
            SPAN_STORAGE_SOCKET => (CONTEXTS, &[END]),
            _ => (BY_ADDRESS, &[]),
        };
        let options = LoadOptions { links: Links::Owner(storage), without, ..LoadOptions::new(kernel) };
        let loaded = Object::WIRE.load(&options)?;
        let spans = Spans { storage, contexts: loaded.share(map)?, counts: loaded.share(COUNTS)? };
        Ok(Self { spans, counts: loaded.per_cpu_table(COUNTS)?, loaded })
    }

    /// What became of the contexts that a source (`enum span_source`) found.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn counts(&self, source: u32) -> Result<span_counts, TableError> {
        Ok(self.counts.get(&source)?.unwrap_or_default())
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
    }
}
