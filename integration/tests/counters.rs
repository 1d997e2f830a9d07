//! The counters of `tcp`, `udp` and `netdev` in the receiver's output are those that other processes read inside each
//! namespace, after traffic with known totals.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::net::{TcpStream, UdpSocket};

use jitterscope_integration::kernel::{Device, counter, devices};
use jitterscope_integration::netns::Netns;
use jitterscope_integration::network::{Family, Network};
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::telemetry::{Point, Telemetry, has};
use jitterscope_integration::traffic::{self, CLOSED_PORT, flood};
use jitterscope_integration::{poll, requirements};
use jitterscope_semconv::{Attribute, attribute as key, metric};

/// A counter of the receiver and its name in nstat(8).
type Row = (&'static str, &'static [(&'static Attribute, &'static str)], &'static str);

const V4: (&Attribute, &str) = (&key::NETWORK_TYPE, "ipv4");
const V6: (&Attribute, &str) = (&key::NETWORK_TYPE, "ipv6");
const UDP: (&Attribute, &str) = (&key::UDP_PROTOCOL, "udp");
const IN: (&Attribute, &str) = (&key::NETWORK_IO_DIRECTION, "receive");
const OUT: (&Attribute, &str) = (&key::NETWORK_IO_DIRECTION, "transmit");

const ROWS: &[Row] = &[
    (metric::TCP_CONNECTION_OPENS.name, &[(&key::TCP_CONNECTION_OPEN_KIND, "active")], "TcpActiveOpens"),
    (metric::TCP_CONNECTION_OPENS.name, &[(&key::TCP_CONNECTION_OPEN_KIND, "passive")], "TcpPassiveOpens"),
    (metric::TCP_CONNECTION_ATTEMPT_FAILURES.name, &[], "TcpAttemptFails"),
    (metric::TCP_CONNECTION_ESTABLISHED_RESETS.name, &[], "TcpEstabResets"),
    (metric::TCP_SEGMENTS.name, &[IN], "TcpInSegs"),
    (metric::TCP_SEGMENTS.name, &[OUT], "TcpOutSegs"),
    (metric::TCP_SEGMENT_RETRANSMITS.name, &[], "TcpRetransSegs"),
    (metric::TCP_SEGMENT_RESETS.name, &[], "TcpOutRsts"),
    (metric::TCP_SEGMENT_ERRORS.name, &[(&key::TCP_SEGMENT_ERROR_REASON, "checksum")], "TcpInCsumErrors"),
    (metric::UDP_DATAGRAMS.name, &[IN, V4, UDP], "UdpInDatagrams"),
    (metric::UDP_DATAGRAMS.name, &[OUT, V4, UDP], "UdpOutDatagrams"),
    (metric::UDP_DATAGRAMS.name, &[IN, V6, UDP], "Udp6InDatagrams"),
    (metric::UDP_DATAGRAMS.name, &[OUT, V6, UDP], "Udp6OutDatagrams"),
    (metric::UDP_ERRORS.name, &[(&key::UDP_ERROR_REASON, "no_port"), V4, UDP], "UdpNoPorts"),
    (metric::UDP_ERRORS.name, &[(&key::UDP_ERROR_REASON, "no_port"), V6, UDP], "Udp6NoPorts"),
    (metric::UDP_ERRORS.name, &[(&key::UDP_ERROR_REASON, "checksum"), V4, UDP], "UdpInCsumErrors"),
    (metric::UDP_ERRORS.name, &[(&key::UDP_ERROR_REASON, "receive_buffer"), V6, UDP], "Udp6RcvbufErrors"),
];

fn is_of(netns: &Netns) -> impl Fn(&Point) -> bool {
    move |point| has(&point.resource, key::NETNS_NAME.key, netns.name())
}

/// The last value of a series of a namespace; none before it arrived.
fn told(telemetry: &Telemetry, netns: &Netns, name: &str, attributes: &[(&Attribute, &str)]) -> Option<u64> {
    let here = is_of(netns);
    let mut points = telemetry.last(name);
    points.retain(|point| {
        here(point) && attributes.iter().all(|(key, value)| has(&point.attributes, key.key, value))
    });
    assert!(points.len() <= 1, "{points:#?}");
    points.first().map(|point| point.value as u64)
}

fn check_counters(telemetry: &Telemetry, netns: &Netns) {
    for (name, attributes, nstat) in ROWS {
        let kernel = counter(netns, nstat).unwrap();
        assert_eq!(told(telemetry, netns, name, attributes), Some(kernel), "{} {nstat}", netns.name());
    }
}

/// Connections that are open, as `ss` lists them inside.
fn check_established(telemetry: &Telemetry, netns: &Netns) -> usize {
    let open = netns.sh("ss --no-header --tcp --numeric state established").unwrap().lines().count();
    assert_eq!(told(telemetry, netns, metric::TCP_CONNECTION_ESTABLISHED.name, &[]), Some(open as u64));
    open
}

/// Each device's counters, loopback apart, as `ip -s -j link` showed them inside before and after the collection.
fn check_devices(telemetry: &Telemetry, netns: &Netns, devices: &[Device]) {
    for device in devices {
        for (way, kernel) in [(IN, &device.receive), (OUT, &device.transmit)] {
            let attributes = [way, (&key::NETWORK_INTERFACE_NAME, device.name.as_str())];
            let told = |name| told(telemetry, netns, name, &attributes);
            let found = (told(metric::NETDEV_IO.name), told(metric::NETDEV_PACKETS.name));
            let wanted = (device.name != "lo").then_some(());
            assert_eq!(found, (wanted.map(|()| kernel.bytes), wanted.map(|()| kernel.packets)), "{device:?}");
            let found = (told(metric::NETDEV_ERRORS.name), told(metric::NETDEV_DROPS.name));
            assert_eq!(found, (wanted.map(|()| kernel.errors), wanted.map(|()| kernel.drops)), "{device:?}");
        }
    }
}

/// What a receiver tells at its end. It is asked again when a device moved meanwhile: the kernel reports multicast groups
/// (MLD) for some seconds after a device came up. With it the devices of each namespace as they stood then.
fn last_collection(mut receiver: Receiver, namespaces: [&Netns; 3]) -> (Telemetry, [Vec<Device>; 3]) {
    for _ in 0..20 {
        let before = namespaces.map(|netns| devices(netns).unwrap());
        receiver.stop().unwrap();
        let telemetry = receiver.printed().unwrap();
        if namespaces.map(|netns| devices(netns).unwrap()) == before {
            return (telemetry, before);
        }
        receiver = Receiver::start(&["--format", "json"]).unwrap();
    }
    panic!("the devices never stood still");
}

/// One hundred answered requests of each family over the wire, and what nobody listens for.
fn make_traffic(network: &Network) {
    for family in Family::BOTH {
        let server = traffic::serve(&network.b, family.address(2, 2)).unwrap();
        traffic::requests(&network.a, server, 100).unwrap();
        flood(&network.a, (family.address(2, 2), CLOSED_PORT).into(), 50).unwrap();
        flood(&network.router, (family.loopback(), CLOSED_PORT).into(), 7).unwrap();
    }
}

#[test]
fn counters_of_three_namespaces_at_once_are_those_that_others_read_inside() {
    if !requirements::met(&["ip", "nstat", "ping", "ss"]) {
        return;
    }
    let network = Network::new().unwrap();
    let receiver = Receiver::start(&["--format", "json"]).unwrap();
    make_traffic(&network);
    let server = traffic::serve(&network.b, Family::V6.address(2, 2)).unwrap();
    let open = || (0..3).map(|_| Ok(TcpStream::connect(server.tcp)?)).collect::<anyhow::Result<Vec<_>>>();
    let open = network.a.inside(open).unwrap();
    assert_eq!(counter(&network.b, "TcpPassiveOpens").unwrap(), 203);
    assert_eq!(counter(&network.b, "Udp6NoPorts").unwrap(), 50);
    let namespaces = [&network.a, &network.b, &network.router];
    let (telemetry, devices) = last_collection(receiver, namespaces);
    for (netns, devices) in namespaces.into_iter().zip(&devices) {
        check_counters(&telemetry, netns);
        check_devices(&telemetry, netns, devices);
    }
    let established = namespaces.map(|netns| check_established(&telemetry, netns));
    assert_eq!(established, [open.len(), open.len(), 0]);
}

#[test]
fn a_namespace_that_is_made_again_under_its_name_starts_anew() {
    if !requirements::met(&["ip"]) {
        return;
    }
    let name = format!("jst{}-again", std::process::id());
    let mut receiver = Receiver::start(&["--format", "json"]).unwrap();
    let no_ports = [(&key::UDP_ERROR_REASON, "no_port"), V4, UDP];
    let mut seen = Vec::new();
    for datagrams in [300, 20] {
        let netns = Netns::named(&name).unwrap();
        flood(&netns, (Family::V4.loopback(), CLOSED_PORT).into(), datagrams).unwrap();
        let inode = netns.inode().unwrap().to_string();
        let point = poll::until("the namespace's counter", || {
            let telemetry = receiver.printed().unwrap();
            let mut points = telemetry.last(metric::UDP_ERRORS.name).into_iter().filter(|point| {
                is_of(&netns)(point)
                    && no_ports.iter().all(|(key, value)| has(&point.attributes, key.key, value))
            });
            points.find(|point| point.value as usize == datagrams)
        })
        .unwrap();
        assert!(has(&point.resource, key::NETNS_INODE.key, &inode), "{point:?}");
        seen.push(point);
    }
    receiver.stop().unwrap();
    let [first, second] = seen.try_into().unwrap();
    assert!(second.start > first.time, "{first:?} {second:?}");
    assert!(second.start <= second.time, "{second:?}");
}

#[test]
fn a_named_namespace_without_any_process_is_read_too() {
    if !requirements::met(&["ip", "nstat"]) {
        return;
    }
    let netns = Netns::new("empty").unwrap();
    let socket = netns.inside(|| Ok(UdpSocket::bind("[::1]:0")?)).unwrap();
    let own = socket.local_addr().unwrap();
    (0..12).for_each(|_| assert_eq!(socket.send_to(b"x", own).unwrap(), 1));
    drop(socket);
    let mut receiver = Receiver::start(&["--format", "json"]).unwrap();
    receiver.stop().unwrap();
    let telemetry = receiver.printed().unwrap();
    assert_eq!(told(&telemetry, &netns, metric::UDP_DATAGRAMS.name, &[OUT, V6, UDP]), Some(12));
    check_counters(&telemetry, &netns);
}
