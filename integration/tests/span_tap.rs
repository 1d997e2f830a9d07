//! The source `tap`: a Collector sends the receiver a copy of an application's spans, and the reset of a request that was being
//! answered is linked to the span of its server; nothing is linked to a request that it did not hit.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]
#![expect(clippy::print_stdout, reason = "the figures of a run")]

use jitterscope_integration::collector::Collector;
use jitterscope_integration::join::Join;
use jitterscope_integration::network::{Family, Network, free_addresses};
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::shop::{self, Fault, Language, Load};
use jitterscope_integration::telemetry::has;
use jitterscope_integration::{poll, requirements};
use jitterscope_semconv::{attribute as key, event, metric};

const LOAD: Load = Load { connections: 64, rate: 400, seconds: 8, every: 20, streams: 1 };

fn run(family: Family) -> Option<Join> {
    if !requirements::met(&["ip", "nft"]) || !Language::Go.is_there() {
        return None;
    }
    let [address] = free_addresses().unwrap();
    let mut collector = Collector::with_tap(&address).unwrap()?;
    let network = Network::new().unwrap();
    shop::relay(&network, collector.http_address()).unwrap();
    shop::inject(&network).unwrap();
    let tap = format!("spans.sources.tap={{enabled: true, endpoint: \"{address}\", wait: 3s}}");
    let endpoint = collector.endpoint();
    let arguments = [&shop::ALL_TOLD[..], &["--set", &tap, "--endpoint", &endpoint]].concat();
    let mut receiver = Receiver::start(&arguments).unwrap();
    let mut server = shop::serve(Language::Go, &network, family).unwrap();
    shop::ask(Language::Go, &network, family, LOAD).unwrap().wait().unwrap();
    server.stop().unwrap();
    // What is held when the receiver ends is told with the spans that are known then.
    let linked = || {
        let told = collector.received().ok()?;
        told.records().any(|record| !record.trace.is_empty()).then_some(())
    };
    poll::until("a record that was linked after it had waited", linked).unwrap();
    receiver.stop().unwrap();
    collector.stop().unwrap();
    let told = collector.received().unwrap();
    let used = told
        .total(metric::SPAN_LINK_USES.name, |point| has(&point.attributes, key::SPAN_LINK_SOURCE.key, "tap"));
    let join = Join::of(&told, &network);
    println!("{family:?}: {join}");
    assert!(used >= join.linked.len() as u64, "{used} uses");
    Some(join)
}

fn check(family: Family) {
    let Some(join) = run(family) else { return };
    assert_eq!(join.wrong, [""; 0]);
    let (all, found) = join.found[&(Fault::Abort, event::TCP_RESET.name, "server")];
    assert!(all >= 10, "only {all} requests were aborted");
    assert!(found as f64 >= 0.95 * all as f64, "{found} of {all}");
    assert!(join.linked.iter().all(|linked| linked.record.attributes[key::SPAN_LINK_SOURCE.key] == "tap"));
}

#[test]
fn an_aborted_request_is_linked_to_its_servers_span_over_ipv4() {
    check(Family::V4);
}

#[test]
fn an_aborted_request_is_linked_to_its_servers_span_over_ipv6() {
    check(Family::V6);
}
