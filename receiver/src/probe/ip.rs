//! IP and ICMP of each namespace, IPv4 from `/proc/net/snmp` and `netstat`, IPv6 from `/proc/net/snmp6` (`net/ipv4/proc.c`,
//! `snmp4_ipstats_list`, `snmp4_ipextstats_list`; `net/ipv6/proc.c`, `snmp6_ipstats_list`).

use jitterscope_semconv::{
    Attribute, attribute as key, metric,
    value::{
        IcmpErrorReason as Icmp, IcmpRateLimitScope as Limit, IpDiscardReason as Discard, IpEcn as Ecn,
        IpFragmentOperation as Fragment, IpPacketCast as Cast, IpReassemblyResult as Reassembly,
        NetworkIoDirection as Way, NetworkType,
    },
};

use super::{
    CollectError, Definition, Opening, Overhead, Probe, Skip, Source,
    family::{Family, metrics, rest, row},
};
use crate::{
    batch::{Batch, Emitter},
    round::{
        Round,
        counters::{Counters, Messages},
    },
};

/// Counters of IP and ICMP.
pub(super) static DEFINITION: Definition = Definition {
    name: "ip",
    use_when: "packets do not arrive or come in pieces: discards by reason, fragments, ICMP by type per pod",
    source: Source::Procfs,
    overhead: Overhead::Low,
    default: false,
    capabilities: &["CAP_SYS_PTRACE"],
    options: &[],
    metrics: &metrics::<METRICS>(&[TABLE, &[Family(&metric::ICMP_MESSAGES, &[], &[])]]),
    events: &[],
    open,
};

const METRICS: usize = TABLE.len() + 1;

const V4: &str = NetworkType::Ipv4.as_str();
const V6: &str = NetworkType::Ipv6.as_str();
const IN: &str = Way::Receive.as_str();
const OUT: &str = Way::Transmit.as_str();

const FAMILY: &[&Attribute] = &[&key::NETWORK_TYPE];
const WAY: &[&Attribute] = &[&key::NETWORK_IO_DIRECTION, &key::NETWORK_TYPE];
const CAST: &[&Attribute] = &[&key::NETWORK_IO_DIRECTION, &key::NETWORK_TYPE, &key::IP_PACKET_CAST];
const DISCARD: &[&Attribute] = &[&key::NETWORK_IO_DIRECTION, &key::NETWORK_TYPE, &key::IP_DISCARD_REASON];
const ERROR: &[&Attribute] = &[&key::NETWORK_IO_DIRECTION, &key::NETWORK_TYPE, &key::ICMP_ERROR_REASON];

/// Every counter but ICMP by type, which each namespace has other columns of.
pub(super) const TABLE: &[Family] = &[
    // `OutTransmits` is what leaves for a device, fragments one by one; kernels before 6.8 count that as `OutRequests` for
    // IPv4, before fragmentation, and not at all for IPv6.
    Family(
        &metric::IP_PACKETS,
        WAY,
        &[
            row("IpInReceives", &[IN, V4]),
            row("IpOutTransmits", &[OUT, V4]),
            row("Ip6InReceives", &[IN, V6]),
            row("Ip6OutTransmits", &[OUT, V6]),
        ],
    ),
    Family(
        &metric::IP_IO,
        WAY,
        &[
            row("IpExtInOctets", &[IN, V4]),
            row("IpExtOutOctets", &[OUT, V4]),
            row("Ip6InOctets", &[IN, V6]),
            row("Ip6OutOctets", &[OUT, V6]),
        ],
    ),
    Family(&metric::IP_DELIVERIES, FAMILY, &[row("IpInDelivers", &[V4]), row("Ip6InDelivers", &[V6])]),
    Family(&metric::IP_REQUESTS, FAMILY, &[row("IpOutRequests", &[V4]), row("Ip6OutRequests", &[V6])]),
    Family(
        &metric::IP_FORWARDED,
        FAMILY,
        &[row("IpForwDatagrams", &[V4]), row("Ip6OutForwDatagrams", &[V6])],
    ),
    // A wrong checksum is a header error too (`net/ipv4/ip_input.c`, `ip_rcv_core`); IPv6 has none.
    Family(
        &metric::IP_DISCARDS,
        DISCARD,
        &[
            rest("IpInHdrErrors", &["IpExtInCsumErrors"], &[IN, V4, Discard::Header.as_str()]),
            row("IpExtInCsumErrors", &[IN, V4, Discard::Checksum.as_str()]),
            row("IpInAddrErrors", &[IN, V4, Discard::Address.as_str()]),
            row("IpInUnknownProtos", &[IN, V4, Discard::UnknownProtocol.as_str()]),
            row("IpExtInNoRoutes", &[IN, V4, Discard::NoRoute.as_str()]),
            row("IpExtInTruncatedPkts", &[IN, V4, Discard::Truncated.as_str()]),
            row("IpInDiscards", &[IN, V4, Discard::NoBuffer.as_str()]),
            row("IpOutDiscards", &[OUT, V4, Discard::NoBuffer.as_str()]),
            row("IpOutNoRoutes", &[OUT, V4, Discard::NoRoute.as_str()]),
            row("Ip6InHdrErrors", &[IN, V6, Discard::Header.as_str()]),
            row("Ip6InAddrErrors", &[IN, V6, Discard::Address.as_str()]),
            row("Ip6InUnknownProtos", &[IN, V6, Discard::UnknownProtocol.as_str()]),
            row("Ip6InNoRoutes", &[IN, V6, Discard::NoRoute.as_str()]),
            row("Ip6InTruncatedPkts", &[IN, V6, Discard::Truncated.as_str()]),
            row("Ip6InTooBigErrors", &[IN, V6, Discard::TooBig.as_str()]),
            row("Ip6InDiscards", &[IN, V6, Discard::NoBuffer.as_str()]),
            row("Ip6OutDiscards", &[OUT, V6, Discard::NoBuffer.as_str()]),
            row("Ip6OutNoRoutes", &[OUT, V6, Discard::NoRoute.as_str()]),
        ],
    ),
    Family(
        &metric::IP_FRAGMENTS,
        &[&key::NETWORK_TYPE, &key::IP_FRAGMENT_OPERATION],
        &[
            row("IpFragCreates", &[V4, Fragment::Created.as_str()]),
            row("IpFragOKs", &[V4, Fragment::Ok.as_str()]),
            row("IpFragFails", &[V4, Fragment::Failed.as_str()]),
            row("Ip6FragCreates", &[V6, Fragment::Created.as_str()]),
            row("Ip6FragOKs", &[V6, Fragment::Ok.as_str()]),
            row("Ip6FragFails", &[V6, Fragment::Failed.as_str()]),
        ],
    ),
    // A timeout is a failure too (`net/ipv4/ip_fragment.c`, `ip_expire`; `net/ipv6/reassembly.c`).
    Family(
        &metric::IP_REASSEMBLIES,
        &[&key::NETWORK_TYPE, &key::IP_REASSEMBLY_RESULT],
        &[
            row("IpReasmOKs", &[V4, Reassembly::Ok.as_str()]),
            row("IpReasmTimeout", &[V4, Reassembly::Timeout.as_str()]),
            rest("IpReasmFails", &["IpReasmTimeout"], &[V4, Reassembly::Failed.as_str()]),
            row("Ip6ReasmOKs", &[V6, Reassembly::Ok.as_str()]),
            row("Ip6ReasmTimeout", &[V6, Reassembly::Timeout.as_str()]),
            rest("Ip6ReasmFails", &["Ip6ReasmTimeout"], &[V6, Reassembly::Failed.as_str()]),
        ],
    ),
    Family(
        &metric::IP_REASSEMBLY_FRAGMENTS,
        FAMILY,
        &[row("IpReasmReqds", &[V4]), row("Ip6ReasmReqds", &[V6])],
    ),
    Family(&metric::IP_REASSEMBLY_OVERLAPS, FAMILY, &[row("IpExtReasmOverlaps", &[V4])]),
    Family(
        &metric::IP_CAST_PACKETS,
        CAST,
        &[
            row("IpExtInMcastPkts", &[IN, V4, Cast::Multicast.as_str()]),
            row("IpExtOutMcastPkts", &[OUT, V4, Cast::Multicast.as_str()]),
            row("IpExtInBcastPkts", &[IN, V4, Cast::Broadcast.as_str()]),
            row("IpExtOutBcastPkts", &[OUT, V4, Cast::Broadcast.as_str()]),
            row("Ip6InMcastPkts", &[IN, V6, Cast::Multicast.as_str()]),
            row("Ip6OutMcastPkts", &[OUT, V6, Cast::Multicast.as_str()]),
        ],
    ),
    Family(
        &metric::IP_CAST_IO,
        CAST,
        &[
            row("IpExtInMcastOctets", &[IN, V4, Cast::Multicast.as_str()]),
            row("IpExtOutMcastOctets", &[OUT, V4, Cast::Multicast.as_str()]),
            row("IpExtInBcastOctets", &[IN, V4, Cast::Broadcast.as_str()]),
            row("IpExtOutBcastOctets", &[OUT, V4, Cast::Broadcast.as_str()]),
            row("Ip6InMcastOctets", &[IN, V6, Cast::Multicast.as_str()]),
            row("Ip6OutMcastOctets", &[OUT, V6, Cast::Multicast.as_str()]),
            row("Ip6InBcastOctets", &[IN, V6, Cast::Broadcast.as_str()]),
            row("Ip6OutBcastOctets", &[OUT, V6, Cast::Broadcast.as_str()]),
        ],
    ),
    Family(
        &metric::IP_ECN_PACKETS,
        &[&key::NETWORK_TYPE, &key::IP_ECN],
        &[
            row("IpExtInNoECTPkts", &[V4, Ecn::NotEct.as_str()]),
            row("IpExtInECT0Pkts", &[V4, Ecn::Ect0.as_str()]),
            row("IpExtInECT1Pkts", &[V4, Ecn::Ect1.as_str()]),
            row("IpExtInCEPkts", &[V4, Ecn::Ce.as_str()]),
            row("Ip6InNoECTPkts", &[V6, Ecn::NotEct.as_str()]),
            row("Ip6InECT0Pkts", &[V6, Ecn::Ect0.as_str()]),
            row("Ip6InECT1Pkts", &[V6, Ecn::Ect1.as_str()]),
            row("Ip6InCEPkts", &[V6, Ecn::Ce.as_str()]),
        ],
    ),
    // A wrong checksum is an error too (`net/ipv4/icmp.c`, `icmp_rcv`; `net/ipv6/icmp.c`, `icmpv6_rcv`).
    Family(
        &metric::ICMP_ERRORS,
        ERROR,
        &[
            row("IcmpInCsumErrors", &[IN, V4, Icmp::Checksum.as_str()]),
            rest("IcmpInErrors", &["IcmpInCsumErrors"], &[IN, V4, Icmp::Other.as_str()]),
            row("IcmpOutErrors", &[OUT, V4, Icmp::Other.as_str()]),
            row("Icmp6InCsumErrors", &[IN, V6, Icmp::Checksum.as_str()]),
            rest("Icmp6InErrors", &["Icmp6InCsumErrors"], &[IN, V6, Icmp::Other.as_str()]),
            row("Icmp6OutErrors", &[OUT, V6, Icmp::Other.as_str()]),
        ],
    ),
    Family(
        &metric::ICMP_RATE_LIMITS,
        &[&key::NETWORK_TYPE, &key::ICMP_RATE_LIMIT_SCOPE],
        &[
            row("IcmpOutRateLimitGlobal", &[V4, Limit::Global.as_str()]),
            row("IcmpOutRateLimitHost", &[V4, Limit::Host.as_str()]),
            row("Icmp6OutRateLimitHost", &[V6, Limit::Host.as_str()]),
        ],
    ),
];

struct Ip;

fn open(_: &Opening<'_>) -> Result<Box<dyn Probe>, Skip> {
    Ok(Box::new(Ip))
}

impl Probe for Ip {
    fn collect(&mut self, round: &Round<'_>, batch: &mut Batch<'_>) -> Result<(), CollectError> {
        for namespace in round.namespaces() {
            let (v4, v6) = (namespace.snmp(), namespace.snmp6());
            let tables: Vec<&Counters> = [v4, namespace.netstat(), v6].into_iter().flatten().collect();
            let mut emit = batch.entity(&namespace.namespace.entity, namespace.namespace.started_unix_nano);
            TABLE.iter().for_each(|family| family.emit(&tables, true, &mut emit));
            for (seen, family) in namespace.icmp().iter().zip([V4, V6]) {
                messages(seen, family, &mut emit);
            }
        }
        Ok(())
    }
}

/// ICMP by type: at most 256 types each way, and only those that the namespace has seen.
fn messages(seen: &[Messages], family: &str, emit: &mut Emitter<'_, '_>) {
    for messages in seen {
        let way = if messages.received { IN } else { OUT };
        let attributes = [
            (&key::NETWORK_IO_DIRECTION, way.into()),
            (&key::NETWORK_TYPE, family.into()),
            (&key::ICMP_TYPE, i64::from(messages.number).into()),
        ];
        emit.counter(&metric::ICMP_MESSAGES, &attributes, messages.count);
    }
}
