//! The SNMP counters of all network namespaces from user space: one walk in the kernel instead of three files of
//! procfs for each namespace.

mod names;

use std::fs;
use std::io;

use zerocopy::{FromZeros as _, IntoBytes as _};

use crate::abi::{COUNTER_RECORDS, WALK_ENDED, cpu_place, namespace_counters};
use crate::btf::Btf;
use crate::{
    Constant, Kernel, KernelError, LoadError, LoadOptions, Loaded, Object, OnDemand, Table, TableError,
};

pub use names::{Names, Unmapped};

/// Summing one CPU's counters of one namespace takes about a microsecond, and a run is not preempted: so many sums keep
/// it under a millisecond.
const SUMS_PER_RUN: usize = 512;

/// The CPUs that the machine can ever have.
const POSSIBLE: &str = "/sys/devices/system/cpu/possible";

/// The helper with which a program sees per-CPU data of any CPU (5.19+, and in some older kernels of distributions).
const ANY_CPU: &str = "BPF_FUNC_map_lookup_percpu_elem";

/// A walk that is not possible, or did not work.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// The programs could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A map could not be read or written.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The kernel did not run a program.
    #[error("running {program}: {source}")]
    Run {
        /// The C function.
        program: &'static str,
        /// What the system call returned.
        source: io::Error,
    },
    /// What a CPU counted before it went offline cannot be found by this kernel.
    #[error(
        "where CPU {0} counts is unknown: it is offline, and this kernel (before 5.19) tells only of those online"
    )]
    Unlocated(u32),
}

/// What a walk saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walked {
    /// Namespaces that were visited.
    pub namespaces: usize,
    /// Whether these are all; else there are more than a walk passes over, which is 4,096.
    pub complete: bool,
}

/// The programs, loaded; nothing of them runs but in [`Walk::visit`]. Dropping it unloads them.
#[derive(Debug)]
pub struct Walk {
    loaded: Loaded,
    walk: OnDemand,
    records: Table<u32, namespace_counters>,
    /// As many as one run fills.
    buffer: Vec<namespace_counters>,
}

impl Walk {
    /// Loads the programs and finds out where each CPU counts.
    pub fn open(kernel: &Kernel) -> Result<Self, WalkError> {
        let possible = possible_cpus()?;
        let count = kernel.possible_cpus() as u32;
        let mut loaded = Object::COUNTERS.load(&LoadOptions {
            constants: &[Constant { name: "possible_cpus", value: count.as_bytes() }],
            entries: &[("cpus", count)],
            ..LoadOptions::new(kernel)
        })?;
        locate(&mut loaded, kernel.btf(), &possible)?;
        let room = (SUMS_PER_RUN / possible.len().max(1)).clamp(1, COUNTER_RECORDS as usize);
        Ok(Self {
            walk: loaded.on_demand("walk")?,
            records: loaded.table("records")?,
            buffer: vec![namespace_counters::new_zeroed(); room],
            loaded,
        })
    }

    /// Programs and maps.
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// Calls `visit` with the counters of every network namespace as they are now; of namespaces that come and go
    /// meanwhile one may be missed and another visited twice. The order is the kernel's, from our own on.
    pub fn visit(&mut self, mut visit: impl FnMut(&namespace_counters)) -> Result<Walked, WalkError> {
        let mut namespaces = 0;
        loop {
            let arguments = [namespaces as u64, self.buffer.len() as u64];
            let returned =
                self.walk.run(&arguments).map_err(|source| WalkError::Run { program: "walk", source })?;
            let filled = (returned & (WALK_ENDED - 1)) as usize;
            let records = self.buffer.get_mut(..filled).unwrap_or_default();
            self.records.first(records)?;
            records.iter().filter(|record| record.failed == 0).for_each(&mut visit);
            namespaces += filled;
            let complete = returned & WALK_ENDED != 0;
            if complete || filled == 0 {
                return Ok(Walked { namespaces, complete });
            }
        }
    }
}

/// Has every possible CPU located, all in one run where the kernel can.
fn locate(loaded: &mut Loaded, btf: &Btf, possible: &[u32]) -> Result<(), WalkError> {
    let cpus: Table<u32, cpu_place> = loaded.table("cpus")?;
    if btf.enumerators("bpf_func_id").is_some_and(|helpers| helpers.iter().any(|(name, _)| name == ANY_CPU)) {
        let program = "locate_all";
        let all = loaded.on_demand(program)?;
        all.run(&[]).map_err(|source| WalkError::Run { program, source })?;
    } else {
        let this = loaded.on_demand("locate_this")?;
        for cpu in possible {
            this.run_on(*cpu).map_err(|_| WalkError::Unlocated(*cpu))?;
        }
    }
    let mut unlocated = possible.to_vec();
    let mut impossible = Vec::new();
    cpus.for_each(|cpu, place| match possible.contains(cpu) {
        true => unlocated.retain(|other| other != cpu || place.known == 0),
        false => impossible.push(*cpu),
    })?;
    // Numbers between possible ones may have an offset that leads nowhere.
    impossible.iter().try_for_each(|cpu| cpus.insert(cpu, &cpu_place::default()))?;
    unlocated.first().map_or(Ok(()), |cpu| Err(WalkError::Unlocated(*cpu)))
}

fn possible_cpus() -> Result<Vec<u32>, LoadError> {
    let unreadable = |source| LoadError::Kernel(KernelError::Unreadable { path: POSSIBLE, source });
    let text = fs::read_to_string(POSSIBLE).map_err(unreadable)?;
    parse_cpus(text.trim()).ok_or_else(|| unreadable(io::Error::new(io::ErrorKind::InvalidData, text)))
}

/// The numbers of a list such as `0-3,8`.
fn parse_cpus(list: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        cpus.extend(first.parse::<u32>().ok()?..=last.parse().ok()?);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_read_with_their_gaps() {
        assert_eq!(parse_cpus("0"), Some(vec![0]));
        assert_eq!(parse_cpus("0-2,5,7-8"), Some(vec![0, 1, 2, 5, 7, 8]));
        assert_eq!(parse_cpus("none"), None);
    }
}
