//! What sources keep of the sockets of a test.

use std::net::TcpStream;
use std::os::fd::AsRawFd as _;

use jitterscope_ebpf::abi::{
    SPAN_AMBIGUOUS, SPAN_KNOWN, SPAN_ROLE_CLIENT, SPAN_ROLE_SERVER, SPAN_SOURCE_WIRE, SPAN_STORAGE_ADDRESS,
    SPAN_STORAGE_SOCKET, span_context, span_counts,
};
use jitterscope_ebpf::spans::{Wire, storage};
use jitterscope_ebpf::{Kernel, Loaded, Table};

use super::http::{Ids, Pair};
use super::{Namespace, can_load};

pub(crate) const FAMILIES: [u8; 2] = [4, 6];

/// What a socket knows: whether it is ambiguous, and the ids if they are known.
pub(crate) type Known = Result<Option<Ids>, Ambiguous>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ambiguous;

/// The contexts, in either storage.
pub(crate) enum Contexts {
    Sockets(Table<i32, span_context>),
    Addresses(Table<u64, span_context>),
}

impl Contexts {
    /// Those of a source, in its map for this storage.
    pub(crate) fn of(loaded: &Loaded, storage: u32, [sockets, addresses]: [&'static str; 2]) -> Self {
        match storage {
            SPAN_STORAGE_SOCKET => Self::Sockets(loaded.table(sockets).unwrap()),
            _ => Self::Addresses(loaded.table(addresses).unwrap()),
        }
    }

    pub(crate) fn get(&self, of: &TcpStream) -> Option<span_context> {
        let port =
            |address: std::io::Result<std::net::SocketAddr>| u32::from(address.unwrap().port().to_be());
        let ports = port(of.local_addr()) | port(of.peer_addr()) << 16;
        match self {
            Self::Sockets(table) => table.get(&of.as_raw_fd()).unwrap(),
            Self::Addresses(table) => {
                let mut found = None;
                table.for_each(|_, c| found = (c.ports == ports).then_some(*c).or(found)).unwrap();
                found
            }
        }
    }
}

pub(crate) struct Source {
    pub(crate) wire: Wire,
    pub(crate) contexts: Contexts,
}

impl Source {
    /// Once for each storage that the kernel has.
    pub(crate) fn all() -> Vec<Self> {
        let kernel = Kernel::read(None).unwrap();
        let has = storage(&kernel);
        let wanted = [SPAN_STORAGE_SOCKET, SPAN_STORAGE_ADDRESS].into_iter().filter(|one| *one >= has);
        wanted.map(|storage| Self::open(&kernel, storage)).collect()
    }

    pub(crate) fn open(kernel: &Kernel, storage: u32) -> Self {
        let wire = Wire::open_with(kernel, storage).unwrap();
        let contexts = Contexts::of(wire.loaded(), storage, ["contexts", "contexts_by_address"]);
        Self { wire, contexts }
    }

    pub(crate) fn context(&self, of: &TcpStream) -> Option<span_context> {
        self.contexts.get(of)
    }

    pub(crate) fn known(&self, of: &TcpStream, role: u32) -> Known {
        let Some(context) = self.context(of) else { return Ok(None) };
        assert_eq!(u32::from(context.link.role), role, "{context:?}");
        match context.state {
            SPAN_AMBIGUOUS => Err(Ambiguous),
            SPAN_KNOWN => {
                assert_eq!((u32::from(context.link.source), context.link.flags), (SPAN_SOURCE_WIRE, 1));
                Ok(Ids::of(&context.link))
            }
            _ => Ok(None),
        }
    }

    /// What both ends know, which must be the same.
    pub(crate) fn both(&self, pair: &Pair) -> Known {
        let client = self.known(&pair.client, SPAN_ROLE_CLIENT);
        assert_eq!(client, self.known(&pair.server, SPAN_ROLE_SERVER));
        client
    }

    pub(crate) fn counts(&self) -> span_counts {
        self.wire.counts(SPAN_SOURCE_WIRE).unwrap()
    }
}

/// Runs a case with each storage and family, with a fresh connection.
pub(crate) fn each(case: impl Fn(&Source, &mut Pair)) {
    if !can_load() {
        return;
    }
    let namespace = Namespace::new();
    for source in Source::all() {
        for family in FAMILIES {
            case(&source, &mut Pair::new(&namespace, family));
        }
    }
}
