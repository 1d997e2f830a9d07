//! Sockets by protocol, from `/proc/net/sockstat` and `sockstat6` (`net/ipv4/proc.c`, `sockstat_seq_show`;
//! `net/ipv6/proc.c`, `sockstat6_seq_show`).
//!
//! The kernel prints some numbers in every namespace that are the whole node's: orphaned and allocated sockets, memory.
//! These are the node's alone here. A look of the receiver into a namespace is a socket there, too, for some milliseconds.

use std::path::Path;

use jitterscope_semconv::{
    Attribute, attribute as key, metric,
    value::{
        NetworkType, SocketMemoryThreshold as Threshold, SocketProtocol as Protocol, SocketState as State,
    },
};

use super::{
    CollectError, Definition, Opening, Overhead, Probe, Skip, Source,
    family::{Family, row},
};
use crate::{
    batch::{Batch, Emitter},
    round::{Round, counters::Counters},
};

/// Sockets by protocol.
pub(super) static DEFINITION: Definition = Definition {
    name: "sock",
    use_when: "sockets leak or their memory runs out: sockets by protocol per pod, memory of the node with its limits",
    source: Source::Procfs,
    overhead: Overhead::Low,
    default: true,
    capabilities: &["CAP_SYS_PTRACE"],
    options: &[],
    metrics: &[
        &metric::SOCKET_COUNT,
        &metric::SOCKET_OPEN_COUNT,
        &metric::SOCKET_MEMORY_SIZE,
        &metric::SOCKET_MEMORY_LIMIT,
        &metric::IP_REASSEMBLY_QUEUE_LENGTH,
        &metric::IP_REASSEMBLY_QUEUE_SIZE,
    ],
    events: &[],
    open,
};

const TCP: &str = Protocol::Tcp.as_str();
const UDP: &str = Protocol::Udp.as_str();
const UDPLITE: &str = Protocol::Udplite.as_str();
const RAW: &str = Protocol::Raw.as_str();
const IN_USE: &str = State::InUse.as_str();
const V4: &str = NetworkType::Ipv4.as_str();
const V6: &str = NetworkType::Ipv6.as_str();

const SOCKET: &[&Attribute] = &[&key::SOCKET_PROTOCOL, &key::SOCKET_STATE];
const SOCKET_OF: &[&Attribute] = &[&key::SOCKET_PROTOCOL, &key::SOCKET_STATE, &key::NETWORK_TYPE];

/// What each namespace has of its own.
pub(super) const NAMESPACE: &[Family] = &[
    Family(&metric::SOCKET_OPEN_COUNT, &[], &[row("sockets:used", &[])]),
    Family(
        &metric::SOCKET_COUNT,
        SOCKET_OF,
        &[
            row("TCP:inuse", &[TCP, IN_USE, V4]),
            row("UDP:inuse", &[UDP, IN_USE, V4]),
            row("UDPLITE:inuse", &[UDPLITE, IN_USE, V4]),
            row("RAW:inuse", &[RAW, IN_USE, V4]),
            row("TCP6:inuse", &[TCP, IN_USE, V6]),
            row("UDP6:inuse", &[UDP, IN_USE, V6]),
            row("UDPLITE6:inuse", &[UDPLITE, IN_USE, V6]),
            row("RAW6:inuse", &[RAW, IN_USE, V6]),
        ],
    ),
    // Of both versions of IP: they share the table of TIME-WAIT.
    Family(&metric::SOCKET_COUNT, SOCKET, &[row("TCP:tw", &[TCP, State::TimeWait.as_str()])]),
    Family(
        &metric::IP_REASSEMBLY_QUEUE_LENGTH,
        &[&key::NETWORK_TYPE],
        &[row("FRAG:inuse", &[V4]), row("FRAG6:inuse", &[V6])],
    ),
    Family(
        &metric::IP_REASSEMBLY_QUEUE_SIZE,
        &[&key::NETWORK_TYPE],
        &[row("FRAG:memory", &[V4]), row("FRAG6:memory", &[V6])],
    ),
];

/// What is the node's wherever it is read.
pub(super) const NODE: &[Family] = &[Family(
    &metric::SOCKET_COUNT,
    SOCKET,
    &[row("TCP:orphan", &[TCP, State::Orphan.as_str()]), row("TCP:alloc", &[TCP, State::Allocated.as_str()])],
)];

/// Memory of the node, in pages.
pub(super) const MEMORY: &[Family] = &[Family(
    &metric::SOCKET_MEMORY_SIZE,
    &[&key::SOCKET_PROTOCOL],
    &[row("TCP:mem", &[TCP]), row("UDP:mem", &[UDP])],
)];

/// The files with the limits of that memory, in pages too.
const LIMITS: [(&str, &str); 2] = [("tcp_mem", TCP), ("udp_mem", UDP)];

/// What the three numbers of a file with limits are (networking/ip-sysctl, `tcp_mem`).
const THRESHOLDS: [Threshold; 3] = [Threshold::Low, Threshold::Pressure, Threshold::High];

struct Sock {
    /// Bytes.
    page: u64,
}

fn open(_: &Opening<'_>) -> Result<Box<dyn Probe>, Skip> {
    Ok(Box::new(Sock { page: rustix::param::page_size() as u64 }))
}

impl Probe for Sock {
    fn collect(&mut self, round: &Round<'_>, batch: &mut Batch<'_>) -> Result<(), CollectError> {
        for namespace in round.namespaces() {
            let (v4, v6) = (namespace.sockstat(), namespace.sockstat6());
            let tables: Vec<&Counters> = [v4, v6].into_iter().flatten().collect();
            let mut emit = batch.entity(&namespace.namespace.entity, namespace.namespace.started_unix_nano);
            NAMESPACE.iter().for_each(|family| family.emit(&tables, true, &mut emit));
            if namespace.namespace.host {
                NODE.iter().for_each(|family| family.emit(&tables, true, &mut emit));
                MEMORY.iter().for_each(|family| family.emit_times(self.page, &tables, true, &mut emit));
                // Only the first namespace has the files: a receiver in another one has none.
                limits(Path::new("/proc/sys/net/ipv4"), self.page, &mut emit);
            }
        }
        Ok(())
    }
}

fn limits(folder: &Path, page: u64, emit: &mut Emitter<'_, '_>) {
    for (file, protocol) in LIMITS {
        let text = std::fs::read_to_string(folder.join(file)).unwrap_or_default();
        let limits = text.split_ascii_whitespace().filter_map(|pages| pages.parse().ok());
        for (threshold, pages) in THRESHOLDS.into_iter().zip(limits) {
            let attributes = [
                (&key::SOCKET_PROTOCOL, protocol.into()),
                (&key::SOCKET_MEMORY_THRESHOLD, threshold.as_str().into()),
            ];
            emit.amount(&metric::SOCKET_MEMORY_LIMIT, &attributes, bytes(pages, page));
        }
    }
}

/// Pages as bytes; a limit may be the largest number that there is.
fn bytes(pages: u64, page: u64) -> i64 {
    i64::try_from(pages.saturating_mul(page)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_become_bytes_and_no_limit_stays_none() {
        assert_eq!(bytes(155, 4096), 634_880);
        assert_eq!(bytes(u64::MAX, 4096), i64::MAX);
    }
}
