use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use jitterscope_semconv::{
    attribute as key, event,
    value::{EntityKind, NetworkTransport, SpanLinkRole, SpanLinkSource},
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, span::SpanKind};

use super::server::unpacked;
use super::*;
use crate::batch::attributes::{Value, key_value};
use crate::pods::Origin;

/// When the first request begins, in nanoseconds since the epoch.
const START: u64 = 1_000_000_000_000;

fn attribute<'a>(name: &str, value: impl Into<Value<'a>>) -> KeyValue {
    KeyValue { key: name.to_owned(), value: Some(AnyValue::from(value.into())), ..KeyValue::default() }
}

/// A server's span of HTTP/1.1, from a client at 10.0.0.1:40000, that lasts for 100 ns.
fn span(id: u8) -> Span {
    Span {
        trace_id: vec![id; 16],
        span_id: vec![id; 8],
        kind: SpanKind::Server.into(),
        start_time_unix_nano: START,
        end_time_unix_nano: START + 100,
        attributes: vec![
            attribute("network.protocol.version", "1.1"),
            attribute("network.peer.address", "10.0.0.1"),
            attribute("network.peer.port", 40_000),
        ],
        ..Span::default()
    }
}

fn sent(resource: Vec<KeyValue>, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let resource = Some(Resource { attributes: resource, ..Resource::default() });
    let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }],
    }
}

fn entity(resource: Vec<KeyValue>) -> Entity {
    Entity {
        kind: EntityKind::Pod,
        key: 1,
        pod: None,
        name: "shop/cart".into(),
        resource: Resource { attributes: resource, ..Resource::default() },
        pending_until: None,
    }
}

/// An event of the server's socket at a time after the start.
fn event_at(after: u64) -> Occurrence {
    Occurrence {
        event: &event::TCP_RESET,
        time_unix_nano: START + after,
        origin: Origin::default(),
        body: String::new(),
        attributes: vec![
            key_value(&key::NETWORK_TRANSPORT, NetworkTransport::Tcp.as_str()),
            key_value(&key::NETWORK_LOCAL_ADDRESS, "10.0.0.2"),
            key_value(&key::NETWORK_LOCAL_PORT, 80),
            key_value(&key::NETWORK_PEER_ADDRESS, "10.0.0.1"),
            key_value(&key::NETWORK_PEER_PORT, 40_000),
        ],
        link: None,
        lasted: Duration::ZERO,
    }
}

/// Puts one value in place of another.
fn with<'a>(mut attributes: Vec<KeyValue>, name: &str, value: impl Into<Value<'a>>) -> Vec<KeyValue> {
    attributes.retain(|one| one.key != name);
    attributes.push(attribute(name, value));
    attributes
}

fn tap(resource: Vec<KeyValue>, spans: Vec<Span>) -> Tap {
    let tap = Tap::default();
    tap.open(Duration::from_secs(1));
    tap.take(&sent(resource, spans), START);
    tap
}

/// The first byte of the span that a tap with these spans finds for an event.
fn found(spans: Vec<Span>, event: &Occurrence) -> Option<u8> {
    tap(vec![], spans).find(&entity(vec![]), event).map(|link| link.span_id[0])
}

#[test]
fn an_event_belongs_to_the_span_of_its_connection_that_lasted_through_it() {
    let link = tap(vec![], vec![span(7)]).find(&entity(vec![]), &event_at(50)).unwrap();
    assert_eq!((link.trace_id, link.span_id, link.flags), ([7; 16], [7; 8], 1));
    assert_eq!((link.source, link.role), (SpanLinkSource::Tap, SpanLinkRole::Server));
    assert_eq!(found(vec![span(7)], &event_at(0)), Some(7));
    assert_eq!(found(vec![span(7)], &event_at(100)), Some(7));
    assert_eq!(found(vec![span(7)], &event_at(101)), None);
    let began_before = Occurrence { lasted: Duration::from_nanos(51), ..event_at(50) };
    assert_eq!(found(vec![span(7)], &began_before), None);
    let other = with(event_at(50).attributes, key::NETWORK_PEER_PORT.key, 40_001);
    assert_eq!(found(vec![span(7)], &Occurrence { attributes: other, ..event_at(50) }), None);
    let datagram = with(event_at(50).attributes, key::NETWORK_TRANSPORT.key, "udp");
    assert_eq!(found(vec![span(7)], &Occurrence { attributes: datagram, ..event_at(50) }), None);
}

#[test]
fn a_packets_event_belongs_to_it_in_both_directions_if_it_is_known_to_be_of_the_same_pod() {
    let pod = |uid| vec![attribute(key::K8S_POD_UID.key, uid)];
    let found = |event: &Occurrence, of| {
        tap(pod("a"), vec![span(7)]).find(&entity(of), event).map(|link| link.span_id[0])
    };
    let packet = |source: (&str, i64), destination: (&str, i64)| Occurrence {
        attributes: vec![
            key_value(&key::NETWORK_TRANSPORT, NetworkTransport::Tcp.as_str()),
            key_value(&key::SOURCE_ADDRESS, source.0),
            key_value(&key::SOURCE_PORT, source.1),
            key_value(&key::DESTINATION_ADDRESS, destination.0),
            key_value(&key::DESTINATION_PORT, destination.1),
        ],
        ..event_at(50)
    };
    let (client, server) = (("10.0.0.1", 40_000), ("10.0.0.2", 80));
    assert_eq!(found(&packet(client, server), pod("a")), Some(7));
    assert_eq!(found(&packet(server, client), pod("a")), Some(7));
    assert_eq!(found(&packet(server, client), pod("b")), None);
    assert_eq!(found(&packet(server, client), vec![]), None);
    assert_eq!(found(&packet(server, ("10.0.0.1", 40_001)), pod("a")), None);
}

#[test]
fn two_spans_at_the_same_time_are_none_and_the_same_one_twice_is_one() {
    assert_eq!(found(vec![span(7), span(8)], &event_at(50)), None);
    assert_eq!(found(vec![span(7), span(7)], &event_at(50)), Some(7));
    let later = Span { start_time_unix_nano: START + 101, end_time_unix_nano: START + 200, ..span(8) };
    assert_eq!(found(vec![span(7), later.clone()], &event_at(50)), Some(7));
    assert_eq!(found(vec![span(7), later], &event_at(150)), Some(8));
    let tap = tap(vec![], vec![span(7), span(8)]);
    tap.find(&entity(vec![]), &event_at(50));
    let counts = tap.counts().unwrap();
    assert_eq!((counts.captured, counts.used, counts.ambiguous), (2, 0, 1));
}

#[test]
fn a_span_that_may_overlap_with_others_or_does_not_name_its_connection_is_none() {
    let change = |name, value: &str| Span { attributes: with(span(7).attributes, name, value), ..span(7) };
    assert_eq!(found(vec![change("network.protocol.version", "2")], &event_at(50)), None);
    assert_eq!(found(vec![change("network.peer.address", "customer")], &event_at(50)), None);
    assert_eq!(found(vec![change("network.peer.port", "0")], &event_at(50)), None);
    assert_eq!(found(vec![Span { kind: SpanKind::Internal.into(), ..span(7) }], &event_at(50)), None);
    assert_eq!(found(vec![Span { span_id: vec![0; 8], ..span(7) }], &event_at(50)), None);
    assert_eq!(found(vec![Span { trace_id: vec![7; 15], ..span(7) }], &event_at(50)), None);
    // A client's span names the server; only with its own port it names its connection.
    let client = Span { kind: SpanKind::Client.into(), ..span(7) };
    assert_eq!(found(vec![client.clone()], &event_at(50)), None);
    for (port, expected) in [(80, Some(7)), (81, None)] {
        let named = with(client.attributes.clone(), "network.local.port", port);
        assert_eq!(found(vec![Span { attributes: named, ..client.clone() }], &event_at(50)), expected);
    }
}

#[test]
fn names_of_earlier_conventions_and_ports_as_texts_are_read() {
    let attributes = vec![
        attribute("http.flavor", "1.1"),
        attribute("net.peer.ip", "::ffff:10.0.0.1"),
        attribute("net.peer.port", "40000"),
        attribute("net.host.port", 8080),
    ];
    assert_eq!(found(vec![Span { attributes, ..span(7) }], &event_at(50)), Some(7));
}

#[test]
fn a_span_of_another_pod_or_container_is_none_and_on_the_loopback_it_must_be_the_same() {
    let of = |pod: &str, container: &str| {
        vec![attribute(key::K8S_POD_UID.key, pod), attribute(key::CONTAINER_ID.key, container)]
    };
    let find = |theirs, ours, event: &Occurrence, spans| {
        tap(theirs, spans).find(&entity(ours), event).map(|link| link.span_id[0])
    };
    let spans = || vec![span(7)];
    assert_eq!(find(of("a", "b"), of("a", "b"), &event_at(50), spans()), Some(7));
    assert_eq!(find(of("a", "b"), of("a", "c"), &event_at(50), spans()), None);
    assert_eq!(find(of("a", "b"), of("c", "b"), &event_at(50), spans()), None);
    let loopback = |attributes| with(attributes, "network.peer.address", "127.0.0.1");
    let local = || vec![Span { attributes: loopback(span(7).attributes), ..span(7) }];
    let event = Occurrence { attributes: loopback(event_at(50).attributes), ..event_at(50) };
    assert_eq!(find(of("a", "b"), of("a", "b"), &event, local()), Some(7));
    assert_eq!(find(vec![], of("a", "b"), &event, local()), None);
}

#[test]
fn what_ended_long_ago_is_forgotten_and_where_there_was_no_room_nothing_is_told() {
    let owner = Owner::of(&[]);
    let request = |id| Request::of(&span(id), &owner).unwrap();
    let happened = |after| Happened {
        ends: Ends::of_event(&event_at(after).attributes).unwrap(),
        during: START + after..=START + after,
        owner: Arc::clone(&owner),
    };
    let mut known = Known::new(Duration::from_secs(1)).limited(1);
    assert!(known.add(request(7)));
    assert_eq!(known.find(&happened(50)), Fit::One(request(7).link));
    let elsewhere = Request { peer: "10.0.0.9:1".parse().unwrap(), ..request(8) };
    assert!(!known.add(elsewhere.clone()));
    assert_eq!(known.find(&happened(50)), Fit::Unclear);
    known.forget(START + 5_000_000_000);
    assert_eq!(known.find(&happened(50)), Fit::Unclear);
    known.forget(START + 7_000_000_000);
    assert_eq!(known.find(&happened(50)), Fit::None);
    assert!(known.add(elsewhere));
}

#[test]
fn bodies_are_unpacked_within_the_limit() {
    let plain = vec![b'x'; 1 << 20];
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let (gzip, zstd) = (gzip.finish().unwrap(), zstd::stream::encode_all(&plain[..], 3).unwrap());
    for (encoding, packed) in [("", &plain), ("gzip", &gzip), ("zstd", &zstd)] {
        assert_eq!(unpacked(packed, encoding).unwrap(), plain, "{encoding}");
    }
    let status = |packed: &[u8], encoding| unpacked(packed, encoding).unwrap_err().0.as_u16();
    assert_eq!(status(&gzip, "br"), 415);
    assert_eq!(status(&gzip[..9], "gzip"), 400);
    assert_eq!(status(b"no zstd", "zstd"), 400);
    let bomb = zstd::stream::encode_all(std::io::repeat(0).take(17 << 20), 3).unwrap();
    assert!(bomb.len() < 1 << 16);
    assert_eq!(status(&bomb, "zstd"), 413);
}
