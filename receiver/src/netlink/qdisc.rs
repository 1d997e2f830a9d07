//! Queueing disciplines of one network namespace: `RTM_GETQDISC` (`net/sched/sch_api.c`, `tc_dump_qdisc`, `tc_fill_qdisc`).

use std::fmt;

use rustix::net::netdevice::index_to_name;

use super::{
    Buffer, NetlinkError, Socket,
    message::{DUMP, Message, attribute, attributes, long, number, question, text},
};

/// `RTM_GETQDISC` and what it answers with, `RTM_NEWQDISC` (`include/uapi/linux/rtnetlink.h`).
const GET: u16 = 38;
const NEW: u16 = 36;

/// Length of `struct tcmsg`.
const HEADER: usize = 20;

/// Attributes of the message: `TCA_KIND`, `TCA_STATS2`.
const KIND: u16 = 1;
const STATISTICS: u16 = 7;

/// Attributes of the statistics (`include/uapi/linux/gen_stats.h`): `TCA_STATS_BASIC`, `_QUEUE`, `_PKT64`.
const BASIC: u16 = 1;
const QUEUE: u16 = 3;
const PACKETS: u16 = 8;

/// A discipline that passes packets on at once and counts none (`net/sched/sch_generic.c`, `noqueue_qdisc_ops`).
const NO_QUEUE: &str = "noqueue";

/// Parents from here on are no disciplines but places of the device: `TC_H_ROOT`, `TC_H_INGRESS`, `TC_H_CLSACT`.
const PLACES: u32 = 0xffff_fff1;

/// The number of a discipline or, for a parent, of one of its classes; shown as tc(8) shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle(pub u32);

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 >> 16, self.0 & 0xffff) {
            (0, minor) if minor != 0 => write!(f, ":{minor:x}"),
            (major, 0) => write!(f, "{major:x}:"),
            (major, minor) => write!(f, "{major:x}:{minor:x}"),
        }
    }
}

/// One queueing discipline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qdisc {
    /// The device's name.
    pub interface: String,
    /// Its kind: `fq_codel`, `htb`.
    pub kind: String,
    /// Its number; 0 for one that the kernel made.
    pub handle: Handle,
    /// The class that it hangs at; `None` for one that hangs at the device itself.
    pub parent: Option<Handle>,
    /// What it counted.
    pub counts: Counts,
}

/// What a queueing discipline counted. The last three of these numbers have 32 bits in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes sent.
    pub bytes: u64,
    /// Packets sent.
    pub packets: u64,
    /// Packets that wait.
    pub length: u32,
    /// Bytes that wait.
    pub backlog: u32,
    /// Packets dropped.
    pub drops: u32,
    /// Packets that the device gave back.
    pub requeues: u32,
    /// Times that the rate was over its limit.
    pub overlimits: u32,
}

/// The disciplines that count in the namespace of the socket. `children` too, whose packets are their roots' as well.
///
/// # Errors
/// The kernel does not tell.
pub fn list(socket: &Socket, buffer: &mut Buffer, children: bool) -> Result<Vec<Qdisc>, NetlinkError> {
    let question = question(GET, DUMP, &[0; HEADER]);
    let mut names = Names { socket, last: None };
    socket.dump(buffer, &question, |found: &mut Vec<Qdisc>, message| {
        found.extend(qdisc(message, children, |index| names.name(index)));
    })
}

/// Names of devices: those that follow each other are mostly the same.
struct Names<'s> {
    socket: &'s Socket,
    last: Option<(u32, String)>,
}

impl Names<'_> {
    /// `None`: the device is gone.
    fn name(&mut self, index: u32) -> Option<String> {
        if self.last.as_ref().is_none_or(|(known, _)| *known != index) {
            self.last = Some((index, index_to_name(self.socket, index).ok()?));
        }
        self.last.as_ref().map(|(_, name)| name.clone())
    }
}

pub(super) fn qdisc(
    message: &Message<'_>,
    children: bool,
    name: impl FnOnce(u32) -> Option<String>,
) -> Option<Qdisc> {
    let field = |at: usize| message.body.get(at..).and_then(number);
    let attributes = message.body.get(HEADER..).filter(|_| message.kind == NEW)?;
    let parent = field(12).filter(|parent| *parent < PLACES).map(Handle);
    let kind = text(attribute(attributes, KIND)?)?;
    if kind == NO_QUEUE || parent.is_some() && !children {
        return None;
    }
    Some(Qdisc {
        counts: counts(attribute(attributes, STATISTICS)?)?,
        interface: name(field(4)?)?,
        kind: kind.to_owned(),
        handle: Handle(field(8)?),
        parent,
    })
}

/// `None`: without these two there is nothing to say.
fn counts(statistics: &[u8]) -> Option<Counts> {
    let (mut counts, mut basic, mut queue) = (Counts::default(), false, false);
    for (kind, content) in attributes(statistics) {
        match kind {
            // struct gnet_stats_basic
            BASIC => {
                counts.bytes = long(content)?;
                counts.packets = u64::from(number(content.get(8..)?)?);
                basic = true;
            }
            // Follows the former where 32 bits do not hold the number.
            PACKETS => counts.packets = long(content)?,
            // struct gnet_stats_queue
            QUEUE => {
                let field = |at: usize| content.get(at * 4..).and_then(number);
                counts.length = field(0)?;
                counts.backlog = field(1)?;
                counts.drops = field(2)?;
                counts.requeues = field(3)?;
                counts.overlimits = field(4)?;
                queue = true;
            }
            _ => {}
        }
    }
    (basic && queue).then_some(counts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::message::tests::attribute_of;

    fn statistics(packets: Option<u64>) -> Vec<u8> {
        let basic = [&5_000_000_000_u64.to_ne_bytes()[..], &7_u32.to_ne_bytes(), &[0; 4]].concat();
        let queue: Vec<u8> = [1_u32, 2, 3, 4, 5].iter().flat_map(|number| number.to_ne_bytes()).collect();
        let mut bytes = attribute_of(BASIC, &basic);
        bytes.extend(packets.iter().flat_map(|packets| attribute_of(PACKETS, &packets.to_ne_bytes())));
        bytes.extend(attribute_of(QUEUE, &queue));
        bytes
    }

    fn body(kind: &str, parent: u32, statistics: &[u8]) -> Vec<u8> {
        let numbers = [2, 0x8001_0000, parent, 2];
        let mut bytes = vec![0; 4];
        bytes.extend(numbers.iter().flat_map(|number: &u32| number.to_ne_bytes()));
        bytes.extend(attribute_of(KIND, &[kind.as_bytes(), b"\0"].concat()));
        bytes.extend(attribute_of(STATISTICS, statistics));
        bytes
    }

    fn read(body: &[u8], children: bool) -> Option<Qdisc> {
        let message = Message { kind: NEW, flags: 0, body };
        qdisc(&message, children, |index| (index == 2).then(|| "eth0".to_owned()))
    }

    const ROOT: u32 = 0xffff_ffff;

    #[test]
    fn a_root_discipline_is_read_with_bytes_and_packets_in_64_bits() {
        let found = read(&body("tbf", ROOT, &statistics(Some(1 << 40))), false).expect("a qdisc");
        let counts = Counts {
            bytes: 5_000_000_000,
            packets: 1 << 40,
            length: 1,
            backlog: 2,
            drops: 3,
            requeues: 4,
            overlimits: 5,
        };
        assert_eq!((found.interface.as_str(), found.kind.as_str(), found.counts), ("eth0", "tbf", counts));
        assert_eq!((found.handle.to_string(), found.parent), ("8001:".to_owned(), None));
        let old = read(&body("tbf", ROOT, &statistics(None)), false).expect("a qdisc");
        assert_eq!(old.counts.packets, 7);
    }

    #[test]
    fn children_are_left_out_unless_they_are_asked_for() {
        let body = body("fq_codel", 0x8001_0002, &statistics(None));
        assert_eq!(read(&body, false), None);
        let child = read(&body, true).expect("a child");
        assert_eq!(child.parent.map(|parent| parent.to_string()), Some("8001:2".to_owned()));
    }

    #[test]
    fn what_hangs_at_the_device_for_incoming_packets_is_no_child() {
        for parent in [0xffff_fff1, ROOT] {
            assert_eq!(
                read(&body("clsact", parent, &statistics(None)), false).map(|one| one.parent),
                Some(None)
            );
        }
    }

    #[test]
    fn a_discipline_without_queue_or_without_numbers_is_none() {
        assert_eq!(read(&body("noqueue", ROOT, &statistics(None)), true), None);
        assert_eq!(read(&body("tbf", ROOT, &[]), true), None);
        let whole = body("tbf", ROOT, &statistics(None));
        assert!((0..whole.len()).all(|length| read(&whole[..length], true).is_none()));
    }

    #[test]
    fn handles_are_written_as_tc_writes_them() {
        let text = |number| Handle(number).to_string();
        assert_eq!([text(0), text(0x1_0000), text(1), text(0x1_000a)], ["0:", "1:", ":1", "1:a"]);
    }
}
