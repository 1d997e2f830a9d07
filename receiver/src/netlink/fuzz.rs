//! What the kernel writes into netlink sockets.

use super::{
    conntrack::{self, Counters, entry::Event},
    message::{Message, messages},
    qdisc, rdma, refusal,
};
use crate::fuzz::Target;

/// A message of 36 bytes with an attribute of eight and one of eight in it.
const NESTED: &[u8] = &[
    36, 0, 0, 0, 36, 0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 16, 0, 1, 128, 12, 0, 1, 128, 8, 0, 1, 0,
    127, 0, 0, 1,
];
/// The end of a list, and an error.
const ENDS: &[u8] = &[
    20, 0, 0, 0, 3, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 128,
];

pub(crate) const TARGETS: &[Target] = &[Target { name: "netlink", read: datagram, samples: &[NESTED, ENDS] }];

/// A datagram, whose messages every reader gets, with their own type and with those that readers look for.
fn datagram(bytes: &[u8]) {
    let mut length = 0;
    for message in messages(bytes) {
        length += message.body.len();
        read(&message);
        for kind in [36, 256, 257, 258, 513] {
            read(&Message { kind, ..message });
        }
    }
    assert!(length <= bytes.len());
    read(&Message { kind: 36, flags: 0, body: bytes });
}

fn read(message: &Message<'_>) {
    let mut resources = Vec::new();
    rdma::read(&mut resources, message);
    let mut counters = Counters::default();
    counters.add(message);
    let totals = conntrack::read_totals(message);
    let qdisc = qdisc::qdisc(message, true, |index| Some(index.to_string()));
    let event = Event::read(message);
    if let Some(event) = &event {
        crate::probe::fuzz::conntrack(event);
    }
    std::hint::black_box((resources, counters, totals, qdisc, refusal(message).is_ok()));
}
