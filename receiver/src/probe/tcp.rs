//! TCP health of each namespace, from `/proc/net/snmp` and the listen queue's counters of `/proc/net/netstat`
//! (`net/ipv4/proc.c`). The kernel counts IPv4 and IPv6 together here.

use jitterscope_semconv::{
    attribute as key, metric,
    value::{NetworkIoDirection, TcpConnectionOpenKind, TcpListenDropReason, TcpSegmentErrorReason},
};

use super::{CollectError, Definition, Opening, Overhead, Probe, Skip, Source};
use crate::{
    batch::{Batch, Emitter, attributes::Pair},
    round::{InNamespace, Round, counters::Counters},
};

/// Counters and current connections of TCP.
pub(super) static DEFINITION: Definition = Definition {
    name: "tcp",
    use_when: "connections fail, are reset or slow: retransmits, resets, refused connections per pod",
    source: Source::Procfs,
    overhead: Overhead::Low,
    default: true,
    capabilities: &["CAP_SYS_PTRACE"],
    options: &[],
    metrics: &[
        &metric::TCP_CONNECTION_OPENS,
        &metric::TCP_CONNECTION_ATTEMPT_FAILURES,
        &metric::TCP_CONNECTION_ESTABLISHED_RESETS,
        &metric::TCP_CONNECTION_ESTABLISHED,
        &metric::TCP_SEGMENTS,
        &metric::TCP_SEGMENT_ERRORS,
        &metric::TCP_SEGMENT_RETRANSMITS,
        &metric::TCP_SEGMENT_RESETS,
        &metric::TCP_LISTEN_DROPS,
    ],
    events: &[],
    open,
};

struct Tcp;

fn open(_: &Opening<'_>) -> Result<Box<dyn Probe>, Skip> {
    Ok(Box::new(Tcp))
}

impl Probe for Tcp {
    fn collect(&mut self, round: &Round<'_>, batch: &mut Batch<'_>) -> Result<(), CollectError> {
        for namespace in round.namespaces() {
            if let Some(snmp) = namespace.snmp() {
                let mut emit =
                    batch.entity(&namespace.namespace.entity, namespace.namespace.started_unix_nano);
                connections(snmp, &mut emit);
                segments(snmp, &mut emit);
                listen(&namespace, &mut emit);
            }
        }
        Ok(())
    }
}

fn connections(snmp: &Counters, emit: &mut Emitter<'_, '_>) {
    let opened = |kind: TcpConnectionOpenKind| [(&key::TCP_CONNECTION_OPEN_KIND, kind.as_str().into())];
    emit_from(
        snmp,
        "TcpActiveOpens",
        emit,
        &metric::TCP_CONNECTION_OPENS,
        &opened(TcpConnectionOpenKind::Active),
    );
    emit_from(
        snmp,
        "TcpPassiveOpens",
        emit,
        &metric::TCP_CONNECTION_OPENS,
        &opened(TcpConnectionOpenKind::Passive),
    );
    emit_from(snmp, "TcpAttemptFails", emit, &metric::TCP_CONNECTION_ATTEMPT_FAILURES, &[]);
    emit_from(snmp, "TcpEstabResets", emit, &metric::TCP_CONNECTION_ESTABLISHED_RESETS, &[]);
    if let Some(established) = snmp.get("TcpCurrEstab") {
        emit.amount(&metric::TCP_CONNECTION_ESTABLISHED, &[], established.cast_signed());
    }
}

fn segments(snmp: &Counters, emit: &mut Emitter<'_, '_>) {
    let direction = |direction: NetworkIoDirection| [(&key::NETWORK_IO_DIRECTION, direction.as_str().into())];
    let error = |reason: TcpSegmentErrorReason| [(&key::TCP_SEGMENT_ERROR_REASON, reason.as_str().into())];
    emit_from(snmp, "TcpInSegs", emit, &metric::TCP_SEGMENTS, &direction(NetworkIoDirection::Receive));
    emit_from(snmp, "TcpOutSegs", emit, &metric::TCP_SEGMENTS, &direction(NetworkIoDirection::Transmit));
    emit_from(snmp, "TcpRetransSegs", emit, &metric::TCP_SEGMENT_RETRANSMITS, &[]);
    emit_from(snmp, "TcpOutRsts", emit, &metric::TCP_SEGMENT_RESETS, &[]);
    // InErrs counts checksum errors too (net/ipv4/tcp_ipv4.c, tcp_v4_rcv, csum_error): the rest is "other".
    if let (Some(errors), Some(checksum)) = (snmp.get("TcpInErrs"), snmp.get("TcpInCsumErrors")) {
        emit.counter(&metric::TCP_SEGMENT_ERRORS, &error(TcpSegmentErrorReason::Checksum), checksum);
        let other = errors.saturating_sub(checksum);
        emit.counter(&metric::TCP_SEGMENT_ERRORS, &error(TcpSegmentErrorReason::Other), other);
    }
}

/// Requests and connections that a listening socket turned away. Every overflow is a drop too
/// (`net/ipv4/tcp_input.c`, `tcp_conn_request`; `tcp_ipv4.c`, `tcp_v4_syn_recv_sock`): the rest is "other".
fn listen(namespace: &InNamespace<'_>, emit: &mut Emitter<'_, '_>) {
    let Some(netstat) = namespace.netstat() else { return };
    let counters = (netstat.get("TcpExtListenDrops"), netstat.get("TcpExtListenOverflows"));
    if let (Some(drops), Some(overflows)) = counters {
        let reason = |reason: TcpListenDropReason| [(&key::TCP_LISTEN_DROP_REASON, reason.as_str().into())];
        emit.counter(&metric::TCP_LISTEN_DROPS, &reason(TcpListenDropReason::Overflow), overflows);
        let other = drops.saturating_sub(overflows);
        emit.counter(&metric::TCP_LISTEN_DROPS, &reason(TcpListenDropReason::Other), other);
    }
}

/// Emits a counter that this kernel has.
pub(super) fn emit_from(
    counters: &Counters,
    name: &str,
    emit: &mut Emitter<'_, '_>,
    metric: &'static jitterscope_semconv::Metric,
    attributes: &[Pair<'_>],
) {
    if let Some(value) = counters.get(name) {
        emit.counter(metric, attributes, value);
    }
}
