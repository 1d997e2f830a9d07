//! The running kernel as probes need it to load programs, read once for all that are opened together.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use jitterscope_ebpf::{Kernel, LoadError, TableError, host_netns};

use super::Skip;
use crate::capabilities;

/// What loading programs needs.
pub(super) const EBPF_CAPABILITIES: &[&str] = &["CAP_BPF", "CAP_PERFMON"];

/// The running kernel. Its type information takes tens of megabytes: it is read when the first probe asks, and gone with
/// the value.
pub struct Machine {
    btf: Option<PathBuf>,
    kernel: OnceLock<Result<Kernel, Skip>>,
}

impl Machine {
    /// The machine we run on; `btf` is the kernel's type information where it does not bring its own.
    pub fn new(btf: Option<&Path>) -> Self {
        Self { btf: btf.map(Path::to_owned), kernel: OnceLock::new() }
    }

    /// The kernel, to load programs into.
    ///
    /// # Errors
    /// Loading is not permitted, or there is no type information.
    pub fn kernel(&self) -> Result<&Kernel, Skip> {
        self.kernel.get_or_init(|| self.read()).as_ref().map_err(Clone::clone)
    }

    /// The kernel's type information where it does not bring its own.
    pub fn btf(&self) -> Option<&Path> {
        self.btf.as_deref()
    }

    fn read(&self) -> Result<Kernel, Skip> {
        let lacking = capabilities::lacking(EBPF_CAPABILITIES);
        if !lacking.is_empty() {
            let reason = "loading eBPF programs is not permitted".to_owned();
            return Err(Skip::Privilege { capabilities: lacking.join(", "), reason });
        }
        Kernel::read(self.btf.as_deref()).map_err(|error| Skip::Missing(error.to_string()))
    }

    /// Inode of the host's network namespace.
    ///
    /// # Errors
    /// Nobody tells.
    pub fn host_netns(&self) -> Result<u32, Skip> {
        host_netns().map_err(|error| Skip::Missing(format!("the host's network namespace: {error}")))
    }
}

impl From<TableError> for Skip {
    fn from(error: TableError) -> Self {
        Self::Temporary(error.to_string())
    }
}

impl From<LoadError> for Skip {
    fn from(error: LoadError) -> Self {
        Self::Missing(error.to_string())
    }
}
