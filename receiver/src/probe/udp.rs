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

/// A group of counters: their names in nstat(8), and what they are about.
struct Group {
    received: &'static str,
    sent: &'static str,
    /// All errors on receive.
    errors: &'static str,
    /// Errors that the kernel counts by reason. `InErrors` holds all of those on receive and others
    /// (`net/ipv4/udp.c`, `__udp_queue_rcv_skb`, `udp_queue_rcv_one_skb`).
    reasons: [(&'static str, UdpErrorReason, InErrors); 5],
    ignored: &'static str,
    family: NetworkType,
    protocol: UdpProtocol,
}

/// Whether a reason's counter is part of `InErrors`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum InErrors {
    Yes,
    No,
}

/// The group whose names begin so.
macro_rules! group {
    ($prefix:literal, $family:ident, $protocol:ident) => {
        Group {
            received: concat!($prefix, "InDatagrams"),
            sent: concat!($prefix, "OutDatagrams"),
            errors: concat!($prefix, "InErrors"),
            reasons: [
                (concat!($prefix, "NoPorts"), UdpErrorReason::NoPort, InErrors::No),
                (concat!($prefix, "RcvbufErrors"), UdpErrorReason::ReceiveBuffer, InErrors::Yes),
                (concat!($prefix, "SndbufErrors"), UdpErrorReason::SendBuffer, InErrors::No),
                (concat!($prefix, "InCsumErrors"), UdpErrorReason::Checksum, InErrors::Yes),
                (concat!($prefix, "MemErrors"), UdpErrorReason::Memory, InErrors::Yes),
            ],
            ignored: concat!($prefix, "IgnoredMulti"),
            family: NetworkType::$family,
            protocol: UdpProtocol::$protocol,
        }
    };
}

const IPV4: [Group; 2] = [group!("Udp", Ipv4, Udp), group!("UdpLite", Ipv4, Udplite)];
const IPV6: [Group; 2] = [group!("Udp6", Ipv6, Udp), group!("UdpLite6", Ipv6, Udplite)];

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
        // A kernel without this protocol prints none of the group.
        let Some(received) = table.get(self.received) else { return };
        self.datagrams(NetworkIoDirection::Receive, received, emit);
        self.datagrams(NetworkIoDirection::Transmit, table.get(self.sent).unwrap_or(0), emit);
        let mut other = table.get(self.errors).unwrap_or(0);
        for (name, reason, in_errors) in self.reasons {
            let Some(value) = table.get(name) else { continue };
            self.errors(reason, value, emit);
            if in_errors == InErrors::Yes {
                other = other.saturating_sub(value);
            }
        }
        self.errors(UdpErrorReason::Other, other, emit);
        if let Some(ignored) = table.get(self.ignored) {
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
