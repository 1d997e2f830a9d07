//! What the running kernel is: its type information, its host network namespace, its CPUs.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use aya::Endianness;

use crate::btf::{Btf, BtfError, VMLINUX};
use crate::memory;
use crate::symbols::Functions;
use crate::table::possible_cpus;

/// A kernel that probes cannot be loaded into.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// No usable type information.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// The loader did not understand the type information.
    #[error("kernel type information: {0}")]
    Relocation(#[from] aya::BtfError),
    /// A file that every kernel has could not be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// The file.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// Everything about the running kernel that loading needs. It holds the kernel's BTF, some 6 MB, and once a
/// first object is loaded a parsed form of some tens of MB: drop it when all probes are loaded.
#[derive(Debug)]
pub struct Kernel {
    btf: Btf,
    /// False for BTF from a file: its type ids are not the kernel's, so nothing can attach by them.
    own: bool,
    parsed: OnceLock<aya::Btf>,
    functions: OnceLock<Arc<Functions>>,
    cpus: usize,
    _freed: Freed,
}

impl Kernel {
    /// Reads the running kernel's BTF, or the file `btf` where the kernel has none. With a file only the forms
    /// `raw_tp` and `kprobe` attach.
    pub fn read(btf: Option<&Path>) -> Result<Self, KernelError> {
        let cpus = possible_cpus()
            .map_err(|source| KernelError::Unreadable { path: "/sys/devices/system/cpu/possible", source })?;
        let path = btf.unwrap_or(Path::new(VMLINUX));
        Ok(Self {
            btf: Btf::read(path)?,
            own: btf.is_none(),
            parsed: OnceLock::new(),
            functions: OnceLock::new(),
            cpus,
            _freed: Freed,
        })
    }

    /// The type information.
    pub fn btf(&self) -> &Btf {
        &self.btf
    }

    /// The functions, read when they are first asked for; none where the kernel hides them. Whoever goes on naming
    /// addresses keeps them beyond the life of this value.
    pub fn functions(&self) -> Arc<Functions> {
        Arc::clone(self.functions.get_or_init(|| Arc::new(Functions::read().unwrap_or_default())))
    }

    /// CPUs that the machine can ever have.
    pub fn possible_cpus(&self) -> usize {
        self.cpus
    }

    /// True when programs can attach by the BTF's type ids.
    pub(crate) fn attaches_by_type(&self) -> bool {
        self.own
    }

    pub(crate) fn parsed(&self) -> Result<&aya::Btf, KernelError> {
        if let Some(parsed) = self.parsed.get() {
            return Ok(parsed);
        }
        let parsed = aya::Btf::parse(self.btf.bytes(), Endianness::default())?;
        Ok(self.parsed.get_or_init(|| parsed))
    }
}

/// The last of a kernel's fields: when all else is freed, it leaves the process too. What was parsed is hundreds of
/// thousands of small pieces, which the C library would keep.
#[derive(Debug)]
struct Freed;

impl Drop for Freed {
    fn drop(&mut self) {
        memory::release_freed();
    }
}

/// Inode of the network namespace that process 1 is in, else of our own: the host's.
pub fn host_netns() -> io::Result<u32> {
    let inode = |path: &str| std::fs::metadata(path).map(|m| m.ino() as u32);
    inode("/proc/1/ns/net").or_else(|_| inode("/proc/self/ns/net"))
}
