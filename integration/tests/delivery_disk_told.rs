//! What a receiver tells about its queue on disk: that it cannot be used, in log, health and metrics, while everything goes
//! on in memory; and what is in it, at the end of a process that could not deliver and at the start of the next.

use std::io::{Read, Write};
use std::net::TcpStream;

use jitterscope_integration::collector::Collector;
use jitterscope_integration::network::free_addresses;
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::telemetry::Telemetry;
use jitterscope_integration::{poll, requirements};
use jitterscope_semconv::metric;
use serde_json::Value;

/// The state of the only destination, as the health endpoint tells it.
fn health(address: &str) -> Option<Value> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET /status?verbose HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let mut status: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
    let exporters = status["components"]["exporters"]["components"].as_object_mut()?;
    exporters.values_mut().next().map(Value::take)
}

/// The last value of a metric, added up over its series.
fn value(told: &Telemetry, name: &str) -> u64 {
    told.total(name, |_| true)
}

#[test]
fn a_disk_that_cannot_be_used_is_told_everywhere_and_everything_goes_on() {
    if !requirements::met(&[]) {
        return;
    }
    let Some(collector) = Collector::start().unwrap() else { return };
    let [address] = free_addresses().unwrap();
    let endpoint = format!("health.endpoint={address}");
    // No directory can be made there.
    let set = format!(
        "export.otlp=[{{endpoint: '{}', queue: {{disk: {{path: /proc/queue}}}}}}]",
        collector.endpoint()
    );
    let mut receiver =
        Receiver::start(&["--set", &set, "--set", &endpoint, "--set", "interval=200ms"]).unwrap();
    let told = poll::until("the failure as a metric", || {
        let told = collector.received().unwrap();
        (value(&told, metric::EXPORTER_QUEUE_DISK_FAILURES.name) > 0).then_some(told)
    })
    .unwrap();
    assert_eq!(value(&told, metric::EXPORTER_QUEUE_DISK_LIMIT.name), (256 - 8) << 20);
    let state = health(&address).unwrap();
    let error = state["disk"]["error"].as_str().unwrap();
    assert!(error.contains("/proc/queue") && error.ends_with("going on in memory"), "{error}");
    assert_eq!((&state["error"], &state["healthy"]), (&state["disk"]["error"], &Value::Bool(false)));
    let complaints = receiver.complaints();
    assert!(complaints.iter().any(|line| line.contains("going on in memory")), "{complaints:?}");
    receiver.stop().unwrap();
    for account in receiver.deliveries().unwrap() {
        assert_eq!(
            (account.produced, account.queued, account.dropped),
            (account.delivered, 0, 0),
            "{account:?}"
        );
    }
}

#[test]
fn what_one_receiver_left_on_disk_the_next_delivers_and_both_say_so() {
    if !requirements::met(&[]) {
        return;
    }
    let Some(mut collector) = Collector::start().unwrap() else { return };
    collector.stop().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let [address] = free_addresses().unwrap();
    let endpoint = format!("health.endpoint={address}");
    let set = format!(
        "export.otlp=[{{endpoint: '{}', queue: {{disk: {{path: '{}'}}}}}}]",
        collector.endpoint(),
        directory.path().display()
    );
    let settings =
        ["--set", &set, "--set", &endpoint, "--set", "interval=200ms", "--set", "shutdown.grace=100ms"];
    let mut receiver = Receiver::start(&settings).unwrap();
    poll::until("several collections on disk", || {
        let state = health(&address)?;
        let term = |name: &str| state["metrics"][name].as_u64();
        (term("on_disk")? > 5000 && state["disk"]["bytes"].as_u64()? > 0).then_some(())
    })
    .unwrap();
    receiver.stop().unwrap();
    let of = |receiver: &Receiver, signal: &str| {
        receiver.deliveries().unwrap().into_iter().find(|account| account.signal == signal).unwrap()
    };
    let left = of(&receiver, "metrics");
    assert_eq!((left.queued, left.delivered, left.dropped), (left.produced, 0, 0), "{left:?}");
    assert!(receiver.log().contains("left in the queue on disk"), "{}", receiver.log());

    collector.resume().unwrap();
    let mut receiver = Receiver::start(&settings).unwrap();
    poll::until("what was left as a metric", || {
        let told = collector.received().unwrap();
        (value(&told, metric::EXPORTER_RECOVERED.name) >= left.queued).then_some(())
    })
    .unwrap();
    receiver.stop().unwrap();
    collector.stop().unwrap();
    let account = of(&receiver, "metrics");
    assert_eq!(account.recovered, left.queued);
    assert_eq!(account.produced + account.recovered, account.delivered + account.queued, "{account:?}");
}
