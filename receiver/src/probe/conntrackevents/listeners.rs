//! A socket in each network namespace that hears what changes in its connection tracking, and one descriptor to wait on all.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Instant,
};

use jitterscope_ebpf::TooShort;
use rustix::{
    buffer::spare_capacity,
    event::{Timespec, epoll},
    net::sockopt::set_socket_recv_buffer_size_force,
};
use tracing::{debug, warn};

use super::{bucket::Bucket, tell::occurrence};
use crate::{
    account::KernelAccount,
    batch::Occurrence,
    config::EventLimit,
    netlink::{Buffer, NetlinkError, Socket, Subsystem, conntrack::entry::Event, message::messages},
    pods::{Namespace, Netns},
    round::netlink::{Place, is_inside},
};

/// Namespaces that are listened to at most: each takes a descriptor, of which a process often has 1,024, and up to twice
/// [`RECEIVE_BUFFER`] of kernel memory while it waits to be read.
const LISTENERS: usize = 512;

/// Bytes of events that can wait in one socket; the kernel doubles it for its own structures. About 800 events, and ten
/// milliseconds pass between an event and its reading.
const RECEIVE_BUFFER: usize = 512 * 1024;

/// Messages over the limit that one call reads past: those who come faster than they are read must not keep the task.
const PAST_THE_LIMIT: usize = 65_536;

/// Sockets that one look at the descriptor gives.
const READY: usize = 64;

/// Everything about connections and expectations (`include/uapi/linux/netfilter/nfnetlink.h`, `NFNLGRP_CONNTRACK_NEW` to
/// `NFNLGRP_CONNTRACK_EXP_DESTROY`).
const GROUPS: std::ops::RangeInclusive<u32> = 1..=6;

/// The listening sockets.
pub(super) struct Listeners {
    pub(super) limit: EventLimit,
    /// Counted since the probe began.
    pub(super) account: KernelAccount,
    epoll: OwnedFd,
    buffer: Buffer,
    /// By instance of the namespace.
    open: BTreeMap<u64, Listener>,
    /// Instances whose sockets are to be read.
    ready: VecDeque<u64>,
    told: VecDeque<Result<Occurrence, TooShort>>,
    /// Namespaces beyond [`LISTENERS`].
    unheard: usize,
}

struct Listener {
    socket: Socket,
    netns: Netns,
    bucket: Bucket,
    /// What it had dropped when that was last asked.
    drops: u32,
    /// Its namespace is gone but for this socket: what waits is read, and then it is closed.
    ending: bool,
}

impl Listeners {
    pub(super) fn new(limit: EventLimit) -> io::Result<Self> {
        Ok(Self {
            limit,
            account: KernelAccount::default(),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            buffer: Buffer::default(),
            open: BTreeMap::new(),
            ready: VecDeque::new(),
            told: VecDeque::new(),
            unheard: 0,
        })
    }

    /// Readable while a socket is.
    pub(super) fn ready(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Listens in namespaces that are new, and no longer in those that are gone.
    pub(super) fn follow(&mut self, namespaces: &[Namespace]) {
        for (instance, listener) in &mut self.open {
            if !listener.ending && !namespaces.iter().any(|one| one.instance == *instance) {
                listener.leave();
                listener.ending = true;
                // Also when nothing waits, it is looked at once more.
                self.ready.push_back(*instance);
            }
        }
        let new = namespaces.iter().filter(|one| !self.open.contains_key(&one.instance));
        let mut new: Vec<&Namespace> = new.collect();
        let room = LISTENERS.saturating_sub(self.open.len());
        self.unheard = new.len().saturating_sub(room);
        new.truncate(room);
        for (namespace, socket) in new.iter().zip(listen(&new)) {
            if let Err(error) = socket.and_then(|socket| self.add(namespace, socket)) {
                debug!(netns = namespace.id.inode, %error, "no events of connection tracking");
            }
        }
    }

    fn add(&mut self, namespace: &Namespace, socket: Socket) -> io::Result<()> {
        let data = epoll::EventData::new_u64(namespace.instance);
        epoll::add(&self.epoll, &socket, data, epoll::EventFlags::IN)?;
        let bucket = Bucket::full(self.limit, Instant::now());
        let listener = Listener { socket, netns: namespace.id, bucket, drops: 0, ending: false };
        self.open.insert(namespace.instance, listener);
        Ok(())
    }

    /// The next event within the limits; `None` when none waits.
    pub(super) fn next(&mut self) -> Option<Result<Occurrence, TooShort>> {
        for _ in 0..PAST_THE_LIMIT {
            if let Some(told) = self.told.pop_front() {
                return Some(told);
            }
            if self.ready.is_empty() {
                self.look().unwrap_or_else(|error| warn!(%error, "waiting for connection tracking"));
            }
            let instance = self.ready.pop_front()?;
            if self.read(instance) {
                // Behind the others, so that a busy namespace does not keep them waiting.
                self.ready.push_back(instance);
            }
        }
        None
    }

    /// Asks which sockets can be read.
    fn look(&mut self) -> io::Result<()> {
        let mut found = Vec::with_capacity(READY);
        epoll::wait(&self.epoll, spare_capacity(&mut found), Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        self.ready.extend(found.iter().map(|event| event.data.u64()));
        Ok(())
    }

    /// Reads one datagram. Whether there may be more.
    fn read(&mut self, instance: u64) -> bool {
        let Some(listener) = self.open.get_mut(&instance) else { return false };
        match listener.socket.receive(&mut self.buffer) {
            Ok(Some(datagram)) => {
                let now = Instant::now();
                let account = &mut self.account;
                let told = &mut self.told;
                listener.hear(datagram, self.limit, now, account, |one| told.push_back(one));
                true
            }
            Ok(None) if listener.ending => {
                self.close(instance);
                false
            }
            Ok(None) => false,
            Err(error) => self.failed(instance, &error),
        }
    }

    /// After an overrun the socket goes on; after anything else it is opened anew. Whether there may be more to read.
    fn failed(&mut self, instance: u64, error: &NetlinkError) -> bool {
        let overrun =
            matches!(error, NetlinkError::Socket(error) if error.raw_os_error() == Some(libc::ENOBUFS));
        let counted = self.account.lost;
        self.count_drops();
        if overrun && self.account.lost == counted {
            // The kernel had no memory for an event; how many is not known, one at least.
            self.account.lost += 1;
            self.account.seen += 1;
        }
        debug!(instance, %error, "events of connection tracking");
        if matches!(error, NetlinkError::Incomplete) {
            self.account.seen += 1;
            self.told.push_back(Err(TooShort(0)));
            return true;
        }
        if !overrun {
            self.close(instance);
        }
        overrun
    }

    fn close(&mut self, instance: u64) {
        self.count_drops();
        self.open.remove(&instance);
    }

    /// Takes over how many events found no room in the sockets.
    pub(super) fn count_drops(&mut self) {
        for listener in self.open.values_mut() {
            let Ok(drops) = listener.socket.drops() else { continue };
            let more = u64::from(drops.wrapping_sub(listener.drops));
            listener.drops = drops;
            self.account.lost += more;
            self.account.seen += more;
        }
    }

    /// Hears no more; what waits can still be read.
    pub(super) fn leave(&mut self) {
        self.open.values().for_each(Listener::leave);
    }

    /// What is not heard.
    pub(super) fn limitation(&self) -> Option<String> {
        let beyond = || format!("{} network namespaces beyond {LISTENERS} are not listened to", self.unheard);
        (self.unheard > 0).then(beyond)
    }
}

impl Listener {
    fn hear(
        &mut self,
        datagram: &[u8],
        limit: EventLimit,
        now: Instant,
        account: &mut KernelAccount,
        mut tell: impl FnMut(Result<Occurrence, TooShort>),
    ) {
        let mut heard = 0;
        for message in messages(datagram) {
            heard += 1;
            account.seen += 1;
            if self.bucket.take(limit, now) {
                let event = Event::read(&message).ok_or(TooShort(message.body.len()));
                tell(event.map(|event| occurrence(&event, self.netns)));
            } else {
                account.suppressed += 1;
            }
        }
        if heard == 0 {
            account.seen += 1;
            tell(Err(TooShort(datagram.len())));
        }
    }

    fn leave(&self) {
        // It was a member, so nothing is refused; what came all the same would only be read until the end.
        let _ = self.socket.leave(GROUPS);
    }
}

/// A listening socket in each namespace. A thread of its own goes through them and ends.
fn listen(namespaces: &[&Namespace]) -> Vec<io::Result<Socket>> {
    if namespaces.is_empty() {
        return Vec::new();
    }
    let all = || {
        let mut place = Place::of_this_thread();
        let open = |namespace: &&Namespace| place.go(namespace).and_then(|()| listen_in(namespace));
        namespaces.iter().map(open).collect()
    };
    let sockets = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns-listener".to_owned());
        thread.spawn_scoped(scope, all).ok()?.join().ok()
    });
    sockets.unwrap_or_default()
}

fn listen_in(namespace: &Namespace) -> io::Result<Socket> {
    let socket = Socket::open(Subsystem::Netfilter)?;
    if !is_inside(&socket, namespace)? {
        return Err(io::ErrorKind::NotFound.into());
    }
    // Without it less can wait, and more is lost and counted.
    let _ = set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER);
    socket.join(GROUPS)?;
    Ok(socket)
}
