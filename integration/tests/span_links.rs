//! A request whose packet is lost on the way: the record of what was sent again carries its trace and span, and so does the
//! exemplar of the counter, when a Collector has received them.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use jitterscope_integration::collector::Collector;
use jitterscope_integration::network::{Family, Network};
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::request::Request;
use jitterscope_integration::telemetry::{Telemetry, attributes, has, numbers};
use jitterscope_integration::{poll, requirements};
use jitterscope_semconv::{attribute as key, event, metric};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::{Exemplar, exemplar::Value};

/// The records of what the client sent again.
fn sent_again(told: &Telemetry, port: u16) -> Vec<LogRecord> {
    let is_wanted = |record: &&LogRecord| {
        record.event_name == event::TCP_RETRANSMITTED.name
            && has(&attributes(&record.attributes), key::NETWORK_LOCAL_PORT.key, &port.to_string())
    };
    told.log_records().filter(is_wanted).cloned().collect()
}

/// Exemplars of the counter that are of a trace; each must lie within its point.
fn exemplars(told: &Telemetry, trace: &[u8]) -> Vec<Exemplar> {
    let metrics = told.metrics().filter(|(_, of)| of.name == metric::TCP_RETRANSMITS.name);
    let points = metrics.flat_map(|(_, of)| numbers(of).to_vec());
    let mut found = Vec::new();
    for point in points {
        for exemplar in point.exemplars.into_iter().filter(|exemplar| exemplar.trace_id == trace) {
            let times = point.start_time_unix_nano..=point.time_unix_nano;
            assert!(times.contains(&exemplar.time_unix_nano), "{exemplar:?} in {times:?}");
            found.push(exemplar);
        }
    }
    found
}

/// Makes a request whose packets are lost until a record of that has arrived; that record.
fn hit(network: &Network, collector: &Collector, family: Family, request: &Request) -> LogRecord {
    let address = (family.address(2, 2), 0);
    let listener = network.b.inside(|| Ok(TcpListener::bind(address)?)).unwrap();
    let to = listener.local_addr().unwrap();
    let mut client = network.a.inside(|| Ok(TcpStream::connect(to)?)).unwrap();
    let mut server = listener.accept().unwrap().0;
    let port = client.local_addr().unwrap().port();
    network.router.refuse("forward", &format!("tcp sport {port} meta length > 200")).unwrap();
    client.write_all(request.text().as_bytes()).unwrap();
    let told = poll::until("a record", || sent_again(&collector.received().unwrap(), port).pop()).unwrap();
    network.router.allow().unwrap();
    let mut text = vec![0; request.text().len()];
    server.read_exact(&mut text).unwrap();
    assert_eq!(text, request.text().as_bytes());
    told
}

#[test]
fn a_record_and_an_exemplar_carry_the_span_of_the_request_that_was_hit() {
    if !requirements::met(&["ip", "nft"]) {
        return;
    }
    let Some(collector) = Collector::start().unwrap() else { return };
    let network = Network::new().unwrap();
    let endpoint = collector.endpoint();
    let arguments = ["--endpoint", &endpoint, "--set", "interval=200ms", "--set", "spans.sources.wire=true"];
    let _receiver = Receiver::start(&arguments).unwrap();
    for (number, family) in (1..).step_by(2).zip(Family::BOTH) {
        let (sampled, unsampled) = (Request::new(number, true), Request::new(number + 1, false));
        for request in [&unsampled, &sampled] {
            let told = hit(&network, &collector, family, request);
            assert_eq!(
                (told.trace_id.as_slice(), told.span_id.as_slice()),
                (&request.trace[..], &request.span[..])
            );
            assert_eq!(told.flags, u32::from(request.sampled));
            let facts = attributes(&told.attributes);
            assert!(has(&facts, key::SPAN_LINK_SOURCE.key, "wire"), "{told:?}");
            assert!(has(&facts, key::SPAN_LINK_ROLE.key, "client"), "{told:?}");
        }
        let found =
            poll::until("an exemplar", || exemplars(&collector.received().unwrap(), &sampled.trace).pop())
                .unwrap();
        assert_eq!((found.span_id.as_slice(), found.value), (&sampled.span[..], Some(Value::AsDouble(1.0))));
        assert!(exemplars(&collector.received().unwrap(), &unsampled.trace).is_empty());
    }
}

#[test]
fn without_span_links_there_is_nothing_of_them_in_the_kernel() {
    if !requirements::met(&["ip", "nft"]) {
        return;
    }
    let network = Network::new().unwrap();
    let receiver = Receiver::start(&["--format", "json", "--set", "interval=200ms"]).unwrap();
    let listener = network.b.inside(|| Ok(TcpListener::bind((Family::V4.address(2, 2), 0))?)).unwrap();
    let to = listener.local_addr().unwrap();
    let mut client = network.a.inside(|| Ok(TcpStream::connect(to)?)).unwrap();
    let port = client.local_addr().unwrap().port();
    network.router.refuse("forward", &format!("tcp sport {port} meta length > 200")).unwrap();
    client.write_all(Request::new(1, true).text().as_bytes()).unwrap();
    let told = poll::until("a record", || sent_again(&receiver.printed().unwrap(), port).pop()).unwrap();
    assert!(told.trace_id.is_empty() && told.span_id.is_empty(), "{told:?}");
    let held = |name: &str| {
        let told = receiver.printed().unwrap();
        told.points(name).any(|point| {
            has(&point.attributes, key::PROBE_MAP.key, "contexts")
                || has(&point.attributes, key::PROBE_MAP.key, "exemplars")
        })
    };
    assert!(!held(metric::PROBE_MAP_LIMIT.name));
}
