//! How long packets wait in the queue of the interface that they leave by, and how long its driver takes to accept them.

use std::time::Duration;

use jitterscope_ebpf::{
    Loaded, Object, Observer, ObserverOptions, Table, TableError,
    abi::{TRANSMIT_QUEUED, histogram, transmit_event, transmit_key},
    histogram::Range,
};
use jitterscope_semconv::{attribute as key, event as events, metric, value::NetworkType};

use super::{
    Definition, Opening, Overhead, Probe, ProbeOption, Skip, Source,
    connection::family_name,
    machine::EBPF_CAPABILITIES,
    maps::{Attributes, KernelMap, Told, by_entity, waiting},
    observed::{Observed, Reading, origin},
    packet,
};
use crate::{
    batch::{
        Occurrence,
        attributes::{Pair, key_double, key_value},
    },
    clock::Clock,
};

/// Packets that leave.
pub(super) static DEFINITION: Definition = Definition {
    name: "netiftxlatency",
    use_when: "packets leave late: how long they wait in which interface's queue, and how long its driver takes",
    source: Source::Ebpf,
    overhead: Overhead::Medium,
    default: false,
    capabilities: EBPF_CAPABILITIES,
    options: &[ProbeOption::Events, ProbeOption::Threshold(THRESHOLD)],
    metrics: &[&metric::QDISC_WAIT, &metric::NETDEV_TRANSMIT_DURATION],
    events: &[&events::QDISC_SLOW, &events::NETDEV_TRANSMIT_SLOW],
    open,
};

/// A user notices a tenth of a second; queues that are kept short on purpose stay at a twentieth of it.
const THRESHOLD: Duration = Duration::from_millis(100);
/// Most series of each metric: both families on three interfaces of 250 pods.
const SERIES: u32 = 2048;
/// Most packets in all queues: some sixteen that are full (`txqueuelen` is 1000).
const QUEUED: u32 = 16384;

struct NetifTxLatency;

fn open(opening: &Opening<'_>) -> Result<Box<dyn Probe>, Skip> {
    let latency = Range::LATENCY.bounds();
    let options = ObserverOptions {
        constants: &[latency.constant()],
        entries: &[("waits", SERIES), ("durations", SERIES), ("queue", QUEUED)],
        ..ObserverOptions::new(opening.machine.host_netns()?)
    };
    let observer = Observer::open(&Object::NETIFTXLATENCY, opening.machine.kernel()?, &options)?;
    let maps = maps(observer.loaded())?;
    Observed::start(observer, maps, NetifTxLatency, opening)
}

fn maps(loaded: &Loaded) -> Result<Vec<Box<dyn KernelMap>>, TableError> {
    let times = |map, metric| {
        let table = loaded.table::<transmit_key, histogram>(map)?;
        let told = Told::new(map, SERIES, metric);
        Ok(by_entity(told, table, |key| key.entity, |key| Some(What::of(key))))
    };
    let queue: Table<u64, [u64; 3]> = loaded.table("queue")?;
    // What was freed before the hooks for that were attached is forgotten.
    queue.retain(|_, _| false)?;
    Ok(vec![
        times("waits", &metric::QDISC_WAIT)?,
        times("durations", &metric::NETDEV_TRANSMIT_DURATION)?,
        waiting("queue", queue, |[since, ..]| *since),
    ])
}

impl Reading for NetifTxLatency {
    type Record = transmit_event;

    fn occurrence(&mut self, record: &transmit_event, clock: &Clock) -> Occurrence {
        let seconds = record.duration as f64 / 1e9;
        let what = What::of(&record.key);
        let mut facts = packet::attributes(&record.ends);
        facts.push(key_double(&key::PACKET_DELAY, seconds));
        facts.push(key_value(&key::PACKET_SIZE, i64::from(record.length)));
        facts.push(key_value(&key::NETWORK_INTERFACE_NAME, what.interface.as_str()));
        facts.extend(what.host.then(|| key_value(&key::NETNS_HOST, true)));
        let (event, did) = if record.stage == TRANSMIT_QUEUED {
            (&events::QDISC_SLOW, "waited in the queue of")
        } else {
            (&events::NETDEV_TRANSMIT_SLOW, "was in the hands of the driver of")
        };
        Occurrence {
            event,
            time_unix_nano: clock.at_boot(record.time),
            origin: origin(&record.key.entity),
            body: format!(
                "{}: {did} {}{} for {seconds:.3} s",
                packet::sentence(&record.ends),
                if what.host { "the node's " } else { "" },
                what.interface
            ),
            attributes: facts,
            link: None,
            lasted: Duration::ZERO,
        }
    }
}

/// What packets are told apart by.
#[derive(Clone, PartialEq, Eq, Hash)]
struct What {
    interface: String,
    family: Option<NetworkType>,
    host: bool,
}

impl What {
    fn of(key: &transmit_key) -> Self {
        Self {
            interface: packet::interface(&key.interface),
            family: family_name(key.family),
            host: key.host != 0,
        }
    }
}

impl Attributes for What {
    fn attributes(&self) -> Vec<Pair<'_>> {
        let mut attributes: Vec<Pair<'_>> =
            vec![(&key::NETWORK_INTERFACE_NAME, self.interface.as_str().into())];
        attributes.extend(self.family.map(|name| (&key::NETWORK_TYPE, name.as_str().into())));
        attributes.extend(self.host.then(|| (&key::NETNS_HOST, true.into())));
        attributes
    }
}

/// Reads a record as if it came out of the ring, without a kernel's names.
#[cfg(any(test, fuzzing))]
pub(super) fn read_record(bytes: &[u8]) {
    super::observed::read_record(NetifTxLatency, bytes);
}
