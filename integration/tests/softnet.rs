//! The numbers of `softnet` are the node's, once: the sums over the CPUs of `/proc/net/softnet_stat`, or each CPU's.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::fs;

use jitterscope_integration::counters::told_of_host;
use jitterscope_integration::netns::Netns;
use jitterscope_integration::network::Family;
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::requirements;
use jitterscope_integration::telemetry::Telemetry;
use jitterscope_integration::traffic::{CLOSED_PORT, flood};
use jitterscope_semconv::{Metric, attribute as key, metric};

/// Datagrams that pass the receive path of this node.
const ALL: usize = 20_000;

/// The counters by their columns.
const COLUMNS: [(usize, &Metric); 5] = [
    (0, &metric::SOFTNET_PACKETS),
    (1, &metric::SOFTNET_DROPS),
    (2, &metric::SOFTNET_TIME_SQUEEZES),
    (9, &metric::SOFTNET_RECEIVED_RPS),
    (10, &metric::SOFTNET_FLOW_LIMITS),
];

/// The column of each CPU that is online.
fn column(column: usize) -> Vec<f64> {
    let text = fs::read_to_string("/proc/net/softnet_stat").unwrap();
    let parse = |line: &str| u32::from_str_radix(line.split_whitespace().nth(column).unwrap(), 16).unwrap();
    text.lines().map(parse).map(f64::from).collect()
}

fn columns() -> [Vec<f64>; 5] {
    COLUMNS.map(|(number, _)| column(number))
}

fn collect(arguments: &[&str]) -> Telemetry {
    let mut receiver = Receiver::start(arguments).unwrap();
    receiver.stop().unwrap();
    receiver.printed().unwrap()
}

#[test]
fn the_nodes_packets_are_counted_once_and_between_what_others_read() {
    if !requirements::met(&["ip"]) {
        return;
    }
    let netns = Netns::new("softnet").unwrap();
    let start = columns();
    for family in Family::BOTH {
        flood(&netns, (family.loopback(), CLOSED_PORT).into(), ALL / 2).unwrap();
    }
    let before = columns();
    let telemetry = collect(&["--format", "json"]);
    let after = columns();
    let sum = |values: &[f64]| values.iter().sum::<f64>();
    assert!(sum(&before[0]) - sum(&start[0]) >= ALL as f64);
    for (at, (_, metric)) in COLUMNS.into_iter().enumerate() {
        let told = told_of_host(&telemetry, metric.name, &[]).unwrap();
        assert!((sum(&before[at])..=sum(&after[at])).contains(&told), "{metric} {told}");
        assert_eq!(telemetry.last(metric.name).len(), 1, "{metric} is the node's alone");
    }
    assert!(told_of_host(&telemetry, metric::SOFTNET_BACKLOG.name, &[]).is_some());
}

#[test]
fn each_cpu_has_its_series_when_it_is_asked_for() {
    if !requirements::met(&["ip"]) {
        return;
    }
    let before = columns();
    let telemetry = collect(&["--format", "json", "--set", "probes.softnet.per_cpu=true"]);
    let after = columns();
    let numbers = column(12);
    for (at, (_, metric)) in COLUMNS.into_iter().enumerate() {
        assert_eq!(telemetry.last(metric.name).len(), numbers.len(), "{metric}");
        for (cpu, number) in numbers.iter().enumerate() {
            let wanted = [(&key::CPU_LOGICAL_NUMBER, number.to_string())];
            let wanted = wanted.each_ref().map(|(key, value)| (*key, value.as_str()));
            let told = told_of_host(&telemetry, metric.name, &wanted).unwrap();
            assert!((before[at][cpu]..=after[at][cpu]).contains(&told), "{metric} of {number}: {told}");
        }
    }
}
