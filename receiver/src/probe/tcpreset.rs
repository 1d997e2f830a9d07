//! Resets of TCP connections, by who sent them, the state that they met, and the kernel's reason.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jitterscope_ebpf::{
    Constant, Kernel, Missing, Object, Observer, ObserverOptions,
    abi::{DIRECTION_RECEIVE, DIRECTION_TRANSMIT, reset_event, reset_key},
};
use jitterscope_semconv::{
    attribute as key, event as events, metric,
    value::{NetworkConnectionState, NetworkIoDirection, NetworkType},
};
use zerocopy::IntoBytes as _;

use super::{
    Definition, Opening, Overhead, Probe, ProbeOption, Skip, Source,
    connection::{attributes, ends, family_name, state},
    machine::EBPF_CAPABILITIES,
    maps::{Attributes, Told, by_entity_with},
    observed::{Observed, Reading, origin},
    shown::exemplars,
};
use crate::{
    batch::{
        Occurrence,
        attributes::{Pair, key_value},
    },
    clock::Clock,
    spans::Link,
};

/// Resets.
pub(super) static DEFINITION: Definition = Definition {
    name: "tcpreset",
    use_when: "connections break: which side reset which connection, in which state, and why",
    source: Source::Ebpf,
    overhead: Overhead::Low,
    default: true,
    capabilities: EBPF_CAPABILITIES,
    options: &[ProbeOption::Spans, ProbeOption::Events],
    metrics: &[&metric::TCP_RESETS],
    events: &[&events::TCP_RESET],
    open,
};

/// Most series: some ten combinations of direction, reason and state for each of 400 pods.
const SERIES: u32 = 4096;
/// The tracepoint that tells the reason, on kernels that give one.
const TRACEPOINT: &str = "tcp_send_reset";
/// Its arguments where it gives one; there it also fires without a socket.
const WITH_REASON: u32 = 3;
/// What answers packets without a socket, for kernels whose tracepoint does not fire then.
const WITHOUT_SOCKET: [&str; 2] = ["tcp_v4_send_reset", "tcp_v6_send_reset"];
/// What the kernel's names of reasons begin with.
const PREFIX: &str = "SK_RST_REASON_";

struct TcpReset {
    reasons: Arc<Reasons>,
}

/// The running kernel's names of reasons, by number.
#[derive(Default)]
struct Reasons(HashMap<u32, String>);

fn open(opening: &Opening<'_>) -> Result<Box<dyn Probe>, Skip> {
    let kernel = opening.machine.kernel()?;
    let arguments = kernel.btf().tracepoint_arguments(TRACEPOINT).unwrap_or(2) as u32;
    let options = ObserverOptions {
        constants: &[Constant { name: "arguments", value: arguments.as_bytes() }],
        entries: &[("resets", SERIES)],
        without: if arguments < WITH_REASON { &[] } else { &WITHOUT_SOCKET },
        spans: opening.spans,
        ..ObserverOptions::new(opening.machine.host_netns()?)
    };
    let observer = Observer::open(&Object::TCPRESET, kernel, &options)?;
    let reasons = Arc::new(Reasons::read(kernel));
    let told = Told::new("resets", SERIES, &metric::TCP_RESETS);
    let table = observer.loaded().per_cpu_table::<reset_key, u64>(told.map)?;
    let names = Arc::clone(&reasons);
    let maps = vec![by_entity_with(
        told,
        table,
        exemplars(observer.loaded()),
        |key| key.entity,
        move |key| What::of(key, &names),
    )];
    Observed::start(observer, maps, TcpReset { reasons }, opening)
}

impl Reasons {
    /// `enum sk_rst_reason` (include/net/rstreason.h, 6.10); empty before.
    fn read(kernel: &Kernel) -> Self {
        let constants = kernel.btf().enumerators("sk_rst_reason").unwrap_or_default();
        let name = |name: String| name.strip_prefix(PREFIX).map(str::to_owned).unwrap_or(name);
        Self(constants.into_iter().map(|(constant, value)| (value as u32, name(constant))).collect())
    }

    /// The kernel's name of the reason in a key; `None` where it gives none.
    fn name(&self, number: u32) -> Option<String> {
        let number = number.checked_sub(1)?;
        Some(self.0.get(&number).cloned().unwrap_or_else(|| number.to_string()))
    }
}

impl Reading for TcpReset {
    type Record = reset_event;

    fn link(&self, record: &reset_event) -> Option<Link> {
        Link::of(&record.head.span)
    }

    fn occurrence(&mut self, record: &reset_event, clock: &Clock) -> Occurrence {
        let reason = self.reasons.name(record.key.reason);
        let direction = direction(record.key.direction);
        let mut facts = attributes(&record.head.connection);
        facts.extend(direction.map(|direction| key_value(&key::NETWORK_IO_DIRECTION, direction.as_str())));
        facts.extend(reason.as_deref().map(|reason| key_value(&key::TCP_RESET_REASON, reason)));
        let who = match direction {
            Some(NetworkIoDirection::Receive) => "reset by the other side",
            _ => "reset by this side",
        };
        let why = reason.as_deref().and_then(explain).unwrap_or("the kernel gives no reason");
        let body = match direction {
            Some(NetworkIoDirection::Receive) => format!("{}: {who}", ends(&record.head.connection)),
            _ => format!("{}: {who}: {why}", ends(&record.head.connection)),
        };
        Occurrence {
            event: &events::TCP_RESET,
            time_unix_nano: clock.at_boot(record.head.time),
            origin: origin(&record.head.entity),
            body,
            attributes: facts,
            link: None,
            lasted: Duration::ZERO,
        }
    }

    fn limitation(&self, missing: &[Missing]) -> Option<String> {
        if !self.reasons.0.is_empty() {
            return None;
        }
        let hooks: Vec<&str> = missing.iter().map(|missing| missing.hook.as_str()).collect();
        let unseen = format!(
            "without hooks {}: answers of closed ports are in tcp.segment.resets only",
            hooks.join(", ")
        );
        let reasons = "the kernel gives no reasons (before 6.10)".to_owned();
        Some(if hooks.is_empty() { reasons } else { format!("{reasons}; {unseen}") })
    }
}

/// What resets are told apart by.
#[derive(Clone, PartialEq, Eq, Hash)]
struct What {
    direction: NetworkIoDirection,
    reason: Option<String>,
    state: NetworkConnectionState,
    family: NetworkType,
}

impl What {
    fn of(key: &reset_key, reasons: &Reasons) -> Option<Self> {
        Some(Self {
            direction: direction(key.direction)?,
            reason: reasons.name(key.reason),
            state: state(key.state)?,
            family: family_name(key.family)?,
        })
    }
}

impl Attributes for What {
    fn attributes(&self) -> Vec<Pair<'_>> {
        let mut attributes: Vec<Pair<'_>> = vec![
            (&key::NETWORK_IO_DIRECTION, self.direction.as_str().into()),
            (&key::NETWORK_CONNECTION_STATE, self.state.as_str().into()),
            (&key::NETWORK_TYPE, self.family.as_str().into()),
        ];
        attributes.extend(self.reason.as_deref().map(|reason| (&key::TCP_RESET_REASON, reason.into())));
        attributes
    }
}

fn direction(number: u8) -> Option<NetworkIoDirection> {
    match u32::from(number) {
        DIRECTION_TRANSMIT => Some(NetworkIoDirection::Transmit),
        DIRECTION_RECEIVE => Some(NetworkIoDirection::Receive),
        _ => None,
    }
}

/// The commoner reasons in words.
fn explain(reason: &str) -> Option<&'static str> {
    let words = [
        ("NO_SOCKET", "nobody listens on the port, or the connection is not known here"),
        ("TCP_ABORT_ON_CLOSE", "the application closed it while data was unread"),
        ("TCP_ABORT_ON_DATA", "data came after the application had closed it"),
        ("TCP_ABORT_ON_LINGER", "the application closed it with linger 0"),
        ("TCP_ABORT_ON_MEMORY", "TCP's memory is used up"),
        ("TCP_KEEPALIVE_TIMEOUT", "keepalives were not answered"),
        ("TCP_DISCONNECT_WITH_DATA", "the application disconnected it while data was unread or unsent"),
        ("TCP_STATE", "the application ended it in this state"),
        ("TCP_TIMEWAIT_SOCKET", "a packet came for a connection that had ended"),
        ("TCP_INVALID_ACK_SEQUENCE", "what was acknowledged had not been sent"),
        ("TCP_TOO_OLD_ACK", "an acknowledgement was too old"),
        ("TCP_RFC7323_PAWS", "a timestamp was too old"),
    ];
    words.iter().find(|(name, _)| *name == reason).map(|(_, words)| *words)
}

/// Reads a record as if it came out of the ring, without a kernel's names.
#[cfg(any(test, fuzzing))]
pub(super) fn read_record(bytes: &[u8]) {
    super::observed::read_record(TcpReset { reasons: Arc::default() }, bytes);
}
