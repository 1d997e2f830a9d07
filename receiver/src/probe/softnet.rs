//! The receive path of the node's CPUs, from `/proc/net/softnet_stat`: it is the same in every namespace, so it is the
//! node's alone.

use std::collections::BTreeMap;

use jitterscope_semconv::{Metric, attribute as key, metric};

use super::{CollectError, Definition, Opening, Overhead, Probe, ProbeOption, Skip, Source};
use crate::{
    batch::{Batch, Emitter, attributes::Pair},
    config::ProbeSettings,
    round::{Round, softnet::Cpu},
};

/// Counters of the receive path.
pub(super) static DEFINITION: Definition = Definition {
    name: "softnet",
    use_when: "the node drops packets before any pod sees them: full CPU queues, too little time to take packets",
    source: Source::Procfs,
    overhead: Overhead::Low,
    default: true,
    capabilities: &[],
    options: &[ProbeOption::PerCpu],
    metrics: &[
        &metric::SOFTNET_PACKETS,
        &metric::SOFTNET_DROPS,
        &metric::SOFTNET_TIME_SQUEEZES,
        &metric::SOFTNET_RECEIVED_RPS,
        &metric::SOFTNET_FLOW_LIMITS,
        &metric::SOFTNET_BACKLOG,
    ],
    events: &[],
    open,
};

/// A counter of a CPU: its metric and where it is.
type Counter = (&'static Metric, fn(&Cpu) -> u32);

const COUNTERS: [Counter; 5] = [
    (&metric::SOFTNET_PACKETS, |cpu| cpu.processed),
    (&metric::SOFTNET_DROPS, |cpu| cpu.dropped),
    (&metric::SOFTNET_TIME_SQUEEZES, |cpu| cpu.time_squeezes),
    (&metric::SOFTNET_RECEIVED_RPS, |cpu| cpu.received_rps),
    (&metric::SOFTNET_FLOW_LIMITS, |cpu| cpu.flow_limited),
];

struct Softnet {
    per_cpu: bool,
    /// What each CPU has counted, by its number. A CPU that is offline keeps its place: the sum never falls.
    cpus: BTreeMap<u32, Counted>,
}

/// A CPU's counters, wide enough not to wrap, and how they were last read.
#[derive(Default)]
struct Counted {
    totals: [u64; COUNTERS.len()],
    last: Cpu,
}

fn open(opening: &Opening<'_>) -> Result<Box<dyn Probe>, Skip> {
    Ok(Box::new(Softnet { per_cpu: opening.settings.per_cpu, cpus: BTreeMap::new() }))
}

impl Probe for Softnet {
    fn collect(&mut self, round: &Round<'_>, batch: &mut Batch<'_>) -> Result<(), CollectError> {
        let Some(host) = round.namespaces().find(|namespace| namespace.namespace.host) else { return Ok(()) };
        let read = host.softnet_stat();
        for cpu in &read {
            self.cpus.entry(cpu.number).or_default().add(cpu);
        }
        let mut emit = batch.entity(&host.namespace.entity, host.namespace.started_unix_nano);
        self.counters(&mut emit);
        self.backlog(&read, &mut emit);
        Ok(())
    }

    fn reconfigure(&mut self, settings: &ProbeSettings) -> Result<(), CollectError> {
        self.per_cpu = settings.per_cpu;
        Ok(())
    }
}

impl Softnet {
    fn counters(&self, emit: &mut Emitter<'_, '_>) {
        for (at, (metric, _)) in COUNTERS.iter().enumerate() {
            if self.per_cpu {
                for (number, cpu) in &self.cpus {
                    emit.counter(metric, &[of(*number)], cpu.totals[at]);
                }
            } else if !self.cpus.is_empty() {
                emit.counter(metric, &[], self.cpus.values().map(|cpu| cpu.totals[at]).sum());
            }
        }
    }

    /// Packets that wait at the CPUs that are online, where the kernel says so.
    fn backlog(&self, read: &[Cpu], emit: &mut Emitter<'_, '_>) {
        let known = read.iter().filter_map(|cpu| Some((cpu.number, i64::from(cpu.backlog?))));
        if self.per_cpu {
            known.for_each(|(number, waiting)| emit.amount(&metric::SOFTNET_BACKLOG, &[of(number)], waiting));
        } else if let Some(waiting) = known.map(|(_, waiting)| waiting).reduce(|sum, one| sum + one) {
            emit.amount(&metric::SOFTNET_BACKLOG, &[], waiting);
        }
    }
}

fn of(number: u32) -> Pair<'static> {
    (&key::CPU_LOGICAL_NUMBER, i64::from(number).into())
}

impl Counted {
    fn add(&mut self, cpu: &Cpu) {
        for (total, (_, counter)) in self.totals.iter_mut().zip(COUNTERS) {
            *total += u64::from(progress(counter(&self.last), counter(cpu)));
        }
        self.last = *cpu;
    }
}

/// How far a counter of 32 bits came. Between two rounds it passes less than half of its range, so one that seems to fall
/// by more has wrapped; one that falls by less began anew, as the flow limit's does when it is switched off.
fn progress(last: u32, now: u32) -> u32 {
    let passed = now.wrapping_sub(last);
    if passed <= u32::MAX / 2 { passed } else { now }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(values: &[u32]) -> u64 {
        let mut counted = Counted::default();
        values.iter().for_each(|&processed| counted.add(&Cpu { processed, ..Cpu::default() }));
        counted.totals[0]
    }

    #[test]
    fn a_counter_that_wraps_goes_on() {
        assert_eq!(counted(&[u32::MAX - 1, 3]), u64::from(u32::MAX) + 4);
        assert_eq!(counted(&[7, 7, 9]), 9);
    }

    #[test]
    fn a_counter_that_began_anew_keeps_what_it_had() {
        assert_eq!(counted(&[100, 0, 5]), 105);
    }
}
