//! The frees that are no loss. `kfree_skb` says "this packet ends here, undelivered", but some callers use it
//! for what was delivered, merged or thrown away with its socket. Each row says why it does not count.

use crate::abi::{
    VERDICT_HARMLESS, VERDICT_HARMLESS_IF_FIN, VERDICT_HARMLESS_IF_MULTICAST, verdict as Verdict,
};

/// How a row recognises a free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// By the kernel's reason, as in `enum skb_drop_reason`.
    Reason(&'static str),
    /// By the function that freed it, where the reason is `NOT_SPECIFIED` or the kernel gives none (before 5.17).
    Function(&'static str),
}

/// Which of the packets freed there a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Only {
    /// All.
    Any,
    /// Those to a multicast or broadcast address.
    Multicast,
    /// TCP segments with FIN.
    Fin,
}

/// One row: what is not counted, and why.
#[derive(Clone, Copy, Debug)]
pub struct Harmless {
    /// What it matches.
    pub by: By,
    /// Which packets.
    pub only: Only,
    /// Why it is no loss.
    pub why: &'static str,
}

impl Harmless {
    /// What the C file calls this row.
    pub(crate) fn verdict(&self) -> Verdict {
        match self.only {
            Only::Any => VERDICT_HARMLESS,
            Only::Multicast => VERDICT_HARMLESS_IF_MULTICAST,
            Only::Fin => VERDICT_HARMLESS_IF_FIN,
        }
    }
}

const fn reason(name: &'static str, only: Only, why: &'static str) -> Harmless {
    Harmless { by: By::Reason(name), only, why }
}

const fn function(name: &'static str, only: Only, why: &'static str) -> Harmless {
    Harmless { by: By::Function(name), only, why }
}

const CLOSED: &str = "what nobody had read or sent when the socket or device was closed";
const NO_PACKET: &str = "data of a Unix socket, no network packet";
const COPY: &str = "a copy of what has arrived already, or a keepalive probe";
const NOT_JOINED: &str = "multicast to a group that nobody here has joined";
const EARLY: &str = "multicast that came before the interface had an address of that family";
const TIME_WAIT: &str = "a FIN that a connection in TIME-WAIT has answered";

/// Everything that `packetloss` does not count, besides `sk_buff`s of sockets that carry no network packets.
pub const HARMLESS: &[Harmless] = &[
    reason("SKB_CONSUMED", Only::Any, "used up normally"),
    reason("SKB_DROP_REASON_QUEUE_PURGE", Only::Any, CLOSED),
    reason("SKB_DROP_REASON_SOCKET_CLOSE", Only::Any, CLOSED),
    reason("SKB_DROP_REASON_UNIX_DISCONNECT", Only::Any, NO_PACKET),
    reason("SKB_DROP_REASON_UNIX_SKIP_OOB", Only::Any, NO_PACKET),
    reason("SKB_DROP_REASON_TCP_OLD_SEQUENCE", Only::Any, COPY),
    reason("SKB_DROP_REASON_TCP_OLD_DATA", Only::Any, COPY),
    reason("SKB_DROP_REASON_TCP_OFOMERGE", Only::Any, COPY),
    reason("SKB_DROP_REASON_TCP_OLD_ACK", Only::Any, "an acknowledgement that a later one overtook"),
    reason("SKB_DROP_REASON_TCP_RFC7323_PAWS_ACK", Only::Any, "an acknowledgement that a later one overtook"),
    reason("SKB_DROP_REASON_TCP_CLOSE", Only::Fin, "a FIN for a connection that was closed meanwhile"),
    reason("SKB_DROP_REASON_IP_INNOROUTES", Only::Multicast, EARLY),
    reason("SKB_DROP_REASON_IP_INADDRERRORS", Only::Multicast, EARLY),
    reason("SKB_DROP_REASON_NO_TX_TARGET", Only::Multicast, "multicast out of a bridge that has no ports"),
    function("skb_queue_purge", Only::Any, CLOSED),
    function("skb_queue_purge_reason", Only::Any, CLOSED),
    function("sk_stream_kill_queues", Only::Any, CLOSED),
    function("inet_csk_destroy_sock", Only::Any, CLOSED),
    function("inet_sock_destruct", Only::Any, CLOSED),
    function("udp_destruct_common", Only::Any, CLOSED),
    function("udp_destruct_sock", Only::Any, CLOSED),
    function("udpv6_destruct_sock", Only::Any, CLOSED),
    function(
        "tcp_rcv_state_process",
        Only::Any,
        "an acknowledgement of a connection that closes, freed after use",
    ),
    function("tcp_v4_rcv", Only::Fin, TIME_WAIT),
    function("tcp_v6_rcv", Only::Fin, TIME_WAIT),
    function(
        "icmpv6_rcv",
        Only::Any,
        "neighbour discovery, freed after use; Icmp6InCsumErrors has bad checksums",
    ),
    function("ip_rcv_finish", Only::Multicast, NOT_JOINED),
    function("ip_rcv_finish_core", Only::Multicast, NOT_JOINED),
    function("ip6_mc_input", Only::Multicast, NOT_JOINED),
    function("ip6_forward", Only::Multicast, EARLY),
    function("ip6_pkt_discard", Only::Multicast, EARLY),
    function("ip6_pkt_drop", Only::Multicast, EARLY),
    function("br_dev_xmit", Only::Multicast, "multicast out of a bridge that has no ports"),
];
