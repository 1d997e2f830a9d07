//! What the commands print for people and for scripts.

use std::process::Command;

use serde_json::Value;

use crate::{
    netns::Netns,
    receiver::{BINARY, Configuration, Receiver, is_root, outcome, until},
    telemetry::{Point, metric_names, metrics, points},
};

#[test]
fn once_prints_a_collection_of_the_named_probes_alone_as_otlp() {
    let ended = outcome(["once", "--format", "json", "tcp", "udp"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let names = metric_names(&ended.stdout);
    assert!(names.iter().any(|name| name == "jitterscope.tcp.segments"), "{names:?}");
    assert!(names.iter().any(|name| name == "jitterscope.udp.datagrams"), "{names:?}");
    let others = names.iter().filter(|name| !name.contains(".tcp.") && !name.contains(".udp.")).count();
    assert_eq!(others, 0, "{names:?}");
    for request in metrics(&ended.stdout) {
        for resource in request.resource_metrics {
            assert!(!resource.resource.unwrap().attributes.is_empty());
            assert!(resource.schema_url.starts_with("https://opentelemetry.io/schemas/"));
            assert!(
                resource
                    .scope_metrics
                    .iter()
                    .all(|scope| scope.scope.as_ref().unwrap().name == "jitterscope")
            );
        }
    }
}

#[test]
fn the_series_that_each_probe_remembers_are_its_own() {
    let configuration = Configuration::new("interval: 200ms\nhealth: {endpoint: off}\n");
    let receiver = Receiver::run(&configuration);
    let series = |probe: &str, metric: &str| {
        let found = points(&receiver.stdout(), metric);
        let of =
            found.iter().rev().find(|point| format!("{:?}", point.point).contains(&format!("\"{probe}\"")));
        of.map(Point::value)
    };
    let [tcp, udp] = ["tcp", "udp"].map(|probe| {
        let count = || series(probe, "jitterscope.probe.series.count").filter(|count| *count > 0);
        until("a probe's series", count)
    });
    assert_ne!(tcp, udp, "it is the same figure for both");
    assert_eq!(series("tcp", "jitterscope.probe.series.limit"), Some(65_536));
    assert!(tcp < 65_536);
}

#[test]
fn with_the_sdk_disabled_only_the_node_is_told_of() {
    let of_its_own = |disabled: &str| {
        let mut command = Command::new(BINARY);
        command.args(["run", "--format", "json", "--set=interval=200ms", "--set=health.endpoint=off"]);
        let receiver = Receiver::spawn(command.env("OTEL_SDK_DISABLED", disabled));
        until("several collections", || {
            (points(&receiver.stdout(), "jitterscope.tcp.segments").len() > 10).then_some(())
        });
        let ended = receiver.terminate();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        points(&ended.stdout, "jitterscope.probe.state").len()
            + points(&ended.stdout, "process.cpu.time").len()
    };
    assert_eq!(of_its_own("true"), 0);
    assert!(of_its_own("false") > 0);
}

#[test]
fn once_for_people_shows_totals_of_the_host() {
    let ended = outcome(["once", "tcp"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout.lines().any(|line| line == "host"), "{}", ended.stdout);
    assert!(ended.stdout.contains("tcp.segments"), "{}", ended.stdout);
    assert!(!ended.stdout.contains("/s"), "one collection has no rates: {}", ended.stdout);
}

#[test]
fn probes_as_json_have_the_keys_that_scripts_rely_on() {
    let ended = outcome(["probes", "--format", "json"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let probes: Vec<Value> = serde_json::from_str(&ended.stdout).unwrap();
    let names: Vec<&str> = probes.iter().map(|probe| probe["name"].as_str().unwrap()).collect();
    for name in ["packetloss", "tcp", "udp", "netdev"] {
        assert!(names.contains(&name), "{names:?}");
    }
    for probe in &probes {
        let keys: Vec<&str> = probe.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "can_run",
                "capabilities",
                "default",
                "events",
                "hooks",
                "limitation",
                "metrics",
                "name",
                "overhead",
                "reason",
                "source",
                "use_when"
            ]
        );
        assert_eq!(probe["can_run"].as_bool().unwrap(), probe["reason"].is_null());
    }
}

#[test]
fn the_report_shows_rates_and_each_event_a_line() {
    if !is_root() {
        return;
    }
    let netns = Netns::new();
    let receiver = Receiver::start(["run", "--set=interval=500ms", "--set=health.endpoint=off"]);
    receiver.says("running probe=\"packetloss\"", 1);
    let entity = format!("netns/{}", netns.name());
    // Rows of an entity are indented below its name; each task has reports of its own, so the name comes many times.
    let rate = |output: &str| {
        let lines: Vec<&str> = output.lines().collect();
        let blocks = lines.iter().enumerate().filter(|(_, line)| **line == entity);
        let rows = |at: usize| lines.iter().skip(at + 1).take_while(|line| line.starts_with(' '));
        let errors = |row: &&&str| row.trim_start().starts_with("udp.errors");
        blocks
            .flat_map(|(at, _)| rows(at).filter(errors))
            .any(|row| row.contains("no_port") && row.contains("/s"))
    };
    until(&format!("rates of {entity}"), || {
        netns.drop_datagrams(10);
        rate(&receiver.stdout()).then_some(())
    });
    let ended = receiver.terminate();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let is_event = |line: &&str| line.contains(" drop ") && line.contains(&entity);
    let event = ended.stdout.lines().find(is_event).expect("an event");
    for expected in ["127.0.0.1:9", "udp", " → "] {
        assert!(event.contains(expected) || event.contains("[::1]:9"), "{expected:?} is not in {event}");
    }
}
