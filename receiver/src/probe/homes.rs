//! Where each number of the kernel's counter files goes: to a metric, or nowhere, with the reason.
//!
//! `receiver/counters.md` is written from this; a test holds it against the files of every kernel of the matrix and of the
//! running one, so that no counter is forgotten.

use jitterscope_semconv::{Attribute, Metric, metric};

use super::{family::Family, ip, sock, tcp, tcpext, udp};

/// A counter and what became of it.
pub struct Home {
    /// Its name: as nstat(8) writes it, `TCP:inuse` of `sockstat`, `softnet_stat:0` of a column without a name.
    pub counter: &'static str,
    /// The probe that reads it.
    pub probe: &'static str,
    /// The metric that it is in.
    pub metric: &'static Metric,
    /// The attributes of its point.
    pub attributes: Vec<(&'static Attribute, &'static str)>,
    /// Counters that it contains, which are points of their own and not part of its point.
    pub without: &'static [&'static str],
}

/// Why a number has no metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// It is configured, not counted.
    Setting,
    /// Other numbers say the same: these metrics.
    Duplicate(&'static [&'static Metric]),
    /// It names the line that it stands in.
    Label,
    /// The kernel prints a constant in the place of a counter that it no longer has.
    Removed,
}

const ICMP: LeftOut = LeftOut::Duplicate(&[&metric::ICMP_MESSAGES]);
/// A message is counted by type, or as an error when it was too damaged to have one.
const ICMP_ALL: LeftOut = LeftOut::Duplicate(&[&metric::ICMP_MESSAGES, &metric::ICMP_ERRORS]);

/// The numbers without a metric.
pub const LEFT_OUT: &[(&str, LeftOut)] = &[
    ("IpForwarding", LeftOut::Setting),
    ("IpDefaultTTL", LeftOut::Setting),
    ("TcpRtoAlgorithm", LeftOut::Setting),
    ("TcpRtoMin", LeftOut::Setting),
    ("TcpRtoMax", LeftOut::Setting),
    ("TcpMaxConn", LeftOut::Setting),
    ("IcmpInMsgs", ICMP_ALL),
    ("IcmpOutMsgs", ICMP),
    ("Icmp6InMsgs", ICMP_ALL),
    ("Icmp6OutMsgs", ICMP),
    ("IcmpInDestUnreachs", ICMP),
    ("IcmpInTimeExcds", ICMP),
    ("IcmpInParmProbs", ICMP),
    ("IcmpInSrcQuenchs", ICMP),
    ("IcmpInRedirects", ICMP),
    ("IcmpInEchos", ICMP),
    ("IcmpInEchoReps", ICMP),
    ("IcmpInTimestamps", ICMP),
    ("IcmpInTimestampReps", ICMP),
    ("IcmpInAddrMasks", ICMP),
    ("IcmpInAddrMaskReps", ICMP),
    ("IcmpOutDestUnreachs", ICMP),
    ("IcmpOutTimeExcds", ICMP),
    ("IcmpOutParmProbs", ICMP),
    ("IcmpOutSrcQuenchs", ICMP),
    ("IcmpOutRedirects", ICMP),
    ("IcmpOutEchos", ICMP),
    ("IcmpOutEchoReps", ICMP),
    ("IcmpOutTimestamps", ICMP),
    ("IcmpOutTimestampReps", ICMP),
    ("IcmpOutAddrMasks", ICMP),
    ("IcmpOutAddrMaskReps", ICMP),
    ("Icmp6InDestUnreachs", ICMP),
    ("Icmp6InPktTooBigs", ICMP),
    ("Icmp6InTimeExcds", ICMP),
    ("Icmp6InParmProblems", ICMP),
    ("Icmp6InEchos", ICMP),
    ("Icmp6InEchoReplies", ICMP),
    ("Icmp6InGroupMembQueries", ICMP),
    ("Icmp6InGroupMembResponses", ICMP),
    ("Icmp6InGroupMembReductions", ICMP),
    ("Icmp6InRouterSolicits", ICMP),
    ("Icmp6InRouterAdvertisements", ICMP),
    ("Icmp6InNeighborSolicits", ICMP),
    ("Icmp6InNeighborAdvertisements", ICMP),
    ("Icmp6InRedirects", ICMP),
    ("Icmp6InMLDv2Reports", ICMP),
    ("Icmp6OutDestUnreachs", ICMP),
    ("Icmp6OutPktTooBigs", ICMP),
    ("Icmp6OutTimeExcds", ICMP),
    ("Icmp6OutParmProblems", ICMP),
    ("Icmp6OutEchos", ICMP),
    ("Icmp6OutEchoReplies", ICMP),
    ("Icmp6OutGroupMembQueries", ICMP),
    ("Icmp6OutGroupMembResponses", ICMP),
    ("Icmp6OutGroupMembReductions", ICMP),
    ("Icmp6OutRouterSolicits", ICMP),
    ("Icmp6OutRouterAdvertisements", ICMP),
    ("Icmp6OutNeighborSolicits", ICMP),
    ("Icmp6OutNeighborAdvertisements", ICMP),
    ("Icmp6OutRedirects", ICMP),
    ("Icmp6OutMLDv2Reports", ICMP),
    ("softnet_stat:3", LeftOut::Removed),
    ("softnet_stat:4", LeftOut::Removed),
    ("softnet_stat:5", LeftOut::Removed),
    ("softnet_stat:6", LeftOut::Removed),
    ("softnet_stat:7", LeftOut::Removed),
    ("softnet_stat:8", LeftOut::Removed),
    ("softnet_stat:12", LeftOut::Label),
    ("softnet_stat:13", LeftOut::Duplicate(&[&metric::SOFTNET_BACKLOG])),
    ("softnet_stat:14", LeftOut::Duplicate(&[&metric::SOFTNET_BACKLOG])),
];

/// The columns of `softnet_stat`, which `round::softnet` reads by their place.
const SOFTNET: [(&str, &Metric); 6] = [
    ("softnet_stat:0", &metric::SOFTNET_PACKETS),
    ("softnet_stat:1", &metric::SOFTNET_DROPS),
    ("softnet_stat:2", &metric::SOFTNET_TIME_SQUEEZES),
    ("softnet_stat:9", &metric::SOFTNET_RECEIVED_RPS),
    ("softnet_stat:10", &metric::SOFTNET_FLOW_LIMITS),
    ("softnet_stat:11", &metric::SOFTNET_BACKLOG),
];

/// Every counter that a metric is made of, but ICMP by type: `jitterscope.icmp.messages` has whatever types there are.
pub fn homes() -> Vec<Home> {
    let tables = [tcp::TABLE, udp::TABLE, ip::TABLE, sock::NAMESPACE, sock::NODE, sock::MEMORY];
    let probes = ["tcp", "udp", "ip", "sock", "sock", "sock"];
    let tables = tables.into_iter().zip(probes);
    let tables = tables.chain(tcpext::TABLES.iter().map(|table| (*table, "tcpext")));
    let softnet = SOFTNET.into_iter().map(|(counter, metric)| Home {
        counter,
        probe: "softnet",
        metric,
        attributes: Vec::new(),
        without: &[],
    });
    let named = tables.flat_map(|(table, probe)| table.iter().flat_map(move |family| of(family, probe)));
    named.chain(softnet).collect()
}

fn of(family: &'static Family, probe: &'static str) -> impl Iterator<Item = Home> {
    let Family(metric, keys, rows) = family;
    rows.iter().map(move |row| Home {
        counter: row.counter,
        probe,
        metric,
        attributes: keys.iter().copied().zip(row.values.iter().copied()).collect(),
        without: row.without,
    })
}
