//! What objects have in common: the maps of `span_store.h`, in which some keep what they know of sockets and which others read.
//!
//! An object is loaded with maps of its own. Before the kernel sees its programs, the descriptors that they name are made to
//! mean the common maps; what the object had is gone with that. Without span links the programs never come to a use of them,
//! which the verifier finds out: then they mean a map that the object has anyway, so that there is none more.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use aya::Ebpf;
use object::{Object as _, ObjectSymbol as _};

use super::data;
use crate::abi::{SPAN_STORAGE_ADDRESS, SPAN_STORAGE_NONE, SPAN_STORAGE_SOCKET};
use crate::spans::Spans;
use crate::sys;

/// Constant that every object with span links has.
pub(super) const STORAGE: &str = "span_storage";

/// Names of the maps in `span_store.h`.
pub(crate) const CONTEXTS: &str = "contexts";
pub(crate) const BY_ADDRESS: &str = "contexts_by_address";
pub(crate) const THREADS: &str = "thread_contexts";
pub(crate) const THREADS_BY_ADDRESS: &str = "thread_by_address";
pub(crate) const PROCESSES: &str = "thread_processes";
pub(crate) const COUNTS: &str = "span_counts";
/// Name in `exemplar.h`: an object's own, of no use without links.
const EXEMPLARS: &str = "exemplars";

/// Name in `instrumented.h`: another program's.
const INSTRUMENTED: &str = "traces_ctx_v1";

/// All of them.
const NAMES: [&str; 8] =
    [CONTEXTS, BY_ADDRESS, THREADS, THREADS_BY_ADDRESS, PROCESSES, COUNTS, EXEMPLARS, INSTRUMENTED];

/// What an object has to do with span links.
#[derive(Clone, Copy, Debug, Default)]
pub enum Links<'a> {
    /// They are off.
    #[default]
    Off,
    /// It keeps what it knows of sockets, in this storage, in maps of its own.
    Owner(u32),
    /// It reads what is kept there, or keeps more there.
    Reader(&'a Spans),
}

impl Links<'_> {
    /// The storage, `enum span_storage`.
    pub(super) fn storage(&self) -> u32 {
        match self {
            Self::Off => SPAN_STORAGE_NONE,
            Self::Owner(storage) => *storage,
            Self::Reader(spans) => spans.storage,
        }
    }

    /// The map that is meant by a name; `None`: the object's own.
    fn place<'a>(&'a self, name: &str, instrumentation: Option<BorrowedFd<'a>>) -> Place<'a> {
        if name == INSTRUMENTED {
            return instrumentation.map_or(Place::Unused, Place::Common);
        }
        let used = |storage| self.storage() == storage;
        match (name, self) {
            (_, Self::Off) => Place::Unused,
            (CONTEXTS | THREADS, _) if !used(SPAN_STORAGE_SOCKET) => Place::Unused,
            (BY_ADDRESS | THREADS_BY_ADDRESS, _) if !used(SPAN_STORAGE_ADDRESS) => Place::Unused,
            (CONTEXTS | BY_ADDRESS, Self::Reader(spans)) => Place::Common(spans.contexts.as_fd()),
            (THREADS | THREADS_BY_ADDRESS, Self::Reader(spans)) => Place::Common(spans.threads.as_fd()),
            (PROCESSES, Self::Reader(spans)) => Place::Common(spans.processes.as_fd()),
            (COUNTS, Self::Reader(spans)) => Place::Common(spans.counts.as_fd()),
            _ => Place::Own,
        }
    }
}

enum Place<'a> {
    Own,
    Common(BorrowedFd<'a>),
    Unused,
}

/// Whether programs of an object can link anomalies to spans.
pub(super) fn has_links(elf: &[u8]) -> bool {
    object::File::parse(elf).is_ok_and(|file| file.symbols().any(|symbol| symbol.name() == Ok(STORAGE)))
}

/// Lets the names of the common maps mean what they are to mean.
pub(super) fn connect(
    ebpf: &Ebpf,
    links: &Links<'_>,
    instrumentation: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let fd = |name: &str| ebpf.map(name).and_then(data).map(|map| map.fd().as_fd());
    let is_ours = |name: &str| NAMES.contains(&name);
    let any = ebpf.maps().find_map(|(name, map)| data(map).filter(|_| !is_ours(name)));
    let any = any.map(|map| map.fd().as_fd()).ok_or(io::ErrorKind::NotFound)?;
    for name in NAMES {
        let Some(own) = fd(name) else { continue };
        match links.place(name, instrumentation) {
            Place::Own => {}
            Place::Common(common) => sys::replace(own, common)?,
            Place::Unused => sys::replace(own, any)?,
        }
    }
    Ok(())
}

/// Lets go of the maps that are not the object's own, once its programs hold them.
pub(super) fn let_go(ebpf: &mut Ebpf, links: &Links<'_>, instrumentation: Option<BorrowedFd<'_>>) {
    for name in NAMES {
        if !matches!(links.place(name, instrumentation), Place::Own) {
            drop(ebpf.take_map(name));
        }
    }
}
