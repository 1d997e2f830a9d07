//! The frees that are no loss. `kfree_skb` says "this packet ends here, undelivered", but some callers use it
//! for what was delivered, merged or thrown away with its socket. Each row says why it does not count.

/// How the table recognises a free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The kernel's reason, as in `enum skb_drop_reason`.
    Reason(&'static str),
    /// The function that freed it, where the reason is `NOT_SPECIFIED` or the kernel gives none (before 5.17).
    Function(&'static str),
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

/// Everything that `packetloss` does not count, besides sk_buffs of sockets that carry no network packets.
pub const HARMLESS: &[Harmless] = &[
    reason("SKB_CONSUMED", "used up normally"),
    reason("SKB_DROP_REASON_QUEUE_PURGE", "queued data of a socket or device that is being closed"),
    reason("SKB_DROP_REASON_SOCKET_CLOSE", "what nobody had read when the socket was closed"),
    reason("SKB_DROP_REASON_UNIX_DISCONNECT", "no network packet"),
    reason("SKB_DROP_REASON_UNIX_SKIP_OOB", "no network packet"),
    function("skb_queue_purge", "queued data of a socket or device that is being closed"),
    function("skb_queue_purge_reason", "queued data of a socket or device that is being closed"),
];
