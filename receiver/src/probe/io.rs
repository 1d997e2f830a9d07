//! What processes read and wrote, by container: system calls, the bytes that these moved, and the bytes that reached
//! storage.
//!
//! Counted in the kernel by cgroup, task by task, so that nothing is lost when a process ends, and none of it moves to the
//! parent that waits for it, as in `/proc/<pid>/io`. Counting begins with the probe: what processes did before cannot
//! be told apart from what their former children did, and would be gone with them at the receiver's next start.

mod ledger;

use jitterscope_ebpf::{
    abi::{io_cgroup, io_totals},
    io::{Io, Options},
};
use jitterscope_semconv::{Metric, attribute as key, metric, value::DiskIoDirection};

use self::ledger::Ledger;
use super::{
    CollectError, Definition, Opening, Overhead, Probe, Skip, Source, Usage, machine::EBPF_CAPABILITIES,
};
use crate::{
    batch::{Batch, Emitter, attributes::Pair},
    clock::Clock,
    pods::{Roots, hierarchy},
    round::Round,
};

/// Input and output.
pub(super) static DEFINITION: Definition = Definition {
    name: "io",
    use_when: "a disk is busy or a container waits for it: who reads and writes how much, and what of it reaches storage",
    source: Source::Ebpf,
    overhead: Overhead::Low,
    default: true,
    capabilities: EBPF_CAPABILITIES,
    options: &[],
    metrics: &[&metric::IO_OPERATIONS, &metric::IO_IO, &metric::IO_STORAGE_IO, &metric::IO_STORAGE_CANCELLED],
    events: &[],
    open,
};

struct InputOutput {
    program: Io,
    ledger: Ledger,
    /// Nanoseconds since the epoch when counting began.
    started: u64,
    /// How full the maps are, as of the last collection.
    entries: Vec<(&'static str, u64)>,
}

fn open(opening: &Opening<'_>) -> Result<Box<dyn Probe>, Skip> {
    let kernel = opening.machine.kernel()?;
    if hierarchy(&Roots::default().cgroup).is_none() {
        let reason = "no cgroup v2 hierarchy is mounted, so that containers' tasks cannot be told apart";
        return Err(Skip::Missing(reason.to_owned()));
    }
    if !kernel.btf().has_member("task_io_accounting", "read_bytes") {
        let reason = "the kernel does not account input and output (CONFIG_TASK_IO_ACCOUNTING)";
        return Err(Skip::Missing(reason.to_owned()));
    }
    let program = Io::open(kernel, &Options::default())?;
    let started = Clock::read().at_boot(program.state()?.since);
    Ok(Box::new(InputOutput { program, ledger: Ledger::default(), started, entries: Vec::new() }))
}

impl Probe for InputOutput {
    fn collect(&mut self, round: &Round<'_>, batch: &mut Batch<'_>) -> Result<(), CollectError> {
        self.program.pass()?;
        let mut rows: Vec<(u64, io_cgroup)> = Vec::new();
        self.program.cgroups.for_each(|id, row| rows.push((*id, *row)))?;
        let totals = self.ledger.add_up(&rows, round);
        for (entity, totals) in totals.entities {
            emit(&totals, &[], &mut batch.entity(&entity, Some(self.started)));
        }
        if totals.rest != io_totals::default() {
            let overflow = [(&key::OTEL_METRIC_OVERFLOW, true.into())];
            emit(&totals.rest, &overflow, &mut batch.entity(&round.pods.node(), Some(self.started)));
        }
        totals.gone.iter().try_for_each(|id| self.program.cgroups.remove(id).map(drop))?;
        self.entries = vec![("tasks", self.program.state()?.tasks), ("cgroups", rows.len() as u64)];
        Ok(())
    }

    fn limitation(&self) -> Option<String> {
        let reason = "the kernel does not let tracing programs lock: what a task did since the last collection is \
                      counted twice if it exits in the very instant of the next";
        (!self.program.locks()).then(|| reason.to_owned())
    }

    fn usage(&self) -> Usage {
        Usage { entries: self.entries.clone(), ..Usage::of(self.program.loaded()) }
    }
}

fn emit(totals: &io_totals, more: &[Pair<'_>], emit: &mut Emitter<'_, '_>) {
    both(&metric::IO_OPERATIONS, (totals.read_calls, totals.write_calls), more, emit);
    both(&metric::IO_IO, (totals.read_chars, totals.write_chars), more, emit);
    both(&metric::IO_STORAGE_IO, (totals.read_bytes, totals.write_bytes), more, emit);
    emit.counter(&metric::IO_STORAGE_CANCELLED, more, totals.cancelled_write_bytes);
}

fn both(metric: &'static Metric, (read, written): (u64, u64), more: &[Pair<'_>], emit: &mut Emitter<'_, '_>) {
    for (direction, value) in [(DiskIoDirection::Read, read), (DiskIoDirection::Write, written)] {
        let direction = (&key::DISK_IO_DIRECTION, direction.as_str().into());
        let attributes: Vec<Pair<'_>> = std::iter::once(direction).chain(more.iter().cloned()).collect();
        emit.counter(metric, &attributes, value);
    }
}
