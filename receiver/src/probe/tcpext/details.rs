//! The details of `tcpext`: counters that explain what the others show.

use jitterscope_semconv::{
    attribute as key, metric,
    value::{
        NetworkIoDirection as Way, TcpAoRejectReason as Ao, TcpDsackIgnoreReason as Ignored,
        TcpDsackKind as Dsack, TcpFastOpenKind as FastOpen, TcpHystartDetection as Hystart,
        TcpMd5RejectReason as Md5, TcpRecoveryAlgorithm as Algorithm, TcpRecoveryState as State,
        TcpRehashReason as Rehash, TcpReorderingDetection as Reordering,
        TcpRequestMigrationResult as Migration, TcpSackShiftResult as Shift, TcpTimeWaitEnd as End,
        TcpUndoKind as Undo, TcpZeroWindowChange as Change,
    },
};

use super::super::family::{Family, row};

/// Queues, acknowledgements, recovery.
pub(super) const PLAIN: &[Family] = &[
    Family(&metric::TCP_OUT_OF_ORDER_OVERLAPS, &[], &[row("TcpExtTCPOFOMerge", &[])]),
    Family(&metric::TCP_OUT_OF_ORDER_PRUNES, &[], &[row("TcpExtOfoPruned", &[])]),
    Family(&metric::TCP_RECEIVE_QUEUE_PRUNES, &[], &[row("TcpExtPruneCalled", &[])]),
    Family(&metric::TCP_RECEIVE_QUEUE_PRUNE_FAILURES, &[], &[row("TcpExtRcvPruned", &[])]),
    Family(&metric::TCP_RECEIVE_QUEUE_COLLAPSES, &[], &[row("TcpExtTCPRcvCollapsed", &[])]),
    Family(&metric::TCP_RECEIVE_QUEUE_MERGES, &[], &[row("TcpExtTCPRcvCoalesce", &[])]),
    Family(&metric::TCP_BACKLOG_MERGES, &[], &[row("TcpExtTCPBacklogCoalesce", &[])]),
    Family(&metric::TCP_ACKS_DELAYED, &[], &[row("TcpExtDelayedACKs", &[])]),
    Family(&metric::TCP_ACKS_DEFERRED, &[], &[row("TcpExtDelayedACKLocked", &[])]),
    Family(&metric::TCP_ACKS_REPEATED, &[], &[row("TcpExtDelayedACKLost", &[])]),
    Family(&metric::TCP_ACKS_COMPRESSED, &[], &[row("TcpExtTCPAckCompressed", &[])]),
    Family(&metric::TCP_PURE_ACKS, &[], &[row("TcpExtTCPPureAcks", &[])]),
    Family(&metric::TCP_CHALLENGE_ACKS, &[], &[row("TcpExtTCPChallengeACK", &[])]),
    Family(&metric::TCP_SYN_CHALLENGES, &[], &[row("TcpExtTCPSYNChallenge", &[])]),
    Family(&metric::TCP_ORIGINAL_SEGMENTS, &[], &[row("TcpExtTCPOrigDataSent", &[])]),
    Family(&metric::TCP_DELIVERED_SEGMENTS, &[], &[row("TcpExtTCPDelivered", &[])]),
    Family(&metric::TCP_DELIVERED_CE_SEGMENTS, &[], &[row("TcpExtTCPDeliveredCE", &[])]),
    Family(&metric::TCP_AUTOCORKS, &[], &[row("TcpExtTCPAutoCorking", &[])]),
    Family(
        &metric::TCP_RECOVERIES,
        &[&key::TCP_RECOVERY_ALGORITHM],
        &[
            row("TcpExtTCPRenoRecovery", &[Algorithm::Reno.as_str()]),
            row("TcpExtTCPSackRecovery", &[Algorithm::Sack.as_str()]),
        ],
    ),
    // One of them at the first timeout (`net/ipv4/tcp_timer.c`, `tcp_retransmit_timer`).
    Family(
        &metric::TCP_RECOVERY_FAILURES,
        &[&key::TCP_RECOVERY_STATE],
        &[
            row("TcpExtTCPSackRecoveryFail", &[State::SackRecovery.as_str()]),
            row("TcpExtTCPRenoRecoveryFail", &[State::RenoRecovery.as_str()]),
            row("TcpExtTCPSackFailures", &[State::SackDisorder.as_str()]),
            row("TcpExtTCPRenoFailures", &[State::RenoDisorder.as_str()]),
            row("TcpExtTCPLossFailures", &[State::Loss.as_str()]),
        ],
    ),
    Family(
        &metric::TCP_REORDERINGS,
        &[&key::TCP_REORDERING_DETECTION],
        &[
            row("TcpExtTCPSACKReorder", &[Reordering::Sack.as_str()]),
            row("TcpExtTCPRenoReorder", &[Reordering::Reno.as_str()]),
            row("TcpExtTCPTSReorder", &[Reordering::Timestamp.as_str()]),
        ],
    ),
    Family(
        &metric::TCP_UNDOS,
        &[&key::TCP_UNDO_KIND],
        &[
            row("TcpExtTCPFullUndo", &[Undo::Full.as_str()]),
            row("TcpExtTCPPartialUndo", &[Undo::Partial.as_str()]),
            row("TcpExtTCPDSACKUndo", &[Undo::Dsack.as_str()]),
            row("TcpExtTCPLossUndo", &[Undo::Loss.as_str()]),
        ],
    ),
    Family(&metric::TCP_LOSS_PROBE_RECOVERIES, &[], &[row("TcpExtTCPLossProbeRecovery", &[])]),
    Family(&metric::TCP_SPURIOUS_RETRANSMITS, &[], &[row("TcpExtTCPSpuriousRtxHostQueues", &[])]),
    Family(
        &metric::TCP_TIME_WAIT_ENDS,
        &[&key::TCP_TIME_WAIT_END],
        &[
            row("TcpExtTW", &[End::Timeout.as_str()]),
            row("TcpExtTWRecycled", &[End::Reuse.as_str()]),
            row("TcpExtTWKilled", &[End::Killed.as_str()]),
        ],
    ),
    Family(&metric::TCP_TIME_WAIT_OVERFLOWS, &[], &[row("TcpExtTCPTimeWaitOverflow", &[])]),
    Family(
        &metric::TCP_REQUEST_MIGRATIONS,
        &[&key::TCP_REQUEST_MIGRATION_RESULT],
        &[
            row("TcpExtTCPMigrateReqSuccess", &[Migration::Success.as_str()]),
            row("TcpExtTCPMigrateReqFailure", &[Migration::Failure.as_str()]),
        ],
    ),
    Family(
        &metric::TCP_ZERO_WINDOW_ADVERTISEMENTS,
        &[&key::TCP_ZERO_WINDOW_CHANGE],
        &[
            row("TcpExtTCPToZeroWindowAdv", &[Change::To.as_str()]),
            row("TcpExtTCPFromZeroWindowAdv", &[Change::From.as_str()]),
        ],
    ),
    Family(&metric::TCP_ZERO_WINDOW_AVOIDANCES, &[], &[row("TcpExtTCPWantZeroWindowAdv", &[])]),
    Family(
        &metric::TCP_REHASHES,
        &[&key::TCP_REHASH_REASON],
        &[
            row("TcpExtTcpTimeoutRehash", &[Rehash::Timeout.as_str()]),
            row("TcpExtTcpDuplicateDataRehash", &[Rehash::DuplicateData.as_str()]),
            row("TcpExtTCPPLBRehash", &[Rehash::Congestion.as_str()]),
        ],
    ),
];

/// Options of TCP, and what the kernel prints here of other protocols.
pub(super) const FEATURES: &[Family] = &[
    Family(&metric::TCP_HEADER_PREDICTION_SEGMENTS, &[], &[row("TcpExtTCPHPHits", &[])]),
    Family(&metric::TCP_HEADER_PREDICTION_ACKS, &[], &[row("TcpExtTCPHPAcks", &[])]),
    Family(&metric::TCP_SACK_RENEGES, &[], &[row("TcpExtTCPSACKReneging", &[])]),
    Family(&metric::TCP_SACK_DISCARDED_BLOCKS, &[], &[row("TcpExtTCPSACKDiscard", &[])]),
    Family(
        &metric::TCP_SACK_SHIFTS,
        &[&key::TCP_SACK_SHIFT_RESULT],
        &[
            row("TcpExtTCPSackShifted", &[Shift::Shifted.as_str()]),
            row("TcpExtTCPSackMerged", &[Shift::Merged.as_str()]),
            row("TcpExtTCPSackShiftFallback", &[Shift::Fallback.as_str()]),
        ],
    ),
    Family(
        &metric::TCP_DSACK_BLOCKS,
        &[&key::NETWORK_IO_DIRECTION, &key::TCP_DSACK_KIND],
        &[
            row("TcpExtTCPDSACKRecv", &[Way::Receive.as_str(), Dsack::Old.as_str()]),
            row("TcpExtTCPDSACKOfoRecv", &[Way::Receive.as_str(), Dsack::OutOfOrder.as_str()]),
            row("TcpExtTCPDSACKOldSent", &[Way::Transmit.as_str(), Dsack::Old.as_str()]),
            row("TcpExtTCPDSACKOfoSent", &[Way::Transmit.as_str(), Dsack::OutOfOrder.as_str()]),
        ],
    ),
    Family(&metric::TCP_DSACK_SEGMENTS, &[], &[row("TcpExtTCPDSACKRecvSegs", &[])]),
    Family(
        &metric::TCP_DSACK_IGNORED_BLOCKS,
        &[&key::TCP_DSACK_IGNORE_REASON],
        &[
            row("TcpExtTCPDSACKIgnoredOld", &[Ignored::Old.as_str()]),
            row("TcpExtTCPDSACKIgnoredNoUndo", &[Ignored::NoUndo.as_str()]),
            row("TcpExtTCPDSACKIgnoredDubious", &[Ignored::Dubious.as_str()]),
        ],
    ),
    Family(
        &metric::TCP_FAST_OPEN_CONNECTIONS,
        &[&key::TCP_FAST_OPEN_KIND],
        &[
            row("TcpExtTCPFastOpenActive", &[FastOpen::Active.as_str()]),
            row("TcpExtTCPFastOpenPassive", &[FastOpen::Passive.as_str()]),
        ],
    ),
    Family(
        &metric::TCP_FAST_OPEN_FAILURES,
        &[&key::TCP_FAST_OPEN_KIND],
        &[
            row("TcpExtTCPFastOpenActiveFail", &[FastOpen::Active.as_str()]),
            row("TcpExtTCPFastOpenPassiveFail", &[FastOpen::Passive.as_str()]),
        ],
    ),
    Family(&metric::TCP_FAST_OPEN_ALTERNATIVE_KEYS, &[], &[row("TcpExtTCPFastOpenPassiveAltKey", &[])]),
    Family(&metric::TCP_FAST_OPEN_COOKIE_REQUESTS, &[], &[row("TcpExtTCPFastOpenCookieReqd", &[])]),
    Family(&metric::TCP_FAST_OPEN_LISTEN_OVERFLOWS, &[], &[row("TcpExtTCPFastOpenListenOverflow", &[])]),
    Family(&metric::TCP_FAST_OPEN_BLACKHOLES, &[], &[row("TcpExtTCPFastOpenBlackhole", &[])]),
    Family(&metric::TCP_TIMESTAMP_ECHO_REJECTS, &[], &[row("TcpExtTSEcrRejected", &[])]),
    Family(
        &metric::TCP_MD5_REJECTS,
        &[&key::TCP_MD5_REJECT_REASON],
        &[
            row("TcpExtTCPMD5NotFound", &[Md5::NotFound.as_str()]),
            row("TcpExtTCPMD5Unexpected", &[Md5::Unexpected.as_str()]),
            row("TcpExtTCPMD5Failure", &[Md5::Failure.as_str()]),
        ],
    ),
    Family(
        &metric::TCP_AO_REJECTS,
        &[&key::TCP_AO_REJECT_REASON],
        &[
            row("TcpExtTCPAORequired", &[Ao::Required.as_str()]),
            row("TcpExtTCPAOBad", &[Ao::Bad.as_str()]),
            row("TcpExtTCPAOKeyNotFound", &[Ao::KeyNotFound.as_str()]),
        ],
    ),
    Family(&metric::TCP_AO_ACCEPTS, &[], &[row("TcpExtTCPAOGood", &[])]),
    Family(
        &metric::TCP_HYSTART_EXITS,
        &[&key::TCP_HYSTART_DETECTION],
        &[
            row("TcpExtTCPHystartTrainDetect", &[Hystart::Train.as_str()]),
            row("TcpExtTCPHystartDelayDetect", &[Hystart::Delay.as_str()]),
        ],
    ),
    Family(
        &metric::TCP_HYSTART_SEGMENTS,
        &[&key::TCP_HYSTART_DETECTION],
        &[
            row("TcpExtTCPHystartTrainCwnd", &[Hystart::Train.as_str()]),
            row("TcpExtTCPHystartDelayCwnd", &[Hystart::Delay.as_str()]),
        ],
    ),
    // An error that finds its socket in use may be dropped as out of the window too (`net/ipv4/tcp_ipv4.c`, `tcp_v4_err`).
    Family(&metric::TCP_ICMP_LOCKED_MESSAGES, &[], &[row("TcpExtLockDroppedIcmps", &[])]),
    Family(&metric::TCP_ICMP_OUT_OF_WINDOW_DROPS, &[], &[row("TcpExtOutOfWindowIcmps", &[])]),
    Family(&metric::TCP_ICMP_UNAUTHENTICATED_DROPS, &[], &[row("TcpExtTCPAODroppedIcmps", &[])]),
    Family(&metric::IP_REVERSE_PATH_DROPS, &[], &[row("TcpExtIPReversePathFilter", &[])]),
    Family(&metric::ARP_FILTER_DROPS, &[], &[row("TcpExtArpFilter", &[])]),
    Family(&metric::SOCKET_BUSY_POLL_PACKETS, &[], &[row("TcpExtBusyPollRxPackets", &[])]),
];
