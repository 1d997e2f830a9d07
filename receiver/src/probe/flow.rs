//! Traffic by peer. TCP's bytes, segments, retransmits and round-trip time come from the pass over all open files and, for
//! the last values, from the end of each connection; one without a descriptor, below a Multipath TCP socket for example, is
//! added at its end alone. UDP's sockets do not count by peer: a program counts each of their datagrams, for some 350 ns when
//! it arrives and 450 ns when it is sent.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use jitterscope_ebpf::{
    TableError,
    abi::{datagrams, flow, flow_key},
    datagrams::{Datagrams, PEERS},
};
use jitterscope_semconv::{
    attribute as key, metric,
    value::{NetworkIoDirection, NetworkTransport},
};

use rustix::time::{ClockId, clock_gettime};

use super::{CollectError, Definition, Opening, Overhead, Probe, Skip, Source, Usage};
use crate::{
    batch::{Batch, Emitter, attributes::Pair},
    clock::{Clock, nanoseconds},
    pods::{Address, Entity, EntityKind, Netns, Origin},
    round::{
        Round,
        sockets::{Interest, origin},
    },
};

/// Traffic by peer.
pub(super) static DEFINITION: Definition = Definition {
    name: "flow",
    use_when: "traffic, retransmits or delay must be told apart by peer: TCP and UDP per pod and peer, without ports",
    source: Source::Ebpf,
    overhead: Overhead::Medium,
    default: false,
    // The last one is for datagrams: to attach to cgroups.
    capabilities: &["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"],
    options: &[],
    metrics: &[&metric::FLOW_IO, &metric::FLOW_PACKETS, &metric::FLOW_RETRANSMITS, &metric::FLOW_RTT],
    events: &[],
    open,
};

/// Peers with which no datagram was exchanged for so long make room where it is scarce: longer than any backend looks back
/// for the last point of a series.
const SILENT: Duration = Duration::from_secs(600);

struct Flow {
    interest: Arc<Interest>,
    udp: Result<Udp, String>,
    limitation: Option<String>,
}

/// The program that counts datagrams.
struct Udp {
    program: Datagrams,
    /// Nanoseconds since the epoch when counting began.
    started: u64,
}

fn open(opening: &Opening<'_>) -> Result<Box<dyn Probe>, Skip> {
    let interest = Interest::in_flows(opening.machine)?;
    let udp = Datagrams::open(opening.machine.kernel()?, PEERS)
        .map(|program| Udp { program, started: Clock::read().now() })
        .map_err(|error| error.to_string());
    Ok(Box::new(Flow { interest, udp, limitation: None }))
}

impl Probe for Flow {
    fn collect(&mut self, round: &Round<'_>, batch: &mut Batch<'_>) -> Result<(), CollectError> {
        let view = round.sockets(&self.interest)?;
        let peers = Peers::new(round);
        let mut sums = Sums::new(NetworkTransport::Tcp, view.account.ended);
        view.flows.iter().for_each(|(key, traffic)| sums.add(&peers, key, traffic));
        sums.emit(batch, view.started);
        if view.account.flow_overflow > 0 {
            rest(NetworkTransport::Tcp, &view.flow_rest, round, batch, view.started);
        }
        if let Ok(udp) = &self.udp {
            udp.collect(&peers, batch)?;
        }
        self.limitation.clone_from(&view.limitation);
        Ok(())
    }

    fn limitation(&self) -> Option<String> {
        let udp = self.udp.as_ref().err().map(|error| format!("no UDP: {error}"));
        let all: Vec<String> = self.limitation.clone().into_iter().chain(udp).collect();
        (!all.is_empty()).then(|| all.join(", "))
    }

    fn usage(&self) -> Usage {
        self.udp.as_ref().map_or_else(|_| Usage::default(), |udp| Usage::of(udp.program.loaded()))
    }
}

impl Udp {
    fn collect(&self, peers: &Peers<'_>, batch: &mut Batch<'_>) -> Result<(), TableError> {
        let mut sums = Sums::new(NetworkTransport::Udp, 0);
        let entries = self.program.peers(|key, traffic| sums.add(peers, key, &counted(traffic)))?;
        sums.emit(batch, self.started);
        let beyond = self.program.rest()?;
        if beyond.last > 0 {
            rest(NetworkTransport::Udp, &counted(&beyond), peers.round, batch, self.started);
        }
        if entries > PEERS as usize / 2 {
            let is_gone = |of: &_| peers.round.owner(&origin(of)).is_none();
            let now = nanoseconds(clock_gettime(ClockId::Monotonic));
            self.program.forget(Duration::from_nanos(now), SILENT, is_gone)?;
        }
        Ok(())
    }
}

/// Datagrams as traffic that knows neither retransmits nor round-trip times.
fn counted(traffic: &datagrams) -> flow {
    flow {
        received: traffic.received,
        sent: traffic.sent,
        segments_in: traffic.datagrams_in,
        segments_out: traffic.datagrams_out,
        ..flow::default()
    }
}

/// Tells of the peers for which there was no room.
fn rest(transport: NetworkTransport, traffic: &flow, round: &Round<'_>, batch: &mut Batch<'_>, started: u64) {
    let overflow = (&key::OTEL_METRIC_OVERFLOW, true.into());
    let attributes = [overflow, (&key::NETWORK_TRANSPORT, transport.as_str().into())];
    emit(&mut batch.entity(&round.pods.node(), Some(started)), attributes, transport, traffic);
}

/// Traffic over one transport by entity and peer.
struct Sums {
    transport: NetworkTransport,
    /// The last pass: what an older one left of round-trip times does not count.
    pass: u64,
    sums: HashMap<(u64, String), Sum>,
}

impl Sums {
    fn new(transport: NetworkTransport, pass: u64) -> Self {
        Self { transport, pass, sums: HashMap::new() }
    }

    fn add(&mut self, peers: &Peers<'_>, key: &flow_key, traffic: &flow) {
        let Some(entity) = peers.round.owner(&origin(&key.entity)) else { return };
        let peer = peers.name(key);
        let sum = self.sums.entry((entity.key, peer.clone()));
        sum.or_insert_with(|| Sum { entity, peer, traffic: flow::default() }).add(traffic, self.pass);
    }

    fn emit(&self, batch: &mut Batch<'_>, started: u64) {
        for sum in self.sums.values() {
            sum.emit(self.transport, &mut batch.entity(&sum.entity, Some(started)));
        }
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

    fn emit(&self, transport: NetworkTransport, emitter: &mut Emitter<'_, '_>) {
        let peer = (&key::FLOW_PEER, self.peer.as_str().into());
        let attributes = [peer, (&key::NETWORK_TRANSPORT, transport.as_str().into())];
        emit(emitter, attributes, transport, &self.traffic);
        if self.traffic.connections > 0 {
            let mean = self.traffic.round_trip_times as f64 / self.traffic.connections as f64 / 1e6;
            emitter.reading(&metric::FLOW_RTT, &[peer], mean);
        }
    }
}

fn emit(emit: &mut Emitter<'_, '_>, of: [Pair<'_>; 2], transport: NetworkTransport, traffic: &flow) {
    let ways = [
        (NetworkIoDirection::Receive, traffic.received, traffic.segments_in),
        (NetworkIoDirection::Transmit, traffic.sent, traffic.segments_out),
    ];
    let [peer, over] = of;
    for (direction, bytes, packets) in ways {
        let attributes = [peer, over, (&key::NETWORK_IO_DIRECTION, direction.as_str().into())];
        emit.counter(&metric::FLOW_IO, &attributes, bytes);
        emit.counter(&metric::FLOW_PACKETS, &attributes, packets);
    }
    if transport == NetworkTransport::Tcp {
        emit.counter(&metric::FLOW_RETRANSMITS, &[peer], traffic.retransmits);
    }
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
