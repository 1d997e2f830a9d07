//! One tracked connection, or one that is expected, as ctnetlink tells it (`ctnetlink_fill_info`, `ctnetlink_exp_fill_info`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{CONNTRACK, EXPECTATION, HEADER, Kind, number};
use crate::netlink::message::{Message, attribute, attributes, text};

/// Messages of both subsystems: `IPCTNL_MSG_CT_NEW` and `_DELETE`, `IPCTNL_MSG_EXP_NEW` and `_DELETE`.
const NEW: u16 = 0;
const DELETE: u16 = 2;

/// A message with this flag tells something new, one without a change (`NLM_F_CREATE`).
const CREATE: u16 = 0x400;

/// `enum ctattr_type`.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOCOL_INFO: u16 = 4;
const HELPER: u16 = 5;
const TIMEOUT: u16 = 7;
const MARK: u16 = 8;
const COUNTERS_ORIGINAL: u16 = 9;
const COUNTERS_REPLY: u16 = 10;
const ZONE: u16 = 18;

/// `enum ctattr_expect`.
const EXPECT_MASTER: u16 = 1;
const EXPECT_TUPLE: u16 = 2;
const EXPECT_TIMEOUT: u16 = 4;
const EXPECT_HELPER: u16 = 6;
const EXPECT_ZONE: u16 = 7;

/// `CTA_PROTOINFO_TCP` and its `CTA_PROTOINFO_TCP_STATE`.
const TCP: u16 = 1;
const TCP_STATE: u16 = 1;

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is tracked from now on.
    New,
    /// Something of it changed.
    Update,
    /// It is no longer tracked.
    Destroy,
}

impl Change {
    fn of(message: &Message<'_>) -> Option<Self> {
        match message.kind & 0xff {
            NEW if message.flags & CREATE != 0 => Some(Self::New),
            NEW => Some(Self::Update),
            DELETE => Some(Self::Destroy),
            _ => None,
        }
    }
}

/// Something that happened in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'b> {
    /// To a connection.
    Flow(Change, Flow<'b>),
    /// To one that is expected.
    Expectation(Change, Expectation<'b>),
}

impl<'b> Event<'b> {
    /// `None`: the message is not whole, or no such event.
    pub fn read(message: &Message<'b>) -> Option<Self> {
        let change = Change::of(message)?;
        match message.kind & 0xff00 {
            CONNTRACK => Flow::read(message).map(|flow| Self::Flow(change, flow)),
            EXPECTATION => Expectation::read(message).map(|expected| Self::Expectation(change, expected)),
            _ => None,
        }
    }
}

/// A tracked connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow<'b> {
    /// Packets of the one that began it.
    pub original: Tuple,
    /// Packets of the other as they come: address translation shows here.
    pub reply: Option<Tuple>,
    /// `enum ip_conntrack_status`.
    pub status: Option<u32>,
    /// `enum tcp_conntrack`.
    pub state: Option<u8>,
    /// Name of its helper.
    pub helper: Option<&'b str>,
    /// Seconds that it still lives without a packet.
    pub timeout: Option<u32>,
    /// Its mark.
    pub mark: Option<u32>,
    /// Its zone.
    pub zone: Option<u16>,
    /// Packets and bytes there and back, where they are counted (`nf_conntrack_acct`).
    pub counts: [Option<(u64, u64)>; 2],
}

impl<'b> Flow<'b> {
    /// `None`: the message is not whole.
    pub(super) fn read(message: &Message<'b>) -> Option<Self> {
        let bytes = message.body.get(HEADER..)?;
        let mut flow = Self::of(Tuple::read(attribute(bytes, ORIGINAL)?)?);
        for (kind, content) in attributes(bytes) {
            match kind {
                REPLY => flow.reply = Tuple::read(content),
                STATUS => flow.status = number(content),
                PROTOCOL_INFO => flow.state = state(content),
                HELPER => flow.helper = attribute(content, 1).and_then(text),
                TIMEOUT => flow.timeout = number(content),
                MARK => flow.mark = number(content),
                ZONE => flow.zone = short(content),
                COUNTERS_ORIGINAL => flow.counts[0] = counts(content),
                COUNTERS_REPLY => flow.counts[1] = counts(content),
                _ => {}
            }
        }
        Some(flow)
    }

    /// One of which only the tuple is known.
    pub fn of(original: Tuple) -> Self {
        Self {
            original,
            reply: None,
            status: None,
            state: None,
            helper: None,
            timeout: None,
            mark: None,
            zone: None,
            counts: [None; 2],
        }
    }

    /// What it is counted by.
    pub fn kind(&self) -> Kind {
        Kind {
            family: if self.original.source.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as u8,
            protocol: self.original.protocol,
            state: self.state,
        }
    }
}

/// A connection that a helper expects, such as the data of an FTP transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation<'b> {
    /// What is expected. A source port of 0 stands for any.
    pub expected: Tuple,
    /// The connection that led to it.
    pub master: Option<Tuple>,
    /// Name of the helper.
    pub helper: Option<&'b str>,
    /// Seconds until it is no longer expected.
    pub timeout: Option<u32>,
    /// Its zone.
    pub zone: Option<u16>,
}

impl<'b> Expectation<'b> {
    fn read(message: &Message<'b>) -> Option<Self> {
        let bytes = message.body.get(HEADER..)?;
        let get = |kind| attribute(bytes, kind);
        Some(Self {
            expected: get(EXPECT_TUPLE).and_then(Tuple::read)?,
            master: get(EXPECT_MASTER).and_then(Tuple::read),
            helper: get(EXPECT_HELPER).and_then(text),
            timeout: get(EXPECT_TIMEOUT).and_then(number),
            zone: get(EXPECT_ZONE).and_then(short),
        })
    }
}

/// What a packet of one direction looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// From where.
    pub source: IpAddr,
    /// To where.
    pub destination: IpAddr,
    /// IP protocol.
    pub protocol: u8,
    /// Ports, of protocols that have any.
    pub ports: Option<(u16, u16)>,
    /// Type and code of ICMP messages.
    pub icmp: Option<(u8, u8)>,
}

impl Tuple {
    /// `None`: an attribute that every tuple has is missing.
    fn read(content: &[u8]) -> Option<Self> {
        let addresses = attribute(content, 1)?;
        let protocol = attribute(content, 2)?;
        let get = |kind| attribute(protocol, kind);
        let byte = |kind| get(kind).and_then(|content| content.first().copied());
        let port = |kind| get(kind).and_then(short);
        Some(Self {
            source: address(addresses, 1, 3)?,
            destination: address(addresses, 2, 4)?,
            protocol: byte(1)?,
            ports: port(2).zip(port(3)),
            icmp: byte(5).zip(byte(6)).or_else(|| byte(8).zip(byte(9))),
        })
    }

    /// What answers look like when nothing is translated. Of ICMP, the kernel gives answers another type.
    pub fn is_mirrored_by(&self, other: &Self) -> bool {
        self.source == other.destination
            && self.destination == other.source
            && self.ports == other.ports.map(|(source, destination)| (destination, source))
    }
}

/// The address under one of the two attributes that the families have.
fn address(content: &[u8], v4: u16, v6: u16) -> Option<IpAddr> {
    let first = || attribute(content, v4)?.first_chunk::<4>().map(|bytes| Ipv4Addr::from(*bytes).into());
    let second = || attribute(content, v6)?.first_chunk::<16>().map(|bytes| Ipv6Addr::from(*bytes).into());
    first().or_else(second)
}

fn state(content: &[u8]) -> Option<u8> {
    attribute(attribute(content, TCP)?, TCP_STATE)?.first().copied()
}

/// `CTA_COUNTERS_PACKETS` and `CTA_COUNTERS_BYTES`.
fn counts(content: &[u8]) -> Option<(u64, u64)> {
    let get = |kind| attribute(content, kind)?.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
    get(1).zip(get(2))
}

/// A number of two bytes in network byte order.
fn short(content: &[u8]) -> Option<u16> {
    content.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::message::tests::attribute_of;

    fn tuple(source: &[u8], destination: &[u8], ports: (u16, u16)) -> Vec<u8> {
        let first = if source.len() == 4 { 1 } else { 3 };
        let addresses = [attribute_of(first, source), attribute_of(first + 1, destination)].concat();
        let ports = [attribute_of(2, &ports.0.to_be_bytes()), attribute_of(3, &ports.1.to_be_bytes())];
        let protocol = [attribute_of(1, &[6]), ports.concat()].concat();
        [attribute_of(0x8001, &addresses), attribute_of(0x8002, &protocol)].concat()
    }

    fn body() -> Vec<u8> {
        let original = tuple(&[10, 0, 0, 1], &[10, 0, 0, 2], (4000, 80));
        let reply = tuple(&[10, 0, 0, 9], &[10, 0, 0, 1], (8080, 4000));
        let state = attribute_of(0x8001, &attribute_of(1, &[3]));
        let counts =
            [attribute_of(1, &5_u64.to_be_bytes()), attribute_of(2, &600_u64.to_be_bytes())].concat();
        let parts = [
            attribute_of(0x8001, &original),
            attribute_of(0x8002, &reply),
            attribute_of(STATUS, &0x18e_u32.to_be_bytes()),
            attribute_of(0x8004, &state),
            attribute_of(TIMEOUT, &432_000_u32.to_be_bytes()),
            attribute_of(ZONE, &7_u16.to_be_bytes()),
            attribute_of(0x8009, &counts),
        ];
        [vec![0; HEADER], parts.concat()].concat()
    }

    fn message(kind: u16, flags: u16, body: &[u8]) -> Message<'_> {
        Message { kind, flags, body }
    }

    #[test]
    fn a_translated_connection_is_read_with_state_and_both_directions() {
        let body = body();
        let Some(Event::Flow(change, flow)) = Event::read(&message(CONNTRACK, CREATE, &body)) else {
            panic!("a connection")
        };
        assert_eq!(
            (change, flow.state, flow.timeout, flow.zone),
            (Change::New, Some(3), Some(432_000), Some(7))
        );
        assert_eq!((flow.status, flow.counts), (Some(0x18e), [Some((5, 600)), None]));
        let reply = flow.reply.expect("a reply");
        assert_eq!((flow.original.ports, reply.ports), (Some((4000, 80)), Some((8080, 4000))));
        assert!(!flow.original.is_mirrored_by(&reply));
        assert_eq!(flow.kind(), Kind { family: 2, protocol: 6, state: Some(3) });
    }

    #[test]
    fn news_changes_and_ends_are_told_apart() {
        let body = body();
        let change = |kind, flags| match Event::read(&message(kind, flags, &body)) {
            Some(Event::Flow(change, _)) => Some(change),
            _ => None,
        };
        assert_eq!(change(CONNTRACK, 0x600), Some(Change::New));
        assert_eq!(change(CONNTRACK, 0), Some(Change::Update));
        assert_eq!(change(CONNTRACK | 2, 0), Some(Change::Destroy));
        assert_eq!(change(CONNTRACK | 1, 0), None);
    }

    #[test]
    fn an_expectation_has_its_master_and_its_helper() {
        let source = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let parts = [
            attribute_of(0x8001, &tuple(&source, &source, (1, 21))),
            attribute_of(0x8002, &tuple(&source, &source, (0, 2000))),
            attribute_of(EXPECT_TIMEOUT, &300_u32.to_be_bytes()),
            attribute_of(EXPECT_HELPER, b"ftp\0"),
        ];
        let body = [vec![0; HEADER], parts.concat()].concat();
        let Some(Event::Expectation(change, found)) = Event::read(&message(EXPECTATION | 2, 0, &body)) else {
            panic!("an expectation")
        };
        assert_eq!((change, found.helper, found.timeout), (Change::Destroy, Some("ftp"), Some(300)));
        assert_eq!(found.expected.ports, Some((0, 2000)));
        assert_eq!(found.master.and_then(|master| master.ports), Some((1, 21)));
        assert!(found.expected.source.is_ipv6());
    }

    #[test]
    fn a_message_cut_within_its_first_tuple_is_no_connection_and_one_cut_later_is_poorer() {
        let body = body();
        let first = HEADER + attribute_of(0x8001, &tuple(&[0; 4], &[0; 4], (0, 0))).len();
        for length in 0..body.len() {
            let found = Event::read(&message(CONNTRACK, 0, &body[..length]));
            assert_eq!(found.is_some(), length >= first, "{length}");
        }
    }
}
