//! Anomalies of a network's connections as programs tell them that know the spans of threads.

use std::time::Duration;

use jitterscope_ebpf::abi::{DIRECTION_RECEIVE, reset_event, retransmit_event, span_link};
use jitterscope_ebpf::packetloss::Event;
use jitterscope_ebpf::spans::{Questions, Reads, Spans, Threads, Wire};
use jitterscope_ebpf::{Constant, Kernel, Object, Observer, ObserverOptions, Ring, Telling};

use super::become_known;
use super::kept::{alone, storages};
use crate::common::contexts::FAMILIES;
use crate::common::{Network, can_load, eventually};

/// Tracepoints whose number of arguments programs are told.
const HOOKS: [(&Object, &str); 2] =
    [(&Object::TCPRESET, "tcp_send_reset"), (&Object::PACKETLOSS, "kfree_skb")];

/// The sources, and programs that see anomalies.
pub(crate) struct Watch {
    pub(crate) wire: Option<Wire>,
    _threads: Threads,
    pub(crate) questions: Questions,
    resets: (Observer, Ring),
    retransmits: (Observer, Ring),
    losses: (Observer, Ring),
    /// Whether the kernel tells whom a dropped packet was for (6.11).
    pub(crate) tells_receiver: bool,
}

/// A program of a probe that links what it tells.
pub(crate) fn observe(
    object: &Object,
    kernel: &Kernel,
    network: &Network,
    spans: &Spans,
) -> (Observer, Ring) {
    let hook = HOOKS.iter().find(|(of, _)| of.name == object.name).map(|(_, hook)| *hook);
    let arguments = hook.and_then(|hook| kernel.btf().tracepoint_arguments(hook)).unwrap_or(2) as u32;
    let constants = [Constant { name: "arguments", value: &arguments.to_ne_bytes() }];
    let options = ObserverOptions {
        constants: if hook.is_some() { &constants } else { &[] },
        spans: Some(spans),
        ..ObserverOptions::new(network.router.inode())
    };
    let mut observer = Observer::open(object, kernel, &options).unwrap();
    let telling = Telling { rate: 10_000, burst: 10_000, ..Telling::default() };
    observer.configure(&Telling { span_age: Duration::from_secs(30), ..telling }).unwrap();
    let ring = observer.events().unwrap();
    (observer, ring)
}

impl Watch {
    fn open(kernel: &Kernel, network: &Network, storage: u32, with_wire: bool) -> Self {
        let wire = with_wire.then(|| Wire::open_with(kernel, storage).unwrap());
        let beside = wire.as_ref().map(|wire| &wire.spans);
        let mut threads = Threads::open_with(kernel, beside, storage, Reads::THREADS).unwrap();
        let questions = become_known(&mut threads);
        let resets = observe(&Object::TCPRESET, kernel, network, &threads.spans);
        let retransmits = observe(&Object::TCPRETRANS, kernel, network, &threads.spans);
        let losses = observe(&Object::PACKETLOSS, kernel, network, &threads.spans);
        let tells_receiver = kernel.btf().tracepoint_arguments("kfree_skb").is_some_and(|n| n >= 4);
        Self { wire, _threads: threads, questions, resets, retransmits, losses, tells_receiver }
    }

    /// What was told of segments that were sent again to a port.
    pub(crate) fn told(&mut self, to: u16) -> Vec<retransmit_event> {
        let events = std::iter::from_fn(|| self.retransmits.1.take::<retransmit_event>());
        events.map(Result::unwrap).filter(|event| event.head.connection.peer_port == to).collect()
    }

    /// The same once there is one.
    pub(crate) fn sent_again(&mut self, to: u16) -> Vec<retransmit_event> {
        let mut found = Vec::new();
        eventually("a segment is sent again", || {
            found.extend(self.told(to));
            !found.is_empty()
        });
        found
    }

    /// Links of packets with data that were dropped on their way between two ports.
    pub(crate) fn dropped(&mut self, from: u16, to: u16) -> Vec<span_link> {
        let events = std::iter::from_fn(|| self.losses.1.take::<Event>()).map(Result::unwrap);
        let wanted = events.filter(|e| (e.source_port, e.destination_port) == (from, to) && e.length > 100);
        wanted.map(|event| event.span).collect()
    }

    /// The same once there is one.
    pub(crate) fn lost(&mut self, from: u16, to: u16) -> Vec<span_link> {
        let mut found = Vec::new();
        eventually("a dropped packet", || {
            found.extend(self.dropped(from, to));
            !found.is_empty()
        });
        found
    }

    /// What was told of a reset that came from a port.
    pub(crate) fn reset(&mut self, from: u16) -> span_link {
        let mut found = None;
        eventually("a reset comes", || {
            let events = std::iter::from_fn(|| self.resets.1.take::<reset_event>()).map(Result::unwrap);
            let is_ours = |e: &reset_event| {
                u32::from(e.key.direction) == DIRECTION_RECEIVE && e.head.connection.peer_port == from
            };
            found = events.filter(is_ours).last().or(found);
            found.is_some()
        });
        found.unwrap().head.span
    }
}

/// Runs a case for each storage, with one or both sources.
pub(crate) fn each(with_wire: bool, case: impl Fn(&mut Watch, &Network, u8)) {
    if !can_load() {
        return;
    }
    let _alone = alone();
    let kernel = Kernel::read(None).unwrap();
    let network = Network::new();
    for storage in storages(&kernel) {
        for family in FAMILIES {
            case(&mut Watch::open(&kernel, &network, storage, with_wire), &network, family);
        }
    }
}
