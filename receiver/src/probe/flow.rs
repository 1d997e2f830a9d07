//! TCP traffic by peer: bytes, segments, retransmits and round-trip time, from the pass over all open files and, for
//! the last values, from the end of each connection.
//!
//! A connection without a descriptor, one below a Multipath TCP socket for example, is added at its end alone. UDP is
//! left out: its sockets do not count by peer, and a program for each packet costs far more than the whole pass.
//! `udp.datagrams` and `netdev` have its totals.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use jitterscope_ebpf::abi::{flow, flow_key};
use jitterscope_semconv::{attribute as key, metric, value::NetworkIoDirection};

use super::{CollectError, Definition, Opening, Overhead, Probe, Skip, Source, machine::EBPF_CAPABILITIES};
use crate::{
    batch::{Batch, Emitter, attributes::Pair},
    pods::{Address, Entity, EntityKind, Netns, Origin},
    round::{
        Round,
        sockets::{Interest, origin},
    },
};

/// Traffic by peer.
pub(super) static DEFINITION: Definition = Definition {
    name: "flow",
    use_when: "traffic, retransmits or delay must be told apart by peer: TCP per pod and peer, without ports",
    source: Source::Ebpf,
    overhead: Overhead::Medium,
    default: false,
    capabilities: EBPF_CAPABILITIES,
    options: &[],
    metrics: &[&metric::FLOW_IO, &metric::FLOW_PACKETS, &metric::FLOW_RETRANSMITS, &metric::FLOW_RTT],
    events: &[],
    open,
};

struct Flow {
    interest: Arc<Interest>,
    limitation: Option<String>,
}

fn open(opening: &Opening<'_>) -> Result<Box<dyn Probe>, Skip> {
    let interest = Interest::in_flows(opening.machine)?;
    Ok(Box::new(Flow { interest, limitation: None }))
}

impl Probe for Flow {
    fn collect(&mut self, round: &Round<'_>, batch: &mut Batch<'_>) -> Result<(), CollectError> {
        let view = round.sockets(&self.interest)?;
        let peers = Peers::new(round);
        let mut sums: HashMap<(u64, String), Sum> = HashMap::new();
        for (key, traffic) in &view.flows {
            let Some(entity) = round.entity(&origin(&key.entity)) else { continue };
            let peer = peers.name(key);
            let sum = sums.entry((entity.key, peer.clone())).or_insert_with(|| Sum {
                entity,
                peer,
                traffic: flow::default(),
            });
            sum.add(traffic, view.account.ended);
        }
        for sum in sums.values() {
            sum.emit(&mut batch.entity(&sum.entity, Some(view.started)));
        }
        if view.account.flow_overflow > 0 {
            let overflow = (&key::OTEL_METRIC_OVERFLOW, true.into());
            emit(&mut batch.entity(&round.pods.node(), Some(view.started)), overflow, &view.flow_rest);
        }
        self.limitation.clone_from(&view.limitation);
        Ok(())
    }

    fn limitation(&self) -> Option<String> {
        self.limitation.clone()
    }
}

/// Traffic of one entity with one peer; several sockets' holders and addresses can have one series.
struct Sum {
    entity: Arc<Entity>,
    peer: String,
    traffic: flow,
}

impl Sum {
    fn add(&mut self, more: &flow, pass: u64) {
        let sum = &mut self.traffic;
        sum.received += more.received;
        sum.sent += more.sent;
        sum.segments_in += more.segments_in;
        sum.segments_out += more.segments_out;
        sum.retransmits += more.retransmits;
        if more.pass >= pass {
            sum.round_trip_times += more.round_trip_times;
            sum.connections += more.connections;
        }
    }

    fn emit(&self, emitter: &mut Emitter<'_, '_>) {
        let peer = (&key::FLOW_PEER, self.peer.as_str().into());
        emit(emitter, peer, &self.traffic);
        if self.traffic.connections > 0 {
            let mean = self.traffic.round_trip_times as f64 / self.traffic.connections as f64 / 1e6;
            emitter.reading(&metric::FLOW_RTT, &[peer], mean);
        }
    }
}

fn emit(emit: &mut Emitter<'_, '_>, peer: Pair<'_>, traffic: &flow) {
    let ways = [
        (NetworkIoDirection::Receive, traffic.received, traffic.segments_in),
        (NetworkIoDirection::Transmit, traffic.sent, traffic.segments_out),
    ];
    for (direction, bytes, segments) in ways {
        let attributes = [peer, (&key::NETWORK_IO_DIRECTION, direction.as_str().into())];
        emit.counter(&metric::FLOW_IO, &attributes, bytes);
        emit.counter(&metric::FLOW_PACKETS, &attributes, segments);
    }
    emit.counter(&metric::FLOW_RETRANSMITS, &[peer], traffic.retransmits);
}

/// Names of those of this node that can be a peer.
struct Peers<'r> {
    round: &'r Round<'r>,
    local: HashMap<Address, Netns>,
}

impl<'r> Peers<'r> {
    fn new(round: &'r Round<'r>) -> Self {
        Self { round, local: round.pods.addresses() }
    }

    /// A pod, container or named namespace of this node by its name, anybody else by address.
    fn name(&self, key: &flow_key) -> String {
        let address = address(key);
        let local = self
            .local
            .get(&Address::Ip(address))
            .and_then(|netns| self.round.pods.resolve(&Origin { netns: *netns, ..Origin::default() }));
        match local {
            Some(entity) if entity.kind != EntityKind::Node => entity.name.clone(),
            _ => address.to_string(),
        }
    }
}

/// An address as the kernel holds it: IPv4 in the first four bytes.
fn address(key: &flow_key) -> IpAddr {
    let [a, b, c, d, ..] = key.address;
    if key.family == 4 { Ipv4Addr::new(a, b, c, d).into() } else { Ipv6Addr::from(key.address).into() }
}
