//! The fixture of the fault tests: a node in miniature with a receiver that takes the router for its host, and the check
//! of what it told against what the test knows.
#![expect(clippy::unwrap_used, reason = "a part of tests, which end at the first surprise")]
#![expect(clippy::missing_panics_doc, reason = "its checks are assertions")]

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use jitterscope_semconv::{attribute as key, event, metric};

use crate::kernel::drop_reasons;
use crate::netns::Netns;
use crate::network::{Family, Network};
use crate::receiver::Receiver;
use crate::telemetry::{Attributes, Point, Record, Telemetry, has};
use crate::{poll, requirements};

/// A network and a receiver on its router.
#[derive(Debug)]
pub struct Bed {
    /// The containers and the router between them.
    pub network: Network,
    /// Prints what it sees as OTLP/JSON.
    pub receiver: Receiver,
    reasons: BTreeSet<String>,
    functions: HashSet<String>,
}

/// Makes it; `None` where the test cannot run, which is a failure in continuous integration.
#[must_use]
pub fn bed() -> Option<Bed> {
    if !requirements::met(&["ip", "nft", "tc", "nstat", "bpftool", "ping", "unshare"]) {
        return None;
    }
    let network = Network::new().unwrap();
    // No event of a fault is to be held back.
    let limits = "probes.packetloss.events={rate: 1000, burst: 1000}";
    let receiver = Receiver::start_on(&network.router, &["--format", "json", "--set", limits]).unwrap();
    Some(Bed { network, receiver, reasons: drop_reasons().unwrap(), functions: functions() })
}

/// Where a packet is lost and whose loss it is.
#[derive(Clone, Debug)]
pub struct Place {
    /// Name of the namespace whose loss it is.
    entity: String,
    /// Inode of the namespace where it happens.
    inode: u64,
    interface: &'static str,
    direction: &'static str,
    host: bool,
}

impl Place {
    /// On receive at a container's `eth0`.
    #[must_use]
    pub fn receive(netns: &Netns) -> Self {
        let entity = netns.name().to_owned();
        Self { entity, inode: netns.inode().unwrap(), interface: "eth0", direction: "receive", host: false }
    }

    /// On transmit at a container's `eth0`.
    #[must_use]
    pub fn transmit(netns: &Netns) -> Self {
        Self { direction: "transmit", ..Self::receive(netns) }
    }

    /// On the node, at one of its devices, on behalf of a container: direction as the container sees it.
    #[must_use]
    pub fn host(network: &Network, interface: &'static str, entity: &Netns) -> Self {
        let inode = network.router.inode().unwrap();
        Self { inode, interface, host: true, ..Self::transmit(entity) }
    }
}

/// One kind of lost packet, as the test knows it.
#[derive(Clone, Debug)]
pub struct Fault {
    /// `network.type`.
    pub family: Family,
    /// `network.transport`.
    pub transport: &'static str,
    /// Where the packet came from.
    pub source: IpAddr,
    /// A port that no other packet comes from.
    pub source_port: u16,
    /// Where it went.
    pub destination: IpAddr,
    /// The port there.
    pub destination_port: u16,
    /// Where it was lost.
    pub place: Place,
    /// The kernel's names of it, newest first; a kernel that has none of them does not say.
    pub reasons: &'static [&'static str],
}

impl Bed {
    /// Waits for an event of each fault, ends the receiver and holds everything that it told against the faults and their
    /// counts: the events, the counters, and that the containers and the host lost nothing else.
    pub fn check(&mut self, faults: &[(Fault, u64)]) {
        for (fault, _) in faults {
            let arrived = || {
                self.receiver
                    .printed()
                    .unwrap()
                    .records()
                    .any(|record| self.is_of(fault, &record))
                    .then_some(())
            };
            poll::until(&format!("an event of {fault:?}"), arrived)
                .unwrap_or_else(|error| panic!("{error}: {}", self.told()));
        }
        self.receiver.stop().unwrap();
        let told = self.receiver.printed().unwrap();
        for (fault, count) in faults {
            let events: Vec<_> = told.records().filter(|record| self.is_of(fault, record)).collect();
            assert_eq!(events.len() as u64, *count, "{fault:?}: {}", self.told());
            events.iter().for_each(|event| self.check_event(fault, event));
            let counted = told.total(metric::PACKET_DROPS.name, |point| self.counts(fault, point));
            assert_eq!(counted, *count, "{fault:?}: {}", self.told());
        }
        let expected: u64 = faults.iter().map(|(_, count)| count).sum();
        assert_eq!(self.lost(&told), expected, "{}", self.told());
    }

    /// Everything that was counted for the three namespaces of the network.
    #[must_use]
    pub fn lost(&self, told: &Telemetry) -> u64 {
        told.total(metric::PACKET_DROPS.name, |point| self.is_ours(&point.resource))
    }

    /// Whether a resource is one of the network's; the router is the host and has no name.
    #[must_use]
    pub fn is_ours(&self, resource: &Attributes) -> bool {
        let of = |netns: &Netns| has(resource, key::NETNS_NAME.key, netns.name());
        of(&self.network.a) || of(&self.network.b) || resource.contains_key(key::HOST_NAME.key)
    }

    /// The first of these names that the running kernel has; what stands for none where it has none of them.
    #[must_use]
    pub fn reason(&self, names: &[&'static str]) -> &'static str {
        let known = names.iter().find(|name| self.reasons.contains(**name));
        known.copied().unwrap_or("NOT_SPECIFIED")
    }

    /// Whether an event is one of the fault's packets, by the ports that no other packet has.
    fn is_of(&self, fault: &Fault, record: &Record) -> bool {
        let port = fault.source_port.to_string();
        has(&record.attributes, key::SOURCE_PORT.key, &port)
            && has(&record.attributes, key::NETWORK_TYPE.key, fault.family.name())
            && self.is_ours(&record.resource)
    }

    /// Whether a point counts the fault's packets.
    fn counts(&self, fault: &Fault, point: &Point) -> bool {
        has(&point.resource, key::NETNS_NAME.key, &fault.place.entity) && self.what(fault) == point.attributes
    }

    /// What counters and events of the fault have in common.
    fn what(&self, fault: &Fault) -> Attributes {
        let mut what = Attributes::from([
            (key::PACKET_DROP_REASON.key.to_owned(), self.reason(fault.reasons).to_owned()),
            (key::PACKET_DROP_SUBSYSTEM.key.to_owned(), "core".to_owned()),
            (key::NETWORK_IO_DIRECTION.key.to_owned(), fault.place.direction.to_owned()),
            (key::NETWORK_TRANSPORT.key.to_owned(), fault.transport.to_owned()),
            (key::NETWORK_TYPE.key.to_owned(), fault.family.name().to_owned()),
        ]);
        if fault.place.host {
            what.insert(key::NETNS_HOST.key.to_owned(), true.to_string());
        }
        what
    }

    fn check_event(&self, fault: &Fault, record: &Record) {
        let place = &fault.place;
        let mut expected = self.what(fault);
        expected.extend([
            (key::SOURCE_ADDRESS.key.to_owned(), fault.source.to_string()),
            (key::SOURCE_PORT.key.to_owned(), fault.source_port.to_string()),
            (key::DESTINATION_ADDRESS.key.to_owned(), fault.destination.to_string()),
            (key::DESTINATION_PORT.key.to_owned(), fault.destination_port.to_string()),
            (key::NETWORK_INTERFACE_NAME.key.to_owned(), place.interface.to_owned()),
            (key::NETNS_INODE.key.to_owned(), place.inode.to_string()),
        ]);
        let told: Attributes =
            record.attributes.clone().into_iter().filter(|(key, _)| expected.contains_key(key)).collect();
        assert_eq!(told, expected, "{record:#?}");
        assert_eq!(record.event, event::PACKET_DROPPED.name);
        assert!(has(&record.resource, key::NETNS_NAME.key, &place.entity), "{record:#?}");
        assert_eq!(record.attributes.contains_key(key::NETNS_HOST.key), place.host, "{record:#?}");
        self.check_location(&record.attributes);
        assert!(record.body.contains(&fault.source.to_string()), "{}", record.body);
        assert!(record.time <= record.observed, "{record:#?}");
    }

    /// The place is a function of the running kernel, with an offset.
    fn check_location(&self, attributes: &Attributes) {
        let location = &attributes[key::PACKET_DROP_LOCATION.key];
        let (function, offset) = location.split_once("+0x").unwrap();
        assert!(u64::from_str_radix(offset, 16).is_ok() && self.functions.contains(function), "{location}");
    }

    /// Everything about the network that was told, for the message of a test that fails.
    #[must_use]
    pub fn told(&self) -> String {
        let told = self.receiver.printed().unwrap();
        let mut points = told.last(metric::PACKET_DROPS.name);
        points.retain(|point| self.is_ours(&point.resource));
        let records: Vec<_> =
            told.records().filter(|record| self.is_ours(&record.resource)).take(50).collect();
        format!("{points:#?} {records:#?} {}", self.receiver.log())
    }
}

/// The functions of the running kernel.
fn functions() -> HashSet<String> {
    let symbols = std::fs::read_to_string("/proc/kallsyms").unwrap();
    symbols.lines().filter_map(|line| line.split_ascii_whitespace().nth(2)).map(str::to_owned).collect()
}
