//! An application that OpenTelemetry's own SDKs instrument, with faults on known requests: its spans and what the receiver
//! tells go into one Collector, and joined there every link is to the request that was hit, and nearly every hit request has
//! one.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]
#![expect(clippy::print_stdout, reason = "the figures of a run")]

use jitterscope_integration::collector::Collector;
use jitterscope_integration::join::Join;
use jitterscope_integration::network::{Family, Network};
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::requirements;
use jitterscope_integration::shop::{self, Fault, Language, Load};

/// Linked anomalies all told: no event held back, no span either.
const SETTINGS: [&str; 12] = [
    "--set",
    "interval=200ms",
    "--set",
    "spans.sources.wire=true",
    "--set",
    "spans.anomaly_spans={enabled: true, rate: 100000}",
    "--set",
    "probes.packetloss.events={rate: 100000, burst: 100000}",
    "--set",
    "probes.tcpretrans.events={rate: 100000, burst: 100000}",
    "--set",
    "probes.tcpreset.events={rate: 100000, burst: 100000}",
];

/// Fewer requests prove nothing; how many more there are is the machine's matter.
const LEAST: usize = 1000;

/// As many requests as the machine carries beside everything else, one of twenty hit.
fn load(language: Language) -> Load {
    let rate = if language == Language::Go { 500 } else { 250 };
    Load { connections: 64, rate, seconds: 10, every: 20 }
}

fn run(language: Language, family: Family) -> Option<Join> {
    if !requirements::met(&["ip", "nft"]) || !language.is_there() {
        return None;
    }
    let mut collector = Collector::start().unwrap()?;
    let network = Network::new().unwrap();
    shop::relay(&network, collector.http_address()).unwrap();
    shop::inject(&network).unwrap();
    let mut arguments = SETTINGS.to_vec();
    let endpoint = collector.endpoint();
    arguments.extend(["--endpoint", &endpoint]);
    let mut receiver = Receiver::start(&arguments).unwrap();
    let mut server = shop::serve(language, &network, family).unwrap();
    let mut client = shop::ask(language, &network, family, load(language)).unwrap();
    client.wait().unwrap();
    server.stop().unwrap();
    receiver.stop().unwrap();
    collector.stop().unwrap();
    Some(Join::of(&collector.received().unwrap(), &network))
}

fn check(language: Language, family: Family) {
    let Some(join) = run(language, family) else { return };
    println!("{language:?} {family:?}: {join}");
    assert_eq!(join.wrong, [""; 0]);
    let every = load(language).every;
    let made = join.requests.len();
    assert!(made >= LEAST, "only {made} requests");
    let hit: usize = join.requests.values().filter(|request| request.fault.is_some()).count();
    assert!(hit >= made / every as usize - 1, "only {hit} of {made} were hit");
    for fault in Fault::ALL {
        let recall = join.recall(fault);
        assert!(recall >= 0.95, "{fault:?}: {recall}");
    }
    assert!(join.anomaly_spans >= hit, "{join}");
    assert!(join.exemplars > 0, "{join}");
}

#[test]
fn requests_of_go_that_were_hit_are_found_and_no_others_over_ipv4() {
    check(Language::Go, Family::V4);
}

#[test]
fn requests_of_go_that_were_hit_are_found_and_no_others_over_ipv6() {
    check(Language::Go, Family::V6);
}

#[test]
fn requests_of_python_that_were_hit_are_found_and_no_others_over_ipv4() {
    check(Language::Python, Family::V4);
}

#[test]
fn requests_of_python_that_were_hit_are_found_and_no_others_over_ipv6() {
    check(Language::Python, Family::V6);
}
