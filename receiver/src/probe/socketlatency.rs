//! How long data waits in sockets: until the application reads it, and until the connection lets it leave.

use std::time::Duration;

use jitterscope_ebpf::{
    Loaded, Missing, ObserverOptions, Table,
    abi::{SOCKET_READ, SOCKET_WRITE, histogram, socket_wait_event, socket_wait_key, socket_wait_place},
    socketlatency::{Half, SERIES, SocketLatency as Program},
};
use jitterscope_semconv::{Metric, attribute as key, event as events, metric, value::NetworkType};

use super::{
    Definition, Opening, Overhead, Probe, ProbeOption, Skip, Source,
    command::command,
    connection::{attributes, ends, family_name},
    machine::EBPF_CAPABILITIES,
    maps::{Attributes, KernelMap, Told, by_entity_with, in_flight},
    observed::{Observed, Reading, origin},
    packetloss::transport_name,
    shown::exemplars_of,
};
use crate::{
    batch::{
        Occurrence,
        attributes::{Pair, key_double, key_value},
    },
    clock::Clock,
    spans::Link,
};

/// Waits in sockets.
pub(super) static DEFINITION: Definition = Definition {
    name: "socketlatency",
    use_when: "answers are late although the network is not: how long data waits in sockets to be read, or to leave",
    source: Source::Ebpf,
    overhead: Overhead::High,
    default: false,
    capabilities: EBPF_CAPABILITIES,
    options: &[ProbeOption::Spans, ProbeOption::Events, ProbeOption::Threshold(THRESHOLD)],
    metrics: &[&metric::SOCKET_READ_WAIT, &metric::SOCKET_WRITE_WAIT],
    events: &[&events::SOCKET_READ_SLOW, &events::SOCKET_WRITE_SLOW],
    open,
};

/// A user notices a tenth of a second.
const THRESHOLD: Duration = Duration::from_millis(100);

struct SocketLatency {
    missing: Option<(Half, Missing)>,
}

fn open(opening: &Opening<'_>) -> Result<Box<dyn Probe>, Skip> {
    let options =
        ObserverOptions { spans: opening.spans, ..ObserverOptions::new(opening.machine.host_netns()?) };
    let Program { observer, reads, writes, unsent, missing } =
        Program::open(opening.machine.kernel()?, &options)?;
    let maps = vec![
        waits(observer.loaded(), ("reads", SOCKET_READ), reads, &metric::SOCKET_READ_WAIT),
        waits(observer.loaded(), ("writes", SOCKET_WRITE), writes, &metric::SOCKET_WRITE_WAIT),
        in_flight("unsent", unsent),
    ];
    Observed::start(observer, maps, SocketLatency { missing }, opening)
}

fn waits(
    loaded: &Loaded,
    (map, operation): (&'static str, u32),
    table: Table<socket_wait_key, histogram>,
    metric: &'static Metric,
) -> Box<dyn KernelMap> {
    let place =
        move |place: &socket_wait_place| (place.operation == operation).then_some((place.key, place.bucket));
    let shown = exemplars_of(loaded, place);
    by_entity_with(Told::new(map, SERIES, metric), table, shown, |key| key.entity, What::of)
}

impl Reading for SocketLatency {
    type Record = socket_wait_event;

    fn link(&self, record: &socket_wait_event) -> Option<Link> {
        Link::of(&record.head.span)
    }

    fn lasted(&self, record: &socket_wait_event) -> Duration {
        Duration::from_nanos(record.wait)
    }

    fn occurrence(&mut self, record: &socket_wait_event, clock: &Clock) -> Occurrence {
        let (name, seconds) = (command(&record.command), record.wait as f64 / 1e9);
        let mut facts = attributes(&record.head.connection);
        facts.push(key_double(&key::SOCKET_DELAY, seconds));
        let mut who = "the kernel".to_owned();
        if record.pid != 0 {
            facts.push(key_value(&key::PROCESS_PID, i64::from(record.pid)));
            facts.push(key_value(&key::TASK_COMMAND, name.as_str()));
            who = format!("{name} (pid {})", record.pid);
        }
        let (event, did) = match record.operation {
            SOCKET_READ => (&events::SOCKET_READ_SLOW, format!("before {who} read it")),
            _ => (&events::SOCKET_WRITE_SLOW, format!("before what {who} wrote had left")),
        };
        Occurrence {
            event,
            time_unix_nano: clock.at_boot(record.head.time),
            origin: origin(&record.head.entity),
            body: format!("{}: data waited {seconds:.3} s {did}", ends(&record.head.connection)),
            attributes: facts,
            link: None,
            lasted: Duration::ZERO,
        }
    }

    fn limitation(&self, _: &[Missing]) -> Option<String> {
        let (half, missing) = self.missing.as_ref()?;
        let half = match half {
            Half::Reads => "reads",
            Half::Writes => "writes",
        };
        Some(format!("no waits of {half}: without hook {missing}"))
    }
}

/// What waits are told apart by.
#[derive(Clone, PartialEq, Eq, Hash)]
struct What {
    transport: String,
    family: NetworkType,
}

impl What {
    fn of(key: &socket_wait_key) -> Option<Self> {
        Some(Self { transport: transport_name(key.protocol), family: family_name(key.family)? })
    }
}

impl Attributes for What {
    fn attributes(&self) -> Vec<Pair<'_>> {
        vec![
            (&key::NETWORK_TRANSPORT, self.transport.as_str().into()),
            (&key::NETWORK_TYPE, self.family.as_str().into()),
        ]
    }
}

/// Reads a record as if it came out of the ring, without a kernel's names.
#[cfg(any(test, fuzzing))]
pub(super) fn read_record(bytes: &[u8]) {
    super::observed::read_record(SocketLatency { missing: None }, bytes);
}
