//! UDP and UDP-Lite health of each namespace, IPv4 from `/proc/net/snmp`, IPv6 from `/proc/net/snmp6`
//! (`net/ipv4/proc.c`, `net/ipv6/proc.c`).

use jitterscope_semconv::{
    attribute as key, metric,
    value::{NetworkIoDirection, NetworkType, UdpErrorReason, UdpProtocol},
};

use super::{CollectError, Definition, Opening, Overhead, Probe, Skip, Source};
use crate::{
    batch::{Batch, Emitter, attributes::Pair},
    round::{Round, counters::Counters},
};

/// Counters of UDP.
pub(super) static DEFINITION: Definition = Definition {
    name: "udp",
    use_when: "datagrams are missing: full buffers, closed ports, bad checksums per pod",
    source: Source::Procfs,
    overhead: Overhead::Low,
    default: true,
    capabilities: &["CAP_SYS_PTRACE"],
    options: &[],
    metrics: &[&metric::UDP_DATAGRAMS, &metric::UDP_ERRORS, &metric::UDP_MULTICAST_IGNORED],
    events: &[],
    open,
};

struct Udp;

fn open(_: &Opening<'_>) -> Result<Box<dyn Probe>, Skip> {
    Ok(Box::new(Udp))
}

/// A group of counters: how nstat(8) begins their names, and what they are about.
struct Group {
    prefix: &'static str,
    family: NetworkType,
    protocol: UdpProtocol,
}

const IPV4: [Group; 2] = [
    Group { prefix: "Udp", family: NetworkType::Ipv4, protocol: UdpProtocol::Udp },
    Group { prefix: "UdpLite", family: NetworkType::Ipv4, protocol: UdpProtocol::Udplite },
];
const IPV6: [Group; 2] = [
    Group { prefix: "Udp6", family: NetworkType::Ipv6, protocol: UdpProtocol::Udp },
    Group { prefix: "UdpLite6", family: NetworkType::Ipv6, protocol: UdpProtocol::Udplite },
];

/// Errors that the kernel counts by reason. `InErrors` holds all of those on receive and others
/// (`net/ipv4/udp.c`, `__udp_queue_rcv_skb`, `udp_queue_rcv_one_skb`).
const REASONS: [(&str, UdpErrorReason); 5] = [
    ("NoPorts", UdpErrorReason::NoPort),
    ("RcvbufErrors", UdpErrorReason::ReceiveBuffer),
    ("SndbufErrors", UdpErrorReason::SendBuffer),
    ("InCsumErrors", UdpErrorReason::Checksum),
    ("MemErrors", UdpErrorReason::Memory),
];

impl Probe for Udp {
    fn collect(&mut self, round: &Round<'_>, batch: &mut Batch<'_>) -> Result<(), CollectError> {
        for namespace in round.namespaces() {
            let mut emit = batch.entity(&namespace.namespace.entity, namespace.namespace.started_unix_nano);
            for (table, groups) in [(namespace.snmp(), &IPV4), (namespace.snmp6(), &IPV6)] {
                let Some(table) = table else { continue };
                groups.iter().for_each(|group| group.emit(table, &mut emit));
            }
        }
        Ok(())
    }
}

impl Group {
    fn emit(&self, table: &Counters, emit: &mut Emitter<'_, '_>) {
        let get = |name: &str| table.get(&format!("{}{name}", self.prefix));
        // A kernel without this protocol prints none of the group.
        let Some(received) = get("InDatagrams") else { return };
        self.datagrams(NetworkIoDirection::Receive, received, emit);
        self.datagrams(NetworkIoDirection::Transmit, get("OutDatagrams").unwrap_or(0), emit);
        for (name, reason) in REASONS {
            if let Some(value) = get(name) {
                self.errors(reason, value, emit);
            }
        }
        let named = ["RcvbufErrors", "InCsumErrors", "MemErrors"].iter().filter_map(|name| get(name)).sum();
        let other = get("InErrors").unwrap_or(0).saturating_sub(named);
        self.errors(UdpErrorReason::Other, other, emit);
        if let Some(ignored) = get("IgnoredMulti") {
            emit.counter(&metric::UDP_MULTICAST_IGNORED, &self.attributes(), ignored);
        }
    }

    fn datagrams(&self, direction: NetworkIoDirection, value: u64, emit: &mut Emitter<'_, '_>) {
        let [family, protocol] = self.attributes();
        let direction = (&key::NETWORK_IO_DIRECTION, direction.as_str().into());
        emit.counter(&metric::UDP_DATAGRAMS, &[direction, family, protocol], value);
    }

    fn errors(&self, reason: UdpErrorReason, value: u64, emit: &mut Emitter<'_, '_>) {
        let [family, protocol] = self.attributes();
        let reason = (&key::UDP_ERROR_REASON, reason.as_str().into());
        emit.counter(&metric::UDP_ERRORS, &[reason, family, protocol], value);
    }

    fn attributes(&self) -> [Pair<'static>; 2] {
        [
            (&key::NETWORK_TYPE, self.family.as_str().into()),
            (&key::UDP_PROTOCOL, self.protocol.as_str().into()),
        ]
    }
}
