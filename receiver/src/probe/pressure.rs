//! Time for which tasks waited for a resource (PSI, `Documentation/accounting/psi.rst`), from the `*.pressure` files of each
//! pod's and container's cgroup, and from `/proc/pressure` for the node with everything on it.

use std::{fs::File, io::Read, path::Path, time::Duration};

use jitterscope_semconv::{
    attribute as key, metric,
    value::{PressureKind, PressureResource},
};

use super::{CollectError, Definition, Opening, Overhead, Probe, Skip, Source};
use crate::{
    batch::{Batch, Emitter},
    pods::{Roots, hierarchy},
    round::Round,
};

/// Pressure stall information.
pub(super) static DEFINITION: Definition = Definition {
    name: "pressure",
    use_when: "a container is slow for no reason of its own: how long its tasks waited for processor, memory or storage",
    source: Source::Procfs,
    overhead: Overhead::Low,
    default: true,
    capabilities: &[],
    options: &[],
    metrics: &[&metric::PRESSURE_TIME],
    events: &[],
    open,
};

/// The node's files, of the same names without an ending.
const NODE: &str = "/proc/pressure";

/// Resources in the order of the documentation. `irq` came with 6.1, where the kernel accounts interrupts' time.
const RESOURCES: [PressureResource; 4] =
    [PressureResource::Cpu, PressureResource::Memory, PressureResource::Io, PressureResource::Irq];

struct Pressure {
    /// Those that this kernel accounts.
    resources: Vec<PressureResource>,
    limitation: Option<String>,
    buffer: String,
}

fn open(_: &Opening<'_>) -> Result<Box<dyn Probe>, Skip> {
    let mut buffer = String::new();
    let node = Path::new(NODE);
    let is_there = |resource: &PressureResource| read(&mut buffer, &node.join(resource.as_str())).is_some();
    let resources: Vec<PressureResource> = RESOURCES.into_iter().filter(is_there).collect();
    if resources.is_empty() {
        let reason = "the kernel accounts no pressure: it is built without CONFIG_PSI, or with \
                      CONFIG_PSI_DEFAULT_DISABLED and started without psi=1";
        return Err(Skip::Missing(reason.to_owned()));
    }
    let limitation = hierarchy(&Roots::default().cgroup)
        .is_none()
        .then(|| "no cgroup v2 hierarchy is mounted: the node's pressure only".to_owned());
    Ok(Box::new(Pressure { resources, limitation, buffer: String::new() }))
}

impl Probe for Pressure {
    fn collect(&mut self, round: &Round<'_>, batch: &mut Batch<'_>) -> Result<(), CollectError> {
        let booted = round.pods.namespaces().first().and_then(|host| host.started_unix_nano);
        self.emit(Path::new(NODE), "", &mut batch.entity(&round.pods.node(), booted));
        for directory in round.pods.directories() {
            let mut emit = batch.entity(&directory.entity, directory.started_unix_nano);
            self.emit(&directory.path, ".pressure", &mut emit);
        }
        Ok(())
    }

    fn limitation(&self) -> Option<String> {
        self.limitation.clone()
    }
}

impl Pressure {
    /// Emits what is in the files of one directory. They go away with their cgroup, and can be switched off
    /// (`cgroup.pressure`): then there is nothing to emit.
    fn emit(&mut self, directory: &Path, ending: &str, emit: &mut Emitter<'_, '_>) {
        for resource in &self.resources {
            let file = directory.join(format!("{}{ending}", resource.as_str()));
            let Some(text) = read(&mut self.buffer, &file) else { continue };
            for (kind, time) in lines(text).filter(|(kind, _)| !ending.is_empty() || means(*resource, *kind))
            {
                let attributes = [
                    (&key::PRESSURE_RESOURCE, resource.as_str().into()),
                    (&key::PRESSURE_KIND, kind.as_str().into()),
                ];
                emit.time(&metric::PRESSURE_TIME, &attributes, time);
            }
        }
    }
}

/// Whether the node can have such a time: some task always runs when all others wait for the processor. The kernel
/// shows zero there (since 5.13) for the format's sake.
fn means(resource: PressureResource, kind: PressureKind) -> bool {
    (resource, kind) != (PressureResource::Cpu, PressureKind::Full)
}

/// The text of a file, in `buffer`; `None` where there is none or the kernel refuses (`EOPNOTSUPP`: switched off).
fn read<'b>(buffer: &'b mut String, file: &Path) -> Option<&'b str> {
    buffer.clear();
    File::open(file).ok()?.read_to_string(buffer).ok()?;
    Some(buffer)
}

/// The lines `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, of which the total is in microseconds (`psi_show`,
/// kernel/sched/psi.c).
fn lines(text: &str) -> impl Iterator<Item = (PressureKind, Duration)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let kind = match fields.next()? {
            "some" => PressureKind::Some,
            "full" => PressureKind::Full,
            _ => return None,
        };
        let total = fields.find_map(|field| field.strip_prefix("total="))?;
        Some((kind, Duration::from_micros(total.parse().ok()?)))
    })
}

/// Reads the text of a file.
#[cfg(any(test, fuzzing))]
pub(super) fn read_lines(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    assert!(lines(&text).count() <= text.lines().count());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_microseconds_and_a_kernel_may_show_one_line_only() {
        let text = "some avg10=0.12 avg60=1.00 avg300=0.00 total=1500001\n\
                    full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        let found: Vec<_> = lines(text).collect();
        let expected =
            [(PressureKind::Some, Duration::from_micros(1_500_001)), (PressureKind::Full, Duration::ZERO)];
        assert_eq!(found, expected);
        assert_eq!(lines("some avg10=0.12 total=7").count(), 1);
        assert_eq!(lines("most total=7\nsome total=x\nsome").count(), 0);
    }
}
