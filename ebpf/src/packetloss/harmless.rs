//! The frees that are no loss. `kfree_skb` says "this packet ends here, undelivered", but some callers use it
//! for what was delivered, merged or thrown away with its socket. Each row says why it does not count.

/// How the table recognises a free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The kernel's reason, as in `enum skb_drop_reason`.
    Reason(&'static str),
    /// The function that freed it, where the reason is `NOT_SPECIFIED` or the kernel gives none (before 5.17).
    Function(&'static str),
    /// The same as `Reason`, but only for packets to a multicast or broadcast address.
    MulticastReason(&'static str),
    /// The same as `Function`, but only for packets to a multicast or broadcast address.
    MulticastFunction(&'static str),
}

impl Rule {
    /// The reason it matches, and whether only for multicast.
    pub(crate) fn reason(self) -> Option<(&'static str, bool)> {
        match self {
            Self::Reason(name) => Some((name, false)),
            Self::MulticastReason(name) => Some((name, true)),
            _ => None,
        }
    }

    /// The function it matches, and whether only for multicast.
    pub(crate) fn function(self) -> Option<(&'static str, bool)> {
        match self {
            Self::Function(name) => Some((name, false)),
            Self::MulticastFunction(name) => Some((name, true)),
            _ => None,
        }
    }
}

/// One row: what is not counted, and why.
#[derive(Clone, Copy, Debug)]
pub struct Harmless {
    /// What it matches.
    pub rule: Rule,
    /// Why it is no loss.
    pub why: &'static str,
}

const fn reason(name: &'static str, why: &'static str) -> Harmless {
    Harmless { rule: Rule::Reason(name), why }
}

const fn function(name: &'static str, why: &'static str) -> Harmless {
    Harmless { rule: Rule::Function(name), why }
}

const fn multicast_reason(name: &'static str, why: &'static str) -> Harmless {
    Harmless { rule: Rule::MulticastReason(name), why }
}

const fn multicast_function(name: &'static str, why: &'static str) -> Harmless {
    Harmless { rule: Rule::MulticastFunction(name), why }
}

/// Everything that `packetloss` does not count, besides sk_buffs of sockets that carry no network packets.
pub const HARMLESS: &[Harmless] = &[
    reason("SKB_CONSUMED", "used up normally"),
    reason("SKB_DROP_REASON_QUEUE_PURGE", "queued data of a socket or device that is being closed"),
    reason("SKB_DROP_REASON_SOCKET_CLOSE", "what nobody had read when the socket was closed"),
    reason("SKB_DROP_REASON_UNIX_DISCONNECT", "no network packet"),
    reason("SKB_DROP_REASON_UNIX_SKIP_OOB", "no network packet"),
    reason("SKB_DROP_REASON_TCP_OLD_SEQUENCE", "a keepalive probe, or a copy of what has arrived already"),
    reason("SKB_DROP_REASON_TCP_OLD_DATA", "a copy of data that has arrived already"),
    reason("SKB_DROP_REASON_TCP_OFOMERGE", "a copy of data that waits in the out-of-order queue already"),
    reason("SKB_DROP_REASON_TCP_OLD_ACK", "an acknowledgement that a later one overtook"),
    function("skb_queue_purge", "queued data of a socket or device that is being closed"),
    function("skb_queue_purge_reason", "queued data of a socket or device that is being closed"),
    function("sk_stream_kill_queues", "what nobody had read when the socket was closed"),
    function("icmpv6_rcv", "neighbour discovery, freed after use; bad checksums are in Icmp6InCsumErrors"),
    function("tcp_rcv_state_process", "an acknowledgement of a connection that closes, freed after use"),
    function(
        "ip6_mc_input",
        "multicast to a group that nobody here has joined, neighbours' MLD reports above all",
    ),
    multicast_reason(
        "SKB_DROP_REASON_IP_INNOROUTES",
        "multicast that came before the interface had an IPv6 address",
    ),
    multicast_function("ip6_pkt_discard", "multicast that came before the interface had an IPv6 address"),
];
