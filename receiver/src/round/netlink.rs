//! What only shows inside a network namespace, over netlink. One thread goes through all namespaces once a round and reads
//! everything that is wanted of each, whoever asks: no other thread ever leaves its namespace. Its sockets, which keep a
//! namespace alive, are closed before it goes on to the next.

use std::{
    collections::HashSet,
    fs::File,
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::PathBuf,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{
    netlink::{
        Buffer, NetlinkError, Socket, Subsystem,
        conntrack::{self, Census, Counters, Totals},
        qdisc::{self, Qdisc},
    },
    pods::{Namespace, NetnsSource, netns_cookie},
};

/// What the probes of a round want to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Queueing disciplines.
    pub qdiscs: bool,
    /// Those below others too.
    pub qdisc_children: bool,
    /// Counters of connection tracking.
    pub conntrack: bool,
    /// Every tracked connection, counted.
    pub conntrack_census: bool,
}

impl Wanted {
    /// What either wants.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            qdiscs: self.qdiscs | other.qdiscs,
            qdisc_children: self.qdisc_children | other.qdisc_children,
            conntrack: self.conntrack | other.conntrack,
            conntrack_census: self.conntrack_census | other.conntrack_census,
        }
    }
}

/// Connection tracking of one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conntrack {
    /// Entries and limit.
    pub totals: Totals,
    /// Sums over all processors.
    pub counters: Counters,
    /// Connections by what they are, where that is wanted.
    pub census: Option<Census>,
}

/// What was read in one namespace; nothing where it is gone, may not be entered, or was not asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Inside {
    pub(super) qdiscs: Vec<Qdisc>,
    /// `None` too where no connection was ever seen to be tracked.
    pub(super) conntrack: Option<Conntrack>,
}

/// Goes through the namespaces; remembers from round to round what spares questions.
#[derive(Default)]
pub(super) struct Visitor {
    buffer: Buffer,
    /// Instances of namespaces that have, or had, a tracked connection. In the others every counter is zero, or of packets
    /// that never made a connection.
    tracking: HashSet<u64>,
}

impl Visitor {
    /// What is inside of each namespace, in their order. Without `CAP_SYS_ADMIN` only the receiver's own is read.
    pub(super) fn visit(&mut self, namespaces: &[Namespace], wanted: Wanted) -> Vec<Inside> {
        self.tracking.retain(|instance| namespaces.iter().any(|one| one.instance == *instance));
        let all = || {
            let mut place = Place::of_this_thread();
            let inside = |namespace| self.enter(&mut place, namespace, wanted).unwrap_or_default();
            namespaces.iter().map(inside).collect()
        };
        let read: Option<Vec<Inside>> = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("netns-visitor".to_owned());
            thread.spawn_scoped(scope, all).ok()?.join().ok()
        });
        read.unwrap_or_else(|| namespaces.iter().map(|_| Inside::default()).collect())
    }

    fn enter(&mut self, place: &mut Place, namespace: &Namespace, wanted: Wanted) -> Option<Inside> {
        place.go(namespace).ok()?;
        let mut inside = Inside::default();
        if wanted.qdiscs {
            inside.qdiscs = self.qdiscs(namespace, wanted.qdisc_children).unwrap_or_default();
        }
        if wanted.conntrack {
            inside.conntrack = self.conntrack(namespace, wanted.conntrack_census).ok().flatten();
        }
        Some(inside)
    }

    fn qdiscs(&mut self, namespace: &Namespace, children: bool) -> Result<Vec<Qdisc>, NetlinkError> {
        let socket = open(namespace, Subsystem::Route)?;
        qdisc::list(&socket, &mut self.buffer, children)
    }

    fn conntrack(&mut self, namespace: &Namespace, census: bool) -> Result<Option<Conntrack>, NetlinkError> {
        let socket = open(namespace, Subsystem::Netfilter)?;
        let totals = conntrack::totals(&socket, &mut self.buffer)?;
        let tracks = namespace.host || totals.entries > 0 || self.tracking.contains(&namespace.instance);
        if !tracks {
            return Ok(None);
        }
        self.tracking.insert(namespace.instance);
        let census = census.then(|| conntrack::census(&socket, &mut self.buffer)).transpose()?;
        Ok(Some(Conntrack { totals, counters: conntrack::counters(&socket, &mut self.buffer)?, census }))
    }
}

/// A socket in the thread's namespace, which must be that one: inodes and paths are used again, cookies are not.
fn open(namespace: &Namespace, subsystem: Subsystem) -> io::Result<Socket> {
    let socket = Socket::open(subsystem)?;
    if is_inside(&socket, namespace)? { Ok(socket) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// Whether a socket belongs to this very namespace, as far as cookies are known.
pub(crate) fn is_inside(socket: &Socket, namespace: &Namespace) -> io::Result<bool> {
    Ok(namespace.id.cookie == 0 || netns_cookie(socket.as_fd())? == namespace.id.cookie)
}

/// Where a thread is.
pub(crate) struct Place {
    inode: u32,
}

impl Place {
    /// Where the calling thread is: not to be used on one that others share.
    pub(crate) fn of_this_thread() -> Self {
        let here = std::fs::metadata("/proc/thread-self/ns/net").ok();
        Self { inode: here.and_then(|here| u32::try_from(here.ino()).ok()).unwrap_or(0) }
    }

    /// Takes the thread into a namespace.
    ///
    /// # Errors
    /// It is gone, or `CAP_SYS_ADMIN` is missing.
    pub(crate) fn go(&mut self, namespace: &Namespace) -> io::Result<()> {
        if self.inode == namespace.id.inode {
            return Ok(());
        }
        let target = File::open(path(&namespace.source))?;
        if target.metadata()?.ino() != u64::from(namespace.id.inode) {
            return Err(io::ErrorKind::NotFound.into());
        }
        move_into_link_name_space(target.as_fd(), Some(LinkNameSpaceType::Network))?;
        self.inode = namespace.id.inode;
        Ok(())
    }
}

fn path(source: &NetnsSource) -> PathBuf {
    match source {
        NetnsSource::Task(pid) => format!("/proc/{pid}/ns/net").into(),
        NetnsSource::Mount(path) => path.clone(),
    }
}
