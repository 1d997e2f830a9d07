//! The account of each destination as the receiver's own metrics tell it: at every collection, what it was given is what it
//! delivered, what waits and what was dropped, to the unit.

use std::collections::{BTreeMap, BTreeSet};

use jitterscope_integration::collector::Collector;
use jitterscope_integration::netns::Netns;
use jitterscope_integration::network::Family;
use jitterscope_integration::otlp::Protocol;
use jitterscope_integration::otlp::server::{Reply, Server};
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::telemetry::{Attributes, Point, Telemetry};
use jitterscope_integration::traffic::{CLOSED_PORT, flood};
use jitterscope_integration::{poll, requirements};
use jitterscope_semconv::{attribute as key, metric};

/// One destination and signal.
type Whose = (String, String);

fn whose(of: &Attributes) -> Whose {
    (of[key::EXPORTER_DESTINATION.key].clone(), of[key::SIGNAL.key].clone())
}

/// Values by destination and signal, added up over all else.
fn sums(request: &Telemetry, name: &str, whose: impl Fn(&Point) -> Whose) -> BTreeMap<Whose, u64> {
    let mut sums = BTreeMap::new();
    for point in request.points(name) {
        *sums.entry(whose(&point)).or_insert(0) += point.value as u64;
    }
    sums
}

/// The terms of one collection: given, delivered, waiting, dropped.
fn terms(request: &Telemetry) -> BTreeMap<Whose, [u64; 4]> {
    let own = |name| sums(request, name, |point| whose(&point.attributes));
    let sdk = |name, signal: &str| {
        sums(request, name, |point| {
            (point.attributes[key::OTEL_COMPONENT_NAME.key].clone(), signal.to_owned())
        })
    };
    let mut delivered = sdk(metric::OTEL_SDK_EXPORTER_METRIC_DATA_POINT_EXPORTED.name, "metrics");
    delivered.extend(sdk(metric::OTEL_SDK_EXPORTER_LOG_EXPORTED.name, "logs"));
    delivered.extend(sdk(metric::OTEL_SDK_EXPORTER_SPAN_EXPORTED.name, "traces"));
    let waiting = own(metric::EXPORTER_QUEUE_LENGTH.name);
    let dropped = own(metric::EXPORTER_DROPS.name);
    let recovered = own(metric::EXPORTER_RECOVERED.name);
    let produced = own(metric::EXPORTER_PRODUCED.name).into_iter();
    let given = produced.map(|(of, all)| (all + recovered[&of], of));
    given.map(|(all, of)| (of.clone(), [all, delivered[&of], waiting[&of], dropped[&of]])).collect()
}

/// Each collection of the receiver's own metrics that has arrived.
fn collections(telemetry: &Telemetry) -> Vec<BTreeMap<Whose, [u64; 4]>> {
    let each = telemetry.metrics.iter();
    let alone = each.map(|request| Telemetry { metrics: vec![request.clone()], ..Telemetry::default() });
    alone.map(|request| terms(&request)).filter(|terms| !terms.is_empty()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_destination_was_given_is_in_one_of_the_terms_at_every_collection() {
    if !requirements::met(&["ip"]) {
        return;
    }
    let Some(mut collector) = Collector::start().unwrap() else { return };
    // One that takes it, one that refuses all, one that takes some, one that is away and has little room, one of logs.
    let refuses = Server::start(Protocol::Http, vec![Reply::status(400); 10_000]).await;
    let some = Reply::Taken(vec![0x0a, 2, 0x08, 1]);
    let takes_some = Server::start(Protocol::Grpc, vec![some; 10_000]).await;
    let away = "endpoint: 'http://127.0.0.1:1', queue: {memory: 1MiB}";
    let logs = format!("endpoint: '{}', protocol: http/protobuf, signals: [logs]", collector.http_endpoint());
    let set = format!(
        "export.otlp=[{{endpoint: '{}'}}, {{{}}}, {{{}}}, {{{away}}}, {{{logs}}}]",
        collector.endpoint(),
        refuses.destination(),
        takes_some.destination()
    );
    let netns = Netns::new("account").unwrap();
    let settings = ["--set", &set, "--set", "interval=200ms", "--set", "shutdown.grace=1s"];
    let mut receiver = Receiver::start(&settings).unwrap();
    poll::until("many collections and the queue that is full", || {
        Family::BOTH
            .iter()
            .for_each(|family| flood(&netns, (family.loopback(), CLOSED_PORT).into(), 3).unwrap());
        let all = collections(&collector.received().unwrap());
        let full = |terms: &BTreeMap<Whose, [u64; 4]>| {
            terms[&("http://127.0.0.1:1/".to_owned(), "metrics".to_owned())][3] > 0
        };
        (all.len() > 20 && all.last().is_some_and(full)).then_some(())
    })
    .unwrap();
    receiver.stop().unwrap();
    collector.stop().unwrap();

    let collections = collections(&collector.received().unwrap());
    for terms in &collections {
        assert_eq!(terms.len(), 15, "{terms:?}");
        for (of, [produced, delivered, waiting, dropped]) in terms {
            assert_eq!(*produced, delivered + waiting + dropped, "{of:?} {terms:?}");
        }
    }
    let last = collections.last().unwrap();
    let of = |destination: &str, signal: &str| last[&(destination.to_owned(), signal.to_owned())];
    for signal in ["metrics", "logs"] {
        let [produced, delivered, ..] = of(&format!("{}/", refuses.endpoint()), signal);
        assert!(produced > 0 && delivered == 0, "{signal} {last:?}");
        let [_, delivered, _, dropped] = of(&format!("{}/", takes_some.endpoint()), signal);
        assert!(delivered > 0 && dropped > 0, "{signal} {last:?}");
    }
    // One of the signals is not for it, and what is not for it is none of its account.
    assert_eq!(of(&format!("{}/", collector.http_endpoint()), "metrics"), [0; 4]);
    assert!(of(&format!("{}/", collector.http_endpoint()), "logs")[1] > 0);
    let kinds: BTreeSet<_> = collector
        .received()
        .unwrap()
        .points(metric::OTEL_SDK_EXPORTER_LOG_EXPORTED.name)
        .map(|point| point.attributes[key::OTEL_COMPONENT_TYPE.key].clone())
        .collect();
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["otlp_grpc_log_exporter", "otlp_http_log_exporter"]);
}
