//! Every packet that the kernel drops: counted in the kernel by reason, and told as events with place and addresses.
//!
//! Where the kernel frees without a trace, the counters of `/proc/net/{snmp,netstat}` are the account: a SYN that a
//! full accept queue refuses is seen by the hook on `tcp_conn_request` where the kernel allows one, else in
//! `tcp.listen.drops`; a local send without a route frees nothing.

mod event;
mod explain;
mod neighbours;

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::BorrowedFd,
    sync::Arc,
};

use jitterscope_ebpf::{
    Kernel, Ring, Symbols, TooShort,
    abi::{DIRECTION_RECEIVE, DIRECTION_TRANSMIT, DROP_SOURCE_LISTEN_OVERFLOW, drop_key},
    host_netns,
    packetloss::{self, LISTEN_OVERFLOWS, PacketLoss, Reasons},
};
use jitterscope_semconv::{
    attribute as key, event as events, metric,
    value::{NetworkIoDirection, NetworkType},
};
use tracing::debug;

use self::{event::Teller, neighbours::Neighbours};
use super::{CollectError, Definition, Opening, Overhead, Probe, ProbeOption, Skip, Source, Usage};
use crate::{
    account::KernelAccount,
    batch::{Batch, Occurrence, attributes::Pair},
    capabilities,
    clock::Clock,
    config::ProbeSettings,
    pods::{Entity, Netns, Origin},
    round::Round,
};

/// What the programs need besides BTF.
const CAPABILITIES: &[&str] = &["CAP_BPF", "CAP_PERFMON"];

/// Dropped packets.
pub(super) static DEFINITION: Definition = Definition {
    name: "packetloss",
    use_when: "packets disappear: which pod lost which packet, where in the kernel and why",
    source: Source::Ebpf,
    overhead: Overhead::Low,
    default: true,
    capabilities: CAPABILITIES,
    options: &[ProbeOption::Events, ProbeOption::Stack],
    metrics: &[&metric::PACKET_DROPS],
    events: &[&events::PACKET_DROPPED],
    open,
};

struct Packetloss {
    program: PacketLoss,
    ring: Option<Ring>,
    teller: Teller,
    neighbours: Neighbours,
    /// Nanoseconds since the epoch when counting began.
    attached: u64,
    limit: usize,
    /// How full the maps are, as of the last collection.
    entries: Vec<(&'static str, u64)>,
    /// What the programs had used when they were detached.
    detached: Option<Usage>,
}

fn open(opening: &Opening<'_>) -> Result<Box<dyn Probe>, Skip> {
    let lacking = capabilities::lacking(CAPABILITIES);
    if !lacking.is_empty() {
        let reason = "loading eBPF programs is not permitted".to_owned();
        return Err(Skip::Privilege { capabilities: lacking.join(", "), reason });
    }
    let kernel = Kernel::read(opening.btf).map_err(|error| Skip::Missing(error.to_string()))?;
    let host =
        host_netns().map_err(|error| Skip::Missing(format!("the host's network namespace: {error}")))?;
    let options = packetloss::Options::new(host);
    let limit = options.drops as usize;
    let mut program =
        PacketLoss::open(&kernel, &options).map_err(|error| Skip::Missing(error.to_string()))?;
    let attached = Clock::read().now();
    let failed = |error: jitterscope_ebpf::TableError| Skip::Temporary(error.to_string());
    configure(&program, opening.settings).map_err(failed)?;
    let ring = program.events();
    let teller = Teller::new(Symbols::default());
    Ok(Box::new(Packetloss {
        program,
        ring,
        teller,
        neighbours: Neighbours::default(),
        attached,
        limit,
        entries: Vec::new(),
        detached: None,
    }))
}

fn configure(program: &PacketLoss, settings: &ProbeSettings) -> Result<(), jitterscope_ebpf::TableError> {
    let (rate, burst) = settings.events.map_or((0, 0), |events| (events.rate, events.burst));
    program.configure(rate, burst, settings.stack)
}

impl Probe for Packetloss {
    fn collect(&mut self, round: &Round<'_>, batch: &mut Batch<'_>) -> Result<(), CollectError> {
        let mut sums = Sums::default();
        let reasons = self.program.reasons();
        let entries = self.program.drops.for_each(|key, packets| sums.add(key, *packets, reasons, round))?;
        for sum in sums.0.into_values() {
            let mut emit = batch.entity(&sum.entity, Some(self.attached));
            emit.counter(&metric::PACKET_DROPS, &sum.what.attributes(), sum.packets);
        }
        let overflow = self.program.account()?.overflow;
        if overflow > 0 {
            let mut emit = batch.entity(&round.pods.node(), Some(self.attached));
            emit.counter(&metric::PACKET_DROPS, &[(&key::OTEL_METRIC_OVERFLOW, true.into())], overflow);
        }
        if entries > self.limit / 2 {
            self.make_room(round)?;
        }
        self.neighbours.update(&round.pods, &self.program.neighbours)?;
        self.entries = vec![
            ("drops", entries as u64),
            ("limiters", self.program.limited()? as u64),
            ("neighbours", self.neighbours.len() as u64),
        ];
        Ok(())
    }

    fn reconfigure(&mut self, settings: &ProbeSettings) -> Result<(), CollectError> {
        Ok(configure(&self.program, settings)?)
    }

    fn events(&self) -> Option<BorrowedFd<'_>> {
        self.ring.as_ref().map(std::os::fd::AsFd::as_fd)
    }

    fn next_event(&mut self, clock: &Clock) -> Option<Result<Occurrence, TooShort>> {
        let record = self.ring.as_mut()?.take::<packetloss::Event>()?;
        Some(record.map(|record| self.teller.occurrence(&record, self.program.reasons(), clock)))
    }

    fn account(&self) -> KernelAccount {
        let account = self.program.account().map_err(|error| debug!(%error, "the account of packetloss"));
        account.map_or_else(
            |()| KernelAccount::default(),
            |account| KernelAccount {
                seen: account.seen,
                suppressed: account.suppressed,
                lost: account.lost,
            },
        )
    }

    fn detach(&mut self) {
        self.detached = Some(self.usage());
        self.program.detach();
    }

    fn usage(&self) -> Usage {
        let now = || Usage { entries: self.entries.clone(), ..Usage::of(self.program.loaded()) };
        self.detached.clone().unwrap_or_else(now)
    }

    fn limitation(&self) -> Option<String> {
        let missing = self.program.loaded().missing();
        let texts: Vec<String> =
            missing.iter().map(|missing| format!("without hook {}", missing.hook)).collect();
        (!texts.is_empty()).then(|| {
            format!("{}: SYNs refused by a full accept queue are in tcp.listen.drops only", texts.join(", "))
        })
    }
}

impl Packetloss {
    /// Forgets the counters of namespaces that nobody knows any more, so that new ones find room.
    fn make_room(&mut self, round: &Round<'_>) -> Result<(), CollectError> {
        let mut gone = Vec::new();
        self.program.drops.for_each(|key, _| {
            if round.pods.resolve(&origin(key.netns, key.netns_cookie, 0)).is_none() {
                gone.push((key.netns, key.netns_cookie));
            }
        })?;
        gone.sort_unstable();
        gone.dedup();
        for (netns, cookie) in gone {
            self.program.forget(netns, cookie, |_, _| {})?;
        }
        Ok(())
    }
}

fn origin(netns: u32, cookie: u64, cgroup: u64) -> Origin {
    Origin { netns: Netns { inode: netns, cookie }, cgroup, pid: 0 }
}

/// Counters of the kernel added up by what is emitted: several sockets and places can have one series.
#[derive(Default)]
struct Sums(HashMap<(u64, What), Sum>);

struct Sum {
    entity: Arc<Entity>,
    what: What,
    packets: u64,
}

impl Sums {
    fn add(&mut self, key: &drop_key, packets: u64, reasons: &Reasons, round: &Round<'_>) {
        // Namespaces that the settings leave out have no entity and no points.
        let Some(entity) = round.entity(&origin(key.netns, key.netns_cookie, key.cgroup)) else { return };
        let what = What::of(&key.into(), reasons);
        let sum =
            self.0.entry((entity.key, what.clone())).or_insert_with(|| Sum { entity, what, packets: 0 });
        sum.packets += packets;
    }
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

fn family_name(family: u8) -> Option<NetworkType> {
    match family {
        4 => Some(NetworkType::Ipv4),
        6 => Some(NetworkType::Ipv6),
        _ => None,
    }
}

/// IP protocol numbers by the names that OpenTelemetry or IANA give them.
fn transport_name(protocol: u8) -> String {
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

/// An address as the kernel holds it: IPv4 in the first four bytes.
fn address(family: u8, bytes: [u8; 16]) -> Option<IpAddr> {
    let [a, b, c, d, ..] = bytes;
    match family {
        4 => Some(Ipv4Addr::new(a, b, c, d).into()),
        6 => Some(Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}
