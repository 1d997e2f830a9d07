//! One change in the connection tracking table as an event.

use std::{net::IpAddr, time::Duration};

use jitterscope_semconv::{
    attribute as key, event,
    value::{ConntrackChange, NetworkType},
};
use opentelemetry_proto::tonic::common::v1::KeyValue;

use crate::{
    batch::{Occurrence, attributes::key_value},
    clock::Clock,
    netlink::conntrack::entry::{Change, Event, Expectation, Flow, Tuple},
    pods::{Netns, Origin},
    probe::{connection::end, conntrack::state, packetloss::transport_name},
};

/// Bits of `enum ip_conntrack_status` that say something to an operator (`include/uapi/linux/netfilter/nf_conntrack_common.h`).
const STATUS: [(u32, &str); 12] = [
    (0, "expected"),
    (1, "seen_reply"),
    (2, "assured"),
    (3, "confirmed"),
    (4, "src_nat"),
    (5, "dst_nat"),
    (6, "seq_adjust"),
    (9, "dying"),
    (10, "fixed_timeout"),
    (13, "helper"),
    (14, "offload"),
    (15, "hw_offload"),
];

/// The kernel gives an event no time (unless `nf_conntrack_timestamp` is set): it is that of its reading, some milliseconds
/// later, but in order.
pub(in crate::probe) fn occurrence(event: &Event<'_>, netns: Netns) -> Occurrence {
    let (name, body, attributes) = match event {
        Event::Flow(change, flow) => {
            (&event::CONNTRACK_CHANGED, flow_sentence(*change, flow), flow_attributes(*change, flow))
        }
        Event::Expectation(change, expected) => (
            &event::CONNTRACK_EXPECTATION_CHANGED,
            expectation_sentence(*change, expected),
            expectation_attributes(*change, expected),
        ),
    };
    Occurrence {
        event: name,
        time_unix_nano: Clock::read().now(),
        origin: Origin { netns, ..Origin::default() },
        body,
        attributes,
        link: None,
        lasted: Duration::ZERO,
    }
}

/// `TCP connection A → B: tracked, syn_sent`.
fn flow_sentence(change: Change, flow: &Flow<'_>) -> String {
    let what = match change {
        Change::New => "tracked",
        Change::Update => "changed",
        Change::Destroy => "no longer tracked",
    };
    let state = flow.state.and_then(state).map(|state| format!(", {state}")).unwrap_or_default();
    let answers = translated(flow).map(|reply| format!(", answered as {}", ends(reply))).unwrap_or_default();
    format!("{} connection {}: {what}{state}{answers}", transport(&flow.original), ends(&flow.original))
}

/// `ftp expects TCP A → B`.
fn expectation_sentence(change: Change, expected: &Expectation<'_>) -> String {
    let what = match change {
        Change::New => "expects",
        Change::Update => "changed how it expects",
        Change::Destroy => "no longer expects",
    };
    let helper = expected.helper.unwrap_or("a helper");
    format!("{helper} {what} {} {}", transport(&expected.expected), ends(&expected.expected))
}

fn transport(tuple: &Tuple) -> String {
    transport_name(tuple.protocol).to_ascii_uppercase()
}

fn ends(tuple: &Tuple) -> String {
    let (from, to) = tuple.ports.map_or((None, None), |(from, to)| (Some(from), Some(to)));
    format!("{} → {}", end(tuple.source, from), end(tuple.destination, to))
}

/// How answers look, if not as they would without translation.
fn translated<'f>(flow: &'f Flow<'_>) -> Option<&'f Tuple> {
    flow.reply.as_ref().filter(|reply| !flow.original.is_mirrored_by(reply))
}

fn flow_attributes(change: Change, flow: &Flow<'_>) -> Vec<KeyValue> {
    let mut attributes = common(change, &flow.original, flow.zone, flow.helper);
    let mut number = |key, value: Option<u32>| {
        attributes.extend(value.map(|value| key_value(key, i64::from(value))));
    };
    number(&key::CONNTRACK_TIMEOUT, flow.timeout);
    number(&key::CONNTRACK_MARK, flow.mark.filter(|mark| *mark != 0));
    attributes.extend(flow.state.and_then(state).map(|state| key_value(&key::CONNTRACK_STATE, state)));
    attributes.extend(flow.status.map(|bits| key_value(&key::CONNTRACK_STATUS, status(bits).as_str())));
    attributes.extend(translated(flow).into_iter().flat_map(reply));
    attributes.extend(counts(flow));
    attributes
}

fn expectation_attributes(change: Change, expected: &Expectation<'_>) -> Vec<KeyValue> {
    let mut attributes = common(change, &expected.expected, expected.zone, expected.helper);
    let timeout = expected.timeout.map(|timeout| key_value(&key::CONNTRACK_TIMEOUT, i64::from(timeout)));
    attributes.extend(timeout);
    let master = expected.master.map(|master| key_value(&key::CONNTRACK_MASTER, ends(&master).as_str()));
    attributes.extend(master);
    attributes
}

fn common(change: Change, tuple: &Tuple, zone: Option<u16>, helper: Option<&str>) -> Vec<KeyValue> {
    let family = if tuple.source.is_ipv4() { NetworkType::Ipv4 } else { NetworkType::Ipv6 };
    let mut attributes = vec![
        key_value(&key::CONNTRACK_CHANGE, name(change).as_str()),
        key_value(&key::NETWORK_TRANSPORT, transport_name(tuple.protocol).as_str()),
        key_value(&key::NETWORK_TYPE, family.as_str()),
        key_value(&key::SOURCE_ADDRESS, text(tuple.source).as_str()),
        key_value(&key::DESTINATION_ADDRESS, text(tuple.destination).as_str()),
    ];
    if let Some((source, destination)) = tuple.ports {
        attributes.push(key_value(&key::SOURCE_PORT, i64::from(source)));
        attributes.push(key_value(&key::DESTINATION_PORT, i64::from(destination)));
    }
    if let Some((kind, code)) = tuple.icmp {
        attributes.push(key_value(&key::CONNTRACK_ICMP_TYPE, i64::from(kind)));
        attributes.push(key_value(&key::CONNTRACK_ICMP_CODE, i64::from(code)));
    }
    attributes.extend(zone.map(|zone| key_value(&key::CONNTRACK_ZONE, i64::from(zone))));
    attributes.extend(helper.map(|helper| key_value(&key::CONNTRACK_HELPER, helper)));
    attributes
}

fn reply(tuple: &Tuple) -> Vec<KeyValue> {
    let mut attributes = vec![
        key_value(&key::CONNTRACK_REPLY_SOURCE_ADDRESS, text(tuple.source).as_str()),
        key_value(&key::CONNTRACK_REPLY_DESTINATION_ADDRESS, text(tuple.destination).as_str()),
    ];
    if let Some((source, destination)) = tuple.ports {
        attributes.push(key_value(&key::CONNTRACK_REPLY_SOURCE_PORT, i64::from(source)));
        attributes.push(key_value(&key::CONNTRACK_REPLY_DESTINATION_PORT, i64::from(destination)));
    }
    attributes
}

/// Both directions together.
fn counts(flow: &Flow<'_>) -> Vec<KeyValue> {
    let [Some(there), Some(back)] = flow.counts else { return Vec::new() };
    vec![
        key_value(&key::CONNTRACK_PACKETS, there.0.saturating_add(back.0).cast_signed()),
        key_value(&key::CONNTRACK_BYTES, there.1.saturating_add(back.1).cast_signed()),
    ]
}

fn name(change: Change) -> ConntrackChange {
    match change {
        Change::New => ConntrackChange::New,
        Change::Update => ConntrackChange::Update,
        Change::Destroy => ConntrackChange::Destroy,
    }
}

fn status(bits: u32) -> String {
    let set = STATUS.iter().filter(|(bit, _)| bits & 1 << bit != 0);
    set.map(|(_, name)| *name).collect::<Vec<_>>().join("|")
}

fn text(address: IpAddr) -> String {
    address.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(source: &str, destination: &str, ports: (u16, u16)) -> Tuple {
        let address = |text: &str| text.parse().expect("an address");
        Tuple {
            source: address(source),
            destination: address(destination),
            protocol: 6,
            ports: Some(ports),
            icmp: None,
        }
    }

    #[test]
    fn the_sentence_tells_translation_only_where_there_is_any() {
        let mut flow = Flow::of(tuple("10.0.0.1", "10.0.0.2", (4000, 80)));
        flow.state = Some(3);
        flow.reply = Some(tuple("10.0.0.2", "10.0.0.1", (80, 4000)));
        let sentence = flow_sentence(Change::Update, &flow);
        assert_eq!(sentence, "TCP connection 10.0.0.1:4000 → 10.0.0.2:80: changed, established");
        flow.reply = Some(tuple("10.0.0.9", "10.0.0.1", (8080, 4000)));
        let sentence = flow_sentence(Change::New, &flow);
        assert!(sentence.ends_with(", answered as 10.0.0.9:8080 → 10.0.0.1:4000"), "{sentence}");
    }

    #[test]
    fn an_expectation_names_its_helper() {
        let expected = Expectation {
            expected: tuple("fd00::1", "fd00::2", (0, 2000)),
            master: None,
            helper: Some("ftp"),
            timeout: None,
            zone: None,
        };
        let sentence = expectation_sentence(Change::New, &expected);
        assert_eq!(sentence, "ftp expects TCP [fd00::1]:0 → [fd00::2]:2000");
    }

    #[test]
    fn status_bits_are_named_lowest_first() {
        assert_eq!(status(0b1110), "seen_reply|assured|confirmed");
    }
}
