//! Sockets without the program: dumps over netlink in each namespace, and `/proc/<pid>/fd` for descriptors.
//!
//! Each dump walks the kernel's table of all sockets, so it is made at a longer interval; rounds in between see the last.
//! TCP sockets that are not connected, sockets of domains other than IP and Unix, and whether a table of descriptors is
//! shared are not to be had this way.

mod dump;
mod process;
#[cfg(any(test, fuzzing))]
pub(in crate::round) use self::{dump::read_diag, process::limit as read_limit};

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jitterscope_ebpf::{
    abi::{entity as holder, histogram, socket_key, socket_sums},
    histogram::Bounds,
    sockets::ROUND_TRIP,
};

use self::dump::{LISTEN, SYN_RECEIVED, Socket};
use super::View;
use crate::{
    clock::Clock,
    pods::{Namespace, NetnsSource},
    round::Round,
};

/// `IPPROTO_TCP`, `include/uapi/linux/in.h`.
const TCP: u16 = 6;

/// Time between two dumps. On a node with 110 pods and a million sockets one takes 22 seconds of processor time.
const EVERY: Duration = Duration::from_secs(60);

/// Namespaces and cgroups whose round-trip times are kept, as in `socket_sums.h`.
const TIMED: usize = 2048;

/// The means without eBPF.
pub(super) struct Diag {
    reason: String,
    started: u64,
    bounds: Bounds,
    /// Who is unknown in a round is forgotten.
    round_trips: HashMap<holder, histogram>,
    last: Option<(Instant, Arc<View>)>,
}

impl Diag {
    pub(super) fn new(obstacle: &str) -> Self {
        let bounds = ROUND_TRIP.bounds();
        Self {
            reason: limitation(obstacle),
            started: Clock::read().now(),
            bounds,
            round_trips: HashMap::new(),
            last: None,
        }
    }

    /// The last dump while it is fresh, else a new one.
    pub(super) fn view(&mut self, round: &Round<'_>) -> Arc<View> {
        match &self.last {
            Some((made, view)) if made.elapsed() < EVERY => Arc::clone(view),
            _ => {
                let view = Arc::new(self.make(round));
                self.last = Some((Instant::now(), Arc::clone(&view)));
                view
            }
        }
    }

    fn make(&mut self, round: &Round<'_>) -> View {
        let namespaces = round.pods.namespaces();
        let mut sums = HashMap::new();
        // What the last dump had and this one has not is zero.
        if let Some((_, last)) = &self.last {
            let had = last.sockets.iter().filter(|(_, sums)| sums.sockets + sums.requests > 0);
            sums.extend(had.map(|(key, _)| (*key, socket_sums::default())));
        }
        sums.retain(|key: &socket_key, _| namespaces.iter().any(|known| is_of(&key.entity, known)));
        self.round_trips.retain(|holder, _| namespaces.iter().any(|known| is_of(holder, known)));
        for (namespace, sockets) in namespaces.iter().zip(dump::visit(namespaces)) {
            for socket in sockets {
                self.add(&mut sums, namespace, &socket);
            }
        }
        View {
            started: self.started,
            sockets: sums.into_iter().collect(),
            descriptors: process::descriptors(namespaces),
            round_trips: self.round_trips.iter().map(|(holder, times)| (*holder, *times)).collect(),
            limitation: Some(self.reason.clone()),
            ..View::default()
        }
    }

    fn add(&mut self, sums: &mut HashMap<socket_key, socket_sums>, namespace: &Namespace, socket: &Socket) {
        let holder = holder {
            netns_cookie: namespace.id.cookie,
            cgroup: socket.cgroup,
            netns: namespace.id.inode,
            reserved: 0,
        };
        let (domain, protocol, family, state) = (socket.domain, socket.protocol, socket.family, socket.state);
        // The listener counts the handshakes that the peer has not completed.
        let is_request = protocol == TCP && state == SYN_RECEIVED;
        let state = if is_request { LISTEN } else { state };
        let key = socket_key { entity: holder, domain, protocol, family, state, reserved: [0; 2] };
        let sum = sums.entry(key).or_default();
        if is_request {
            sum.requests += 1;
            return;
        }
        sum.sockets += 1;
        let (receive, transmit) = (u64::from(socket.receive_queue), u64::from(socket.transmit_queue));
        if state == LISTEN {
            sum.backlog += receive;
            sum.backlog_limit += transmit;
            return;
        }
        sum.receive_queue += receive;
        sum.transmit_queue += transmit;
        sum.unacked += u64::from(socket.unacked);
        sum.window += u64::from(socket.window);
        if socket.rtt > 0 && (self.round_trips.len() < TIMED || self.round_trips.contains_key(&holder)) {
            let times = self.round_trips.entry(holder).or_default();
            self.bounds.observe(times, u64::from(socket.rtt) * 1000);
        }
    }
}

/// What this way cannot see.
pub(super) fn limitation(obstacle: &str) -> String {
    format!(
        "{obstacle}: over netlink and /proc every {} s, without TCP sockets that are not connected, sockets beyond TCP, UDP \
         and Unix, and descriptors of threads with a table of their own",
        EVERY.as_secs()
    )
}

fn is_of(holder: &holder, namespace: &Namespace) -> bool {
    (holder.netns, holder.netns_cookie) == (namespace.id.inode, namespace.id.cookie)
}

/// A file that opens a namespace.
fn path(source: &NetnsSource) -> std::path::PathBuf {
    match source {
        NetnsSource::Task(pid) => format!("/proc/{pid}/ns/net").into(),
        NetnsSource::Mount(path) => path.clone(),
    }
}
