//! How long block requests are queued and how long their devices take, by container.

use std::{sync::Arc, time::Duration};

use jitterscope_ebpf::{
    Constant, Loaded, Object, Observer, ObserverOptions, TableError,
    abi::{block_event, block_key, block_request, histogram},
    btf::Btf,
    histogram::Range,
};
use jitterscope_semconv::{attribute as key, event as events, metric};
use opentelemetry_proto::tonic::common::v1::KeyValue;

use super::{
    Definition, Opening, Overhead, Probe, ProbeOption, Skip, Source,
    command::{command, text},
    machine::EBPF_CAPABILITIES,
    maps::{Attributes, KernelMap, Told, by_cgroup, in_flight},
    observed::{Observed, Reading, origin},
};
use crate::{
    batch::{
        Occurrence,
        attributes::{Pair, key_double, key_value},
    },
    clock::Clock,
};

/// What a spinning disk takes for one request, and a multiple of what others take.
const THRESHOLD: Duration = Duration::from_millis(10);

/// Block requests.
pub(super) static DEFINITION: Definition = Definition {
    name: "biolatency",
    use_when: "files are slow to read or to write: how long block requests are queued, how long the device takes, and whose they are",
    source: Source::Ebpf,
    overhead: Overhead::Low,
    default: false,
    capabilities: EBPF_CAPABILITIES,
    options: &[ProbeOption::Events, ProbeOption::Threshold(THRESHOLD)],
    metrics: &[&metric::BLOCK_QUEUE_WAIT, &metric::BLOCK_DURATION],
    events: &[&events::BLOCK_SLOW],
    open,
};

/// Most series: reads and writes of 250 pods on two disks.
const SERIES: u32 = 1024;
/// Most requests on their way: sixteen full queues of a fast disk.
const REQUESTS: u32 = 16_384;
/// Arguments of the tracepoints that have the queue before the request.
const WITH_QUEUE: usize = 2;

struct BioLatency {
    operations: Arc<Operations>,
}

fn open(opening: &Opening<'_>) -> Result<Box<dyn Probe>, Skip> {
    let latency = Range::LATENCY.bounds();
    let kernel = opening.machine.kernel()?;
    let queue_first = u32::from(kernel.btf().tracepoint_arguments("block_rq_issue") == Some(WITH_QUEUE));
    let options = ObserverOptions {
        constants: &[latency.constant(), Constant { name: "queue_first", value: &queue_first.to_ne_bytes() }],
        entries: &[("waits", SERIES), ("durations", SERIES), ("requests", REQUESTS)],
        ..ObserverOptions::new(opening.machine.host_netns()?)
    };
    let operations = Arc::new(Operations::read(kernel.btf()));
    let observer = Observer::open(&Object::BIOLATENCY, kernel, &options)?;
    let maps = maps(observer.loaded(), &operations)?;
    Observed::start(observer, maps, BioLatency { operations }, opening)
}

fn maps(loaded: &Loaded, operations: &Arc<Operations>) -> Result<Vec<Box<dyn KernelMap>>, TableError> {
    let times = |map, metric| {
        let table = loaded.table::<block_key, histogram>(map)?;
        let names = Arc::clone(operations);
        let told = Told::new(map, SERIES, metric);
        Ok(by_cgroup(told, table, |key| key.cgroup, move |key| Some(What::of(key, &names))))
    };
    Ok(vec![
        times("waits", &metric::BLOCK_QUEUE_WAIT)?,
        times("durations", &metric::BLOCK_DURATION)?,
        in_flight("requests", loaded.table::<u64, block_request>("requests")?),
    ])
}

/// What requests of a cgroup are told apart by.
#[derive(Clone, PartialEq, Eq, Hash)]
struct What {
    operation: String,
    disk: String,
}

impl What {
    fn of(key: &block_key, operations: &Operations) -> Self {
        Self { operation: operations.name(key.operation), disk: text(&key.disk) }
    }
}

impl Attributes for What {
    fn attributes(&self) -> Vec<Pair<'_>> {
        let disk = Some(&self.disk).filter(|disk| !disk.is_empty());
        let operation = (&key::BLOCK_OPERATION, self.operation.as_str().into());
        let disk = disk.map(|disk| (&key::SYSTEM_DEVICE, disk.as_str().into()));
        std::iter::once(operation).chain(disk).collect()
    }
}

impl Reading for BioLatency {
    type Record = block_event;

    fn occurrence(&mut self, record: &block_event, clock: &Clock) -> Occurrence {
        let request = &record.request;
        let operation = self.operations.name(request.key.operation);
        let (disk, name) = (text(&request.key.disk), command(&request.command));
        let [queued, took] =
            [request.issued.saturating_sub(request.began), record.duration].map(|ns| ns as f64 / 1e9);
        let body = format!(
            "{operation} of {} bytes at sector {} of {disk} by {name} (pid {}) was queued for {queued:.3} s and took {took:.3} s",
            request.size, request.sector, request.pid
        );
        let mut facts = facts(request);
        facts.extend((!disk.is_empty()).then(|| key_value(&key::SYSTEM_DEVICE, disk.as_str())));
        facts.push(key_value(&key::BLOCK_OPERATION, operation.as_str()));
        facts.push(key_double(&key::BLOCK_QUEUE_DELAY, queued));
        facts.push(key_double(&key::BLOCK_DEVICE_DELAY, took));
        Occurrence {
            event: &events::BLOCK_SLOW,
            time_unix_nano: clock.at_boot(record.head.time),
            origin: origin(&record.head.entity),
            body,
            attributes: facts,
            link: None,
            lasted: Duration::ZERO,
        }
    }
}

/// Where the request goes, and who queued it.
fn facts(request: &block_request) -> Vec<KeyValue> {
    let sector = i64::try_from(request.sector).unwrap_or(i64::MAX);
    vec![
        key_value(&key::BLOCK_SECTOR, sector),
        key_value(&key::BLOCK_SIZE, i64::from(request.size)),
        key_value(&key::TASK_COMMAND, command(&request.command).as_str()),
        key_value(&key::PROCESS_PID, i64::from(request.pid)),
    ]
}

/// Names of operations, by number.
#[derive(Default)]
struct Operations(Vec<(String, u64)>);

impl Operations {
    /// As the running kernel has them, in lower case and without what they all begin with: `write_zeroes`.
    fn read(btf: &Btf) -> Self {
        let all = btf.enumerators_beside("REQ_OP_WRITE").unwrap_or_default();
        let short = |(name, number): (String, u64)| {
            Some((name.strip_prefix("REQ_OP_")?.to_ascii_lowercase(), number))
        };
        Self(all.into_iter().filter_map(short).collect())
    }

    fn name(&self, number: u32) -> String {
        let found = self.0.iter().find(|(_, known)| *known == u64::from(number));
        found.map_or_else(|| number.to_string(), |(name, _)| name.clone())
    }
}

/// Reads a record as if it came out of the ring, without a kernel's names.
#[cfg(any(test, fuzzing))]
pub(super) fn read_record(bytes: &[u8]) {
    super::observed::read_record(BioLatency { operations: Arc::default() }, bytes);
}
