//! Every packet that the kernel drops: counted in the kernel by reason, and told as events with place and addresses.
//!
//! Where the kernel frees without a trace, the counters of `/proc/net/{snmp,netstat}` are the account: a SYN that a
//! full accept queue refuses is seen by the hook on `tcp_conn_request` where the kernel allows one, else in
//! `tcp.listen.drops`; a local send without a route frees nothing.

mod event;
mod explain;
mod neighbours;

use std::sync::Arc;

use jitterscope_ebpf::{
    Missing, Symbols, Table, TableError,
    abi::{
        DIRECTION_RECEIVE, DIRECTION_TRANSMIT, DROP_SOURCE_LISTEN_OVERFLOW, drop_key, entity, neighbour,
        neighbour_key,
    },
    packetloss::{self, LISTEN_OVERFLOWS, PacketLoss, Reasons},
};
use jitterscope_semconv::{
    attribute as key, event as events, metric,
    value::{NetworkIoDirection, NetworkType},
};

use self::{event::Teller, neighbours::Neighbours};
use super::{
    Definition, Opening, Overhead, Probe, ProbeOption, Skip, Source,
    connection::{address, end, family_name},
    machine::EBPF_CAPABILITIES,
    maps::{Attributes, Fill, KernelMap, Told, by_entity_with},
    observed::{Observed, Reading},
    shown::exemplars,
};
use crate::{
    batch::{Batch, Occurrence, attributes::Pair},
    clock::Clock,
    pods::{Netns, Origin},
    round::Round,
    spans::Link,
};

/// Dropped packets.
pub(super) static DEFINITION: Definition = Definition {
    name: "packetloss",
    use_when: "packets disappear: which pod lost which packet, where in the kernel and why",
    source: Source::Ebpf,
    overhead: Overhead::Low,
    default: true,
    capabilities: EBPF_CAPABILITIES,
    options: &[ProbeOption::Spans, ProbeOption::Events, ProbeOption::Stack],
    metrics: &[&metric::PACKET_DROPS],
    events: &[&events::PACKET_DROPPED],
    open,
};

struct Packetloss {
    teller: Teller,
    reasons: Arc<Reasons>,
}

fn open(opening: &Opening<'_>) -> Result<Box<dyn Probe>, Skip> {
    let options = packetloss::Options {
        spans: opening.spans,
        ..packetloss::Options::new(opening.machine.host_netns()?)
    };
    let kernel = opening.machine.kernel()?;
    let program = PacketLoss::open(kernel, &options)?;
    let teller = Teller::new(Symbols::new(kernel.functions()));
    let reasons = Arc::clone(program.reasons());
    let names = Arc::clone(&reasons);
    let told = Told::new("drops", options.drops, &metric::PACKET_DROPS);
    let shown = exemplars(program.observer.loaded());
    let maps = vec![
        by_entity_with(told, program.drops, shown, owner, move |key| Some(What::of(&key.into(), &names))),
        Box::new(Addresses { known: Neighbours::default(), table: program.neighbours }) as Box<dyn KernelMap>,
    ];
    Observed::start(program.observer, maps, Packetloss { teller, reasons }, opening)
}

fn owner(key: &drop_key) -> entity {
    entity { netns: key.netns, netns_cookie: key.netns_cookie, cgroup: key.cgroup, ..entity::default() }
}

/// The addresses of containers behind bridges, for the program.
struct Addresses {
    known: Neighbours,
    table: Table<neighbour_key, neighbour>,
}

impl KernelMap for Addresses {
    fn collect(&mut self, round: &Round<'_>, _: &mut Batch<'_>, _: u64) -> Result<Fill, TableError> {
        self.known.update(&round.pods, &self.table)?;
        Ok(Fill { map: "neighbours", entries: self.known.len(), limit: usize::MAX })
    }
}

impl Reading for Packetloss {
    type Record = packetloss::Event;

    fn link(&self, record: &packetloss::Event) -> Option<Link> {
        Link::of(&record.span)
    }

    fn occurrence(&mut self, record: &packetloss::Event, clock: &Clock) -> Occurrence {
        self.teller.occurrence(record, &self.reasons, clock)
    }

    fn limitation(&self, missing: &[Missing]) -> Option<String> {
        let texts: Vec<String> =
            missing.iter().map(|missing| format!("without hook {}", missing.hook)).collect();
        (!texts.is_empty()).then(|| {
            format!("{}: SYNs refused by a full accept queue are in tcp.listen.drops only", texts.join(", "))
        })
    }
}

fn origin(netns: u32, cookie: u64, cgroup: u64) -> Origin {
    Origin { netns: Netns { inode: netns, cookie }, cgroup, pid: 0 }
}

/// What dropped packets are told apart by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct What {
    reason: String,
    subsystem: String,
    direction: Option<NetworkIoDirection>,
    transport: Option<String>,
    family: Option<NetworkType>,
    host: bool,
}

/// The fields that counters and events of the kernel have in common.
struct Raw {
    source: u32,
    reason: u32,
    direction: u8,
    protocol: u8,
    family: u8,
    host: u8,
}

macro_rules! raw_of {
    ($record:ty) => {
        impl From<&$record> for Raw {
            fn from(record: &$record) -> Self {
                Self {
                    source: record.source,
                    reason: record.reason,
                    direction: record.direction,
                    protocol: record.protocol,
                    family: record.family,
                    host: record.host,
                }
            }
        }
    };
}

raw_of!(drop_key);
raw_of!(packetloss::Event);

impl What {
    fn of(key: &Raw, reasons: &Reasons) -> Self {
        Self {
            reason: reason_name(key.source, key.reason, reasons),
            subsystem: subsystem_name(key.reason, reasons),
            direction: direction_name(key.direction),
            transport: (key.family != 0).then(|| transport_name(key.protocol)),
            family: family_name(key.family),
            host: key.host != 0,
        }
    }
}

impl Attributes for What {
    fn attributes(&self) -> Vec<Pair<'_>> {
        let mut attributes: Vec<Pair<'_>> = vec![
            (&key::PACKET_DROP_REASON, self.reason.as_str().into()),
            (&key::PACKET_DROP_SUBSYSTEM, self.subsystem.as_str().into()),
        ];
        attributes.extend(self.direction.map(|name| (&key::NETWORK_IO_DIRECTION, name.as_str().into())));
        attributes.extend(self.transport.as_deref().map(|name| (&key::NETWORK_TRANSPORT, name.into())));
        attributes.extend(self.family.map(|name| (&key::NETWORK_TYPE, name.as_str().into())));
        attributes.extend(self.host.then(|| (&key::NETNS_HOST, true.into())));
        attributes
    }
}

/// The running kernel's name of a reason; before it gives reasons, and for the hook that has none, what it says
/// elsewhere.
fn reason_name(source: u32, reason: u32, reasons: &Reasons) -> String {
    if source == DROP_SOURCE_LISTEN_OVERFLOW {
        return LISTEN_OVERFLOWS.to_owned();
    }
    match reasons.name(reason) {
        Some(name) => name.to_owned(),
        None if reasons.exist() => format!("{reason:#x}"),
        None => NOT_SPECIFIED.to_owned(),
    }
}

/// What kernels with reasons say where they have none.
const NOT_SPECIFIED: &str = "NOT_SPECIFIED";

fn subsystem_name(reason: u32, reasons: &Reasons) -> String {
    reasons.subsystem(reason).unwrap_or("core").to_ascii_lowercase()
}

fn direction_name(value: u8) -> Option<NetworkIoDirection> {
    match u32::from(value) {
        DIRECTION_TRANSMIT => Some(NetworkIoDirection::Transmit),
        DIRECTION_RECEIVE => Some(NetworkIoDirection::Receive),
        _ => None,
    }
}

/// IP protocol numbers by the names that OpenTelemetry or IANA give them.
pub(super) fn transport_name(protocol: u8) -> String {
    let names = [
        (1, "icmp"),
        (2, "igmp"),
        (6, "tcp"),
        (17, "udp"),
        (58, "ipv6-icmp"),
        (132, "sctp"),
        (136, "udplite"),
    ];
    let known = names.iter().find(|(number, _)| *number == protocol);
    known.map_or_else(|| protocol.to_string(), |(_, name)| (*name).to_owned())
}

/// Reads a record as if it came out of the ring, without a kernel's names. Its addresses are replaced by one: each that is
/// new costs a look through all symbols.
#[cfg(any(test, fuzzing))]
pub(super) fn read_record(bytes: &[u8]) {
    thread_local! {
        static READING: std::cell::RefCell<Packetloss> = std::cell::RefCell::new(Packetloss {
            teller: Teller::new(Symbols::new(Arc::default())),
            reasons: Arc::default(),
        });
    }
    let Ok((mut record, _)) = <packetloss::Event as zerocopy::FromBytes>::read_from_prefix(bytes) else {
        return;
    };
    record.location = 0;
    record.stack.fill(0);
    READING.with_borrow_mut(|reading| super::observed::check_record(reading, &record));
}
