//! Links as people follow them: from a log record, in a real Loki too, or an exemplar in a real Prometheus to the trace in a
//! real Jaeger, in which the anomaly is a child of the span that it hit. All of it through one Collector with
//! `otel-config/links.yaml`.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]
#![expect(clippy::print_stdout, reason = "the figures of a run")]

use std::collections::HashSet;

use jitterscope_integration::collector::Collector;
use jitterscope_integration::jaeger::Jaeger;
use jitterscope_integration::join::role_of;
use jitterscope_integration::loki::Loki;
use jitterscope_integration::network::{Family, Network};
use jitterscope_integration::prometheus::Prometheus;
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::shop::{self, Language, Load};
use jitterscope_integration::telemetry::{Attributes, Record, Telemetry};
use jitterscope_integration::{poll, requirements};
use jitterscope_semconv::{attribute as key, event};
use serde_json::Value;

const LOAD: Load = Load { connections: 16, streams: 1, rate: 100, seconds: 5, every: 20 };

/// The network's records that are linked to spans.
fn linked(told: &Telemetry, network: &Network) -> Vec<Record> {
    let is_ours = |record: &Record| role_of(&record.resource, network).is_some();
    told.records().filter(|record| !record.trace.is_empty() && is_ours(record)).collect()
}

/// What finds the records of an event and a trace in Loki, whose names have `_` in place of full stops.
fn of_trace(record: &Record) -> String {
    format!("{{service_name=~`.+`}} | event_name=`{}` | trace_id=`{}`", record.event, record.trace)
}

/// The attribute by which a line's resource is known.
fn resource(line: &Value) -> Attributes {
    let name = line["jitterscope_netns_name"].as_str().unwrap_or_default();
    Attributes::from([(key::NETNS_NAME.key.to_owned(), name.to_owned())])
}

/// The record is in Loki with its span, and no other one is found by its trace.
fn check_line(loki: &Loki, record: &Record, network: &Network) {
    let line = || loki.find(&of_trace(record)).ok().filter(|found| !found.is_empty());
    let found = poll::until("the line in Loki", line).unwrap_or_else(|error| panic!("{error}: {record:?}"));
    let is_it = |one: &Value| one["span_id"] == record.span && role_of(&resource(one), network).is_some();
    assert!(found.iter().all(is_it), "{record:?}: {found:?}");
}

#[test]
fn a_record_and_an_exemplar_lead_to_the_trace_in_which_the_anomaly_is_a_child_of_what_it_hit() {
    check(None);
}

#[test]
#[ignore = "Loki is built for some 20 minutes: make loki"]
fn a_record_in_loki_leads_there_too() {
    check(Some(&Loki::start().unwrap().unwrap()));
}

/// Follows the links; those of records from Loki too.
fn check(loki: Option<&Loki>) {
    if !requirements::met(&["ip", "nft"]) || !Language::Go.is_there() {
        return;
    }
    let (Some(jaeger), Some(prometheus)) = (Jaeger::start().unwrap(), Prometheus::start().unwrap()) else {
        return;
    };
    // What the receiver tells, as it tells it; and logs where there is no Loki.
    let (Some(told), Some(logs)) = (Collector::start().unwrap(), Collector::start().unwrap()) else { return };
    let logs = loki.map_or_else(|| logs.http_endpoint(), Loki::endpoint);
    let links = Collector::links(jaeger.address(), &prometheus.endpoint(), &logs).unwrap();
    let links = links.unwrap();
    let network = Network::new().unwrap();
    shop::relay(&network, links.http_address()).unwrap();
    shop::inject(&network).unwrap();
    let both =
        format!("export.otlp=[{{endpoint: '{}'}}, {{endpoint: '{}'}}]", links.endpoint(), told.endpoint());
    let arguments = [
        "--set",
        &both,
        "--set",
        "interval=200ms",
        "--set",
        "spans.sources.wire=true",
        "--set",
        "spans.anomaly_spans.enabled=true",
    ];
    let mut receiver = Receiver::start(&arguments).unwrap();
    for family in Family::BOTH {
        let mut server = shop::serve(Language::Go, &network, family).unwrap();
        shop::ask(Language::Go, &network, family, LOAD).unwrap().wait().unwrap();
        server.stop().unwrap();
    }
    receiver.stop().unwrap();

    let records = poll::until("records of all kinds", || {
        let records = linked(&told.received().unwrap(), &network);
        let kinds: HashSet<_> = records.iter().map(|record| record.event.clone()).collect();
        (kinds.len() == 3).then_some(records)
    })
    .unwrap();
    for record in &records {
        loki.iter().for_each(|loki| check_line(loki, record, &network));
        let spans = || {
            let spans = jaeger.spans(&record.trace).ok()?;
            let hit = spans.iter().any(|span| span.id == record.span && span.name != record.event);
            let anomaly = spans.iter().any(|span| span.parent == record.span && span.name == record.event);
            (hit && anomaly).then_some(())
        };
        poll::until("the span and its anomaly", spans).unwrap_or_else(|error| panic!("{error}: {record:?}"));
    }
    let lost: HashSet<_> = records
        .iter()
        .filter(|record| record.event == event::PACKET_DROPPED.name)
        .map(|record| (record.trace.as_str(), record.span.as_str()))
        .collect();
    let drops = format!(
        "{{__name__=~\"jitterscope_packet_drops.*\",jitterscope_netns_name=~\"{}|{}\"}}",
        network.a.name(),
        network.b.name()
    );
    let of_drops = || {
        let found = prometheus.exemplars(&drops).ok()?;
        let text =
            |exemplar: &Value, label: &str| exemplar["labels"][label].as_str().unwrap_or_default().to_owned();
        let of = |(_, exemplar): &(_, Value)| (text(exemplar, "trace_id"), text(exemplar, "span_id"));
        let known = found.iter().filter(|one| {
            let (trace, span) = of(one);
            lost.contains(&(trace.as_str(), span.as_str()))
        });
        assert!(found.iter().all(|(_, exemplar)| exemplar["value"] == "1"), "{found:?}");
        Some(known.count()).filter(|known| *known > 0 && *known == found.len())
    };
    let exemplars = poll::until("exemplars of lost requests", of_drops).unwrap();
    println!("{} records lead to their spans, {exemplars} exemplars to theirs", records.len());
}
