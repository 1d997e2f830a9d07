//! The counters of `qdisc` are those that `tc -s` shows inside each namespace, after traffic with known totals.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::net::{IpAddr, UdpSocket};

use jitterscope_integration::kernel::{qdisc, qdiscs};
use jitterscope_integration::netns::Netns;
use jitterscope_integration::network::{Family, Network};
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::requirements;
use jitterscope_integration::telemetry::{Point, Telemetry, has};
use jitterscope_semconv::{attribute as key, metric};
use serde_json::Value;

/// Metrics of the receiver and their names in tc(8).
const ROWS: [(&str, &str); 7] = [
    (metric::QDISC_IO.name, "bytes"),
    (metric::QDISC_PACKETS.name, "packets"),
    (metric::QDISC_DROPS.name, "drops"),
    (metric::QDISC_OVERLIMITS.name, "overlimits"),
    (metric::QDISC_REQUEUES.name, "requeues"),
    (metric::QDISC_QUEUE_LENGTH.name, "qlen"),
    (metric::QDISC_BACKLOG.name, "backlog"),
];

/// Bytes of a datagram.
const SIZE: usize = 100;

/// Sends datagrams to wherever the namespace's routes lead.
fn send(from: &Netns, to: IpAddr, count: u64) {
    let sent = from.inside(|| {
        let any = if to.is_ipv4() { Family::V4.any() } else { Family::V6.any() };
        let socket = UdpSocket::bind((any, 0))?;
        for _ in 0..count {
            // What the queue turns away is told to the sender as a full buffer.
            let _ = socket.send_to(&[7; SIZE], (to, 9));
        }
        Ok(())
    });
    sent.unwrap();
}

/// A queueing discipline of tc(8), by what tells it from others.
fn identity(qdisc: &Value) -> [String; 4] {
    let parent = if is_at_device(qdisc) { "" } else { qdisc["parent"].as_str().unwrap_or_default() };
    let text = |name: &str| qdisc[name].as_str().unwrap_or_default().to_owned();
    [text("dev"), text("kind"), text("handle"), parent.to_owned()]
}

/// Whether it hangs at the device itself: as its root, or for incoming packets.
fn is_at_device(qdisc: &Value) -> bool {
    qdisc["root"] == true || matches!(qdisc["kind"].as_str(), Some("clsact" | "ingress"))
}

fn identity_of(point: &Point) -> [String; 4] {
    let keys = [&key::NETWORK_INTERFACE_NAME, &key::QDISC_KIND, &key::QDISC_HANDLE, &key::QDISC_PARENT];
    keys.map(|key| point.attributes.get(key.key).cloned().unwrap_or_default())
}

/// Every series of every metric of the namespace is that of a queue, and every queue has one.
fn check(telemetry: &Telemetry, netns: &Netns, queues: &[Value]) {
    for (name, tc) in ROWS {
        let mut told: Vec<_> = telemetry.last(name).into_iter().collect();
        told.retain(|point| has(&point.resource, key::NETNS_NAME.key, netns.name()));
        let mut told: Vec<_> =
            told.iter().map(|point| (identity_of(point), Some(point.value as u64))).collect();
        let mut wanted: Vec<_> = queues.iter().map(|queue| (identity(queue), queue[tc].as_u64())).collect();
        told.sort();
        wanted.sort();
        assert_eq!(told, wanted, "{} {name}", netns.name());
    }
}

/// What a receiver tells at its end, and the queues as they stood then: it is asked again when they moved meanwhile.
fn last_collection(namespaces: [&Netns; 3], arguments: &[&str]) -> (Telemetry, [Vec<Value>; 3]) {
    let arguments = [&["--format", "json"], arguments].concat();
    for _ in 0..20 {
        let mut receiver = Receiver::start(&arguments).unwrap();
        let before = namespaces.map(|netns| qdiscs(netns).unwrap());
        receiver.stop().unwrap();
        let telemetry = receiver.printed().unwrap();
        if namespaces.map(|netns| qdiscs(netns).unwrap()) == before {
            return (telemetry, before);
        }
    }
    panic!("the queues never stood still");
}

/// Queues that drop and keep (`tbf`), that have classes (`htb`), several per device (`mq`), for incoming packets (`clsact`),
/// and a device without any.
fn network() -> Network {
    let network = Network::new().unwrap();
    network.a.sh("tc qdisc add dev eth0 root handle 5: tbf rate 8bit burst 300b limit 1000b").unwrap();
    let router = [
        "qdisc add dev port-b root handle 1: htb default 10",
        "class add dev port-b parent 1: classid 1:10 htb rate 1gbit",
        "qdisc add dev port-b parent 1:10 handle 20: pfifo limit 1000",
        "qdisc add dev port-b clsact",
    ];
    router.iter().for_each(|line| drop(network.router.sh(&format!("tc {line}")).unwrap()));
    let wide = "numtxqueues 3 numrxqueues 3";
    network.b.ip(&format!("link add wide {wide} type veth peer name other {wide}")).unwrap();
    network.b.sh("tc qdisc add dev wide root handle 7: mq").unwrap();
    network.b.sh("sysctl -qw net.ipv6.conf.wide.disable_ipv6=1 net.ipv6.conf.other.disable_ipv6=1").unwrap();
    for line in ["link set wide up", "link set other up", "addr add 10.98.0.1/24 dev wide"] {
        network.b.ip(line).unwrap();
    }
    network.b.ip("neigh add 10.98.0.2 lladdr 02:00:00:00:00:01 dev wide").unwrap();
    network
}

fn make_traffic(network: &Network) {
    for family in Family::BOTH {
        send(&network.a, family.address(2, 2), 50);
        send(&network.router, family.address(2, 2), 40);
    }
    send(&network.b, "10.98.0.2".parse().unwrap(), 30);
}

#[test]
fn counters_of_queues_in_three_namespaces_at_once_are_those_of_tc() {
    if !requirements::met(&["ip", "tc", "ping"]) {
        return;
    }
    let network = network();
    make_traffic(&network);
    let namespaces = [&network.a, &network.b, &network.router];
    let (telemetry, queues) = last_collection(namespaces, &[]);
    for (netns, queues) in namespaces.into_iter().zip(&queues) {
        let mut roots = queues.clone();
        roots.retain(|queue| queue["kind"] != "noqueue" && is_at_device(queue));
        check(&telemetry, netns, &roots);
    }
    // What was sent is what the queues say themselves: one byte a second goes out, some wait, the others are gone.
    let narrow = qdisc(&network.a, "eth0").unwrap();
    let number = |queue: &Value, name: &str| queue[name].as_u64().unwrap();
    assert!(
        number(&narrow, "drops") > 0 && number(&narrow, "backlog") > 0 && number(&narrow, "overlimits") > 0
    );
    let all: u64 = ["drops", "qlen", "packets"].map(|name| number(&narrow, name)).iter().sum();
    // The others are those of the neighbours, which ask again for what the queue turned away.
    assert!((100..=150).contains(&all), "{narrow}");
    assert!(number(&qdisc(&network.router, "port-b").unwrap(), "packets") >= 80);
    let wide = qdisc(&network.b, "wide").unwrap();
    let frame = (SIZE + 8 + 20 + 14) as u64;
    assert_eq!((number(&wide, "packets"), number(&wide, "bytes")), (30, 30 * frame), "{wide}");
}

#[test]
fn children_are_told_with_their_parents_when_they_are_asked_for() {
    if !requirements::met(&["ip", "tc", "ping"]) {
        return;
    }
    let network = network();
    make_traffic(&network);
    let namespaces = [&network.a, &network.b, &network.router];
    let (telemetry, queues) = last_collection(namespaces, &["--set", "probes.qdisc.children=true"]);
    for (netns, queues) in namespaces.into_iter().zip(&queues) {
        let mut counting = queues.clone();
        counting.retain(|queue| queue["kind"] != "noqueue");
        check(&telemetry, netns, &counting);
    }
    let children: Vec<_> =
        queues[1].iter().filter(|queue| queue["dev"] == "wide" && !is_at_device(queue)).collect();
    assert_eq!(children.len(), 3, "{children:?}");
}

#[test]
fn an_interface_that_is_left_out_has_no_series() {
    if !requirements::met(&["ip", "tc", "ping"]) {
        return;
    }
    let network = network();
    let namespaces = [&network.a, &network.b, &network.router];
    let (telemetry, _) = last_collection(namespaces, &["--set", "probes.qdisc.exclude_interfaces=[\"w*\"]"]);
    let of_b = |point: &Point| has(&point.resource, key::NETNS_NAME.key, network.b.name());
    assert!(!telemetry.points(metric::QDISC_PACKETS.name).any(|point| of_b(&point)));
}
