//! The counters of `conntrack` are those that `conntrack -S` and `conntrack -C` show inside each namespace, after traffic with
//! known totals.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::collections::BTreeMap;
use std::net::UdpSocket;

use jitterscope_integration::kernel::conntrack;
use jitterscope_integration::netns::Netns;
use jitterscope_integration::network::{Family, Network};
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::telemetry::{Point, Telemetry, has};
use jitterscope_integration::{packet, poll, requirements, traffic};
use jitterscope_semconv::{Metric, attribute as key, metric};

/// Metrics of the receiver and their names in conntrack(8).
const ROWS: [(&Metric, &str); 11] = [
    (&metric::CONNTRACK_ENTRIES, "entries"),
    (&metric::CONNTRACK_FOUND, "found"),
    (&metric::CONNTRACK_INVALID, "invalid"),
    (&metric::CONNTRACK_INSERTS, "insert"),
    (&metric::CONNTRACK_INSERT_FAILURES, "insert_failed"),
    (&metric::CONNTRACK_DROPS, "drop"),
    (&metric::CONNTRACK_EARLY_DROPS, "early_drop"),
    (&metric::CONNTRACK_ERRORS, "error"),
    (&metric::CONNTRACK_SEARCH_RESTARTS, "search_restart"),
    (&metric::CONNTRACK_CLASHES_RESOLVED, "clash_resolve"),
    (&metric::CONNTRACK_CHAINS_TOO_LONG, "chaintoolong"),
];

/// Datagrams with a wrong checksum.
const DAMAGED: u64 = 15;

/// Connections of each family and transport.
const CONNECTIONS: usize = 20;

type Counts = BTreeMap<String, u64>;

/// Tracks connections from now on.
fn track(netns: &Netns) {
    let chain = "add chain inet t c { type filter hook input priority 0; }";
    for line in ["add table inet t", chain, "add rule inet t c ct state invalid counter"] {
        netns.sh(&format!("nft '{line}'")).unwrap();
    }
}

fn points(telemetry: &Telemetry, netns: &Netns, name: &str) -> Vec<Point> {
    let mut points = telemetry.last(name);
    points.retain(|point| has(&point.resource, key::NETNS_NAME.key, netns.name()));
    points
}

fn told(telemetry: &Telemetry, netns: &Netns, name: &str) -> Option<u64> {
    let points = points(telemetry, netns, name);
    assert!(points.len() <= 1, "{points:#?}");
    points.first().map(|point| point.value as u64)
}

/// What a receiver tells at its end, and the counters as they stood then: it is asked again when they moved meanwhile.
fn last_collection(namespaces: [&Netns; 3], arguments: &[&str]) -> (Telemetry, [Counts; 3]) {
    let arguments = [&["--format", "json"], arguments].concat();
    for _ in 0..20 {
        let mut receiver = Receiver::start(&arguments).unwrap();
        let before = namespaces.map(|netns| conntrack(netns).unwrap());
        receiver.stop().unwrap();
        let telemetry = receiver.printed().unwrap();
        if namespaces.map(|netns| conntrack(netns).unwrap()) == before {
            return (telemetry, before);
        }
    }
    panic!("the counters never stood still");
}

/// Connections of both families through the router, and datagrams that belong to none. What was made before is forgotten, and
/// nothing ends by itself while it is looked at.
fn make_traffic(network: &Network) {
    for netns in [&network.b, &network.router] {
        netns
            .sh("cd /proc/sys/net/netfilter && for f in nf_conntrack_*timeout*; do echo 3600 >$f; done")
            .unwrap();
        netns.sh("conntrack -F").unwrap();
    }
    for family in Family::BOTH {
        let server = traffic::serve(&network.b, family.address(2, 2)).unwrap();
        traffic::requests(&network.a, server, CONNECTIONS).unwrap();
        let to = family.address(2, 2);
        network.a.inside(|| packet::damaged_datagrams(to, (1234, 4321), DAMAGED)).unwrap();
    }
}

/// An entry that user space inserts.
fn insert(netns: &Netns) {
    netns
        .sh("conntrack -I -p udp --timeout 3600 --src 10.7.0.1 --dst 10.7.0.2 --sport 99 --dport 53")
        .unwrap();
}

/// Connections that translation makes the same: of each family's three, only the first finds its place in the table.
fn clash(netns: &Netns) {
    let rules = [
        "add table inet n",
        "add chain inet n c { type nat hook postrouting priority 100; }",
        "add rule inet n c ip daddr 10.99.2.1 udp dport 99 snat ip to 10.99.2.2:5000",
        "add rule inet n c ip6 daddr fd99:2::1 udp dport 99 snat ip6 to [fd99:2::2]:5000",
    ];
    rules.iter().for_each(|rule| drop(netns.sh(&format!("nft '{rule}'")).unwrap()));
    for family in Family::BOTH {
        for port in 6001..=6003 {
            let send = || {
                // What cannot be tracked is refused to its sender.
                let _ = UdpSocket::bind((family.any(), port))?.send_to(b"x", (family.address(2, 1), 99));
                Ok(())
            };
            netns.inside(send).unwrap();
        }
    }
}

fn network() -> Network {
    let network = Network::new().unwrap();
    track(&network.router);
    track(&network.b);
    network
}

#[test]
fn counters_of_connection_tracking_in_three_namespaces_at_once_are_those_of_conntrack() {
    if !requirements::met(&["ip", "nft", "conntrack", "ping"]) {
        return;
    }
    let network = network();
    make_traffic(&network);
    insert(&network.router);
    clash(&network.b);
    let (telemetry, counts) = last_collection([&network.a, &network.b, &network.router], &[]);
    for (netns, counts) in [&network.b, &network.router].into_iter().zip(&counts[1..]) {
        for (metric, name) in ROWS {
            assert_eq!(
                told(&telemetry, netns, metric.name),
                counts.get(name).copied(),
                "{} {name}",
                netns.name()
            );
        }
        let limit = netns.sh("cat /proc/sys/net/netfilter/nf_conntrack_max").unwrap();
        let limit = limit.trim().parse().ok();
        assert_eq!(told(&telemetry, netns, metric::CONNTRACK_LIMIT.name), limit);
        // Both families and transports: a datagram socket's requests are one connection.
        assert!(counts["entries"] >= 2 * (CONNECTIONS as u64 + 1), "{counts:?}");
    }
    assert_eq!(counts[1]["invalid"], 2 * DAMAGED, "{counts:?}");
    assert_eq!((counts[1]["insert_failed"], counts[1]["drop"]), (4, 4), "{counts:?}");
    assert_eq!(counts[2]["insert"], 1, "{counts:?}");
    // A namespace that tracks nothing has no series.
    for (metric, _) in ROWS {
        assert_eq!(told(&telemetry, &network.a, metric.name), None);
    }
}

#[test]
fn a_namespace_without_entries_is_told_as_long_as_it_had_some_before() {
    if !requirements::met(&["ip", "nft", "conntrack", "ping"]) {
        return;
    }
    let network = network();
    make_traffic(&network);
    let mut receiver = Receiver::start(&["--format", "json"]).unwrap();
    let entries =
        |receiver: &Receiver| told(&receiver.printed().unwrap(), &network.b, metric::CONNTRACK_ENTRIES.name);
    poll::until("entries", || entries(&receiver).filter(|count| *count > 0)).unwrap();
    network.b.sh("conntrack -F").unwrap();
    poll::until("no entries", || entries(&receiver).filter(|count| *count == 0)).unwrap();
    receiver.stop().unwrap();
    let (telemetry, counts) = (receiver.printed().unwrap(), conntrack(&network.b).unwrap());
    assert_eq!(told(&telemetry, &network.b, metric::CONNTRACK_INVALID.name), counts.get("invalid").copied());
}

/// Entries as `conntrack -L` lists them, by protocol and state of TCP.
fn listed(netns: &Netns, family: &str) -> BTreeMap<(String, String), u64> {
    let list = netns.sh(&format!("conntrack -L -f {family}")).unwrap();
    let mut counts = BTreeMap::new();
    for line in list.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let state = if words[0] == "tcp" { words[3].to_ascii_lowercase() } else { String::new() };
        *counts.entry((words[0].to_owned(), state)).or_default() += 1;
    }
    counts
}

#[test]
fn entries_by_protocol_and_state_are_those_that_conntrack_lists() {
    if !requirements::met(&["ip", "nft", "conntrack", "ping"]) {
        return;
    }
    let network = network();
    make_traffic(&network);
    let namespaces = [&network.a, &network.b, &network.router];
    let (telemetry, counts) = last_collection(namespaces, &["--set", "probes.conntrack.census=true"]);
    for (netns, counts) in [&network.b, &network.router].into_iter().zip(&counts[1..]) {
        let told = points(&telemetry, netns, metric::CONNTRACK_ENTRY_COUNT.name);
        for (family, name) in [(Family::V4, "ipv4"), (Family::V6, "ipv6")] {
            let of_family =
                told.iter().filter(|point| has(&point.attributes, key::NETWORK_TYPE.key, family.name()));
            let text = |point: &Point, key: &str| point.attributes.get(key).cloned().unwrap_or_default();
            let kind = |point: &Point| {
                (text(point, key::NETWORK_TRANSPORT.key), text(point, key::CONNTRACK_STATE.key))
            };
            let told: BTreeMap<_, _> = of_family.map(|point| (kind(point), point.value as u64)).collect();
            assert_eq!(told, listed(netns, name), "{}", netns.name());
            assert_eq!(told[&("tcp".to_owned(), "time_wait".to_owned())], CONNECTIONS as u64);
        }
        assert_eq!(told.iter().map(|point| point.value as u64).sum::<u64>(), counts["entries"]);
    }
    let plain = last_collection(namespaces, &[]).0;
    assert!(plain.last(metric::CONNTRACK_ENTRY_COUNT.name).is_empty());
}
