//! One line for an event, in an order that a person can read and `grep` can cut.

use jitterscope_semconv::{Attribute, Event, attribute as key, event};
use opentelemetry_proto::tonic::{common::v1::KeyValue, logs::v1::LogRecord};

use super::{attribute, text_of, time_of_day};

/// What kinds of event are called in a line, and which attribute says what sort of it one is.
const KINDS: &[(&Event, &str, &Attribute)] = &[
    (&event::PACKET_DROPPED, "drop", &key::PACKET_DROP_REASON),
    (&event::TCP_CONNECT_FAILED, "connect", &key::ERROR_TYPE),
    (&event::TCP_RESET, "reset", &key::TCP_RESET_REASON),
    (&event::TCP_RETRANSMITTED, "retrans", &key::TCP_RETRANSMIT_TYPE),
];

/// `TIME KIND ENTITY REASON SOURCE → DESTINATION PROTOCOL PLACE WHAT`; what does not apply is left out.
pub(super) fn line(entity: &str, record: &LogRecord) -> String {
    let get = |key: &str| attribute(&record.attributes, key);
    let place = get(key::PACKET_DROP_LOCATION.key);
    let body = record.body.as_ref().map(text_of).unwrap_or_default();
    let known = KINDS.iter().find(|(event, ..)| event.name == record.event_name);
    let (kind, sort) =
        known.map_or((unprefixed(&record.event_name), None), |(_, kind, sort)| (kind, Some(sort)));
    let columns = [
        format!("{} {kind:<8} {entity:<24}", time_of_day(record.time_unix_nano)),
        sort.map(|sort| format!("{:<20}", get(sort.key))).unwrap_or_default(),
        packet(&record.attributes),
        place,
        if get(key::NETNS_HOST.key) == "true" { "(on the node)".to_owned() } else { String::new() },
        body.rsplit_once(": ").map_or(body.as_str(), |(_, why)| why).to_owned(),
        span(record),
    ];
    columns.into_iter().filter(|column| !column.trim().is_empty()).collect::<Vec<_>>().join("  ")
}

/// `trace=… span=…`: what there is to search for.
fn span(record: &LogRecord) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    match record.trace_id.as_slice() {
        [] => String::new(),
        trace if record.span_id.is_empty() => format!("trace={}", hex(trace)),
        trace => format!("trace={} span={}", hex(trace), hex(&record.span_id)),
    }
}

fn unprefixed(event_name: &str) -> &str {
    event_name.strip_prefix("jitterscope.").unwrap_or(event_name)
}

fn packet(attributes: &[KeyValue]) -> String {
    let get = |key: &str| attribute(attributes, key);
    let source = end(&get(key::SOURCE_ADDRESS.key), &get(key::SOURCE_PORT.key));
    let destination = end(&get(key::DESTINATION_ADDRESS.key), &get(key::DESTINATION_PORT.key));
    let local = end(&get(key::NETWORK_LOCAL_ADDRESS.key), &get(key::NETWORK_LOCAL_PORT.key));
    let peer = end(&get(key::NETWORK_PEER_ADDRESS.key), &get(key::NETWORK_PEER_PORT.key));
    let transport = get(key::NETWORK_TRANSPORT.key);
    if !source.is_empty() {
        format!("{source} → {destination} {transport}")
    } else if !local.is_empty() {
        format!("{local} ↔ {peer} {transport}")
    } else {
        transport
    }
}

fn end(address: &str, port: &str) -> String {
    match (address.contains(':'), port.is_empty()) {
        (_, true) => address.to_owned(),
        (true, false) => format!("[{address}]:{port}"),
        (false, false) => format!("{address}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use crate::batch::attributes::key_value;

    use super::*;

    fn record(source: &str, port: Option<i64>) -> LogRecord {
        let mut attributes = vec![
            key_value(&key::PACKET_DROP_REASON, "SOCKET_RCVBUFF"),
            key_value(&key::SOURCE_ADDRESS, source),
            key_value(&key::DESTINATION_ADDRESS, source),
            key_value(&key::NETWORK_TRANSPORT, "udp"),
        ];
        attributes.extend(port.map(|port| key_value(&key::SOURCE_PORT, port)));
        attributes.extend(port.map(|port| key_value(&key::DESTINATION_PORT, port)));
        LogRecord { event_name: event::PACKET_DROPPED.name.to_owned(), attributes, ..LogRecord::default() }
    }

    #[test]
    fn an_event_is_one_line_with_its_packet() {
        let line = line("shop/cart", &record("10.0.3.7", Some(53)));
        assert!(line.contains(" drop "), "{line}");
        assert!(line.contains("shop/cart"), "{line}");
        assert!(line.contains("SOCKET_RCVBUFF"), "{line}");
        assert!(line.contains("10.0.3.7:53 → 10.0.3.7:53 udp"), "{line}");
    }

    #[test]
    fn an_ipv6_address_stands_in_brackets_before_a_port_and_alone_without() {
        assert!(line("x", &record("fd00::1", Some(53))).contains("[fd00::1]:53 → [fd00::1]:53 udp"));
        assert!(line("x", &record("fd00::1", None)).contains("fd00::1 → fd00::1 udp"));
    }
}
