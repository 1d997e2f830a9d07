//! How long softirqs wait and run, and who is in their way: the part of interrupts that takes packets from the devices, ends
//! timers and completes block requests. What keeps interrupts off altogether delays the raise itself, and is not seen here.

use std::{sync::Arc, time::Duration};

use jitterscope_ebpf::{
    Loaded, Object, Observer, ObserverOptions, PerCpuTable, TableError,
    abi::{SOFTIRQ_RUN, histogram, softirq_event, stretch},
    btf::Btf,
    histogram::Range,
};
use jitterscope_semconv::{Metric, attribute as key, event as events, metric, value::SoftirqStage as Stage};
use opentelemetry_proto::tonic::common::v1::KeyValue;

use super::{
    Definition, Opening, Overhead, Probe, ProbeOption, Skip, Source,
    command::command,
    machine::EBPF_CAPABILITIES,
    maps::{Fill, KernelMap},
    observed::{Observed, Reading, origin},
};
use crate::{
    batch::{
        Batch, Occurrence,
        attributes::{key_double, key_value},
    },
    clock::Clock,
    round::Round,
};

/// Several ticks of the clock: what waits less is waiting for a busy CPU, not for a stuck one.
const THRESHOLD: Duration = Duration::from_millis(10);

/// Softirqs.
pub(super) static DEFINITION: Definition = Definition {
    name: "softirq",
    use_when: "packets or timers come late although the network is well: how long softirqs wait and run, and who holds them off",
    source: Source::Ebpf,
    overhead: Overhead::Medium,
    default: false,
    capabilities: EBPF_CAPABILITIES,
    options: &[ProbeOption::Events, ProbeOption::Threshold(THRESHOLD)],
    metrics: &[&metric::SOFTIRQ_WAIT, &metric::SOFTIRQ_DURATION],
    events: &[&events::SOFTIRQ_SLOW],
    open,
};

/// How the kernel's names of vectors end.
const SUFFIX: &str = "_SOFTIRQ";

struct Softirq {
    names: Arc<Names>,
}

fn open(opening: &Opening<'_>) -> Result<Box<dyn Probe>, Skip> {
    let latency = Range::LATENCY.bounds();
    let kernel = opening.machine.kernel()?;
    let options = ObserverOptions {
        constants: &[latency.constant()],
        ..ObserverOptions::new(opening.machine.host_netns()?)
    };
    let names = Arc::new(Names::read(kernel.btf()));
    let observer = Observer::open(&Object::SOFTIRQ, kernel, &options)?;
    let maps = vec![
        Vectors::open(observer.loaded(), "waits", &metric::SOFTIRQ_WAIT, &names)?,
        Vectors::open(observer.loaded(), "durations", &metric::SOFTIRQ_DURATION, &names)?,
    ];
    Observed::start(observer, maps, Softirq { names }, opening)
}

/// Durations by vector, the node's.
struct Vectors {
    map: &'static str,
    metric: &'static Metric,
    table: PerCpuTable<u32, histogram>,
    names: Arc<Names>,
}

impl Vectors {
    fn open(
        loaded: &Loaded,
        map: &'static str,
        metric: &'static Metric,
        names: &Arc<Names>,
    ) -> Result<Box<dyn KernelMap>, TableError> {
        Ok(Box::new(Self { map, metric, table: loaded.per_cpu_table(map)?, names: Arc::clone(names) }))
    }
}

impl KernelMap for Vectors {
    fn collect(
        &mut self,
        round: &Round<'_>,
        batch: &mut Batch<'_>,
        attached: u64,
    ) -> Result<Fill, TableError> {
        let mut emit = batch.entity(&round.pods.node(), Some(attached));
        let entries = self.table.for_each(|vector, durations| {
            if durations.count() > 0 {
                let name = self.names.of(*vector);
                let vector = (&key::SOFTIRQ_VECTOR, name.as_str().into());
                emit.histogram(self.metric, &[vector], Range::LATENCY, durations);
            }
        })?;
        Ok(Fill { map: self.map, entries, limit: usize::MAX })
    }
}

impl Reading for Softirq {
    type Record = softirq_event;

    fn occurrence(&mut self, record: &softirq_event, clock: &Clock) -> Occurrence {
        let vector = self.names.of(record.vector);
        let stage = if record.stage == SOFTIRQ_RUN { Stage::Run } else { Stage::Wait };
        let seconds = record.duration as f64 / 1e9;
        let mut facts = vec![
            key_value(&key::SOFTIRQ_VECTOR, vector.as_str()),
            key_value(&key::SOFTIRQ_STAGE, stage.as_str()),
            key_double(&key::SOFTIRQ_DELAY, seconds),
            key_value(&key::CPU_LOGICAL_NUMBER, i64::from(record.cpu)),
        ];
        let (more, holder) = self.holder(&record.holder);
        facts.extend(more);
        let body = match stage {
            Stage::Wait => {
                format!("softirq {vector} waited {seconds:.3} s on CPU {}, which {holder}", record.cpu)
            }
            Stage::Run => format!("softirq {vector} kept CPU {} for {seconds:.3} s", record.cpu),
        };
        Occurrence {
            event: &events::SOFTIRQ_SLOW,
            time_unix_nano: clock.at_boot(record.head.time),
            origin: origin(&record.head.entity),
            body,
            attributes: facts,
            link: None,
            lasted: Duration::ZERO,
        }
    }
}

impl Softirq {
    /// Who had the CPU, in attributes and in words.
    fn holder(&self, holder: &stretch) -> (Vec<KeyValue>, String) {
        if holder.to == 0 {
            return (Vec::new(), "nobody had for long".to_owned());
        }
        if let Some(vector) = holder.handler.checked_sub(1) {
            let name = self.names.of(vector);
            let facts = vec![key_value(&key::SOFTIRQ_HOLDER_VECTOR, name.as_str())];
            return (facts, format!("softirq {name} had"));
        }
        let name = command(&holder.command);
        let facts = vec![
            key_value(&key::TASK_COMMAND, name.as_str()),
            key_value(&key::PROCESS_PID, i64::from(holder.pid)),
        ];
        let words = match holder.pid {
            0 => "was idle".to_owned(),
            pid => format!("{name} (pid {pid}) had"),
        };
        (facts, words)
    }
}

/// Names of the vectors, by number.
#[derive(Default)]
struct Names(Vec<(String, u64)>);

impl Names {
    /// As the running kernel has them, in lower case and without their common end: `net_rx`.
    fn read(btf: &Btf) -> Self {
        let all = btf.enumerators_beside("NET_RX_SOFTIRQ").unwrap_or_default();
        let short =
            |(name, number): (String, u64)| Some((name.strip_suffix(SUFFIX)?.to_ascii_lowercase(), number));
        Self(all.into_iter().filter_map(short).collect())
    }

    fn of(&self, vector: u32) -> String {
        let found = self.0.iter().find(|(_, number)| *number == u64::from(vector));
        found.map_or_else(|| vector.to_string(), |(name, _)| name.clone())
    }
}

/// Reads a record as if it came out of the ring, without a kernel's names.
#[cfg(any(test, fuzzing))]
pub(super) fn read_record(bytes: &[u8]) {
    super::observed::read_record(Softirq { names: Arc::default() }, bytes);
}
