//! The source `instrumentation`: the table in which OpenTelemetry eBPF Instrumentation keeps the trace that each thread is in.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use aya::maps::{MapData, MapError, MapType};

use crate::abi::instrumented_context;
use crate::stats;

/// Where it is pinned (OpenTelemetry specification, pull request 4855): a hash by thread (`bpf_get_current_pid_tgid`), in
/// which the ones used least recently make room.
pub const PATH: &str = "/sys/fs/bpf/otel/traces_ctx_v1";

/// Size of an entry's key and value.
const ENTRY: (usize, usize) = (size_of::<u64>(), size_of::<instrumented_context>());

/// The table.
#[derive(Debug)]
pub struct Instrumentation(OwnedFd);

/// Why the table cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum InstrumentationError {
    /// Nobody pinned it (yet).
    #[error("nobody pinned {path}")]
    Absent {
        /// Where it was looked for.
        path: String,
    },
    /// The kernel does not give it.
    #[error("{path}: {source}")]
    Kernel {
        /// Where it is.
        path: String,
        /// What the system call returned.
        source: io::Error,
    },
    /// It is a map of another kind.
    #[error("{path}: no hash of {} and {} bytes of which old ones make room, but {found}", ENTRY.0, ENTRY.1)]
    Other {
        /// Where it is.
        path: String,
        /// What it is.
        found: String,
    },
}

impl Instrumentation {
    /// Opens the table that is pinned there.
    ///
    /// # Errors
    /// There is none, or something else.
    pub fn open(path: &Path) -> Result<Self, InstrumentationError> {
        let name = || path.display().to_string();
        let kernel = |source| InstrumentationError::Kernel { path: name(), source };
        // The kernel says the same of a directory that is no bpffs.
        if !path.exists() {
            return Err(InstrumentationError::Absent { path: name() });
        }
        let failed = |error: MapError| kernel(io::Error::other(error));
        let map = MapData::from_pin(path).map_err(failed)?;
        let info = map.info().map_err(failed)?;
        let kind = info.map_type().map_err(failed)?;
        let entry = stats::entry_size(map.fd().as_fd()).map_err(kernel)?;
        if kind != MapType::LruHash || entry != ENTRY {
            let found = format!("{kind:?} of {} and {} bytes", entry.0, entry.1);
            return Err(InstrumentationError::Other { path: name(), found });
        }
        Ok(Self(map.fd().as_fd().try_clone_to_owned().map_err(kernel)?))
    }
}

impl AsFd for Instrumentation {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
