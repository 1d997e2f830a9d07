//! The fixture of the fault tests: a node in miniature with a receiver that takes the router for its host, and the check
//! of what it told against what the test knows.

use std::collections::BTreeSet;
use std::net::IpAddr;

use jitterscope_integration::kernel::drop_reasons;
use jitterscope_integration::netns::Netns;
use jitterscope_integration::network::{Family, Network};
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::telemetry::{Attributes, Point, Record, Telemetry, has};
use jitterscope_integration::{poll, requirements};
use jitterscope_semconv::{attribute as key, event, metric};

/// A network and a receiver on its router.
pub(crate) struct Bed {
    pub(crate) network: Network,
    pub(crate) receiver: Receiver,
    reasons: BTreeSet<String>,
}

/// `None` where the test cannot run, which is a failure in continuous integration.
pub(crate) fn bed() -> Option<Bed> {
    if !requirements::met(&["ip", "nft", "tc", "nstat", "bpftool", "ping", "unshare"]) {
        return None;
    }
    let network = Network::new().unwrap();
    // No event of a fault is to be held back.
    let limits = "probes.packetloss.events={rate: 1000, burst: 1000}";
    let receiver = Receiver::start_on(&network.router, &["--format", "json", "--set", limits]).unwrap();
    Some(Bed { network, receiver, reasons: drop_reasons().unwrap() })
}

/// Where a packet is lost and whose loss it is.
#[derive(Clone, Debug)]
pub(crate) struct Place {
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
    pub(crate) fn receive(netns: &Netns) -> Self {
        let entity = netns.name().to_owned();
        Self { entity, inode: netns.inode().unwrap(), interface: "eth0", direction: "receive", host: false }
    }

    /// On transmit at a container's `eth0`.
    pub(crate) fn transmit(netns: &Netns) -> Self {
        Self { direction: "transmit", ..Self::receive(netns) }
    }

    /// On the node, at one of its devices, on behalf of a container: direction as the container sees it.
    pub(crate) fn host(network: &Network, interface: &'static str, entity: &Netns) -> Self {
        let inode = network.router.inode().unwrap();
        Self { inode, interface, host: true, ..Self::transmit(entity) }
    }
}

/// One kind of lost packet, as the test knows it.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) family: Family,
    pub(crate) transport: &'static str,
    pub(crate) source: IpAddr,
    pub(crate) source_port: u16,
    pub(crate) destination: IpAddr,
    pub(crate) destination_port: u16,
    pub(crate) place: Place,
    /// The kernel's names of it, newest first; a kernel that has none of them does not say.
    pub(crate) reasons: &'static [&'static str],
}

impl Bed {
    /// Waits for an event of each fault, ends the receiver and holds everything that it told against the faults and their
    /// counts: the events, the counters, and that the containers and the host lost nothing else.
    pub(crate) fn check(&mut self, faults: &[(Fault, u64)]) {
        for (fault, _) in faults {
            let arrived = || self.receiver.printed().unwrap().records().any(|record| self.is_of(fault, &record)).then_some(());
            poll::until(&format!("an event of {fault:?}"), arrived).unwrap_or_else(|error| panic!("{error}: {}", self.told()));
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
    pub(crate) fn lost(&self, told: &Telemetry) -> u64 {
        told.total(metric::PACKET_DROPS.name, |point| self.is_ours(&point.resource))
    }

    /// Whether a resource is one of the network's; the router is the host and has no name.
    fn is_ours(&self, resource: &Attributes) -> bool {
        let of = |netns: &Netns| has(resource, key::NETNS_NAME.key, netns.name());
        of(&self.network.a) || of(&self.network.b) || resource.contains_key(key::HOST_NAME.key)
    }

    fn reason(&self, fault: &Fault) -> &str {
        let known = fault.reasons.iter().find(|name| self.reasons.contains(**name));
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
            (key::PACKET_DROP_REASON.key.to_owned(), self.reason(fault).to_owned()),
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
        let told: Attributes = record.attributes.clone().into_iter().filter(|(key, _)| expected.contains_key(key)).collect();
        assert_eq!(told, expected, "{record:#?}");
        assert_eq!(record.event, event::PACKET_DROPPED.name);
        assert!(has(&record.resource, key::NETNS_NAME.key, &place.entity), "{record:#?}");
        assert_eq!(record.attributes.contains_key(key::NETNS_HOST.key), place.host, "{record:#?}");
        check_location(&record.attributes);
        assert!(record.body.contains(&fault.source.to_string()), "{}", record.body);
        assert!(record.time <= record.observed, "{record:#?}");
    }

    /// Everything about the network that was told, for the message of a test that fails.
    fn told(&self) -> String {
        let told = self.receiver.printed().unwrap();
        let mut points = told.last(metric::PACKET_DROPS.name);
        points.retain(|point| self.is_ours(&point.resource));
        let records: Vec<_> = told.records().filter(|record| self.is_ours(&record.resource)).take(50).collect();
        format!("{points:#?} {records:#?} {}", self.receiver.log())
    }
}

/// The place is a function of the running kernel, with an offset.
fn check_location(attributes: &Attributes) {
    let location = &attributes[key::PACKET_DROP_LOCATION.key];
    let (function, offset) = location.split_once("+0x").unwrap();
    assert!(u64::from_str_radix(offset, 16).is_ok(), "{location}");
    let symbols = std::fs::read_to_string("/proc/kallsyms").unwrap();
    assert!(symbols.lines().any(|line| line.split_ascii_whitespace().nth(2) == Some(function)), "{location}");
}

/// Packets that the queue of a container's device turned away, as the kernel counted them.
pub(crate) fn qdisc_drops(netns: &Netns) -> u64 {
    qdisc(netns)["drops"].as_u64().unwrap()
}

/// Packets that wait in it.
pub(crate) fn queued(netns: &Netns) -> u64 {
    qdisc(netns)["qlen"].as_u64().unwrap()
}

fn qdisc(netns: &Netns) -> serde_json::Value {
    let text = netns.sh("tc -s -j qdisc show dev eth0").unwrap();
    let list: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    list.into_iter().find(|qdisc| qdisc["root"] == true).unwrap()
}
