//! TCP health of each namespace, from `/proc/net/snmp` (`net/ipv4/proc.c`). The kernel counts IPv4 and IPv6 together here.

use jitterscope_semconv::{
    attribute as key, metric,
    value::{NetworkIoDirection as Way, TcpConnectionOpenKind as Open, TcpSegmentErrorReason as Wrong},
};

use super::{
    CollectError, Definition, Opening, Overhead, Probe, Skip, Source,
    family::{Family, metrics, rest, row},
};
use crate::{batch::Batch, round::Round};

/// Counters and current connections of TCP.
pub(super) static DEFINITION: Definition = Definition {
    name: "tcp",
    use_when: "connections fail, are reset or slow: retransmits, resets, failed attempts per pod",
    source: Source::Procfs,
    overhead: Overhead::Low,
    default: true,
    capabilities: &["CAP_SYS_PTRACE"],
    options: &[],
    metrics: &metrics::<{ TABLE.len() }>(&[TABLE]),
    events: &[],
    open,
};

/// Every counter.
pub(super) const TABLE: &[Family] = &[
    Family(
        &metric::TCP_CONNECTION_OPENS,
        &[&key::TCP_CONNECTION_OPEN_KIND],
        &[row("TcpActiveOpens", &[Open::Active.as_str()]), row("TcpPassiveOpens", &[Open::Passive.as_str()])],
    ),
    Family(&metric::TCP_CONNECTION_ATTEMPT_FAILURES, &[], &[row("TcpAttemptFails", &[])]),
    Family(&metric::TCP_CONNECTION_ESTABLISHED_RESETS, &[], &[row("TcpEstabResets", &[])]),
    Family(&metric::TCP_CONNECTION_ESTABLISHED, &[], &[row("TcpCurrEstab", &[])]),
    Family(
        &metric::TCP_SEGMENTS,
        &[&key::NETWORK_IO_DIRECTION],
        &[row("TcpInSegs", &[Way::Receive.as_str()]), row("TcpOutSegs", &[Way::Transmit.as_str()])],
    ),
    // InErrs counts checksum errors too (net/ipv4/tcp_ipv4.c, tcp_v4_rcv, csum_error): the rest is "other".
    Family(
        &metric::TCP_SEGMENT_ERRORS,
        &[&key::TCP_SEGMENT_ERROR_REASON],
        &[
            row("TcpInCsumErrors", &[Wrong::Checksum.as_str()]),
            rest("TcpInErrs", &["TcpInCsumErrors"], &[Wrong::Other.as_str()]),
        ],
    ),
    Family(&metric::TCP_SEGMENT_RETRANSMITS, &[], &[row("TcpRetransSegs", &[])]),
    Family(&metric::TCP_SEGMENT_RESETS, &[], &[row("TcpOutRsts", &[])]),
];

struct Tcp;

fn open(_: &Opening<'_>) -> Result<Box<dyn Probe>, Skip> {
    Ok(Box::new(Tcp))
}

impl Probe for Tcp {
    fn collect(&mut self, round: &Round<'_>, batch: &mut Batch<'_>) -> Result<(), CollectError> {
        for namespace in round.namespaces() {
            let Some(snmp) = namespace.snmp() else { continue };
            let mut emit = batch.entity(&namespace.namespace.entity, namespace.namespace.started_unix_nano);
            TABLE.iter().for_each(|family| family.emit(&[snmp], true, &mut emit));
        }
        Ok(())
    }
}
