//! UDP and UDP-Lite health of each namespace, IPv4 from `/proc/net/snmp`, IPv6 from `/proc/net/snmp6`
//! (`net/ipv4/proc.c`, `net/ipv6/proc.c`).

use jitterscope_semconv::{
    attribute as key, metric,
    value::{NetworkIoDirection as Way, NetworkType, UdpErrorReason as Wrong, UdpProtocol},
};

use super::{
    CollectError, Definition, Opening, Overhead, Probe, Skip, Source,
    family::{Family, metrics, rest, row},
};
use crate::{
    batch::Batch,
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
    metrics: &metrics::<{ TABLE.len() }>(&[TABLE]),
    events: &[],
    open,
};

const V4: &str = NetworkType::Ipv4.as_str();
const V6: &str = NetworkType::Ipv6.as_str();
const UDP: &str = UdpProtocol::Udp.as_str();
const LITE: &str = UdpProtocol::Udplite.as_str();
const IN: &str = Way::Receive.as_str();
const OUT: &str = Way::Transmit.as_str();
const NO_PORT: &str = Wrong::NoPort.as_str();
const RECEIVE_BUFFER: &str = Wrong::ReceiveBuffer.as_str();
const SEND_BUFFER: &str = Wrong::SendBuffer.as_str();
const CHECKSUM: &str = Wrong::Checksum.as_str();
const MEMORY: &str = Wrong::Memory.as_str();
const OTHER: &str = Wrong::Other.as_str();

/// Every counter. `InErrors` holds those on receive with a name of their own and others (`net/ipv4/udp.c`,
/// `__udp_queue_rcv_skb`, `udp_queue_rcv_one_skb`). A kernel without UDP-Lite prints none of it.
pub(super) const TABLE: &[Family] = &[
    Family(
        &metric::UDP_DATAGRAMS,
        &[&key::NETWORK_IO_DIRECTION, &key::NETWORK_TYPE, &key::UDP_PROTOCOL],
        &[
            row("UdpInDatagrams", &[IN, V4, UDP]),
            row("UdpOutDatagrams", &[OUT, V4, UDP]),
            row("UdpLiteInDatagrams", &[IN, V4, LITE]),
            row("UdpLiteOutDatagrams", &[OUT, V4, LITE]),
            row("Udp6InDatagrams", &[IN, V6, UDP]),
            row("Udp6OutDatagrams", &[OUT, V6, UDP]),
            row("UdpLite6InDatagrams", &[IN, V6, LITE]),
            row("UdpLite6OutDatagrams", &[OUT, V6, LITE]),
        ],
    ),
    Family(
        &metric::UDP_ERRORS,
        &[&key::UDP_ERROR_REASON, &key::NETWORK_TYPE, &key::UDP_PROTOCOL],
        &[
            row("UdpNoPorts", &[NO_PORT, V4, UDP]),
            row("UdpRcvbufErrors", &[RECEIVE_BUFFER, V4, UDP]),
            row("UdpSndbufErrors", &[SEND_BUFFER, V4, UDP]),
            row("UdpInCsumErrors", &[CHECKSUM, V4, UDP]),
            row("UdpMemErrors", &[MEMORY, V4, UDP]),
            rest("UdpInErrors", &["UdpRcvbufErrors", "UdpInCsumErrors", "UdpMemErrors"], &[OTHER, V4, UDP]),
            row("UdpLiteNoPorts", &[NO_PORT, V4, LITE]),
            row("UdpLiteRcvbufErrors", &[RECEIVE_BUFFER, V4, LITE]),
            row("UdpLiteSndbufErrors", &[SEND_BUFFER, V4, LITE]),
            row("UdpLiteInCsumErrors", &[CHECKSUM, V4, LITE]),
            row("UdpLiteMemErrors", &[MEMORY, V4, LITE]),
            rest(
                "UdpLiteInErrors",
                &["UdpLiteRcvbufErrors", "UdpLiteInCsumErrors", "UdpLiteMemErrors"],
                &[OTHER, V4, LITE],
            ),
            row("Udp6NoPorts", &[NO_PORT, V6, UDP]),
            row("Udp6RcvbufErrors", &[RECEIVE_BUFFER, V6, UDP]),
            row("Udp6SndbufErrors", &[SEND_BUFFER, V6, UDP]),
            row("Udp6InCsumErrors", &[CHECKSUM, V6, UDP]),
            row("Udp6MemErrors", &[MEMORY, V6, UDP]),
            rest(
                "Udp6InErrors",
                &["Udp6RcvbufErrors", "Udp6InCsumErrors", "Udp6MemErrors"],
                &[OTHER, V6, UDP],
            ),
            row("UdpLite6NoPorts", &[NO_PORT, V6, LITE]),
            row("UdpLite6RcvbufErrors", &[RECEIVE_BUFFER, V6, LITE]),
            row("UdpLite6SndbufErrors", &[SEND_BUFFER, V6, LITE]),
            row("UdpLite6InCsumErrors", &[CHECKSUM, V6, LITE]),
            row("UdpLite6MemErrors", &[MEMORY, V6, LITE]),
            rest(
                "UdpLite6InErrors",
                &["UdpLite6RcvbufErrors", "UdpLite6InCsumErrors", "UdpLite6MemErrors"],
                &[OTHER, V6, LITE],
            ),
        ],
    ),
    Family(
        &metric::UDP_MULTICAST_IGNORED,
        &[&key::NETWORK_TYPE, &key::UDP_PROTOCOL],
        &[
            row("UdpIgnoredMulti", &[V4, UDP]),
            row("UdpLiteIgnoredMulti", &[V4, LITE]),
            row("Udp6IgnoredMulti", &[V6, UDP]),
        ],
    ),
];

struct Udp;

fn open(_: &Opening<'_>) -> Result<Box<dyn Probe>, Skip> {
    Ok(Box::new(Udp))
}

impl Probe for Udp {
    fn collect(&mut self, round: &Round<'_>, batch: &mut Batch<'_>) -> Result<(), CollectError> {
        for namespace in round.namespaces() {
            let tables: Vec<&Counters> =
                [namespace.snmp(), namespace.snmp6()].into_iter().flatten().collect();
            let mut emit = batch.entity(&namespace.namespace.entity, namespace.namespace.started_unix_nano);
            TABLE.iter().for_each(|family| family.emit(&tables, true, &mut emit));
        }
        Ok(())
    }
}
