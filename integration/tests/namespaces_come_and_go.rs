//! Hundreds of namespaces are made and deleted while the receiver reads and listens inside of them: nothing fails, nothing is
//! left behind, and no value is told of another namespace than its own.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::net::UdpSocket;

use jitterscope_integration::netns::Netns;
use jitterscope_integration::network::Family;
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::telemetry::{Point, Record, Telemetry, has};
use jitterscope_integration::traffic::{CLOSED_PORT, flood};
use jitterscope_integration::{poll, requirements};
use jitterscope_semconv::{attribute as key, metric};

/// Namespaces that come and go in the test that counts what is left behind.
const NAMESPACES: usize = 200;

/// Namespaces that live at the same time. Each lives for seconds: in the first one after it appears, a namespace may still
/// become a container's, and its counters wait.
const ALIVE: usize = 50;

/// What the receiver's memory may grow by in a turn of namespaces after the first one: pieces of free memory. A descriptor or an
/// entity of each that is gone would be found by its number, their series by this.
const GROWTH_KB: u64 = 12 * 1024;

/// What the receiver holds.
#[derive(Debug)]
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

/// A namespace whose loopback has a queue that counts, and which tracks connections, with as many datagrams and connections
/// of each family as its number says.
fn namespace(number: usize) -> Netns {
    let netns = Netns::new(&format!("turn{number}")).unwrap();
    let table = "add table inet t; add chain inet t c { type filter hook input priority 0; }";
    let rule = "add rule inet t c ct state new";
    netns
        .sh(&format!("tc qdisc add dev lo root handle 1: pfifo limit 1000 && nft '{table}; {rule}'"))
        .unwrap();
    let send = || {
        for family in Family::BOTH {
            let server = UdpSocket::bind((family.loopback(), 0))?;
            // All open at once, so that no two have the same port.
            let clients: Vec<UdpSocket> =
                (0..number).map(|_| UdpSocket::bind((family.loopback(), 0))).collect::<Result<_, _>>()?;
            for client in clients {
                client.send_to(b"x", server.local_addr()?)?;
            }
        }
        Ok(())
    };
    netns.inside(send).unwrap();
    netns
}

/// Waits until an event of a new namespace's connection tracking is told. That of the others may be over before they are
/// listened to, and its entries go by themselves only after half a minute.
fn is_heard(receiver: &Receiver) {
    let netns = namespace(0);
    poll::until("an event", || {
        flood(&netns, (Family::V4.loopback(), CLOSED_PORT).into(), 1).unwrap();
        let mut told = false;
        let of_netns = |record: Record| has(&record.resource, key::NETNS_NAME.key, netns.name());
        let see = |telemetry: &Telemetry| told |= telemetry.records().any(of_netns);
        receiver.each_printed("resourceLogs", see).unwrap();
        told.then_some(())
    })
    .unwrap();
}

/// A metric and which of its points.
type Wanted = (&'static str, fn(&Point) -> bool);

/// The greatest sum over the series of a metric that one collection told of each namespace, by name.
fn greatest(receiver: &Receiver, told: &[Wanted]) -> Vec<BTreeMap<String, u64>> {
    let mut greatest = vec![BTreeMap::new(); told.len()];
    let see = |telemetry: &Telemetry| {
        for (greatest, (name, wanted)) in greatest.iter_mut().zip(told) {
            let mut sums: BTreeMap<String, u64> = BTreeMap::new();
            for point in telemetry.points(name).filter(wanted) {
                if let Some(netns) = point.resource.get(key::NETNS_NAME.key) {
                    *sums.entry(netns.clone()).or_default() += point.value as u64;
                }
            }
            for (netns, sum) in sums {
                let known: &mut u64 = greatest.entry(netns).or_default();
                *known = sum.max(*known);
            }
        }
    };
    receiver.each_printed("resourceMetrics", see).unwrap();
    greatest
}

#[test]
fn two_hundred_namespaces_come_and_go_with_their_own_values_and_leave_nothing_behind() {
    if !requirements::met(&["ip", "nft", "tc"]) {
        return;
    }
    let on = ["--format", "json", "--set", "probes.conntrackevents.enabled=true"];
    let mut receiver = Receiver::start(&on).unwrap();
    let mut alive: VecDeque<Netns> = (0..ALIVE).map(|_| namespace(0)).collect();
    receiver.settle().unwrap();
    let mut wanted = BTreeMap::new();
    let mut turn = || {
        for number in 1..=NAMESPACES {
            let netns = namespace(number);
            wanted.insert(netns.name().to_owned(), 2 * number as u64);
            alive.push_back(netns);
            alive.pop_front();
            // Gone before anything can have been told of it.
            drop(Netns::new("brief").unwrap());
            if number % ALIVE == 0 {
                receiver.prints(alive[ALIVE - 1].name(), 2).unwrap();
            }
        }
    };
    // What is gone is remembered for a while, in memory that the first turn takes and the second one takes again.
    turn();
    let before = held(&receiver);
    turn();
    // As many are alive as before, so that it holds as much.
    let is_back = || {
        let now = held(&receiver);
        (now.descriptors <= before.descriptors && now.threads <= before.threads + 1).then_some(now)
    };
    let after = poll::until("the receiver holds no more than before", is_back).unwrap();
    assert!(after.resident_kb < before.resident_kb + GROWTH_KB, "{before:?} {after:?}");
    is_heard(&receiver);
    receiver.stop().unwrap();
    assert_eq!(receiver.complaints(), Vec::<String>::new());

    let sent = |point: &Point| has(&point.attributes, key::NETWORK_IO_DIRECTION.key, "transmit");
    let all = |_: &Point| true;
    let sources: [Wanted; 3] = [
        (metric::UDP_DATAGRAMS.name, sent),
        (metric::QDISC_PACKETS.name, all),
        (metric::CONNTRACK_ENTRIES.name, all),
    ];
    for (greatest, (name, _)) in greatest(&receiver, &sources).iter().zip(sources) {
        let told = |netns: &String| greatest.get(netns).copied().unwrap_or(0);
        let wrong: Vec<_> = wanted.iter().filter(|(netns, wanted)| told(netns) != **wanted).collect();
        assert!(wrong.is_empty(), "{name}: {wrong:?} of {greatest:?}");
    }
    let account = receiver.account("conntrackevents").unwrap();
    assert!(account.seen > 0 && account.seen == account.sum(), "{account:?}");
}
