//! The program that measures waits in sockets. It has a half for reads and one for writes, each with the hooks that the
//! kernel has for it; a half without is left out.

use crate::abi::{histogram, socket_wait_key};
use crate::histogram::Range;
use crate::{Kernel, LoadError, Missing, Object, Observer, ObserverOptions, Table};

/// Hooks of reads since 6.3: tracepoints.
const READ_TRACEPOINTS: &[&str] = &["sk_data_ready", "tcp_rcv_space_adjust", "sock_recv_length"];
/// Before that: functions.
const READ_FUNCTIONS: &[&str] =
    &["sock_def_readable", "tcp_rcv_space_adjust", "tcp_cleanup_rbuf", "skb_consume_udp"];
/// Hooks of writes.
const WRITE: &[&str] = &["tcp_sendmsg_locked", "net_dev_queue"];
/// What writes can do without: before 6.3 that a call wrote less than it wanted shows at the next one.
const WRITE_END: &str = "sock_send_length";

/// Most series of each half: two families of two protocols in 250 pods.
pub const SERIES: u32 = 1024;

/// The program, attached. Dropping it detaches it.
#[derive(Debug)]
pub struct SocketLatency {
    /// Its account, limits and ring.
    pub observer: Observer,
    /// Waits to be read.
    pub reads: Table<socket_wait_key, histogram>,
    /// Waits to be sent.
    pub writes: Table<socket_wait_key, histogram>,
    /// Connections that write, by address. Past half of its room only those with something unsent; writes to one that has no
    /// room are not measured, and counted as missing.
    pub unsent: Table<u64, Unsent>,
    /// Which half is left out, and why.
    pub missing: Option<(Half, Missing)>,
}

/// `struct unsent` of `unsent.h`; user space only counts them.
pub type Unsent = [u64; 88];

/// A half of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// Waits to be read.
    Reads,
    /// Waits to be sent.
    Writes,
}

impl SocketLatency {
    /// Loads and attaches what the kernel has hooks for. No event is submitted before [`Observer::configure`].
    ///
    /// # Errors
    /// The kernel refuses it, or has hooks for neither half, see [`LoadError`].
    pub fn open(kernel: &Kernel, options: &ObserverOptions<'_>) -> Result<Self, LoadError> {
        let has = |tracepoint: &str| kernel.btf().tracepoint_arguments(tracepoint).is_some();
        let (read, others) = match READ_TRACEPOINTS.iter().all(|name| has(name)) {
            true => (READ_TRACEPOINTS, READ_FUNCTIONS),
            false => (READ_FUNCTIONS, READ_TRACEPOINTS),
        };
        let mut without: Vec<&str> = options.without.to_vec();
        without.extend(others.iter().filter(|name| !read.contains(name)));
        if !has(WRITE_END) {
            without.push(WRITE_END);
        }
        let observer = load(kernel, options, &without)?;
        match (lacks(&observer, read), lacks(&observer, WRITE)) {
            (None, None) => Self::with(observer, None),
            (None, Some(missing)) => {
                drop(observer);
                without.extend(WRITE.iter().chain([&WRITE_END]));
                Self::with(load(kernel, options, &without)?, Some((Half::Writes, missing)))
            }
            (Some(missing), None) => {
                drop(observer);
                without.extend(read.iter().chain([&"tp_btf/inet_sock_set_state"]));
                Self::with(load(kernel, options, &without)?, Some((Half::Reads, missing)))
            }
            (Some(missing), Some(_)) => Err(LoadError::Hook { object: Object::SOCKETLATENCY.name, missing }),
        }
    }

    fn with(observer: Observer, missing: Option<(Half, Missing)>) -> Result<Self, LoadError> {
        let loaded = observer.loaded();
        Ok(Self {
            reads: loaded.table("reads")?,
            writes: loaded.table("writes")?,
            unsent: loaded.table("unsent")?,
            missing,
            observer,
        })
    }
}

fn load(kernel: &Kernel, options: &ObserverOptions<'_>, without: &[&str]) -> Result<Observer, LoadError> {
    let latency = Range::LATENCY.bounds();
    let constants = [options.constants, &[latency.constant()]].concat();
    let entries = [&[("reads", SERIES), ("writes", SERIES)], options.entries].concat();
    let options = ObserverOptions { constants: &constants, entries: &entries, without, ..*options };
    Observer::open(&Object::SOCKETLATENCY, kernel, &options)
}

/// The first of the hooks that is not attached, with the reasons.
fn lacks(observer: &Observer, hooks: &[&str]) -> Option<Missing> {
    let loaded = observer.loaded();
    let is_attached = |name: &&&str| loaded.attachments().iter().any(|attached| attached.hook == **name);
    let name = hooks.iter().find(|name| !is_attached(name))?;
    let missing = loaded.missing().iter().find(|missing| missing.hook == **name);
    Some(missing.cloned().unwrap_or_else(|| Missing { hook: (*name).to_owned(), attempts: Vec::new() }))
}
