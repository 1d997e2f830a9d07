//! A request that waits to be read: the record and the exemplar of its bucket carry its trace and span, when Collectors have
//! received them, in each shape that a destination can ask for, once.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use jitterscope_integration::collector::Collector;
use jitterscope_integration::network::{Family, Network};
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::request::Request;
use jitterscope_integration::telemetry::{Telemetry, attributes, has};
use jitterscope_integration::{poll, requirements};
use jitterscope_semconv::{attribute as key, event, metric};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::{Exemplar, exemplar::Value, metric::Data};

/// Above the probe's threshold.
const HOLD: Duration = Duration::from_millis(300);

/// An exemplar, what its point is about, and how many its bucket has counted.
struct Shown {
    exemplar: Exemplar,
    times: (u64, u64),
    bounds: (f64, f64),
    count: u64,
}

fn seconds(exemplar: &Exemplar) -> f64 {
    let Some(Value::AsDouble(seconds)) = exemplar.value else { panic!("{exemplar:?}") };
    seconds
}

/// Exemplars of waits to be read that are of a trace, in buckets of either kind.
fn shown(told: &Telemetry, trace: &[u8]) -> Vec<Shown> {
    let mut all = Vec::new();
    for (_, metric) in told.metrics().filter(|(_, of)| of.name == metric::SOCKET_READ_WAIT.name) {
        let points: Vec<_> = match metric.data.as_ref().unwrap() {
            Data::ExponentialHistogram(histogram) => histogram
                .data_points
                .iter()
                .map(|point| {
                    let (times, buckets) =
                        ((point.start_time_unix_nano, point.time_unix_nano), point.positive.as_ref());
                    let bound = |index: i32| (f64::from(index) / 4.0).exp2();
                    let buckets: Vec<_> = buckets.map_or_else(Vec::new, |all| {
                        let counts = (all.offset..).zip(&all.bucket_counts);
                        counts.map(|(index, count)| ((bound(index), bound(index + 1)), *count)).collect()
                    });
                    (&point.exemplars, times, buckets)
                })
                .collect(),
            Data::Histogram(histogram) => histogram
                .data_points
                .iter()
                .map(|point| {
                    let times = (point.start_time_unix_nano, point.time_unix_nano);
                    let lower = std::iter::once(0.0).chain(point.explicit_bounds.iter().copied());
                    let upper = point.explicit_bounds.iter().copied().chain([f64::INFINITY]);
                    let bounds = lower.zip(upper).zip(point.bucket_counts.iter().copied());
                    (&point.exemplars, times, bounds.collect())
                })
                .collect(),
            other => panic!("{other:?}"),
        };
        for (exemplars, times, buckets) in points {
            for exemplar in exemplars.iter().filter(|one| one.trace_id == trace) {
                let value = seconds(exemplar);
                let is_its = |((lower, upper), _): &&((f64, f64), u64)| *lower < value && value <= *upper;
                let (bounds, count) = *buckets.iter().find(is_its).unwrap();
                all.push(Shown { exemplar: exemplar.clone(), times, bounds, count });
            }
        }
    }
    all
}

/// The record of a read that was late.
fn record(told: &Telemetry, port: u16) -> Option<LogRecord> {
    let resources = told.logs.iter().flat_map(|request| &request.resource_logs);
    let mut records = resources.flat_map(|of| &of.scope_logs).flat_map(|scope| &scope.log_records);
    let is_wanted = |record: &&LogRecord| {
        record.event_name == event::SOCKET_READ_SLOW.name
            && has(&attributes(&record.attributes), key::NETWORK_PEER_PORT.key, &port.to_string())
    };
    records.find(is_wanted).cloned()
}

/// Makes a request that the server reads late; the client's port.
fn read_late(network: &Network, family: Family, request: &Request) -> u16 {
    let address = (family.address(2, 2), 0);
    let listener = network.b.inside(|| Ok(TcpListener::bind(address)?)).unwrap();
    let to = listener.local_addr().unwrap();
    let mut client = network.a.inside(|| Ok(TcpStream::connect(to)?)).unwrap();
    let mut server = listener.accept().unwrap().0;
    client.write_all(request.text().as_bytes()).unwrap();
    server.peek(&mut [0]).unwrap();
    std::thread::sleep(HOLD);
    server.read_exact(&mut vec![0; request.text().len()]).unwrap();
    client.local_addr().unwrap().port()
}

#[test]
fn a_read_that_comes_late_is_told_and_shown_with_the_request_that_waited() {
    if !requirements::met(&["ip"]) {
        return;
    }
    let (Some(totals), Some(differences)) = (Collector::start().unwrap(), Collector::start().unwrap()) else {
        return;
    };
    let network = Network::new().unwrap();
    let destinations = format!(
        "export.otlp=[{{endpoint: '{}'}}, {{endpoint: '{}', temporality: delta, histograms: explicit}}]",
        totals.endpoint(),
        differences.endpoint()
    );
    let settings = [
        destinations.as_str(),
        "interval=200ms",
        "spans.sources.wire=true",
        "probes.socketlatency={enabled: true, threshold: 250ms}",
    ];
    let arguments: Vec<&str> = settings.into_iter().flat_map(|setting| ["--set", setting]).collect();
    let mut receiver = Receiver::start(&arguments).unwrap();
    let running = || receiver.log().contains("\"probe\":\"socketlatency\"").then_some(());
    poll::until("the probe runs", running).unwrap();
    let mut hit = Vec::new();
    for (number, family) in (1..).step_by(20).zip(Family::BOTH) {
        let unsampled = Request::new(number, false);
        // Whether the arrival of a packet is seen can be chance: on some hosts no tracing program runs on top of some tasks.
        let told = (number + 1..number + 20).map(|number| Request::new(number, true)).find_map(|request| {
            let port = read_late(&network, family, &request);
            let told = poll::within(HOLD * 10, "a record", || record(&totals.received().unwrap(), port));
            told.ok().map(|told| (request, port, told))
        });
        let (request, port, told) = told.unwrap();
        let ids = (told.trace_id.as_slice(), told.span_id.as_slice());
        assert_eq!(ids, (&request.trace[..], &request.span[..]), "{told:?}");
        let facts = attributes(&told.attributes);
        assert!(has(&facts, key::SPAN_LINK_ROLE.key, "server"), "{told:?}");
        read_late(&network, family, &unsampled);
        hit.push((request, unsampled, port, family));
    }
    // What was collected has then been sent.
    receiver.stop().unwrap();
    for (request, unsampled, port, family) in hit {
        for collector in [&totals, &differences] {
            let found = || Some(shown(&collector.received().unwrap(), &request.trace));
            let found = poll::until("an exemplar", || found().filter(|all| !all.is_empty())).unwrap();
            let [one] = found.as_slice() else { panic!("{} exemplars of one wait", found.len()) };
            let (value, time) = (seconds(&one.exemplar), one.exemplar.time_unix_nano);
            assert!(
                value >= HOLD.as_secs_f64() && one.count > 0,
                "{value} in {:?}: {}",
                one.bounds,
                one.count
            );
            assert!(one.times.0 < time && time <= one.times.1, "{time} in {:?}", one.times);
            assert_eq!(one.exemplar.span_id, request.span);
            let facts = attributes(&one.exemplar.filtered_attributes);
            assert!(has(&facts, key::NETWORK_PEER_PORT.key, &port.to_string()), "{facts:?}");
            let peer = family.address(1, 2).to_string();
            assert!(has(&facts, key::NETWORK_PEER_ADDRESS.key, &peer), "{facts:?}");
            assert!(shown(&collector.received().unwrap(), &unsampled.trace).is_empty());
        }
    }
}
