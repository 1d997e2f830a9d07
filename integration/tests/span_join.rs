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

const SOURCE: [&str; 2] = ["--set", "spans.sources.wire=true"];

/// Fewer requests prove nothing; how many more there are is the machine's matter.
const LEAST: usize = 1000;

/// As many requests as the machine carries beside everything else, one of twenty hit.
fn load(language: Language) -> Load {
    let rate = if language == Language::Python { 250 } else { 500 };
    Load { connections: 64, streams: 1, rate, seconds: 10, every: 20 }
}

fn run(language: Language, family: Family, load: Load) -> Option<Join> {
    if !requirements::met(&["ip", "nft"]) || !language.is_there() {
        return None;
    }
    let mut collector = Collector::start().unwrap()?;
    let network = Network::new().unwrap();
    shop::relay(&network, collector.http_address()).unwrap();
    shop::inject(&network).unwrap();
    let mut arguments = [shop::ALL_TOLD.as_slice(), &SOURCE].concat();
    let endpoint = collector.endpoint();
    arguments.extend(["--endpoint", &endpoint]);
    let mut receiver = Receiver::start(&arguments).unwrap();
    let mut server = shop::serve(language, &network, family).unwrap();
    let mut client = shop::ask(language, &network, family, load).unwrap();
    client.wait().unwrap();
    server.stop().unwrap();
    receiver.stop().unwrap();
    collector.stop().unwrap();
    Some(Join::of(&collector.received().unwrap(), &network))
}

fn check(language: Language, family: Family) {
    let load = load(language);
    let Some(join) = run(language, family, load) else { return };
    println!("{language:?} {family:?}: {join}");
    assert_eq!(join.wrong, [""; 0]);
    assert_eq!(join.guessed(), [""; 0]);
    let made = join.requests.len();
    assert!(made >= LEAST, "only {made} requests");
    let hit: usize = join.requests.values().filter(|request| request.fault.is_some()).count();
    // Beside those of the load, each connection of gRPC has a first one.
    assert!(hit >= made / (load.every as usize + 1), "only {hit} of {made} were hit");
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

#[test]
fn requests_of_grpc_that_were_hit_are_found_and_no_others_over_ipv4() {
    check(Language::Grpc, Family::V4);
}

#[test]
fn requests_of_grpc_that_were_hit_are_found_and_no_others_over_ipv6() {
    check(Language::Grpc, Family::V6);
}

/// Which of several requests a packet of their connection is of is not known, and nothing is said about it.
#[test]
fn of_requests_that_share_a_connection_at_a_time_none_is_named_wrongly() {
    let load = Load { connections: 4, streams: 16, rate: 1000, seconds: 10, every: 20 };
    for family in Family::BOTH {
        let Some(join) = run(Language::Grpc, family, load) else { return };
        let most = join.most_at_once();
        println!("several at once, up to {most}, {family:?}: {join}");
        assert!(most > 1 && join.requests.len() >= LEAST, "{most}: {join}");
        assert_eq!(join.wrong, [""; 0]);
        assert_eq!(join.guessed(), [""; 0]);
    }
}
