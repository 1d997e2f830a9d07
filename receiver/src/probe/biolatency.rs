//! How long block requests are queued and how long their devices take, by container.

use std::{collections::HashSet, time::Duration};

use jitterscope_ebpf::{
    Constant, Object, Observer, ObserverOptions, Table, TableError,
    abi::{DISK_NAME, block_event, block_key, block_request, entity, histogram},
    btf::Btf,
    histogram::Range,
};
use jitterscope_semconv::{Metric, attribute as key, event as events, metric};
use opentelemetry_proto::tonic::common::v1::KeyValue;

use super::{
    CollectError, Definition, Opening, Overhead, Probe, ProbeOption, Skip, Source,
    cgroups::{Ledger, Row},
    command::{command, text},
    machine::EBPF_CAPABILITIES,
    observed::{Fill, Observed, Reading, origin},
};
use crate::{
    batch::{
        Batch, Occurrence,
        attributes::{Pair, key_double, key_value},
    },
    clock::Clock,
    round::Round,
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
    observer: Observer,
    waits: Series,
    durations: Series,
    requests: Table<u64, block_request>,
    operations: Operations,
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
    let operations = Operations::read(kernel.btf());
    let observer = Observer::open(&Object::BIOLATENCY, kernel, &options)?;
    let probe = BioLatency {
        waits: Series::open(&observer, "waits", &metric::BLOCK_QUEUE_WAIT)?,
        durations: Series::open(&observer, "durations", &metric::BLOCK_DURATION)?,
        requests: observer.loaded().table("requests")?,
        observer,
        operations,
    };
    Observed::start(probe, opening)
}

/// The histograms of one metric.
struct Series {
    map: &'static str,
    metric: &'static Metric,
    table: Table<block_key, histogram>,
    ledger: Ledger<What, histogram>,
}

/// What requests of a cgroup are told apart by: operation and disk.
type What = (u32, [u8; DISK_NAME as usize]);

impl Series {
    fn open(observer: &Observer, map: &'static str, metric: &'static Metric) -> Result<Self, TableError> {
        Ok(Self { map, metric, table: observer.loaded().table(map)?, ledger: Ledger::default() })
    }

    fn emit(
        &mut self,
        operations: &Operations,
        round: &Round<'_>,
        batch: &mut Batch<'_>,
        attached: u64,
    ) -> Result<Fill, TableError> {
        let mut rows: Vec<Row<What, histogram>> = Vec::new();
        self.table
            .for_each(|key, durations| rows.push((key.cgroup, (key.operation, key.disk), *durations)))?;
        let (sums, gone) = self.ledger.add_up(&rows, round);
        for sum in sums {
            let (operation, disk) = (operations.name(sum.what.0), text(&sum.what.1));
            let mut attributes: Vec<Pair<'_>> = vec![(&key::BLOCK_OPERATION, operation.as_str().into())];
            if !disk.is_empty() {
                attributes.push((&key::SYSTEM_DEVICE, disk.as_str().into()));
            }
            let mut emit = batch.entity(&sum.entity, Some(attached));
            emit.histogram(self.metric, &attributes, Range::LATENCY, &sum.value);
        }
        self.remove(&gone)?;
        Ok(Fill { map: self.map, entries: rows.len(), limit: SERIES as usize })
    }

    fn remove(&self, gone: &HashSet<u64>) -> Result<(), TableError> {
        if gone.is_empty() {
            return Ok(());
        }
        self.table.retain(|key, _| !gone.contains(&key.cgroup)).map(drop)
    }
}

impl Reading for BioLatency {
    type Record = block_event;

    fn observer(&self) -> &Observer {
        &self.observer
    }

    fn observer_mut(&mut self) -> &mut Observer {
        &mut self.observer
    }

    fn emit(
        &mut self,
        round: &Round<'_>,
        batch: &mut Batch<'_>,
        attached: u64,
    ) -> Result<Vec<Fill>, CollectError> {
        let waits = self.waits.emit(&self.operations, round, batch, attached)?;
        let durations = self.durations.emit(&self.operations, round, batch, attached)?;
        let entries = self.requests.for_each(|_, _| {})?;
        Ok(vec![waits, durations, Fill { map: "requests", entries, limit: REQUESTS as usize }])
    }

    fn overflows_to(&self) -> &'static Metric {
        &metric::BLOCK_DURATION
    }

    /// The ledgers do that.
    fn forget(&self, _is_gone: &dyn Fn(&entity) -> bool) -> Result<(), TableError> {
        Ok(())
    }

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
