//! Which counter is which: from the names that procfs and nstat(8) write to the slots of the walk's sums.
//!
//! The kernel's own constants say at which place of its table a counter is, and BTF tells them for the running
//! kernel. Constant and printed name are the same word but for its case (`LINUX_MIB_SYNCOOKIESSENT`,
//! `SyncookiesSent`); the exceptions are listed here. A name that fits no constant has no slot: nothing is guessed.

use std::collections::HashMap;

use crate::abi::{
    SLOT_ICMP, SLOT_ICMP_TYPES, SLOT_ICMP6, SLOT_ICMP6_TYPES, SLOT_IP, SLOT_IP6, SLOT_MPTCP, SLOT_NET,
    SLOT_TCP, SLOT_UDP, SLOT_UDP6, SLOT_UDPLITE, SLOT_UDPLITE6,
};
use crate::btf::Btf;

/// A table of the kernel's: how its constants begin, before `_MIB_`, and the printed names that differ from them.
struct Constants {
    prefix: &'static str,
    exceptions: &'static [(&'static str, &'static str)],
}

/// include/uapi/linux/snmp.h against net/ipv4/proc.c and net/ipv6/proc.c. In older kernels (6.1) `OutRequests` is the
/// name of what is `OutTransmits` in newer ones (6.12), which have another constant for the former.
const IP: Constants = Constants {
    prefix: "IPSTATS",
    exceptions: &[
        ("InReceives", "INPKTS"),
        ("ForwDatagrams", "OUTFORWDATAGRAMS"),
        ("OutRequests", "OUTPKTS"),
        ("OutTransmits", "OUTPKTS"),
        ("InCsumErrors", "CSUMERRORS"),
        ("InNoECTPkts", "NOECTPKTS"),
        ("InECT1Pkts", "ECT1PKTS"),
        ("InECT0Pkts", "ECT0PKTS"),
        ("InCEPkts", "CEPKTS"),
    ],
};
const ICMP: Constants = Constants {
    prefix: "ICMP",
    exceptions: &[
        ("InCsumErrors", "CSUMERRORS"),
        ("OutRateLimitGlobal", "RATELIMITGLOBAL"),
        ("OutRateLimitHost", "RATELIMITHOST"),
    ],
};
const ICMP6: Constants = Constants { prefix: "ICMP6", ..ICMP };
const TCP: Constants = Constants { prefix: "TCP", exceptions: &[("InCsumErrors", "CSUMERRORS")] };
const UDP: Constants = Constants { prefix: "UDP", ..TCP };
const NET: Constants = Constants {
    prefix: "LINUX",
    exceptions: &[
        ("TW", "TIMEWAITED"),
        ("TWRecycled", "TIMEWAITRECYCLED"),
        ("TWKilled", "TIMEWAITKILLED"),
        ("PAWSActive", "PAWSACTIVEREJECTED"),
        ("PAWSEstab", "PAWSESTABREJECTED"),
        ("PAWSTimewait", "PAWSTWREJECTED"),
        ("TCPSackShifted", "SACKSHIFTED"),
        ("TCPSackMerged", "SACKMERGED"),
        ("TCPSackShiftFallback", "SACKSHIFTFALLBACK"),
        ("IPReversePathFilter", "IPRPFILTER"),
    ],
};
/// net/mptcp/mib.h against net/mptcp/mib.c.
const MPTCP: Constants = Constants {
    prefix: "MPTCP",
    exceptions: &[
        ("MPCapableSYNRX", "MPCAPABLEPASSIVE"),
        ("MPCapableSYNTX", "MPCAPABLEACTIVE"),
        ("MPCapableSYNACKRX", "MPCAPABLEACTIVEACK"),
        ("MPCapableACKRX", "MPCAPABLEPASSIVEACK"),
        ("MPCapableFallbackACK", "MPCAPABLEPASSIVEFALLBACK"),
        ("MPCapableFallbackSYNACK", "MPCAPABLEACTIVEFALLBACK"),
        ("MPCapableSYNTXDrop", "MPCAPABLEACTIVEDROP"),
        ("MPCapableSYNTXDisabled", "MPCAPABLEACTIVEDISABLED"),
        ("MPFallbackTokenInit", "TOKENFALLBACKINIT"),
        ("MPTCPRetrans", "RETRANSSEGS"),
        ("MPJoinNoTokenFound", "JOINNOTOKEN"),
        ("MPJoinSynRx", "JOINSYNRX"),
        ("MPJoinSynBackupRx", "JOINSYNBACKUPRX"),
        ("MPJoinSynAckRx", "JOINSYNACKRX"),
        ("MPJoinSynAckBackupRx", "JOINSYNACKBACKUPRX"),
        ("MPJoinSynAckHMacFailure", "JOINSYNACKMAC"),
        ("MPJoinAckRx", "JOINACKRX"),
        ("MPJoinAckHMacFailure", "JOINACKMAC"),
        ("MPJoinRejected", "JOINREJECTED"),
        ("MPJoinSynTx", "JOINSYNTX"),
        ("MPJoinSynTxCreatSkErr", "JOINSYNTXCREATSKERR"),
        ("MPJoinSynTxBindErr", "JOINSYNTXBINDERR"),
        ("MPJoinSynTxConnectErr", "JOINSYNTXCONNECTERR"),
        ("MPJoinPortSynRx", "JOINPORTSYNRX"),
        ("MPJoinPortSynAckRx", "JOINPORTSYNACKRX"),
        ("MPJoinPortAckRx", "JOINPORTACKRX"),
        ("DSSNotMatching", "DSSNOMATCH"),
        ("DSSNoMatchTCP", "DSSTCPMISMATCH"),
        ("NoDSSInWindow", "NODSSWINDOW"),
        ("DuplicateData", "DUPDATA"),
        ("MPCurrEstab", "CURRESTAB"),
        ("SimultConnectFallback", "SIMULTCONNFALLBACK"),
    ],
};

/// Tables whose constants are read.
const CONSTANTS: [&Constants; 7] = [&IP, &ICMP, &ICMP6, &TCP, &UDP, &NET, &MPTCP];

/// A group of counters in procfs: how nstat(8) begins their names, the slots of their table, and its messages by type.
struct Group {
    prefix: &'static str,
    constants: &'static Constants,
    slots: (u32, u32),
    types: Option<&'static Types>,
}

/// ICMP messages that have names: where those received are counted by type, 256 slots before those sent.
struct Types {
    slot: u32,
    names: &'static [(u32, &'static str)],
}

/// include/uapi/linux/icmp.h; net/ipv4/proc.c, `icmpmibmap`.
const ICMP_TYPES: Types = Types {
    slot: SLOT_ICMP_TYPES,
    names: &[
        (0, "EchoReps"),
        (3, "DestUnreachs"),
        (4, "SrcQuenchs"),
        (5, "Redirects"),
        (8, "Echos"),
        (11, "TimeExcds"),
        (12, "ParmProbs"),
        (13, "Timestamps"),
        (14, "TimestampReps"),
        (17, "AddrMasks"),
        (18, "AddrMaskReps"),
    ],
};

/// include/uapi/linux/icmpv6.h; net/ipv6/proc.c, `icmp6type2name`.
const ICMP6_TYPES: Types = Types {
    slot: SLOT_ICMP6_TYPES,
    names: &[
        (1, "DestUnreachs"),
        (2, "PktTooBigs"),
        (3, "TimeExcds"),
        (4, "ParmProblems"),
        (128, "Echos"),
        (129, "EchoReplies"),
        (130, "GroupMembQueries"),
        (131, "GroupMembResponses"),
        (132, "GroupMembReductions"),
        (133, "RouterSolicits"),
        (134, "RouterAdvertisements"),
        (135, "NeighborSolicits"),
        (136, "NeighborAdvertisements"),
        (137, "Redirects"),
        (143, "MLDv2Reports"),
    ],
};

const fn group(prefix: &'static str, constants: &'static Constants, slots: (u32, u32)) -> Group {
    Group { prefix, constants, slots, types: None }
}

/// All groups; one whose prefix begins with another's comes before it.
const GROUPS: [Group; 12] = [
    group("IpExt", &IP, (SLOT_IP, SLOT_IP6)),
    group("Ip6", &IP, (SLOT_IP6, SLOT_TCP)),
    group("Ip", &IP, (SLOT_IP, SLOT_IP6)),
    group("TcpExt", &NET, (SLOT_NET, SLOT_UDP)),
    group("Tcp", &TCP, (SLOT_TCP, SLOT_NET)),
    group("UdpLite6", &UDP, (SLOT_UDPLITE6, SLOT_ICMP)),
    group("UdpLite", &UDP, (SLOT_UDPLITE, SLOT_UDPLITE6)),
    group("Udp6", &UDP, (SLOT_UDP6, SLOT_UDPLITE)),
    group("Udp", &UDP, (SLOT_UDP, SLOT_UDP6)),
    Group { types: Some(&ICMP6_TYPES), ..group("Icmp6", &ICMP6, (SLOT_ICMP6, SLOT_MPTCP)) },
    Group { types: Some(&ICMP_TYPES), ..group("Icmp", &ICMP, (SLOT_ICMP, SLOT_ICMP6)) },
    group("MPTcpExt", &MPTCP, (SLOT_MPTCP, SLOT_ICMP_TYPES)),
];

/// A counter of procfs that the walk does not give for sure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmapped {
    /// No constant of the kernel is called so.
    #[error("no constant of the kernel for the counter {0}")]
    Unknown(String),
    /// Another counter has the same constant.
    #[error("the counter {0} has the constant of another one")]
    Ambiguous(String),
}

/// The running kernel's constants by prefix, in capitals and without underscores.
#[derive(Debug)]
pub struct Names {
    constants: HashMap<&'static str, HashMap<String, u64>>,
}

impl Names {
    /// Reads the constants.
    pub fn read(btf: &Btf) -> Self {
        let read = |table: &&Constants| (table.prefix, constants(btf, table.prefix));
        Self { constants: CONSTANTS.iter().map(read).collect() }
    }

    /// The slot of each counter of a table of procfs, by their names in nstat(8).
    pub fn slots<'n>(&self, names: impl Iterator<Item = &'n str>) -> Result<Vec<usize>, Unmapped> {
        let mut slots = Vec::new();
        for name in names {
            match self.slot(name) {
                None => return Err(Unmapped::Unknown(name.to_owned())),
                Some(slot) if slots.contains(&slot) => return Err(Unmapped::Ambiguous(name.to_owned())),
                Some(slot) => slots.push(slot),
            }
        }
        Ok(slots)
    }

    /// The slot of one counter; `None` when it is not among the sums.
    pub fn slot(&self, name: &str) -> Option<usize> {
        let group = GROUPS.iter().find(|group| name.starts_with(group.prefix))?;
        let column = name.strip_prefix(group.prefix)?;
        if let Some(slot) = group.types.and_then(|types| types.slot(column)) {
            return Some(slot as usize);
        }
        let slot = group.slots.0 + self.constant(group.constants, column)?;
        (slot < group.slots.1).then_some(slot as usize)
    }

    /// The constant that is called like a column, else what the kernel calls it otherwise.
    fn constant(&self, table: &Constants, column: &str) -> Option<u32> {
        let known = self.constants.get(table.prefix)?;
        let other =
            || table.exceptions.iter().find(|(name, _)| *name == column).map(|(_, constant)| *constant);
        let value = known.get(&fold(column)).or_else(|| known.get(other()?))?;
        u32::try_from(*value).ok()
    }
}

impl Types {
    fn slot(&self, column: &str) -> Option<u32> {
        let (start, name) = match column.strip_prefix("In") {
            Some(name) => (self.slot, name),
            None => (self.slot + 256, column.strip_prefix("Out")?),
        };
        self.names.iter().find(|(_, known)| *known == name).map(|(number, _)| start + number)
    }
}

fn constants(btf: &Btf, prefix: &str) -> HashMap<String, u64> {
    // The end of the table is no counter, and like no column's name.
    let all = btf.enumerators_beside(&format!("__{prefix}_MIB_MAX")).unwrap_or_default();
    let start = format!("{prefix}_MIB_");
    all.into_iter().filter_map(|(name, value)| Some((fold(name.strip_prefix(&start)?), value))).collect()
}

fn fold(name: &str) -> String {
    name.chars().filter(|letter| *letter != '_').map(|letter| letter.to_ascii_uppercase()).collect()
}
