//! Segments that TCP sends again, by cause: counted in the kernel as its own `RetransSegs` counts them, and told with the
//! connection that was hit.

use std::time::Duration;

use jitterscope_ebpf::{
    Object, Observer, ObserverOptions,
    abi::{
        RETRANSMIT_FAST, RETRANSMIT_SYN, RETRANSMIT_SYN_ACK, RETRANSMIT_TAIL_LOSS_PROBE, RETRANSMIT_TIMEOUT,
        retransmit_event, retransmit_key,
    },
};
use jitterscope_semconv::{
    attribute as key, event as events, metric,
    value::{NetworkType, TcpRetransmitType},
};
use opentelemetry_proto::tonic::common::v1::KeyValue;

use super::{
    Definition, Opening, Overhead, Probe, ProbeOption, Skip, Source,
    connection::{attributes, ends, family_name},
    machine::EBPF_CAPABILITIES,
    maps::{Attributes, Told, by_entity_with},
    observed::{Observed, Reading, origin},
    shown::exemplars,
};
use crate::{
    batch::{
        Occurrence,
        attributes::{Pair, key_double, key_value},
    },
    clock::Clock,
    spans::Link,
};

/// Retransmitted segments.
pub(super) static DEFINITION: Definition = Definition {
    name: "tcpretrans",
    use_when: "requests are slow now and then: which connection had to send again, and for what cause",
    source: Source::Ebpf,
    overhead: Overhead::Low,
    default: true,
    capabilities: EBPF_CAPABILITIES,
    options: &[ProbeOption::Spans, ProbeOption::Events],
    metrics: &[&metric::TCP_RETRANSMITS],
    events: &[&events::TCP_RETRANSMITTED],
    open,
};

/// Most series: five causes and two families of 400 pods.
const SERIES: u32 = 4096;

struct TcpRetrans;

fn open(opening: &Opening<'_>) -> Result<Box<dyn Probe>, Skip> {
    let options = ObserverOptions {
        entries: &[("retransmits", SERIES)],
        spans: opening.spans,
        ..ObserverOptions::new(opening.machine.host_netns()?)
    };
    let observer = Observer::open(&Object::TCPRETRANS, opening.machine.kernel()?, &options)?;
    let told = Told::new("retransmits", SERIES, &metric::TCP_RETRANSMITS);
    let table = observer.loaded().per_cpu_table::<retransmit_key, u64>(told.map)?;
    let maps = vec![by_entity_with(told, table, exemplars(observer.loaded()), |key| key.entity, What::of)];
    Observed::start(observer, maps, TcpRetrans, opening)
}

impl Reading for TcpRetrans {
    type Record = retransmit_event;

    fn link(&self, record: &retransmit_event) -> Option<Link> {
        Link::of(&record.head.span)
    }

    fn occurrence(&mut self, record: &retransmit_event, clock: &Clock) -> Occurrence {
        Occurrence {
            event: &events::TCP_RETRANSMITTED,
            time_unix_nano: clock.at_boot(record.head.time),
            origin: origin(&record.head.entity),
            body: sentence(record),
            attributes: facts(record),
            link: None,
            lasted: Duration::ZERO,
        }
    }
}

/// What segments are told apart by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct What {
    cause: TcpRetransmitType,
    family: NetworkType,
}

impl What {
    fn of(key: &retransmit_key) -> Option<Self> {
        Some(Self { cause: cause_of(key.type_)?, family: family_name(u8::try_from(key.family).ok()?)? })
    }
}

impl Attributes for What {
    fn attributes(&self) -> Vec<Pair<'_>> {
        vec![
            (&key::TCP_RETRANSMIT_TYPE, self.cause.as_str().into()),
            (&key::NETWORK_TYPE, self.family.as_str().into()),
        ]
    }
}

fn cause_of(number: u32) -> Option<TcpRetransmitType> {
    match number {
        RETRANSMIT_TIMEOUT => Some(TcpRetransmitType::Timeout),
        RETRANSMIT_FAST => Some(TcpRetransmitType::Fast),
        RETRANSMIT_TAIL_LOSS_PROBE => Some(TcpRetransmitType::TailLossProbe),
        RETRANSMIT_SYN => Some(TcpRetransmitType::Syn),
        RETRANSMIT_SYN_ACK => Some(TcpRetransmitType::SynAck),
        _ => None,
    }
}

fn facts(record: &retransmit_event) -> Vec<KeyValue> {
    let mut facts = attributes(&record.head.connection);
    facts.extend(cause_of(record.type_).map(|cause| key_value(&key::TCP_RETRANSMIT_TYPE, cause.as_str())));
    let known = |value: u32| (value != 0).then_some(i64::from(value));
    let rtt = (record.smoothed_rtt != 0).then(|| f64::from(record.smoothed_rtt) / 1e6);
    facts.extend(known(record.attempts).map(|attempts| key_value(&key::TCP_RETRANSMIT_ATTEMPTS, attempts)));
    facts.push(key_value(&key::TCP_RETRANSMIT_SEGMENTS, i64::from(record.segments)));
    facts
        .extend(known(record.congestion_window).map(|window| key_value(&key::TCP_CONGESTION_WINDOW, window)));
    facts.extend(rtt.map(|rtt| key_double(&key::TCP_SMOOTHED_RTT, rtt)));
    facts
}

/// `10.0.0.1:51324 ↔ 10.0.0.2:443: sent again after a timeout, attempt 2`.
fn sentence(record: &retransmit_event) -> String {
    let cause = match record.type_ {
        RETRANSMIT_TIMEOUT => "after a timeout",
        RETRANSMIT_FAST => "because the peer reported a loss",
        RETRANSMIT_TAIL_LOSS_PROBE => "to find out whether the last data was lost",
        RETRANSMIT_SYN => "because the connection request was not answered",
        RETRANSMIT_SYN_ACK => "because the answer to a connection request was not acknowledged",
        _ => "for an unknown cause",
    };
    let attempt = match record.attempts {
        0 => String::new(),
        attempts => format!(", attempt {attempts}"),
    };
    format!("{}: sent again {cause}{attempt}", ends(&record.head.connection))
}

/// Reads a record as if it came out of the ring, without a kernel's names.
#[cfg(any(test, fuzzing))]
pub(super) fn read_record(bytes: &[u8]) {
    super::observed::read_record(TcpRetrans, bytes);
}
