//! Anomalies as OTLP's exemplars: what counters and distributions show of what they counted.

use jitterscope_ebpf::abi::{exemplar, exemplar_facts};
use jitterscope_semconv::attribute as key;
use opentelemetry_proto::tonic::{
    common::v1::KeyValue,
    metrics::v1::{Exemplar, exemplar::Value},
};

use super::Link;
use crate::{
    batch::attributes::{Pair, key_values},
    clock::Clock,
    probe::connection::address,
};

/// Characters of the keys and values of an exemplar's own attributes, all together. `OpenMetrics` allows 128 (1.0,
/// "Exemplars"), of which `trace_id`, `span_id` and their values take 63; Prometheus refuses what is longer.
const CHARACTERS: usize = 65;

/// What a counter shows of what it counted last. Backends take a number with a fraction only.
pub fn exemplar_of_count(raw: &exemplar, clock: &Clock) -> Exemplar {
    exemplar_with(raw, raw.value as f64, clock)
}

/// What a bucket of durations shows, in seconds.
pub fn exemplar_of_duration(raw: &exemplar, clock: &Clock) -> Exemplar {
    exemplar_with(raw, raw.value as f64 / 1e9, clock)
}

fn exemplar_with(raw: &exemplar, value: f64, clock: &Clock) -> Exemplar {
    let link = Link::of(&raw.link);
    Exemplar {
        time_unix_nano: clock.at_boot(raw.time),
        value: Some(Value::AsDouble(value)),
        trace_id: link.map(|link| link.trace_id.to_vec()).unwrap_or_default(),
        span_id: link.map(|link| link.span_id()).unwrap_or_default(),
        filtered_attributes: attributes(&raw.facts),
    }
}

/// What series do not tell apart, as far as there is room: the peer's address goes before its port, and both before the
/// process.
fn attributes(facts: &exemplar_facts) -> Vec<KeyValue> {
    let peer = address(facts.family, facts.peer_address).filter(|_| facts.peer_port != 0);
    let peer = peer.map(|address| address.to_string());
    let known = [
        peer.as_deref().map(|address| (&key::NETWORK_PEER_ADDRESS, address.into())),
        peer.as_deref().map(|_| (&key::NETWORK_PEER_PORT, i64::from(facts.peer_port).into())),
        (facts.pid != 0).then(|| (&key::PROCESS_PID, i64::from(facts.pid).into())),
    ];
    let mut left = CHARACTERS;
    let fitting = known.into_iter().flatten().filter(|one| match left.checked_sub(one.characters()) {
        Some(less) => {
            left = less;
            true
        }
        None => false,
    });
    let fitting: Vec<Pair<'_>> = fitting.collect();
    key_values(&fitting)
}

trait Characters {
    fn characters(&self) -> usize;
}

impl Characters for Pair<'_> {
    fn characters(&self) -> usize {
        self.0.key.chars().count() + self.1.to_string().chars().count()
    }
}

#[cfg(test)]
mod tests {
    use jitterscope_ebpf::abi::{SPAN_ROLE_CLIENT, SPAN_SOURCE_WIRE, span_link};

    use super::*;

    fn facts(family: u8, peer: &[u8], peer_port: u16, pid: u32) -> exemplar_facts {
        let mut peer_address = [0; 16];
        peer_address[..peer.len()].copy_from_slice(peer);
        exemplar_facts { peer_address, pid, peer_port, family, reserved: 0 }
    }

    fn text(facts: &exemplar_facts) -> String {
        let one = |of: KeyValue| format!("{}={:?}", of.key, of.value.and_then(|value| value.value));
        attributes(facts).into_iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_what_fits_behind_it_is_not() {
        let short = text(&facts(4, &[10, 0, 0, 1], 443, 0));
        let address = "network.peer.address=Some(StringValue(";
        assert_eq!(short, format!("{address}\"10.0.0.1\")) network.peer.port=Some(IntValue(443))"));
        // 20 + 15 and 17 + 5 leave 8, of which a process takes 12 at least.
        let long = text(&facts(4, &[192, 168, 100, 200], 50_000, 1));
        assert!(long.contains("port") && !long.contains("pid"), "{long}");
        // 20 + 39 leave 6: no port, no process.
        let whole = text(&facts(6, &[0x2a; 16], 443, 4_000_000));
        assert!(whole.contains("2a2a:2a2a") && !whole.contains("port") && !whole.contains("pid"), "{whole}");
        // 20 + 5 and 17 + 3 leave 20.
        let local = text(&facts(6, &[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 443, 77));
        assert!(local.contains("port") && local.contains("process.pid=Some(IntValue(77))"), "{local}");
    }

    #[test]
    fn what_is_unknown_is_left_out() {
        assert_eq!(text(&facts(0, &[], 0, 0)), "");
        assert_eq!(text(&facts(4, &[0; 4], 0, 12)), "process.pid=Some(IntValue(12))");
    }

    #[test]
    fn an_exemplar_is_never_too_long_for_prometheus() {
        let most = [facts(6, &[0xfd; 16], u16::MAX, u32::MAX), facts(4, &[255; 4], u16::MAX, u32::MAX)];
        for facts in most {
            let characters = |of: &KeyValue| {
                let value = match of.value.as_ref().and_then(|value| value.value.clone()) {
                    Some(opentelemetry_proto::tonic::common::v1::any_value::Value::StringValue(text)) => text,
                    Some(opentelemetry_proto::tonic::common::v1::any_value::Value::IntValue(number)) => {
                        number.to_string()
                    }
                    other => panic!("{other:?}"),
                };
                of.key.len() + value.len()
            };
            let ids = "trace_id".len() + 32 + "span_id".len() + 16;
            let sum: usize = attributes(&facts).iter().map(characters).sum();
            assert!(sum > 0 && ids + sum <= 128, "{facts:?}: {sum}");
        }
    }

    #[test]
    fn durations_are_seconds_and_counts_are_counts() {
        let link = span_link {
            trace_id: [1; 16],
            span_id: [2; 8],
            source: SPAN_SOURCE_WIRE as u8,
            role: SPAN_ROLE_CLIENT as u8,
            ..span_link::default()
        };
        let raw = exemplar { value: 1_500_000_000, link, ..exemplar::default() };
        let clock = Clock::read();
        assert_eq!(exemplar_of_duration(&raw, &clock).value, Some(Value::AsDouble(1.5)));
        assert_eq!(exemplar_of_count(&raw, &clock).value, Some(Value::AsDouble(1.5e9)));
        assert_eq!(exemplar_of_count(&raw, &clock).trace_id, [1; 16]);
    }
}
