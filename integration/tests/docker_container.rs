//! A real container of Docker: its drops and counters carry its id, and are the kernel's own.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::process::Command;

use jitterscope_integration::containerd::Container;
use jitterscope_integration::docker::{Docker, PROGRAMS};
use jitterscope_integration::netns::run;
use jitterscope_integration::network::Family;
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::telemetry::{Attributes, Point, Record, has};
use jitterscope_integration::{poll, requirements};
use jitterscope_semconv::{Metric, attribute as key, event, metric};

/// Connections that the container tries in each family, to a port where nobody listens.
const LOST: u64 = 3;

/// A program in the container's network, run by another process than the receiver.
fn inside(container: &Container, program: &[&str]) -> serde_json::Value {
    let pid = container.pid.to_string();
    let output = run(Command::new("nsenter").args(["--target", &pid, "--net"]).args(program)).unwrap();
    serde_json::from_str(&output).unwrap()
}

/// A counter under its name in nstat(8).
fn counter(container: &Container, name: &str) -> u64 {
    let listed = inside(container, &["nstat", "--ignore", "--zeros", "--noupdate", "--json", name]);
    listed["kernel"][name].as_u64().unwrap()
}

/// Received and transmitted bytes of its device.
fn bytes(container: &Container) -> [u64; 2] {
    let listed = inside(container, &["ip", "-s", "-j", "link", "show", "eth0"]);
    ["rx", "tx"].map(|direction| listed[0]["stats64"][direction]["bytes"].as_u64().unwrap())
}

fn is_of(resource: &Attributes, container: &Container) -> bool {
    has(resource, key::CONTAINER_ID.key, &container.id)
}

fn is_loss(attributes: &Attributes, family: Family) -> bool {
    has(attributes, key::NETWORK_TYPE.key, family.name())
        && has(attributes, key::NETWORK_TRANSPORT.key, "tcp")
        && has(attributes, key::PACKET_DROP_REASON.key, "NO_SOCKET")
}

/// Tries connections to a port where nobody listens, which the kernel answers with a reset each.
fn lose(docker: &Docker, container: &Container) {
    for family in Family::BOTH {
        for _ in 0..LOST {
            let address = family.loopback().to_string();
            assert!(docker.exec(container, &["nc", &address, "9"]).is_err(), "somebody listens");
        }
    }
    assert_eq!(counter(container, "TcpOutRsts"), 2 * LOST);
}

fn assert_events(receiver: &Receiver, container: &Container, family: Family) {
    let of_it = |record: &Record| {
        record.event == event::PACKET_DROPPED.name
            && is_of(&record.resource, container)
            && is_loss(&record.attributes, family)
    };
    let events = poll::until("an event for each connection", || {
        let events: Vec<Record> = receiver.printed().unwrap().records().filter(of_it).collect();
        (events.len() as u64 >= LOST).then_some(events)
    });
    let events = events.unwrap();
    assert_eq!(events.len() as u64, LOST, "{events:#?}");
    for event in events {
        assert!(has(&event.resource, key::CONTAINER_RUNTIME_NAME.key, "docker"), "{event:#?}");
        assert!(!event.resource.contains_key(key::K8S_POD_UID.key), "{event:#?}");
        let loopback = family.loopback().to_string();
        assert!(has(&event.attributes, key::DESTINATION_ADDRESS.key, &loopback), "{event:#?}");
        assert!(has(&event.attributes, key::DESTINATION_PORT.key, "9"), "{event:#?}");
    }
}

/// The container's total of a metric over the points that `wanted` takes.
fn total(
    receiver: &Receiver,
    container: &Container,
    metric: &Metric,
    wanted: impl Fn(&Attributes) -> bool,
) -> u64 {
    let of_it = |point: &Point| is_of(&point.resource, container) && wanted(&point.attributes);
    receiver.printed().unwrap().total(metric.name, of_it)
}

fn assert_counters(receiver: &Receiver, container: &Container) {
    let directed = |metric, direction: &str| {
        total(receiver, container, metric, |of| has(of, key::NETWORK_IO_DIRECTION.key, direction))
    };
    let lost = |family| total(receiver, container, &metric::PACKET_DROPS, |of| is_loss(of, family));
    poll::until("every packet", || (Family::BOTH.map(lost) == [LOST; 2]).then_some(())).unwrap();
    poll::until("its segments, as nstat has them", || {
        let sent = directed(&metric::TCP_SEGMENTS, "transmit");
        (sent > 0 && sent == counter(container, "TcpOutSegs")).then_some(())
    })
    .unwrap();
    poll::until("its device's bytes, as ip has them", || {
        let [received, sent] =
            ["receive", "transmit"].map(|direction| directed(&metric::CONTAINER_NETWORK_IO, direction));
        (received > 0 && [received, sent] == bytes(container)).then_some(())
    })
    .unwrap();
}

#[test]
fn drops_and_counters_of_a_docker_container_carry_its_id_and_equal_the_kernels() {
    if !requirements::met(&[&PROGRAMS[..], &["nstat", "nsenter"]].concat()) {
        return;
    }
    let mut docker = Docker::start().unwrap();
    let receiver = Receiver::start(&["--format", "json", "--set", "interval=200ms"]).unwrap();
    let container = docker.run(&["sleep", "600"]).unwrap();
    lose(&docker, &container);
    Family::BOTH.iter().for_each(|family| assert_events(&receiver, &container, *family));
    assert_counters(&receiver, &container);
}
