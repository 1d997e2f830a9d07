//! What eBPF programs write into rings, and the kernel into files.

use super::*;
use crate::fuzz::Target;

macro_rules! records {
    ($($probe:ident),*) => { &[
        $(Target { name: concat!("ring_", stringify!($probe)), read: $probe::read_record, samples: &[&[0; 1024]] },)*
        Target { name: "pressure", read: pressure::read_lines, samples: &[PRESSURE] },
    ] };
}

const PRESSURE: &[u8] = b"some avg10=0.12 avg60=1.00 avg300=0.00 total=1500001\nfull avg10=0.00 total=0\n";

pub(crate) const TARGETS: &[Target] = records!(
    biolatency,
    kernellatency,
    netiftxlatency,
    packetloss,
    schedlatency,
    socketlatency,
    softirq,
    tcpconnect,
    tcpreset,
    tcpretrans,
    virtcmdlatency
);

/// An event of connection tracking can be told.
pub(crate) fn conntrack(event: &crate::netlink::conntrack::entry::Event<'_>) {
    let occurrence = conntrackevents::occurrence(event, crate::pods::Netns::default());
    assert!(!occurrence.body.is_empty());
}
