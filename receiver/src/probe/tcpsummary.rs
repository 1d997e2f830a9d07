//! Sockets and TCP connections as they stand: states, queues and round-trip times, from the pass over all open files.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use jitterscope_ebpf::{
    Merge as _,
    abi::{histogram, socket_key, socket_sums},
    sockets::ROUND_TRIP,
};
use jitterscope_semconv::{
    attribute as key, metric,
    value::{NetworkConnectionState, NetworkIoDirection, NetworkType},
};

use super::{
    CollectError, Definition, Opening, Overhead, Probe, Skip, Source, Usage, machine::EBPF_CAPABILITIES,
};
use crate::{
    batch::{Batch, Emitter, attributes::Pair},
    pods::Entity,
    round::{
        Round,
        sockets::{Interest, View, origin},
    },
};

/// Sockets by state.
pub(super) static DEFINITION: Definition = Definition {
    name: "tcpsummary",
    use_when: "connections pile up or stall: states, queues, accept queues and round-trip times of live connections per pod",
    source: Source::Ebpf,
    overhead: Overhead::Low,
    default: true,
    capabilities: EBPF_CAPABILITIES,
    options: &[],
    metrics: &[
        &metric::TCP_CONNECTION_COUNT,
        &metric::TCP_QUEUE_SIZE,
        &metric::TCP_ACCEPT_QUEUE_LENGTH,
        &metric::TCP_ACCEPT_QUEUE_LIMIT,
        &metric::TCP_RTT_DURATION,
        &metric::TCP_UNACKED,
        &metric::TCP_CWND,
        &metric::SOCKET_HELD_COUNT,
    ],
    events: &[],
    open,
};

struct TcpSummary {
    interest: Arc<Interest>,
    limitation: Option<String>,
    usage: Usage,
}

fn open(opening: &Opening<'_>) -> Result<Box<dyn Probe>, Skip> {
    let interest = Interest::new(opening.machine);
    let limitation = interest.limitation();
    Ok(Box::new(TcpSummary { interest, limitation, usage: Usage::default() }))
}

impl Probe for TcpSummary {
    fn collect(&mut self, round: &Round<'_>, batch: &mut Batch<'_>) -> Result<(), CollectError> {
        let view = round.sockets(&self.interest)?;
        for owned in by_entity(&view, round).into_values() {
            let mut emit = batch.entity(&owned.entity, Some(view.started));
            owned.emit(&mut emit);
        }
        self.limitation.clone_from(&view.limitation);
        self.usage.clone_from(&view.usage);
        Ok(())
    }

    fn usage(&self) -> Usage {
        self.usage.clone()
    }

    fn limitation(&self) -> Option<String> {
        self.limitation.clone()
    }
}

/// What one entity has.
struct Owned {
    entity: Arc<Entity>,
    /// Sockets by transport and family.
    open: BTreeMap<(String, u8), u64>,
    /// TCP by family and state.
    states: BTreeMap<(u8, u8), u64>,
    /// TCP by family, all states together.
    totals: BTreeMap<u8, socket_sums>,
    listening: BTreeMap<u8, socket_sums>,
    round_trips: Option<Box<histogram>>,
}

fn by_entity(view: &View, round: &Round<'_>) -> HashMap<u64, Owned> {
    let mut all = HashMap::new();
    for (key, sums) in &view.sockets {
        let Some(entity) = round.entity(&origin(&key.entity)) else { continue };
        owned(&mut all, entity).add(key, sums);
    }
    for (holder, times) in &view.round_trips {
        let Some(entity) = round.owner(&origin(holder)) else { continue };
        owned(&mut all, entity).round_trips.get_or_insert_default().merge(times);
    }
    all
}

fn owned(all: &mut HashMap<u64, Owned>, entity: Arc<Entity>) -> &mut Owned {
    all.entry(entity.key).or_insert_with(|| Owned {
        entity,
        open: BTreeMap::new(),
        states: BTreeMap::new(),
        totals: BTreeMap::new(),
        listening: BTreeMap::new(),
        round_trips: None,
    })
}

impl Owned {
    fn add(&mut self, key: &socket_key, sums: &socket_sums) {
        *self.open.entry((transport(key), key.family)).or_default() += sums.sockets;
        if u32::from(key.protocol) != TCP || key.family == 0 {
            return;
        }
        *self.states.entry((key.family, key.state)).or_default() += sums.sockets + sums.subflows;
        if key.state == LISTEN {
            *self.states.entry((key.family, SYN_RECEIVED)).or_default() += sums.requests;
        }
        let totals = if key.state == LISTEN { &mut self.listening } else { &mut self.totals };
        let total = totals.entry(key.family).or_default();
        total.receive_queue += sums.receive_queue;
        total.transmit_queue += sums.transmit_queue;
        total.unacked += sums.unacked;
        total.window += sums.window;
        total.backlog += sums.backlog;
        total.backlog_limit += sums.backlog_limit;
    }

    fn emit(&self, emit: &mut Emitter<'_, '_>) {
        for ((transport, family), sockets) in &self.open {
            let mut attributes: Vec<Pair<'_>> = vec![(&key::NETWORK_TRANSPORT, transport.as_str().into())];
            attributes.extend(family_name(*family));
            emit.amount(&metric::SOCKET_HELD_COUNT, &attributes, sockets.cast_signed());
        }
        for ((family, state), connections) in &self.states {
            let Some(state) = state_name(*state) else { continue };
            let mut attributes: Vec<Pair<'_>> = vec![(&key::NETWORK_CONNECTION_STATE, state.as_str().into())];
            attributes.extend(family_name(*family));
            emit.amount(&metric::TCP_CONNECTION_COUNT, &attributes, connections.cast_signed());
        }
        self.totals.iter().for_each(|(family, total)| emit_connections(emit, *family, total));
        self.listening.iter().for_each(|(family, total)| emit_listeners(emit, *family, total));
        if let Some(times) = &self.round_trips {
            emit.histogram(&metric::TCP_RTT_DURATION, &[], ROUND_TRIP, times);
        }
    }
}

fn emit_connections(emit: &mut Emitter<'_, '_>, family: u8, total: &socket_sums) {
    let attributes: Vec<Pair<'_>> = family_name(family).into_iter().collect();
    emit.amount(&metric::TCP_UNACKED, &attributes, total.unacked.cast_signed());
    emit.amount(&metric::TCP_CWND, &attributes, total.window.cast_signed());
    let queues = [
        (NetworkIoDirection::Receive, total.receive_queue),
        (NetworkIoDirection::Transmit, total.transmit_queue),
    ];
    for (direction, bytes) in queues {
        let mut attributes: Vec<Pair<'_>> = vec![(&key::NETWORK_IO_DIRECTION, direction.as_str().into())];
        attributes.extend(family_name(family));
        emit.amount(&metric::TCP_QUEUE_SIZE, &attributes, bytes.cast_signed());
    }
}

fn emit_listeners(emit: &mut Emitter<'_, '_>, family: u8, total: &socket_sums) {
    let attributes: Vec<Pair<'_>> = family_name(family).into_iter().collect();
    emit.amount(&metric::TCP_ACCEPT_QUEUE_LENGTH, &attributes, total.backlog.cast_signed());
    emit.amount(&metric::TCP_ACCEPT_QUEUE_LIMIT, &attributes, total.backlog_limit.cast_signed());
}

fn family_name(family: u8) -> Option<Pair<'static>> {
    let name = match family {
        4 => NetworkType::Ipv4,
        6 => NetworkType::Ipv6,
        _ => return None,
    };
    Some((&key::NETWORK_TYPE, name.as_str().into()))
}

/// `IPPROTO_TCP`, `include/uapi/linux/in.h`.
const TCP: u32 = 6;
/// `TCP_SYN_RECV` and `TCP_LISTEN`, `include/net/tcp_states.h`. A handshake that the peer has not completed has no socket yet, its
/// listener counts it.
const SYN_RECEIVED: u8 = 3;
const LISTEN: u8 = 10;

/// States by their number in `include/net/tcp_states.h`.
fn state_name(state: u8) -> Option<NetworkConnectionState> {
    Some(match state {
        1 => NetworkConnectionState::Established,
        2 => NetworkConnectionState::SynSent,
        SYN_RECEIVED => NetworkConnectionState::SynReceived,
        4 => NetworkConnectionState::FinWait1,
        5 => NetworkConnectionState::FinWait2,
        7 => NetworkConnectionState::Closed,
        8 => NetworkConnectionState::CloseWait,
        9 => NetworkConnectionState::LastAck,
        LISTEN => NetworkConnectionState::Listen,
        11 => NetworkConnectionState::Closing,
        _ => return None,
    })
}

/// What a socket speaks: an IP protocol by its name or number, another domain by its own.
fn transport(key: &socket_key) -> String {
    let protocols = [
        (6, "tcp"),
        (17, "udp"),
        (1, "icmp"),
        (58, "ipv6-icmp"),
        (132, "sctp"),
        (136, "udplite"),
        (255, "raw"),
        (262, "mptcp"),
    ];
    let domains = [(1, "unix"), (16, "netlink"), (17, "packet"), (40, "vsock"), (38, "alg"), (44, "xdp")];
    let (number, names) =
        if key.family == 0 { (key.domain, domains.as_slice()) } else { (key.protocol, protocols.as_slice()) };
    let known = names.iter().find(|(known, _)| *known == number).map(|(_, name)| (*name).to_owned());
    known.unwrap_or_else(|| if key.family == 0 { format!("domain {number}") } else { number.to_string() })
}
