//! How long packets of TCP and UDP take between their device and their socket, and in which stage: netfilter, routing, the
//! wait for a neighbour. What a socket waits for its reader, and a packet for its turn in a queue, is other probes' to tell.

use std::time::Duration;

use jitterscope_ebpf::{
    Missing, ObserverOptions, Table, TableError,
    abi::{
        DIRECTION_RECEIVE, HISTOGRAM_BUCKETS, PASSAGE_UNKNOWN, entity, passage, passage_event, passage_key,
        passage_place, passage_times,
    },
    histogram::Range,
    kernellatency::{KernelLatency, View},
};
use jitterscope_semconv::{
    Attribute, Event, Metric, attribute as key, event as events, metric,
    value::{KernelStage as Stage, NetworkType},
};

use super::{
    Definition, Opening, Overhead, Probe, ProbeOption, Skip, Source,
    connection::family_name,
    maps::{Fill, KernelMap, waiting},
    observed::{Observed, Reading, origin},
    packet,
    shown::{Exemplars, Latest, exemplars_of, of_durations},
    sums::Sums,
};
use crate::{
    batch::{
        Batch, Emitter, Occurrence,
        attributes::{Pair, key_double, key_value},
    },
    clock::Clock,
    round::Round,
    spans::Link,
};

/// Packets on their way.
pub(super) static DEFINITION: Definition = Definition {
    name: "kernellatency",
    use_when: "packets are late inside of the node: how long they take between device and socket, in which stage",
    source: Source::Ebpf,
    overhead: Overhead::High,
    default: false,
    capabilities: &["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"],
    options: &[
        ProbeOption::Spans,
        ProbeOption::Events,
        ProbeOption::Threshold(THRESHOLD),
        ProbeOption::Sampling(SAMPLING),
    ],
    metrics: &[&metric::KERNEL_RECEIVE_DURATION, &metric::KERNEL_TRANSMIT_DURATION],
    events: &[&events::KERNEL_RECEIVE_SLOW, &events::KERNEL_TRANSMIT_SLOW],
    open,
};

/// A thousand times what a packet takes that nothing is in the way of.
const THRESHOLD: Duration = Duration::from_millis(10);
/// A stage that is slow is so for many flows; the others cost little more than to see that they are not looked at.
const SAMPLING: u32 = 8;
/// Most entries: both directions and families of 250 pods.
const SERIES: u32 = 1024;
/// Most packets on their way at once: sixteen full queues of netfilter (1024 each).
const PACKETS: u32 = 16_384;

struct Direction {
    metric: &'static Metric,
    event: &'static Event,
    stages: [(Stage, &'static Attribute); 3],
    way: &'static str,
}

const RECEIVE: Direction = Direction {
    metric: &metric::KERNEL_RECEIVE_DURATION,
    event: &events::KERNEL_RECEIVE_SLOW,
    stages: [
        (Stage::Prerouting, &key::KERNEL_PREROUTING_DELAY),
        (Stage::Routing, &key::KERNEL_ROUTING_DELAY),
        (Stage::LocalIn, &key::KERNEL_LOCAL_IN_DELAY),
    ],
    way: "to its socket",
};

const TRANSMIT: Direction = Direction {
    metric: &metric::KERNEL_TRANSMIT_DURATION,
    event: &events::KERNEL_TRANSMIT_SLOW,
    stages: [
        (Stage::LocalOut, &key::KERNEL_LOCAL_OUT_DELAY),
        (Stage::Postrouting, &key::KERNEL_POSTROUTING_DELAY),
        (Stage::Neighbour, &key::KERNEL_NEIGHBOUR_DELAY),
    ],
    way: "to the queue",
};

impl Direction {
    fn of(key: &passage_key) -> &'static Self {
        if u32::from(key.direction) == DIRECTION_RECEIVE { &RECEIVE } else { &TRANSMIT }
    }
}

struct Reader(View);

fn open(opening: &Opening<'_>) -> Result<Box<dyn Probe>, Skip> {
    let latency = Range::LATENCY.bounds();
    let options = ObserverOptions {
        constants: &[latency.constant()],
        entries: &[("times", SERIES), ("packets", PACKETS)],
        spans: opening.spans,
        ..ObserverOptions::new(opening.machine.host_netns()?)
    };
    let KernelLatency { observer, times, packets, view } =
        KernelLatency::open(opening.machine.kernel()?, &options)?;
    let place = |place: &passage_place| Some((place.key, place.stage * HISTOGRAM_BUCKETS + place.bucket));
    let times = Times { table: times, exemplars: exemplars_of(observer.loaded(), place) };
    let entered = |packet: &passage| packet.entered.into_iter().max().unwrap_or_default();
    let maps = vec![Box::new(times) as Box<dyn KernelMap>, waiting("packets", packets, entered)];
    Observed::start(observer, maps, Reader(view), opening)
}

/// How long packets took, by whose they are.
struct Times {
    table: Table<passage_key, passage_times>,
    /// Places are stages, each with its buckets; the one behind the last is the total.
    exemplars: Option<Exemplars<passage_key>>,
}

impl KernelMap for Times {
    fn collect(
        &mut self,
        round: &Round<'_>,
        batch: &mut Batch<'_>,
        attached: u64,
    ) -> Result<Fill, TableError> {
        let mut sums = Sums::default();
        // Before the values, which then contain them.
        let shown = self.exemplars.as_ref().map(|take| take(round)).transpose()?.unwrap_or_default();
        let entries = self.table.for_each(|key, times| {
            sums.add(round, &origin(&key.entity), What::of(key), times);
        })?;
        for one in &shown {
            sums.show(round, &origin(&one.key.entity), What::of(&one.key), one);
        }
        for sum in sums {
            let mut emit = batch.entity(&sum.entity, Some(attached));
            sum.what.emit(&mut emit, &sum.value, &sum.shown, &round.clock);
        }
        Ok(Fill { map: "times", entries, limit: SERIES as usize })
    }

    fn forget(&mut self, is_gone: &dyn Fn(&entity) -> bool) -> Result<(), TableError> {
        self.table.retain(|key, _| !is_gone(&key.entity)).map(drop)
    }
}

/// What packets are told apart by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct What {
    receive: bool,
    family: Option<NetworkType>,
    sampling: u32,
}

impl What {
    fn of(key: &passage_key) -> Self {
        Self {
            receive: u32::from(key.direction) == DIRECTION_RECEIVE,
            family: family_name(key.family),
            sampling: key.sampling,
        }
    }

    /// The whole, and each stage that there is anything of.
    fn emit(self, emit: &mut Emitter<'_, '_>, times: &passage_times, shown: &Latest, clock: &Clock) {
        let direction = if self.receive { &RECEIVE } else { &TRANSMIT };
        let stages = direction.stages.iter().map(|(stage, _)| *stage).zip(&times.stages);
        for (number, (stage, durations)) in (0..).zip(stages.chain([(Stage::Total, &times.total)])) {
            if durations.count() > 0 {
                let first = number * HISTOGRAM_BUCKETS;
                let buckets = shown.range(first..first + HISTOGRAM_BUCKETS);
                let exemplars =
                    of_durations(buckets.map(|(place, raw)| (place - first, raw)), Range::LATENCY, clock);
                let attributes = self.attributes(stage);
                emit.histogram_with(direction.metric, &attributes, Range::LATENCY, durations, exemplars);
            }
        }
    }

    fn attributes(self, stage: Stage) -> Vec<Pair<'static>> {
        let mut attributes: Vec<Pair<'static>> = vec![(&key::KERNEL_STAGE, stage.as_str().into())];
        attributes.extend(self.family.map(|name| (&key::NETWORK_TYPE, name.as_str().into())));
        let factor = (self.sampling > 1).then(|| (&key::SAMPLING_FACTOR, i64::from(self.sampling).into()));
        attributes.extend(factor);
        attributes
    }
}

impl Reading for Reader {
    type Record = passage_event;

    fn link(&self, record: &passage_event) -> Option<Link> {
        Link::of(&record.span)
    }

    fn lasted(&self, record: &passage_event) -> Duration {
        Duration::from_nanos(record.duration)
    }

    fn occurrence(&mut self, record: &passage_event, clock: &Clock) -> Occurrence {
        let direction = Direction::of(&record.key);
        let (interface, seconds) = (packet::interface(&record.interface), |ns: u64| ns as f64 / 1e9);
        let mut facts = packet::attributes(&record.ends);
        facts.push(key_double(&key::PACKET_DELAY, seconds(record.duration)));
        facts.push(key_value(&key::PACKET_SIZE, i64::from(record.length)));
        facts.push(key_value(&key::NETWORK_INTERFACE_NAME, interface.as_str()));
        let sampling = i64::from(record.key.sampling);
        facts.extend((sampling > 1).then(|| key_value(&key::SAMPLING_FACTOR, sampling)));
        let mut parts = Vec::new();
        for ((stage, attribute), ns) in direction.stages.iter().zip(record.stages) {
            if ns != PASSAGE_UNKNOWN {
                facts.push(key_double(attribute, seconds(ns)));
                parts.push(format!("{} {:.3} s", stage.as_str(), seconds(ns)));
            }
        }
        let (sentence, took) = (packet::sentence(&record.ends), seconds(record.duration));
        let parts = if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) };
        Occurrence {
            event: direction.event,
            time_unix_nano: clock.at_boot(record.time),
            origin: origin(&record.key.entity),
            body: format!("{sentence}: took {took:.3} s {} of {interface}{parts}", direction.way),
            attributes: facts,
            link: None,
            lasted: Duration::ZERO,
        }
    }

    fn limitation(&self, missing: &[Missing]) -> Option<String> {
        let limits = [received(&self.0, missing), sent(&self.0).map(str::to_owned)];
        let limits: Vec<String> = limits.into_iter().flatten().collect();
        (!limits.is_empty())
            .then(|| format!("the kernel lets too few functions be hooked: {}", limits.join("; ")))
    }
}

/// What is not seen of packets that are received.
fn received(view: &View, missing: &[Missing]) -> Option<String> {
    if !view.local_in {
        return Some("received packets: only the total".to_owned());
    }
    let hooks: Vec<&str> = missing.iter().map(|missing| missing.hook.as_str()).collect();
    let contained = format!("received packets: without hook {} routing is in prerouting", hooks.join(", "));
    (!view.routing).then_some(contained)
}

/// What is not seen of packets that are sent.
fn sent(view: &View) -> Option<&'static str> {
    if !view.departures {
        return Some(
            "sent packets: only the stage neighbour, and of TCP the total from its decision to send",
        );
    }
    (!view.postrouting).then_some("sent packets: local_out and postrouting only in the total")
}

/// Reads a record as if it came out of the ring, without a kernel's names.
#[cfg(any(test, fuzzing))]
pub(super) fn read_record(bytes: &[u8]) {
    let view = View { local_in: true, routing: true, departures: true, postrouting: true };
    super::observed::read_record(Reader(view), bytes);
}
