//! Where the cgroup of each pod and container is, and since when: its files are read without walking the tree again.

use std::collections::HashMap;
use std::path::Path;

use super::instance::unix_nanos;
use super::process::Processes;
use super::snapshot::{CgroupEntities, Directory};
use super::tree::Tree;

/// Processes of one cgroup that are asked for their start. A container's first process is listed among the first.
const EXAMINED: usize = 64;

/// Start of the first process in each pod's or container's cgroup, in nanoseconds since 1970, by cgroup id. It is asked
/// for once: the first process of a container lives as long as the container.
#[derive(Default)]
pub(super) struct Starts(HashMap<u64, u64>);

impl Starts {
    /// The outermost cgroup of each entity that is alive.
    pub(super) fn directories(
        &mut self,
        tree: &Tree,
        entities: &CgroupEntities,
        processes: &Processes,
    ) -> Vec<Directory> {
        let mut found: HashMap<u64, Directory> = HashMap::new();
        let mut pods: HashMap<u64, u64> = HashMap::new();
        for (id, cgroup) in tree.cgroups().iter().filter(|(_, cgroup)| cgroup.is_alive()) {
            let (Some(path), Some(Some(entity))) = (&cgroup.directory, entities.get(id)) else { continue };
            let started_unix_nano = self.start(*id, path, processes);
            let own = Directory { entity: entity.clone(), path: path.clone(), started_unix_nano };
            if let (Some(pod), Some(start)) = (entity.pod, started_unix_nano) {
                pods.entry(pod).and_modify(|first| *first = start.min(*first)).or_insert(start);
            }
            // A pod's sandbox is the pod too, but not all of it.
            let outer = found.get(&entity.key).filter(|known| depth(&known.path) <= depth(path));
            if outer.is_none() {
                found.insert(entity.key, own);
            }
        }
        self.0.retain(|id, _| tree.cgroups().contains_key(id));
        let since = |mut of: Directory| {
            // A pod's own cgroup has no process: it is as old as its first container.
            of.started_unix_nano = of.started_unix_nano.or_else(|| pods.get(&of.entity.key).copied());
            of
        };
        found.into_values().map(since).collect()
    }

    fn start(&mut self, id: u64, path: &Path, processes: &Processes) -> Option<u64> {
        if let Some(known) = self.0.get(&id) {
            return Some(*known);
        }
        let listed = std::fs::read_to_string(path.join("cgroup.procs")).ok()?;
        let pids = listed.lines().take(EXAMINED).filter_map(|line| line.parse().ok());
        let ticks = pids.filter_map(|pid| processes.start_ticks(pid)).min()?;
        let start = unix_nanos(processes, ticks)?;
        self.0.insert(id, start);
        Some(start)
    }
}

fn depth(path: &Path) -> usize {
    path.components().count()
}
