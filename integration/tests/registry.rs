//! Every signal that arrives is declared in the registry, in its unit, instrument and attributes; and every signal that is
//! declared for a default probe or for the receiver itself arrives.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use jitterscope::probe::{Definition, PROBES, homes::homes};
use jitterscope::round::counters::Parser;
use jitterscope_integration::collector::Collector;
use jitterscope_integration::containerd::Containerd;
use jitterscope_integration::netns::{Netns, run};
use jitterscope_integration::network::Family;
use jitterscope_integration::receiver::{Receiver, runnable};
use jitterscope_integration::telemetry::Telemetry;
use jitterscope_integration::traffic::{CLOSED_PORT, flood};
use jitterscope_integration::{poll, requirements};
use jitterscope_semconv::{
    ATTRIBUTES, Attribute, AttributeRef, Entity, Event, Instrument, METRICS, Metric, Number,
    RequirementLevel, ValueType, entity,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, DataPointFlags, Metric as Arrived, metric::Data,
    number_data_point::Value as NumberValue,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use tempfile::TempDir;

/// What is wrong, each sentence once.
type Problems = BTreeSet<String>;

/// Longer than TCP waits before it sends a connection request again.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Probes that do not run by default, and have something to tell on any machine once everything is slow to them.
const MEASURING: [&str; 5] = ["softirq", "schedlatency", "biolatency", "socketlatency", "kernellatency"];

/// What the receiver's own telemetry is about.
const ITSELF: [&Entity; 2] = [&entity::SERVICE_INSTANCE, &entity::PROCESS];

/// Checks everything that arrived against the registry.
fn check(telemetry: &Telemetry) -> Problems {
    let mut problems = Problems::new();
    for (resource, metric) in telemetry.metrics() {
        check_resource(resource, &mut problems);
        match Metric::find(&metric.name) {
            Some(declared) => check_metric(declared, metric, resource, &mut problems),
            None => drop(problems.insert(format!("metric {} is not declared", metric.name))),
        }
    }
    for of in telemetry.logs.iter().flat_map(|request| &request.resource_logs) {
        let resource = of.resource.clone().unwrap_or_default();
        check_resource(&resource, &mut problems);
        for record in of.scope_logs.iter().flat_map(|scope| &scope.log_records) {
            check_record(record, &resource, &mut problems);
        }
    }
    problems
}

fn check_metric(declared: &Metric, metric: &Arrived, resource: &Resource, problems: &mut Problems) {
    let name = &metric.name;
    if metric.unit != declared.unit {
        problems.insert(format!("{name} has unit {} and not {}", metric.unit, declared.unit));
    }
    check_entity(name, declared.entities, resource, problems);
    let instrument = match &metric.data {
        Some(Data::Gauge(_)) => Some(Instrument::Gauge),
        Some(Data::Sum(sum)) if !is_cumulative(sum.aggregation_temporality) => None,
        Some(Data::Sum(sum)) if sum.is_monotonic => Some(Instrument::Counter),
        Some(Data::Sum(_)) => Some(Instrument::UpDownCounter),
        Some(Data::Histogram(all)) if is_cumulative(all.aggregation_temporality) => {
            Some(Instrument::Histogram)
        }
        Some(Data::ExponentialHistogram(all)) if is_cumulative(all.aggregation_temporality) => {
            Some(Instrument::Histogram)
        }
        _ => None,
    };
    if instrument != Some(declared.instrument) {
        problems.insert(format!("{name} is no cumulative {}: {instrument:?}", declared.instrument));
    }
    for attributes in points(metric, declared, problems) {
        check_attributes(name, declared.attributes, attributes, problems);
    }
}

fn is_cumulative(temporality: i32) -> bool {
    temporality == AggregationTemporality::Cumulative as i32
}

/// The attributes of each point; the type of its number is checked in passing.
fn points<'m>(metric: &'m Arrived, declared: &Metric, problems: &mut Problems) -> Vec<&'m [KeyValue]> {
    let numbers = match &metric.data {
        Some(Data::Sum(sum)) => sum.data_points.as_slice(),
        Some(Data::Gauge(gauge)) => gauge.data_points.as_slice(),
        _ => &[],
    };
    let (explicit, exponential) = match &metric.data {
        Some(Data::Histogram(all)) => (all.data_points.as_slice(), &[][..]),
        Some(Data::ExponentialHistogram(all)) => (&[][..], all.data_points.as_slice()),
        _ => (&[][..], &[][..]),
    };
    for number in numbers {
        let found = match number.value {
            Some(NumberValue::AsInt(_)) => Some(Number::Int),
            Some(NumberValue::AsDouble(_)) => Some(Number::Double),
            // The end of a series, which is no number.
            None if number.flags == DataPointFlags::NoRecordedValueMask as u32 => Some(declared.number),
            None => None,
        };
        if found != Some(declared.number) {
            problems.insert(format!("{} has numbers of type {found:?}", metric.name));
        }
        if number.start_time_unix_nano > number.time_unix_nano {
            problems.insert(format!("{} has a point before its start", metric.name));
        }
    }
    for histogram in exponential {
        if histogram.start_time_unix_nano > histogram.time_unix_nano {
            problems.insert(format!("{} has a point before its start", metric.name));
        }
    }
    let numbers = numbers.iter().map(|point| point.attributes.as_slice());
    let explicit = explicit.iter().map(|point| point.attributes.as_slice());
    let exponential = exponential.iter().map(|point| point.attributes.as_slice());
    numbers.chain(explicit).chain(exponential).collect()
}

fn check_record(record: &LogRecord, resource: &Resource, problems: &mut Problems) {
    let name = &record.event_name;
    let Some(declared) = Event::find(name) else {
        problems.insert(format!("event {name} is not declared"));
        return;
    };
    if record.severity_number != declared.severity || !record.severity_text.is_empty() {
        problems.insert(format!("{name} has severity {} {}", record.severity_number, record.severity_text));
    }
    check_entity(name, declared.entities, resource, problems);
    check_attributes(name, declared.attributes, &record.attributes, problems);
}

/// Undeclared attributes, those of a wrong type or value, and required ones that are missing.
fn check_attributes(of: &str, declared: &[AttributeRef], found: &[KeyValue], problems: &mut Problems) {
    for one in found {
        match declared.iter().find(|reference| reference.attribute.key == one.key) {
            Some(reference) => check_value(of, reference.attribute, one.value.as_ref(), problems),
            None => drop(problems.insert(format!("{of} has the undeclared attribute {}", one.key))),
        }
    }
    for reference in declared.iter().filter(|reference| reference.level == RequirementLevel::Required) {
        if !found.iter().any(|one| one.key == reference.attribute.key) {
            problems.insert(format!("{of} lacks the required attribute {}", reference.attribute.key));
        }
    }
}

fn check_value(of: &str, attribute: &Attribute, value: Option<&AnyValue>, problems: &mut Problems) {
    let value = value.and_then(|value| value.value.as_ref());
    let fits = match (attribute.kind, value) {
        (ValueType::Enum(values), Some(Value::StringValue(text))) => {
            attribute.imported || values.contains(&text.as_str())
        }
        (ValueType::String | ValueType::StringTemplate, Some(Value::StringValue(_)))
        | (ValueType::Int, Some(Value::IntValue(_)))
        | (ValueType::Double, Some(Value::DoubleValue(_)))
        | (ValueType::Boolean, Some(Value::BoolValue(_)))
        | (ValueType::StringArray | ValueType::IntArray, Some(Value::ArrayValue(_))) => true,
        _ => false,
    };
    if !fits {
        problems.insert(format!("{of} has {} = {value:?}", attribute.key));
    }
}

/// The resource must be one of the declared entities.
fn check_entity(of: &str, declared: &[&Entity], resource: &Resource, problems: &mut Problems) {
    let is = |entity: &&Entity| resource.entity_refs.iter().any(|reference| reference.r#type == entity.name);
    // The SDK does not reference the entities of the receiver itself, whose attributes are there all the same.
    let itself = |entity: &&Entity| {
        let has = |one: &AttributeRef| resource.attributes.iter().any(|found| found.key == one.attribute.key);
        ITSELF.contains(entity) && entity.identifying.iter().all(has)
    };
    if !declared.is_empty() && !declared.iter().any(|entity| is(entity) || itself(entity)) {
        let types: Vec<_> = resource.entity_refs.iter().map(|reference| &reference.r#type).collect();
        let declared: Vec<_> = declared.iter().map(|entity| entity.name).collect();
        problems.insert(format!("{of} is of {types:?} and not of {declared:?}"));
    }
}

fn check_resource(resource: &Resource, problems: &mut Problems) {
    for one in &resource.attributes {
        match ATTRIBUTES.iter().find(|attribute| attribute.is_key(&one.key)) {
            Some(attribute) => check_value("a resource", attribute, one.value.as_ref(), problems),
            None => drop(problems.insert(format!("a resource has the undeclared attribute {}", one.key))),
        }
    }
    for reference in &resource.entity_refs {
        let has = |key: &String| resource.attributes.iter().any(|one| one.key == *key);
        if Entity::find(&reference.r#type).is_none() || !reference.id_keys.iter().all(has) {
            problems.insert(format!("a resource references {reference:?}"));
        }
    }
}

/// Whether a metric is made of counters that the kernel prints with those of TCP, and this kernel has none of them.
fn is_of_other_kernels(metric: &Metric) -> bool {
    let netstat = Parser::default().paired(&fs::read_to_string("/proc/net/netstat").unwrap());
    let has = |counter: &str| !counter.contains("TcpExt") || netstat.get(counter).is_some();
    let mut counters = homes().into_iter().filter(|home| home.metric == metric).peekable();
    counters.peek().is_some() && counters.all(|home| !has(home.counter))
}

/// What every default probe that can run on this kernel, those that measure, and the receiver itself declare, by name, as far
/// as this kernel has it.
fn declared() -> BTreeSet<&'static str> {
    let runnable = runnable().unwrap();
    let can_run = |name: &str| runnable.iter().any(|runnable| runnable == name);
    // All but three, which need a kernel module or a device, run wherever this test does.
    let may_be_absent = |name: &str| matches!(name, "ipvs" | "rdma" | "virtcmdlatency");
    assert!(PROBES.iter().all(|probe| may_be_absent(probe.name) || can_run(probe.name)), "{runnable:?}");
    let runs = |probe: &Definition| probe.default || MEASURING.contains(&probe.name);
    let running = || PROBES.iter().filter(|probe| runs(probe) && can_run(probe.name));
    let metrics = running().flat_map(|probe| probe.metrics).filter(|metric| !is_of_other_kernels(metric));
    let metrics = metrics.map(|metric| metric.name);
    let events = running().flat_map(|probe| probe.events).map(|event| event.name);
    let is_own = |entity: &&Entity| ITSELF.contains(entity);
    let own = METRICS.iter().filter(|metric| metric.entities.iter().any(is_own));
    metrics.chain(events).chain(own.map(|metric| metric.name)).collect()
}

fn arrived(telemetry: &Telemetry) -> BTreeSet<String> {
    let metrics = telemetry.metrics().map(|(_, metric)| metric.name.clone());
    metrics.chain(telemetry.records().map(|record| record.event)).collect()
}

/// A connection that ends in order, one that is refused by a reset, and one that is never answered.
fn make_connections(netns: &Netns) -> anyhow::Result<()> {
    netns.inside(|| {
        let listener = TcpListener::bind((Family::V4.loopback(), 0))?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        drop(listener.accept()?);
        drop(client);
        let closed = (Family::V4.loopback(), CLOSED_PORT).into();
        drop(TcpStream::connect_timeout(&closed, PATIENCE));
        Ok(())
    })?;
    netns.refuse("input", "tcp dport 7")?;
    netns.inside(|| {
        drop(TcpStream::connect_timeout(&(Family::V4.loopback(), 7).into(), PATIENCE));
        Ok(())
    })
}

/// A request of a disk, wherever one holds the files.
fn write_through() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[0; 4096]).unwrap();
    file.sync_all().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrives_is_declared_and_what_is_declared_arrives() {
    if !requirements::met(&["ip", "nft", "tc", "containerd", "runc", "ctr"]) {
        return;
    }
    let Some(mut collector) = Collector::start().unwrap() else { return };
    let mut containerd = Containerd::start().await.unwrap();
    let pod = containerd.run_pod("shop", "cart").await.unwrap();
    containerd.start_container(&pod, "app", &["sleep", "600"]).await.unwrap();
    // Docker's part: a device of the container's own.
    let plain = containerd.run_plain(&["sleep", "600"]).unwrap();
    let device = "link add eth0 type veth peer name eth1";
    let mut ip = Command::new("nsenter");
    ip.args(["--target", &plain.pid.to_string(), "--net", "ip"]).args(device.split(' '));
    run(&mut ip).unwrap();
    // A plain namespace's part, and its device too is its own.
    let netns = Netns::new("registry").unwrap();
    netns.ip(device).unwrap();
    // A queue, and connections that are tracked until the end of the test.
    netns.sh("tc qdisc add dev lo root pfifo limit 1000").unwrap();
    netns.refuse("input", "ct state invalid").unwrap();
    netns.sh("sysctl -qw net.netfilter.nf_conntrack_udp_timeout=3600").unwrap();
    let socket = format!("entities.cri=unix://{}", containerd.socket().display());
    let mut settings =
        vec![socket, "probes.packetloss.stack=true".to_owned(), "probes.conntrack.census=true".to_owned()];
    settings.extend(MEASURING.map(|probe| format!("probes.{probe}.enabled=true")));
    settings.extend(MEASURING.map(|probe| format!("probes.{probe}.threshold=0ms")));
    settings.push("probes.kernellatency.sampling=1".to_owned());
    settings.push("spans.sources.wire=true".to_owned());
    let directory = TempDir::new().unwrap();
    let (endpoint, queue) = (collector.endpoint(), directory.path().display());
    settings.push(format!("export.otlp=[{{endpoint: '{endpoint}', queue: {{disk: {{path: '{queue}'}}}}}}]"));
    let arguments: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    let mut receiver = Receiver::start(&arguments).unwrap();
    for family in Family::BOTH {
        flood(&netns, (family.loopback(), CLOSED_PORT).into(), 10).unwrap();
    }
    make_connections(&netns).unwrap();
    write_through();
    let declared = declared();
    poll::until("every declared signal", || {
        let arrived = arrived(&collector.received().unwrap());
        declared.iter().all(|name| arrived.contains(*name)).then_some(())
    })
    // What is missing is told below.
    .unwrap_or_default();
    receiver.stop().unwrap();
    collector.stop().unwrap();

    let telemetry = collector.received().unwrap();
    let problems = check(&telemetry);
    let arrived = arrived(&telemetry);
    let missing: Vec<_> = declared.into_iter().filter(|name| !arrived.contains(*name)).collect();
    assert!(
        problems.is_empty() && missing.is_empty(),
        "{problems:#?}\ndeclared and never produced: {missing:#?}"
    );
}
