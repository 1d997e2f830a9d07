//! A Collector that is away for 20 seconds: afterwards the cumulative values are right, no event is lost that the queue
//! holds, and the receiver has not grown without bound.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use jitterscope_integration::collector::Collector;
use jitterscope_integration::kernel::counter;
use jitterscope_integration::netns::Netns;
use jitterscope_integration::network::Family;
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::telemetry::{Point, Telemetry, has};
use jitterscope_integration::traffic::{CLOSED_PORT, flood};
use jitterscope_integration::{poll, requirements};
use jitterscope_semconv::{attribute as key, metric};

const OUTAGE: Duration = Duration::from_secs(20);

/// What the queue of one signal may hold, as configured, and what a process may take beyond it for requests being made,
/// encoded and sent.
const QUEUE: &str = "1MiB";
const ALLOWED_GROWTH: u64 = 16 * 1024 * 1024;

/// Resident bytes of a process.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn of(netns: &Netns) -> impl Fn(&Point) -> bool {
    move |point| has(&point.resource, key::NETNS_NAME.key, netns.name())
}

/// Unique events of the namespace.
fn events(telemetry: &Telemetry, netns: &Netns) -> usize {
    let records =
        telemetry.records().filter(|record| has(&record.resource, key::NETNS_NAME.key, netns.name()));
    records.collect::<BTreeSet<_>>().len()
}

#[test]
fn after_an_outage_values_are_right_and_no_event_is_lost() {
    if !requirements::met(&["ip", "nstat"]) {
        return;
    }
    let Some(mut collector) = Collector::start().unwrap() else { return };
    let netns = Netns::new("outage").unwrap();
    let destination =
        format!("export.otlp=[{{endpoint: '{}', queue: {{memory: {QUEUE}}}}}]", collector.endpoint());
    let limits = "probes.packetloss.events={rate: 1000, burst: 1000}";
    let mut receiver = Receiver::start(&["--set", &destination, "--set", limits]).unwrap();
    let target = |family: Family| (family.loopback(), CLOSED_PORT).into();
    flood(&netns, target(Family::V4), 10).unwrap();
    poll::until("events before the outage", || {
        (events(&collector.received().unwrap(), &netns) == 10).then_some(())
    })
    .unwrap();
    receiver.settle().unwrap();
    let before = resident(receiver.pid());

    collector.stop().unwrap();
    let away = Instant::now();
    let mut rounds = 0;
    while away.elapsed() < OUTAGE {
        // Slower than the limit of events: none is held back in the kernel.
        Family::BOTH.iter().for_each(|family| flood(&netns, target(*family), 10).unwrap());
        rounds += 1;
        std::thread::sleep(Duration::from_millis(500));
    }
    let after = resident(receiver.pid());
    collector.resume().unwrap();
    let sent = 10 + rounds * 20;
    poll::until("the events of the outage", || {
        (events(&collector.received().unwrap(), &netns) >= sent).then_some(())
    })
    .unwrap();
    receiver.stop().unwrap();
    collector.stop().unwrap();

    let received = collector.received().unwrap();
    assert_eq!(events(&received, &netns), sent);
    let kernel = counter(&netns, "UdpNoPorts").unwrap() + counter(&netns, "Udp6NoPorts").unwrap();
    assert_eq!(received.total(metric::PACKET_DROPS.name, of(&netns)), kernel);
    assert_eq!(kernel, sent as u64);
    // One series each, with one start: the outage was none of the counters' business.
    let starts: BTreeSet<u64> =
        received.points(metric::PACKET_DROPS.name).filter(of(&netns)).map(|point| point.start).collect();
    assert_eq!(starts.len(), 1, "{starts:?}");
    let account = receiver.account("packetloss").unwrap();
    assert_eq!((account.lost, account.dropped), (0, 0), "{account:?}");
    assert_eq!(account.seen, account.sum(), "{account:?}");
    assert!(after < before + ALLOWED_GROWTH, "{before} bytes before, {after} after");
}
