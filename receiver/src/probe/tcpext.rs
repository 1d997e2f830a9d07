//! TCP of each namespace in detail, from `/proc/net/netstat` (`net/ipv4/proc.c`, `snmp4_net_list`; `net/mptcp/mib.c`).
//! The kernel counts IPv4 and IPv6 together here.
//!
//! Counters that never count the same happening are one metric with an attribute; those that can overlap have a metric
//! each. What a namespace never counted of the details is left out there, so that it costs nothing; the node always has
//! every series.

mod details;
mod mptcp;

use jitterscope_semconv::{
    attribute as key, metric,
    value::{
        TcpAbortReason as Abort, TcpAckSkipReason as Skipped, TcpListenDropReason as Listen,
        TcpMtuProbeResult as Probed, TcpPawsState as Paws, TcpRequestQueueOverflowAction as Action,
        TcpSegmentDropReason as Drop, TcpSyncookieKind as Cookie,
    },
};

use super::{
    CollectError, Definition, Opening, Overhead, Probe, Skip, Source,
    family::{Family, metrics, rest, row},
};
use crate::{batch::Batch, round::Round};

/// Counters of TCP beyond those of the standard.
pub(super) static DEFINITION: Definition = Definition {
    name: "tcpext",
    use_when: "connections are slow or refused and the cause is wanted: timeouts, aborts, listen drops, full queues",
    source: Source::Procfs,
    overhead: Overhead::Low,
    default: true,
    capabilities: &["CAP_SYS_PTRACE"],
    options: &[],
    metrics: &metrics::<METRICS>(TABLES),
    events: &[],
    open,
};

/// Every counter.
pub(super) const TABLES: &[&[Family]] = &[ALWAYS, details::PLAIN, details::FEATURES, mptcp::ALL];
const METRICS: usize = ALWAYS.len() + details::PLAIN.len() + details::FEATURES.len() + mptcp::ALL.len();

/// What every namespace has, counted or not.
const ALWAYS: &[Family] = &[
    // Every overflow is a drop too (`net/ipv4/tcp_input.c`, `tcp_conn_request`; `tcp_ipv4.c`, `tcp_v4_syn_recv_sock`).
    Family(
        &metric::TCP_LISTEN_DROPS,
        &[&key::TCP_LISTEN_DROP_REASON],
        &[
            row("TcpExtListenOverflows", &[Listen::Overflow.as_str()]),
            rest("TcpExtListenDrops", &["TcpExtListenOverflows"], &[Listen::Other.as_str()]),
        ],
    ),
    Family(
        &metric::TCP_REQUEST_QUEUE_OVERFLOWS,
        &[&key::TCP_REQUEST_QUEUE_OVERFLOW_ACTION],
        &[
            row("TcpExtTCPReqQFullDrop", &[Action::Drop.as_str()]),
            row("TcpExtTCPReqQFullDoCookies", &[Action::Cookie.as_str()]),
        ],
    ),
    Family(
        &metric::TCP_SYNCOOKIES,
        &[&key::TCP_SYNCOOKIE_KIND],
        &[
            row("TcpExtSyncookiesSent", &[Cookie::Sent.as_str()]),
            row("TcpExtSyncookiesRecv", &[Cookie::Received.as_str()]),
            row("TcpExtSyncookiesFailed", &[Cookie::Failed.as_str()]),
        ],
    ),
    Family(&metric::TCP_EMBRYONIC_RESETS, &[], &[row("TcpExtEmbryonicRsts", &[])]),
    Family(&metric::TCP_TIMEOUTS, &[], &[row("TcpExtTCPTimeouts", &[])]),
    Family(&metric::TCP_SPURIOUS_TIMEOUTS, &[], &[row("TcpExtTCPSpuriousRTOs", &[])]),
    Family(&metric::TCP_FAST_RETRANSMITS, &[], &[row("TcpExtTCPFastRetrans", &[])]),
    Family(&metric::TCP_SLOW_START_RETRANSMITS, &[], &[row("TcpExtTCPSlowStartRetrans", &[])]),
    Family(&metric::TCP_SYN_RETRANSMITS, &[], &[row("TcpExtTCPSynRetrans", &[])]),
    Family(&metric::TCP_LOST_RETRANSMITS, &[], &[row("TcpExtTCPLostRetransmit", &[])]),
    Family(&metric::TCP_RETRANSMIT_FAILURES, &[], &[row("TcpExtTCPRetransFail", &[])]),
    Family(&metric::TCP_LOSS_PROBES, &[], &[row("TcpExtTCPLossProbes", &[])]),
    Family(
        &metric::TCP_ABORTS,
        &[&key::TCP_ABORT_REASON],
        &[
            row("TcpExtTCPAbortOnData", &[Abort::Data.as_str()]),
            row("TcpExtTCPAbortOnClose", &[Abort::Close.as_str()]),
            row("TcpExtTCPAbortOnMemory", &[Abort::Memory.as_str()]),
            row("TcpExtTCPAbortOnTimeout", &[Abort::Timeout.as_str()]),
            row("TcpExtTCPAbortOnLinger", &[Abort::Linger.as_str()]),
        ],
    ),
    // No reason of its own: the abort is counted by its reason, this when its reset cannot be sent
    // (`net/ipv4/tcp_output.c`, `tcp_send_active_reset`).
    Family(&metric::TCP_ABORT_FAILURES, &[], &[row("TcpExtTCPAbortFailed", &[])]),
    Family(
        &metric::TCP_ACKS_SKIPPED,
        &[&key::TCP_ACK_SKIP_REASON],
        &[
            row("TcpExtTCPACKSkippedSynRecv", &[Skipped::SynRecv.as_str()]),
            row("TcpExtTCPACKSkippedPAWS", &[Skipped::Paws.as_str()]),
            row("TcpExtTCPACKSkippedSeq", &[Skipped::Seq.as_str()]),
            row("TcpExtTCPACKSkippedFinWait2", &[Skipped::FinWait2.as_str()]),
            row("TcpExtTCPACKSkippedTimeWait", &[Skipped::TimeWait.as_str()]),
            row("TcpExtTCPACKSkippedChallenge", &[Skipped::Challenge.as_str()]),
        ],
    ),
    Family(
        &metric::TCP_SEGMENT_DROPS,
        &[&key::TCP_SEGMENT_DROP_REASON],
        &[
            row("TcpExtTCPRcvQDrop", &[Drop::ReceiveQueue.as_str()]),
            row("TcpExtTCPZeroWindowDrop", &[Drop::ZeroWindow.as_str()]),
            row("TcpExtBeyondWindow", &[Drop::BeyondWindow.as_str()]),
            row("TcpExtTCPBacklogDrop", &[Drop::Backlog.as_str()]),
            row("TcpExtTCPOFODrop", &[Drop::OutOfOrder.as_str()]),
            row("TcpExtPFMemallocDrop", &[Drop::PfMemalloc.as_str()]),
            row("TcpExtTCPMinTTLDrop", &[Drop::MinTtl.as_str()]),
            row("TcpExtTCPDeferAcceptDrop", &[Drop::DeferAccept.as_str()]),
        ],
    ),
    Family(
        &metric::TCP_PAWS_REJECTS,
        &[&key::TCP_PAWS_STATE],
        &[
            row("TcpExtPAWSActive", &[Paws::SynSent.as_str()]),
            row("TcpExtPAWSEstab", &[Paws::Established.as_str()]),
            row("TcpExtPAWSOldAck", &[Paws::OldAck.as_str()]),
            row("TcpExtPAWSTimewait", &[Paws::TimeWait.as_str()]),
        ],
    ),
    Family(&metric::TCP_MEMORY_PRESSURES, &[], &[row("TcpExtTCPMemoryPressures", &[])]),
    Family(&metric::TCP_MEMORY_PRESSURE_TIME, &[], &[row("TcpExtTCPMemoryPressuresChrono", &[])]),
    Family(&metric::TCP_WINDOW_PROBES, &[], &[row("TcpExtTCPWinProbe", &[])]),
    Family(&metric::TCP_KEEPALIVES, &[], &[row("TcpExtTCPKeepAlive", &[])]),
    Family(
        &metric::TCP_MTU_PROBES,
        &[&key::TCP_MTU_PROBE_RESULT],
        &[
            row("TcpExtTCPMTUPSuccess", &[Probed::Success.as_str()]),
            row("TcpExtTCPMTUPFail", &[Probed::Failure.as_str()]),
        ],
    ),
    Family(&metric::TCP_OUT_OF_ORDER_SEGMENTS, &[], &[row("TcpExtTCPOFOQueue", &[])]),
    Family(&metric::TCP_SEND_QUEUE_TOO_BIG, &[], &[row("TcpExtTCPWqueueTooBig", &[])]),
];

struct Tcpext;

fn open(_: &Opening<'_>) -> Result<Box<dyn Probe>, Skip> {
    Ok(Box::new(Tcpext))
}

impl Probe for Tcpext {
    fn collect(&mut self, round: &Round<'_>, batch: &mut Batch<'_>) -> Result<(), CollectError> {
        for namespace in round.namespaces() {
            let Some(netstat) = namespace.netstat() else { continue };
            let node = namespace.namespace.host;
            let mut emit = batch.entity(&namespace.namespace.entity, namespace.namespace.started_unix_nano);
            for (table, zeros) in TABLES.iter().zip([true, node, node, node]) {
                table.iter().for_each(|family| family.emit(&[netstat], zeros, &mut emit));
            }
        }
        Ok(())
    }
}
