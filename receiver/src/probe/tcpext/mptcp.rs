//! Multipath TCP, which the kernel prints beside TCP (`net/mptcp/mib.c`, `mptcp_seq_show`).

use jitterscope_semconv::{
    attribute as key, metric,
    value::{
        MptcpFallbackReason as Fallback, MptcpHandshakeMessage as Handshake,
        MptcpJoinFailureReason as Refused, MptcpMessageKind as Kind, MptcpResetReason as Reset,
        MptcpSegmentDropReason as Dropped, MptcpSubflowChangeKind as Subflow, NetworkIoDirection as Way,
    },
};

use super::super::family::{Family, row};

const IN: &str = Way::Receive.as_str();
const OUT: &str = Way::Transmit.as_str();

/// All of it.
pub(super) const ALL: &[Family] = &[
    Family(&metric::MPTCP_CONNECTION_ESTABLISHED, &[], &[row("MPTcpExtMPCurrEstab", &[])]),
    Family(
        &metric::MPTCP_CAPABLE_MESSAGES,
        &[&key::NETWORK_IO_DIRECTION, &key::MPTCP_HANDSHAKE_MESSAGE],
        &[
            row("MPTcpExtMPCapableSYNRX", &[IN, Handshake::Syn.as_str()]),
            row("MPTcpExtMPCapableSYNTX", &[OUT, Handshake::Syn.as_str()]),
            row("MPTcpExtMPCapableSYNACKRX", &[IN, Handshake::SynAck.as_str()]),
            row("MPTcpExtMPCapableACKRX", &[IN, Handshake::Ack.as_str()]),
        ],
    ),
    Family(&metric::MPTCP_CAPABLE_SYN_DROPS, &[], &[row("MPTcpExtMPCapableSYNTXDrop", &[])]),
    Family(&metric::MPTCP_CAPABLE_SUPPRESSED_SYNS, &[], &[row("MPTcpExtMPCapableSYNTXDisabled", &[])]),
    Family(&metric::MPTCP_CAPABLE_ENDPOINT_ATTEMPTS, &[], &[row("MPTcpExtMPCapableEndpAttempt", &[])]),
    Family(
        &metric::MPTCP_FALLBACKS,
        &[&key::MPTCP_FALLBACK_REASON],
        &[
            row("MPTcpExtMPCapableFallbackACK", &[Fallback::Ack.as_str()]),
            row("MPTcpExtMPCapableFallbackSYNACK", &[Fallback::SynAck.as_str()]),
            row("MPTcpExtMPFallbackTokenInit", &[Fallback::Token.as_str()]),
            row("MPTcpExtDSSCorruptionFallback", &[Fallback::Corruption.as_str()]),
            row("MPTcpExtMPCapableDataFallback", &[Fallback::Data.as_str()]),
            row("MPTcpExtMD5SigFallback", &[Fallback::Md5.as_str()]),
            row("MPTcpExtDssFallback", &[Fallback::Mapping.as_str()]),
            row("MPTcpExtSimultConnectFallback", &[Fallback::Simultaneous.as_str()]),
        ],
    ),
    Family(&metric::MPTCP_FALLBACK_FAILURES, &[], &[row("MPTcpExtFallbackFailed", &[])]),
    Family(
        &metric::MPTCP_JOIN_MESSAGES,
        &[&key::NETWORK_IO_DIRECTION, &key::MPTCP_HANDSHAKE_MESSAGE],
        &[
            row("MPTcpExtMPJoinSynRx", &[IN, Handshake::Syn.as_str()]),
            row("MPTcpExtMPJoinSynTx", &[OUT, Handshake::Syn.as_str()]),
            row("MPTcpExtMPJoinSynAckRx", &[IN, Handshake::SynAck.as_str()]),
            row("MPTcpExtMPJoinAckRx", &[IN, Handshake::Ack.as_str()]),
        ],
    ),
    Family(
        &metric::MPTCP_JOIN_BACKUP_MESSAGES,
        &[&key::MPTCP_HANDSHAKE_MESSAGE],
        &[
            row("MPTcpExtMPJoinSynBackupRx", &[Handshake::Syn.as_str()]),
            row("MPTcpExtMPJoinSynAckBackupRx", &[Handshake::SynAck.as_str()]),
        ],
    ),
    Family(
        &metric::MPTCP_JOIN_PORT_MESSAGES,
        &[&key::MPTCP_HANDSHAKE_MESSAGE],
        &[
            row("MPTcpExtMPJoinPortSynRx", &[Handshake::Syn.as_str()]),
            row("MPTcpExtMPJoinPortSynAckRx", &[Handshake::SynAck.as_str()]),
            row("MPTcpExtMPJoinPortAckRx", &[Handshake::Ack.as_str()]),
        ],
    ),
    Family(
        &metric::MPTCP_JOIN_FAILURES,
        &[&key::MPTCP_JOIN_FAILURE_REASON],
        &[
            row("MPTcpExtMPJoinNoTokenFound", &[Refused::NoToken.as_str()]),
            row("MPTcpExtMPJoinSynAckHMacFailure", &[Refused::SynAckHmac.as_str()]),
            row("MPTcpExtMPJoinAckHMacFailure", &[Refused::AckHmac.as_str()]),
            row("MPTcpExtMPJoinAckNoMPJoin", &[Refused::AckOption.as_str()]),
            row("MPTcpExtMPJoinAckNoCtx", &[Refused::AckContext.as_str()]),
            row("MPTcpExtMPJoinSynAckNoMPJoin", &[Refused::SynAckOption.as_str()]),
            row("MPTcpExtMPJoinNoIdFound", &[Refused::NoId.as_str()]),
            row("MPTcpExtMPJoinNotEstablished", &[Refused::NotEstablished.as_str()]),
            row("MPTcpExtMPJoinRejected", &[Refused::Rejected.as_str()]),
            row("MPTcpExtMismatchPortSynRx", &[Refused::SynPort.as_str()]),
            row("MPTcpExtMismatchPortAckRx", &[Refused::AckPort.as_str()]),
            row("MPTcpExtMPJoinSynTxCreatSkErr", &[Refused::Socket.as_str()]),
            row("MPTcpExtMPJoinSynTxBindErr", &[Refused::Bind.as_str()]),
            row("MPTcpExtMPJoinSynTxConnectErr", &[Refused::Connect.as_str()]),
        ],
    ),
    Family(
        &metric::MPTCP_MESSAGES,
        &[&key::NETWORK_IO_DIRECTION, &key::MPTCP_MESSAGE_KIND],
        &[
            row("MPTcpExtAddAddr", &[IN, Kind::AddAddress.as_str()]),
            row("MPTcpExtAddAddrTx", &[OUT, Kind::AddAddress.as_str()]),
            row("MPTcpExtEchoAdd", &[IN, Kind::EchoAddress.as_str()]),
            row("MPTcpExtEchoAddTx", &[OUT, Kind::EchoAddress.as_str()]),
            row("MPTcpExtRmAddr", &[IN, Kind::RemoveAddress.as_str()]),
            row("MPTcpExtRmAddrTx", &[OUT, Kind::RemoveAddress.as_str()]),
            row("MPTcpExtMPPrioRx", &[IN, Kind::Priority.as_str()]),
            row("MPTcpExtMPPrioTx", &[OUT, Kind::Priority.as_str()]),
            row("MPTcpExtMPFailRx", &[IN, Kind::Fail.as_str()]),
            row("MPTcpExtMPFailTx", &[OUT, Kind::Fail.as_str()]),
            row("MPTcpExtMPFastcloseRx", &[IN, Kind::FastClose.as_str()]),
            row("MPTcpExtMPFastcloseTx", &[OUT, Kind::FastClose.as_str()]),
            row("MPTcpExtMPRstRx", &[IN, Kind::Reset.as_str()]),
            row("MPTcpExtMPRstTx", &[OUT, Kind::Reset.as_str()]),
        ],
    ),
    Family(
        &metric::MPTCP_MESSAGE_DROPS,
        &[&key::NETWORK_IO_DIRECTION, &key::MPTCP_MESSAGE_KIND],
        &[
            row("MPTcpExtAddAddrDrop", &[IN, Kind::AddAddress.as_str()]),
            row("MPTcpExtAddAddrTxDrop", &[OUT, Kind::AddAddress.as_str()]),
            row("MPTcpExtEchoAddTxDrop", &[OUT, Kind::EchoAddress.as_str()]),
            row("MPTcpExtRmAddrDrop", &[IN, Kind::RemoveAddress.as_str()]),
            row("MPTcpExtRmAddrTxDrop", &[OUT, Kind::RemoveAddress.as_str()]),
        ],
    ),
    Family(&metric::MPTCP_ADDRESS_PORT_MESSAGES, &[], &[row("MPTcpExtPortAdd", &[])]),
    Family(
        &metric::MPTCP_SUBFLOW_CHANGES,
        &[&key::MPTCP_SUBFLOW_CHANGE_KIND],
        &[
            row("MPTcpExtSubflowStale", &[Subflow::Stale.as_str()]),
            row("MPTcpExtSubflowRecover", &[Subflow::Recovered.as_str()]),
            row("MPTcpExtRmSubflow", &[Subflow::Removed.as_str()]),
        ],
    ),
    Family(&metric::MPTCP_RETRANSMITS, &[], &[row("MPTcpExtMPTCPRetrans", &[])]),
    Family(&metric::MPTCP_DUPLICATE_SEGMENTS, &[], &[row("MPTcpExtDuplicateData", &[])]),
    Family(&metric::MPTCP_OUT_OF_ORDER_SEGMENTS, &[], &[row("MPTcpExtOFOQueue", &[])]),
    Family(&metric::MPTCP_OUT_OF_ORDER_TAIL_SEGMENTS, &[], &[row("MPTcpExtOFOQueueTail", &[])]),
    Family(&metric::MPTCP_OUT_OF_ORDER_MERGES, &[], &[row("MPTcpExtOFOMerge", &[])]),
    Family(&metric::MPTCP_OUT_OF_WINDOW_SEGMENTS, &[], &[row("MPTcpExtNoDSSInWindow", &[])]),
    Family(
        &metric::MPTCP_SEGMENT_DROPS,
        &[&key::MPTCP_SEGMENT_DROP_REASON],
        &[
            row("MPTcpExtRcvPruned", &[Dropped::ReceiveQueue.as_str()]),
            row("MPTcpExtBacklogDrop", &[Dropped::Backlog.as_str()]),
            row("MPTcpExtOFOPruned", &[Dropped::OutOfOrder.as_str()]),
        ],
    ),
    Family(&metric::MPTCP_CHECKSUM_ERRORS, &[], &[row("MPTcpExtDataCsumErr", &[])]),
    Family(&metric::MPTCP_DSS_MISMATCHES, &[], &[row("MPTcpExtDSSNotMatching", &[])]),
    Family(&metric::MPTCP_DSS_TCP_MISMATCHES, &[], &[row("MPTcpExtDSSNoMatchTCP", &[])]),
    Family(
        &metric::MPTCP_RESETS,
        &[&key::MPTCP_RESET_REASON],
        &[
            row("MPTcpExtDSSCorruptionReset", &[Reset::Corruption.as_str()]),
            row("MPTcpExtDssReset", &[Reset::Mapping.as_str()]),
            row("MPTcpExtMD5SigReset", &[Reset::Md5.as_str()]),
        ],
    ),
    Family(
        &metric::MPTCP_INFINITE_MAPPINGS,
        &[&key::NETWORK_IO_DIRECTION],
        &[row("MPTcpExtInfiniteMapRx", &[IN]), row("MPTcpExtInfiniteMapTx", &[OUT])],
    ),
    Family(&metric::MPTCP_SEND_WINDOW_SHARES, &[], &[row("MPTcpExtSndWndShared", &[])]),
    Family(&metric::MPTCP_RECEIVE_WINDOW_SHARES, &[], &[row("MPTcpExtRcvWndShared", &[])]),
    Family(&metric::MPTCP_RECEIVE_WINDOW_CONFLICTS, &[], &[row("MPTcpExtRcvWndConflict", &[])]),
    Family(&metric::MPTCP_RECEIVE_WINDOW_CONFLICT_UPDATES, &[], &[row("MPTcpExtRcvWndConflictUpdate", &[])]),
    Family(&metric::MPTCP_WINDOW_PROBES, &[], &[row("MPTcpExtWinProbe", &[])]),
    Family(&metric::MPTCP_BLACKHOLES, &[], &[row("MPTcpExtBlackhole", &[])]),
];
