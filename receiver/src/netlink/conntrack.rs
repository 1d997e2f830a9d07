//! Connection tracking of one network namespace: ctnetlink (`net/netfilter/nf_conntrack_netlink.c`,
//! `include/uapi/linux/netfilter/nfnetlink_conntrack.h`). Its numbers are in network byte order.

pub mod entry;

use std::collections::HashMap;

use self::entry::Flow;
use super::{
    Buffer, NetlinkError, Socket,
    message::{DUMP, Message, attributes, question},
};

/// Subsystems of netfilter, the upper half of a message's type.
pub(super) const CONNTRACK: u16 = 1 << 8;
pub(super) const EXPECTATION: u16 = 2 << 8;

/// Messages of the subsystem: `IPCTNL_MSG_CT_GET`, `_GET_STATS_CPU`, `_GET_STATS`.
const GET: u16 = CONNTRACK | 1;
const GET_PROCESSORS: u16 = CONNTRACK | 4;
const GET_TOTALS: u16 = CONNTRACK | 5;

/// Length of `struct nfgenmsg`: family, version, and a number that is not used here.
pub(super) const HEADER: usize = 4;

/// `CTA_STATS_GLOBAL_ENTRIES`, `CTA_STATS_GLOBAL_MAX_ENTRIES` (Linux 4.18).
const ENTRIES: u16 = 1;
const LIMIT: u16 = 2;

/// A counter of each processor: `enum ctattr_stats_cpu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Counter {
    /// Entries found that could not be used.
    Found = 2,
    /// Packets that belong to no connection.
    Invalid = 4,
    /// Entries put into the table.
    Insert = 8,
    /// Entries that could not be put into the table.
    InsertFailed = 9,
    /// Packets dropped because of that, or of a full table.
    Drop = 10,
    /// Entries dropped to make room.
    EarlyDrop = 11,
    /// ICMP messages that were wrong.
    Error = 12,
    /// Searches begun again because the table changed.
    SearchRestart = 13,
    /// Entries that were the same as another's and merged with it.
    ClashResolve = 14,
    /// Entries refused because their chain was too long.
    ChainTooLong = 15,
}

/// Numbers of all counters, with room for those that are no longer used.
const COUNTERS: usize = 16;

/// What connection tracking counted in one namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections that are tracked.
    pub entries: u32,
    /// How many the kernel would track.
    pub limit: Option<u32>,
}

/// Sums over all processors; `None` for what this kernel does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters([Option<u64>; COUNTERS]);

impl Counters {
    /// The sum of one counter. Each processor's has 32 bits in the kernel's answer.
    pub fn get(&self, counter: Counter) -> Option<u64> {
        self.0[counter as usize]
    }

    pub(super) fn add(&mut self, message: &Message<'_>) {
        for (kind, content) in attributes(message.body.get(HEADER..).unwrap_or_default()) {
            if let (Some(sum), Some(value)) = (self.0.get_mut(usize::from(kind)), number(content)) {
                *sum = Some(sum.unwrap_or(0) + u64::from(value));
            }
        }
    }
}

/// Connections by what they are.
pub type Census = HashMap<Kind, u64>;

/// What connections are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// Address family, `AF_INET` or `AF_INET6`.
    pub family: u8,
    /// IP protocol.
    pub protocol: u8,
    /// State of TCP, `enum tcp_conntrack`.
    pub state: Option<u8>,
}

/// Entries and limit of the socket's namespace.
///
/// # Errors
/// The kernel does not tell: without `CAP_NET_ADMIN`, or it tracks no connections.
pub fn totals(socket: &Socket, buffer: &mut Buffer) -> Result<Totals, NetlinkError> {
    socket.ask(buffer, &question(GET_TOTALS, 0, &[0; HEADER]), read_totals)
}

pub(super) fn read_totals(message: &Message<'_>) -> Option<Totals> {
    let attributes = message.body.get(HEADER..)?;
    let get = |kind| super::message::attribute(attributes, kind).and_then(number);
    Some(Totals { entries: get(ENTRIES)?, limit: get(LIMIT) })
}

/// The counters of the socket's namespace.
///
/// # Errors
/// As [`totals`].
pub fn counters(socket: &Socket, buffer: &mut Buffer) -> Result<Counters, NetlinkError> {
    socket.dump(buffer, &question(GET_PROCESSORS, DUMP, &[0; HEADER]), Counters::add)
}

/// Every connection of the socket's namespace, counted: the kernel goes through the whole table.
///
/// # Errors
/// As [`totals`].
pub fn census(socket: &Socket, buffer: &mut Buffer) -> Result<Census, NetlinkError> {
    socket.dump(buffer, &question(GET, DUMP, &[0; HEADER]), |census: &mut Census, message| {
        if let Some(flow) = Flow::read(message) {
            *census.entry(flow.kind()).or_default() += 1;
        }
    })
}

/// A number of four bytes in network byte order.
pub(super) fn number(content: &[u8]) -> Option<u32> {
    content.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::message::tests::attribute_of;

    fn message(attributes: &[(u16, u32)]) -> Vec<u8> {
        let attributes =
            attributes.iter().flat_map(|(kind, value)| attribute_of(*kind, &value.to_be_bytes()));
        [0; HEADER].into_iter().chain(attributes).collect()
    }

    #[test]
    fn counters_of_all_processors_add_up_beyond_32_bits() {
        let mut counters = Counters::default();
        for invalid in [u32::MAX, 3] {
            let body = message(&[(Counter::Invalid as u16, invalid), (1, 7), (200, 7)]);
            counters.add(&Message { kind: GET_PROCESSORS, flags: 2, body: &body });
        }
        assert_eq!(counters.get(Counter::Invalid), Some(u64::from(u32::MAX) + 3));
        assert_eq!(counters.get(Counter::ChainTooLong), None);
    }

    #[test]
    fn totals_without_a_limit_are_those_of_an_older_kernel() {
        let read = |body: &[u8]| read_totals(&Message { kind: GET_TOTALS, flags: 2, body });
        assert_eq!(read(&message(&[(1, 9)])), Some(Totals { entries: 9, limit: None }));
        assert_eq!(read(&message(&[(1, 9), (2, 10)])), Some(Totals { entries: 9, limit: Some(10) }));
        assert_eq!((read(&message(&[])), read(&[])), (None, None));
    }
}
