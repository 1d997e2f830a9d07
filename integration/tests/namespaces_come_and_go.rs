//! Two hundred namespaces are made and deleted while the receiver reads and listens inside of them: nothing fails, nothing is
//! left behind, and no value is told of another namespace than its own.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::collections::BTreeMap;
use std::fs;
use std::net::UdpSocket;

use jitterscope_integration::netns::Netns;
use jitterscope_integration::network::Family;
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::telemetry::{Telemetry, has};
use jitterscope_integration::{poll, requirements};
use jitterscope_semconv::{attribute as key, metric};

const NAMESPACES: usize = 200;

/// Namespaces that live at the same time. Each lives for seconds: in the first one after it appears, a namespace may still
/// become a container's, and its counters wait.
const ALIVE: usize = 60;

/// What the receiver's memory may grow by: series and entities of those that are gone are kept for a while.
const GROWTH_KB: u64 = 16 * 1024;

/// What the receiver holds.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    threads: usize,
    resident_kb: u64,
}

fn held(receiver: &Receiver) -> Held {
    let process = format!("/proc/{}", receiver.pid());
    let count = |folder: &str| fs::read_dir(format!("{process}/{folder}")).unwrap().count();
    let status = fs::read_to_string(format!("{process}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let resident_kb = resident.trim().trim_end_matches(" kB").parse().unwrap();
    Held { descriptors: count("fd"), threads: count("task"), resident_kb }
}

/// A namespace whose loopback has a queue that counts and which tracks connections, with as many of both as its number says,
/// of each family.
fn namespace(number: usize) -> Netns {
    let netns = Netns::new(&format!("turn{number}")).unwrap();
    netns.sh("tc qdisc add dev lo root handle 1: pfifo limit 1000").unwrap();
    for line in [
        "add table inet t",
        "add chain inet t c { type filter hook input priority 0; }",
        "add rule inet t c ct state new",
    ] {
        netns.sh(&format!("nft '{line}'")).unwrap();
    }
    let send = || {
        for family in Family::BOTH {
            let server = UdpSocket::bind((family.loopback(), 0))?;
            let clients = (0..number).map(|_| UdpSocket::bind((family.loopback(), 0)));
            for client in clients.collect::<Result<Vec<_>, _>>()? {
                client.send_to(b"x", server.local_addr()?)?;
            }
        }
        Ok(())
    };
    netns.inside(send).unwrap();
    netns
}

/// The greatest value of a metric in each namespace, by name.
fn greatest(telemetry: &Telemetry, name: &str) -> BTreeMap<String, u64> {
    let mut greatest = BTreeMap::new();
    for point in telemetry.points(name) {
        if let Some(netns) = point.resource.get(key::NETNS_NAME.key) {
            let value: &mut u64 = greatest.entry(netns.clone()).or_default();
            *value = (point.value as u64).max(*value);
        }
    }
    greatest
}

#[test]
fn two_hundred_namespaces_leave_nothing_behind_and_keep_their_values_apart() {
    if !requirements::met(&["ip", "nft", "tc"]) {
        return;
    }
    let on = ["--set", "probes.conntrackevents.enabled=true", "--set", "interval=100ms"];
    let mut receiver = Receiver::start(&[&["--format", "json"], &on[..]].concat()).unwrap();
    let mut alive: Vec<Netns> = (0..ALIVE).map(|_| namespace(0)).collect();
    poll::until("collections", || (receiver.printed().unwrap().metrics.len() > 20).then_some(())).unwrap();
    let before = held(&receiver);
    let mut names = BTreeMap::new();
    for number in 1..=NAMESPACES {
        let netns = namespace(number);
        names.insert(netns.name().to_owned(), 2 * number as u64);
        alive.remove(0);
        alive.push(netns);
    }
    // Once their sockets are closed and their threads have ended, it holds what it held, for as many are alive.
    let is_back = || {
        let now = held(&receiver);
        (now.descriptors <= before.descriptors + 2 && now.threads <= before.threads + 1).then_some(now)
    };
    let after = poll::until("the receiver holds no more than before", is_back).unwrap();
    assert!(after.resident_kb < before.resident_kb + GROWTH_KB, "{before:?} {after:?}");
    receiver.stop().unwrap();
    assert!(!receiver.log().contains("\"level\":\"WARN\""), "{}", receiver.log());
    assert!(!receiver.log().contains("\"level\":\"ERROR\""), "{}", receiver.log());

    let telemetry = receiver.printed().unwrap();
    for name in [metric::QDISC_PACKETS.name, metric::CONNTRACK_ENTRIES.name] {
        let greatest = greatest(&telemetry, name);
        let mut exact = 0;
        for (netns, wanted) in &names {
            let told = greatest.get(netns).copied().unwrap_or(0);
            assert!(told <= *wanted, "{name} of {netns}: {told} and not {wanted}");
            exact += usize::from(told == *wanted);
        }
        // Each lives for some collections.
        assert!(exact > NAMESPACES * 3 / 4, "{name}: {exact} were seen with their last value");
    }
    let account = receiver.account("conntrackevents").unwrap();
    assert_eq!(account.seen, account.sum(), "{account:?}");
    let events =
        telemetry.records().filter(|record| has(&record.attributes, key::NETWORK_TRANSPORT.key, "udp"));
    assert!(events.count() > 0);
}
