//! How long tasks wait for a CPU, by container, and who ran instead: on the CPU that they got in the end. A container that is
//! held off by its own limit waits too.

use std::time::Duration;

use jitterscope_ebpf::{
    Object, Observer, ObserverOptions,
    abi::{histogram, runnable, scheduler_event, stretch},
    histogram::Range,
};
use jitterscope_semconv::{attribute as key, event as events, metric};
use opentelemetry_proto::tonic::common::v1::KeyValue;

use super::{
    Definition, Opening, Overhead, Probe, ProbeOption, Skip, Source,
    command::command,
    machine::EBPF_CAPABILITIES,
    maps::{Told, by_cgroup, in_flight},
    observed::{Observed, Reading, origin},
};
use crate::{
    batch::{
        Occurrence,
        attributes::{key_double, key_value},
    },
    clock::Clock,
    pods::{Roots, hierarchy},
};

/// Several turns of a fair share of the CPU: who waits longer is held off, or has too many beside it.
const THRESHOLD: Duration = Duration::from_millis(20);

/// Waits for a CPU.
pub(super) static DEFINITION: Definition = Definition {
    name: "schedlatency",
    use_when: "a container answers late although nothing fails: how long its tasks wait for a CPU, and who runs instead",
    source: Source::Ebpf,
    overhead: Overhead::Medium,
    default: false,
    capabilities: EBPF_CAPABILITIES,
    options: &[ProbeOption::Events, ProbeOption::Threshold(THRESHOLD)],
    metrics: &[&metric::SCHEDULER_WAIT],
    events: &[&events::SCHEDULER_SLOW],
    open,
};

/// Most cgroups: four of each of 250 pods.
const SERIES: u32 = 1024;
/// Most tasks that wait for a CPU at one time.
const RUNNABLE: u32 = 16_384;

struct SchedLatency;

fn open(opening: &Opening<'_>) -> Result<Box<dyn Probe>, Skip> {
    if hierarchy(&Roots::default().cgroup).is_none() {
        let reason = "no cgroup v2 hierarchy is mounted, so that containers' tasks cannot be told apart";
        return Err(Skip::Missing(reason.to_owned()));
    }
    let latency = Range::LATENCY.bounds();
    let options = ObserverOptions {
        constants: &[latency.constant()],
        entries: &[("waits", SERIES), ("runnable", RUNNABLE)],
        ..ObserverOptions::new(opening.machine.host_netns()?)
    };
    let observer = Observer::open(&Object::SCHEDLATENCY, opening.machine.kernel()?, &options)?;
    let told = Told::new("waits", SERIES, &metric::SCHEDULER_WAIT);
    let waits = observer.loaded().table::<u64, histogram>(told.map)?;
    let runnable = observer.loaded().table::<u64, runnable>("runnable")?;
    let maps = vec![by_cgroup(told, waits, |cgroup| *cgroup, |_| Some(())), in_flight("runnable", runnable)];
    Observed::start(observer, maps, SchedLatency, opening)
}

impl Reading for SchedLatency {
    type Record = scheduler_event;

    fn occurrence(&mut self, record: &scheduler_event, clock: &Clock) -> Occurrence {
        let (name, seconds) = (command(&record.command), record.wait as f64 / 1e9);
        let mut facts = vec![
            key_double(&key::SCHEDULER_DELAY, seconds),
            key_value(&key::SCHEDULER_PREEMPTED, record.preempted != 0),
            key_value(&key::CPU_LOGICAL_NUMBER, i64::from(record.cpu)),
            key_value(&key::TASK_COMMAND, name.as_str()),
            key_value(&key::PROCESS_PID, i64::from(record.pid)),
        ];
        let (more, instead) = instead(&record.instead);
        facts.extend(more);
        let how = if record.preempted == 0 { "was woken" } else { "lost its CPU" };
        Occurrence {
            event: &events::SCHEDULER_SLOW,
            time_unix_nano: clock.at_boot(record.head.time),
            origin: origin(&record.head.entity),
            body: format!(
                "{name} (pid {}) {how} and waited {seconds:.3} s for CPU {}, which {instead}",
                record.pid, record.cpu
            ),
            attributes: facts,
            link: None,
            lasted: Duration::ZERO,
        }
    }
}

/// Who had the CPU, in attributes and in words.
fn instead(holder: &stretch) -> (Vec<KeyValue>, String) {
    if holder.to == 0 {
        return (Vec::new(), "nobody had for long".to_owned());
    }
    let name = command(&holder.command);
    let facts = vec![
        key_value(&key::SCHEDULER_INSTEAD_COMMAND, name.as_str()),
        key_value(&key::SCHEDULER_INSTEAD_PID, i64::from(holder.pid)),
    ];
    let words = match holder.pid {
        0 => "was idle".to_owned(),
        pid => format!("{name} (pid {pid}) had"),
    };
    (facts, words)
}

/// Reads a record as if it came out of the ring, without a kernel's names.
#[cfg(any(test, fuzzing))]
pub(super) fn read_record(bytes: &[u8]) {
    super::observed::read_record(SchedLatency, bytes);
}
