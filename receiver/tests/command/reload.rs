//! A configuration that changes while the receiver runs: nothing that did not change loses anything.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::symlink,
    path::Path,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    collector::Collector,
    netns::Netns,
    receiver::{BINARY, Configuration, Receiver, is_root, until},
    telemetry::{events_of, points},
};

const APPLIED: &str = "the configuration was applied";
const INVALID: &str = "the configuration is invalid; the running configuration stays";

/// A file that keeps packet loss as it is; all tests' receivers must run side by side.
fn file(rest: &str) -> String {
    format!("health: {{endpoint: off}}\n{rest}")
}

/// Start times of the packet-loss series of a namespace, each once.
fn starts(output: &str, netns: &Netns) -> Vec<u64> {
    let points = points(output, "jitterscope.packet.drops");
    let mut starts: Vec<u64> = points
        .iter()
        .filter(|point| point.is_of(netns.name()))
        .map(|point| point.point.start_time_unix_nano)
        .collect();
    starts.sort_unstable();
    starts.dedup();
    starts
}

/// Whether so many dropped packets are told soon. More are told never.
fn counts(receiver: &Receiver, netns: &Netns, expected: i64) -> bool {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let told = netns.dropped(&receiver.stdout());
        assert!(told <= Some(expected), "{told:?} of {expected}");
        if told == Some(expected) {
            return true;
        }
        if Instant::now() > deadline {
            // A closed standard error does not change the outcome.
            let _ = writeln!(std::io::stderr(), "{told:?} of {expected} drops");
            return false;
        }
        sleep(Duration::from_millis(20));
    }
}

/// Some hosts run no tracing program while a task of their own is current: a run that is short of packets is repeated.
fn undisturbed(body: fn() -> bool) {
    if is_root() {
        assert!((0..3).any(|_| body()), "short of packets in each of 3 runs");
    }
}

#[test]
fn packet_counts_go_on_across_reloads_of_other_settings() {
    undisturbed(other_settings_change);
}

fn other_settings_change() -> bool {
    let configuration = Configuration::new(&file("interval: 200ms\n"));
    let receiver = Receiver::run(&configuration);
    receiver.says("running probe=\"packetloss\"", 1);
    let netns = Netns::new();
    netns.drop_datagrams(10);
    for round in 1..=6 {
        let enabled = round % 2 == 0;
        configuration.write(&file(&format!("interval: 200ms\nprobes: {{udp: {{enabled: {enabled}}}}}\n")));
        if round % 3 == 0 {
            receiver.signal(Signal::HUP);
        }
        netns.drop_datagrams(10);
        receiver.says(APPLIED, round);
    }
    netns.drop_datagrams(10);
    if !counts(&receiver, &netns, 80) {
        return false;
    }
    let ended = receiver.terminate();
    assert_eq!(starts(&ended.stdout, &netns).len(), 1, "the start time moved");
    assert_eq!(ended.stderr.matches("running probe=\"packetloss\"").count(), 1, "{}", ended.stderr);
    assert_eq!(netns.dropped(&ended.stdout), Some(80));
    true
}

/// Writes a mounted `ConfigMap` as the kubelet does: a new directory, and the link swapped to it.
fn swap(folder: &Path, number: usize, text: &str) {
    let data = folder.join(format!("..{number}"));
    fs::create_dir(&data).unwrap();
    fs::write(data.join("jitterscope.yaml"), text).unwrap();
    symlink(data.file_name().unwrap(), folder.join("..tmp")).unwrap();
    fs::rename(folder.join("..tmp"), folder.join("..data")).unwrap();
    if let Some(before) = number.checked_sub(1) {
        let _ = fs::remove_dir_all(folder.join(format!("..{before}")));
    }
}

#[test]
fn every_swap_of_a_mounted_config_map_applies_and_counts_go_on() {
    undisturbed(config_map_is_swapped);
}

fn config_map_is_swapped() -> bool {
    let folder = tempfile::tempdir().unwrap();
    let text = |on: bool| file(&format!("interval: 200ms\nprobes: {{netdev: {{enabled: {on}}}}}\n"));
    swap(folder.path(), 0, &text(true));
    let path = folder.path().join("jitterscope.yaml");
    symlink("..data/jitterscope.yaml", &path).unwrap();
    let arguments = ["run", "--format", "json", "-c"];
    let receiver = Receiver::spawn(Command::new(BINARY).args(arguments).arg(&path));
    receiver.says("running probe=\"packetloss\"", 1);
    let netns = Netns::new();
    for number in 1..=6 {
        netns.drop_datagrams(4);
        swap(folder.path(), number, &text(number % 2 == 0));
        receiver.says(APPLIED, number);
    }
    if !counts(&receiver, &netns, 24) {
        return false;
    }
    let ended = receiver.terminate();
    assert_eq!(starts(&ended.stdout, &netns).len(), 1, "the start time moved");
    assert_eq!(ended.stderr.matches("stopped probe=\"netdev\"").count(), 3, "{}", ended.stderr);
    true
}

#[test]
fn an_invalid_file_is_refused_whole_and_a_valid_one_applies_again() {
    let configuration = Configuration::new(&file("interval: 200ms\n"));
    let receiver = Receiver::run(&configuration);
    receiver.says("running probe=\"udp\"", 1);
    configuration.write(&file("interval: 300ms\nprobes: {udp: {enabled: false}, tpc: {}}\n"));
    receiver.says(INVALID, 1);
    receiver.says("probes.tpc: unknown key, nearest: probes.tcp", 1);
    assert!(!receiver.stderr().contains("stopped probe"), "a part of it was applied: {}", receiver.stderr());
    let before = latest_udp(&receiver);
    until("udp going on", || (latest_udp(&receiver) > before).then_some(()));
    configuration.write(&file("interval: 300ms\nprobes: {udp: {enabled: false}}\n"));
    receiver.says(APPLIED, 1);
    receiver.says("stopped probe=\"udp\"", 1);
    let ended = receiver.terminate();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[test]
fn a_file_that_is_gone_or_asked_for_again_unchanged_changes_nothing() {
    let configuration = Configuration::new(&file("interval: 200ms\n"));
    let mut receiver = Receiver::run(&configuration);
    receiver.says("running probe=\"udp\"", 1);
    receiver.signal(Signal::HUP);
    receiver.says("the configuration did not change", 1);
    fs::remove_file(configuration.path()).unwrap();
    receiver.says("the configuration file is gone; the running configuration stays", 1);
    receiver.signal(Signal::HUP);
    receiver.says(INVALID, 1);
    assert!(receiver.is_running());
    let before = latest_udp(&receiver);
    until("udp going on", || (latest_udp(&receiver) > before).then_some(()));
    assert!(!receiver.stderr().contains(APPLIED), "{}", receiver.stderr());
}

/// Time of the latest udp point, in nanoseconds since the epoch.
fn latest_udp(receiver: &Receiver) -> u64 {
    let points = points(&receiver.stdout(), "jitterscope.udp.datagrams");
    points.iter().map(|point| point.point.time_unix_nano).max().unwrap_or(0)
}

#[test]
fn a_probe_is_switched_off_and_on_while_the_others_go_on() {
    let configuration = Configuration::new(&file("interval: 200ms\n"));
    let receiver = Receiver::run(&configuration);
    until("udp", || (latest_udp(&receiver) > 0).then_some(()));
    configuration.write(&file("interval: 200ms\nprobes: {udp: {enabled: false}}\n"));
    receiver.says("stopped probe=\"udp\"", 1);
    let tcp = || {
        let points = points(&receiver.stdout(), "jitterscope.tcp.segments");
        points.iter().map(|point| point.point.time_unix_nano).max().unwrap_or(0)
    };
    // Two collections without it. The one that ran when it was stopped may have it still, however late that ended.
    until("tcp going on alone", || (tcp() > latest_udp(&receiver) + 400_000_000).then_some(()));
    let off = latest_udp(&receiver);
    configuration.write(&file("interval: 200ms\n"));
    until("udp again", || (latest_udp(&receiver) > off).then_some(()));
}

#[test]
fn another_rate_of_events_applies_without_detaching() {
    undisturbed(rate_changes);
}

fn rate_changes() -> bool {
    let limit = |burst: u32| {
        file(&format!("interval: 200ms\nprobes: {{packetloss: {{events: {{rate: 1, burst: {burst}}}}}}}\n"))
    };
    let configuration = Configuration::new(&limit(5));
    let receiver = Receiver::run(&configuration);
    receiver.says("running probe=\"packetloss\"", 1);
    let before = Netns::new();
    before.drop_datagrams(50);
    if !counts(&receiver, &before, 50) {
        return false;
    }
    configuration.write(&limit(1000));
    receiver.says(APPLIED, 1);
    let after = Netns::new();
    // The command reaches the probe's task after the log line; a namespace that was limited stays so for a while.
    until("events at the new rate", || {
        after.drop_datagrams(50);
        (events_of(&receiver.stdout(), after.name()) >= 50).then_some(())
    });
    before.drop_datagrams(50);
    if !counts(&receiver, &before, 100) {
        return false;
    }
    let ended = receiver.terminate();
    let early = events_of(&ended.stdout, before.name());
    assert!(early < 100, "{early} events of 100 packets");
    assert_eq!(starts(&ended.stdout, &before).len(), 1, "the start time moved");
    assert_eq!(ended.stderr.matches("running probe=\"packetloss\"").count(), 1, "{}", ended.stderr);
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn another_endpoint_gets_everything_from_then_on() {
    let (first, second) = (Collector::start().await, Collector::start().await);
    let to = |collector: &Collector| {
        let address = collector.address;
        file(&format!("interval: 200ms\nexport: {{otlp: [{{endpoint: \"http://{address}\"}}]}}\n"))
    };
    let configuration = Configuration::new(&to(&first));
    let receiver = Receiver::run(&configuration);
    until("requests at the first", || (first.requests() > 2).then_some(()));
    assert_eq!(second.requests(), 0);
    configuration.write(&to(&second));
    until("requests at the second", || (second.requests() > 2).then_some(()));
    let settled = first.requests();
    let before = second.requests();
    until("more requests at the second", || (second.requests() > before + 5).then_some(()));
    assert_eq!(first.requests(), settled);
    let ended = receiver.terminate();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(!ended.stderr.contains("not delivered"), "{}", ended.stderr);
}
