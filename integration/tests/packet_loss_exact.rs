//! Drops are counted exactly under load, and every event is accounted for: the kernel's own counters, the receiver's
//! metrics and the records in the real Collector's file agree to the unit.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::collections::BTreeSet;

use jitterscope_integration::collector::Collector;
use jitterscope_integration::kernel::counter;
use jitterscope_integration::netns::Netns;
use jitterscope_integration::network::Family;
use jitterscope_integration::receiver::{Account, Receiver};
use jitterscope_integration::telemetry::{Point, Telemetry, has};
use jitterscope_integration::traffic::{CLOSED_PORT, flood};
use jitterscope_integration::{poll, requirements};
use jitterscope_semconv::{attribute as key, event, metric};

const DATAGRAMS: usize = 200_000;

/// What the kernel itself counted in the namespace.
fn refused(netns: &Netns, family: Family) -> u64 {
    counter(netns, if family == Family::V4 { "UdpNoPorts" } else { "Udp6NoPorts" }).unwrap()
}

fn is_of(netns: &Netns) -> impl Fn(&Point) -> bool {
    move |point| has(&point.resource, key::NETNS_NAME.key, netns.name())
}

/// The receiver's own account of packet loss, as its last metrics tell it.
fn account(telemetry: &Telemetry) -> Account {
    let term = |name: &str| telemetry.total(name, |point| has(&point.attributes, key::PROBE_NAME.key, "packetloss"));
    Account {
        seen: term(metric::PROBE_EVENTS_SEEN.name),
        exported: term(metric::PROBE_EVENTS_EXPORTED.name),
        suppressed: term(metric::PROBE_EVENTS_SUPPRESSED.name),
        lost: term(metric::PROBE_EVENTS_LOST.name),
        dropped: term(metric::PROBE_EVENTS_DROPPED.name),
    }
}

/// Events that arrived, each once: a request that was sent again after its answer was lost would be there twice.
fn unique_events(telemetry: &Telemetry) -> u64 {
    let events = telemetry.records().filter(|record| record.event == event::PACKET_DROPPED.name);
    events.collect::<BTreeSet<_>>().len() as u64
}

#[test]
fn two_hundred_thousand_datagrams_to_a_closed_port_are_counted_to_the_unit() {
    if !requirements::met(&["nstat", "ip"]) {
        return;
    }
    let Some(mut collector) = Collector::start().unwrap() else { return };
    let netns = Netns::new("exact").unwrap();
    let mut receiver = Receiver::start(&["--endpoint", &collector.endpoint()]).unwrap();
    for family in Family::BOTH {
        flood(&netns, (family.loopback(), CLOSED_PORT).into(), DATAGRAMS).unwrap();
    }
    let refused = Family::BOTH.map(|family| refused(&netns, family));
    let expected: u64 = refused.iter().sum();

    // While it runs, its own metrics come to the same balance.
    poll::until("the receiver's metrics are in balance", || {
        let balance = account(&collector.received().unwrap());
        (balance.seen >= expected && balance.seen == balance.sum()).then_some(())
    })
    .unwrap();
    receiver.stop().unwrap();
    collector.stop().unwrap();

    let received = collector.received().unwrap();
    let drops = metric::PACKET_DROPS.name;
    let counted = Family::BOTH.map(|family| {
        let here = is_of(&netns);
        received.total(drops, |point| here(point) && has(&point.attributes, key::NETWORK_TYPE.key, family.name()))
    });
    assert_eq!(counted, refused);
    assert!(expected > DATAGRAMS as u64, "the kernel refused {refused:?}");

    // Other namespaces of the machine may drop packets too: the whole account is that of all of them.
    let last = receiver.account("packetloss").unwrap();
    assert_eq!(last.seen, received.total(drops, |_| true), "{last:?}");
    assert_eq!(last.seen, last.sum(), "{last:?}");
    assert_eq!(last.exported, unique_events(&received), "{last:?}");
    assert_eq!((last.lost, last.dropped), (0, 0), "{last:?}");
    let own = account(&received);
    assert_eq!((own.seen, own.suppressed, own.lost), (last.seen, last.suppressed, last.lost));
}
