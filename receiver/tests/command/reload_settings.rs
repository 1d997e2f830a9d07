//! Settings of the log and of whom signals are attributed to: they apply to a receiver that runs, and no count or event of
//! its probes is lost by it.

use rustix::process::Signal;

use crate::{
    netns::Netns,
    receiver::{Configuration, Receiver, is_root, until},
    telemetry::{events_of, points},
};

const APPLIED: &str = "the configuration was applied";

/// Short intervals, no port, and what a test is about.
fn file(rest: &str) -> String {
    format!("health: {{endpoint: off}}\ninterval: 200ms\n{rest}\n")
}

/// The lines of the log that are JSON objects with this message.
fn json_lines(log: &str, message: &str) -> usize {
    let objects = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    objects.filter(|line| line["fields"]["message"] == message).count()
}

#[test]
fn level_and_form_of_the_log_apply_at_once() {
    let configuration = Configuration::new(&file("log: {level: warn}"));
    let receiver = Receiver::run(&configuration);
    until("points", || (!points(&receiver.stdout(), "jitterscope.udp.datagrams").is_empty()).then_some(()));
    assert!(!receiver.stderr().contains("INFO"), "{}", receiver.stderr());
    configuration.write(&file("log: {level: info}"));
    receiver.says(APPLIED, 1);
    assert_eq!(json_lines(&receiver.stderr(), APPLIED), 0);
    configuration.write(&file("log: {level: info, format: json}"));
    until("a line of JSON", || (json_lines(&receiver.stderr(), APPLIED) == 1).then_some(()));
    configuration.write(&file("log: {level: error}"));
    configuration.write(&file("log: {level: error}\nprobes: {udp: {enabled: false}}"));
    let tcp = || points(&receiver.stdout(), "jitterscope.tcp.segments").len();
    let udp = || points(&receiver.stdout(), "jitterscope.udp.datagrams").len();
    until("udp switched off", || {
        let (before, others) = (udp(), tcp());
        until("tcp going on", || (tcp() > others).then_some(()));
        (udp() == before).then_some(())
    });
    let quiet = receiver.stderr();
    receiver.signal(Signal::HUP);
    let ended = receiver.terminate();
    assert_eq!(ended.stderr, quiet, "it still tells");
    assert_eq!(ended.code, Some(0));
}

/// `seen` and the sum of what became of it, from the account that a receiver reports at its end.
fn account(log: &str) -> (u64, u64) {
    let line = log.lines().find(|line| line.contains("account probe=\"packetloss\"")).unwrap();
    let term = |name: &str| -> u64 {
        let after = line.split(&format!("{name}=")).nth(1).unwrap();
        after.split(' ').next().unwrap().trim().parse().unwrap()
    };
    (term("seen"), ["exported", "suppressed", "lost", "dropped"].map(term).iter().sum())
}

#[test]
fn namespaces_become_entities_and_cease_to_be_some_and_no_packet_is_lost() {
    if !is_root() {
        return;
    }
    let entities = |netns: bool| file(&format!("entities: {{netns: {netns}}}"));
    let configuration = Configuration::new(&entities(false));
    let receiver = Receiver::run(&configuration);
    receiver.says("running probe=\"packetloss\"", 1);
    let netns = Netns::new();
    netns.drop_datagrams(10);
    let seen = |name: &str| points(&receiver.stdout(), name).iter().any(|point| point.is_of(netns.name()));
    let collections = || points(&receiver.stdout(), "jitterscope.udp.datagrams").len();
    let one_later = || {
        let before = collections();
        until("a collection", || (collections() > before).then_some(()));
    };
    one_later();
    one_later();
    assert!(!seen("jitterscope.packet.drops") && !seen("jitterscope.udp.datagrams"), "it was left out");
    configuration.write(&entities(true));
    until("all packets, those from before included", || {
        (netns.dropped(&receiver.stdout()) == Some(10)).then_some(())
    });
    until("its counters", || seen("jitterscope.udp.datagrams").then_some(()));
    netns.drop_datagrams(6);
    until("the events from then on", || (events_of(&receiver.stdout(), netns.name()) == 6).then_some(()));
    configuration.write(&entities(false));
    receiver.says(APPLIED, 2);
    one_later();
    netns.drop_datagrams(4);
    one_later();
    assert_eq!(events_of(&receiver.stdout(), netns.name()), 6);
    configuration.write(&entities(true));
    until("all packets", || (netns.dropped(&receiver.stdout()) == Some(20)).then_some(()));
    let ended = receiver.terminate();
    assert_eq!(netns.dropped(&ended.stdout), Some(20));
    let drops = points(&ended.stdout, "jitterscope.packet.drops");
    let mut starts: Vec<_> = drops.iter().filter(|point| point.is_of(netns.name())).collect();
    starts.dedup_by_key(|point| point.point.start_time_unix_nano);
    assert_eq!(starts.len(), 1, "the start time moved: {starts:?}");
    assert_eq!(ended.stderr.matches("running probe=\"packetloss\"").count(), 1, "{}", ended.stderr);
    let (seen, sum) = account(&ended.stderr);
    assert!(seen >= 20 && seen == sum, "{seen} seen, {sum} accounted for: {}", ended.stderr);
}
