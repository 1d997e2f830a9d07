//! All network namespaces of the node but the host's: which are still the same since the last scan, which are new, which
//! are gone.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use super::inside::{self, Visit};
use super::instance::Instance;
use super::named::Mount;
use super::origin::Netns;
use super::process::Processes;

/// Namespaces beyond this many are left out and counted: ten times what a node's 110 to 1,000 pods need. One costs about
/// 2 KiB here, and a round of reading it some 30 µs.
const MAX_NAMESPACES: usize = 10_000;

/// What one scan saw.
pub(super) struct Sighting<'a> {
    pub(super) processes: &'a Processes,
    /// Process ids by inode.
    pub(super) pids: &'a HashMap<u32, Vec<u32>>,
    /// Mounts by inode.
    pub(super) mounts: &'a HashMap<u32, Mount>,
    /// Inode of the host's namespace, which is never among the instances.
    pub(super) host: u32,
    pub(super) now: Instant,
}

impl Sighting<'_> {
    fn inodes(&self) -> HashSet<u32> {
        self.pids.keys().chain(self.mounts.keys()).copied().filter(|inode| *inode != self.host).collect()
    }

    fn visit(&self, inode: u32) -> Visit {
        let (pids, mount) = self.of(inode);
        Visit { path: Instance::path(self.processes, pids, mount).unwrap_or_default(), inode }
    }

    fn of(&self, inode: u32) -> (&[u32], Option<&Mount>) {
        (self.pids.get(&inode).map_or(&[], Vec::as_slice), self.mounts.get(&inode))
    }
}

/// What a scan changed.
#[derive(Default)]
pub(super) struct Changes {
    /// Whether there is a namespace that was not there before.
    pub(super) appeared: bool,
    /// Namespaces that are gone.
    pub(super) departed: Vec<Instance>,
}

/// The namespaces that are alive, by inode.
#[derive(Default)]
pub(super) struct Instances {
    alive: HashMap<u32, Instance>,
    made: u64,
    refused: u64,
}

impl Instances {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Instance> {
        self.alive.values()
    }

    /// Namespaces that did not fit, over all scans.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// Brings the table up to what a scan saw.
    pub(super) fn update(&mut self, seen: &Sighting<'_>) -> Changes {
        let inodes = seen.inodes();
        let mut changes = Changes { departed: self.remove_missing(&inodes), ..Changes::default() };
        let doubtful = self.doubtful(&inodes, seen);
        let wanted: Vec<u32> =
            inodes.into_iter().filter(|inode| self.is_worth_a_visit(*inode, &doubtful, seen)).collect();
        let visits = wanted.iter().map(|inode| seen.visit(*inode)).collect();
        for (inode, inside) in wanted.into_iter().zip(inside::look(visits)) {
            if doubtful.contains(&inode) {
                self.decide(Netns { inode, cookie: inside.cookie }, seen, &mut changes);
            }
            if let Some(instance) =
                self.alive.get_mut(&inode).filter(|known| known.id.cookie == inside.cookie)
            {
                instance.take_addresses(inside.addresses, seen.now);
            }
        }
        for instance in self.alive.values_mut() {
            let (pids, mount) = seen.of(instance.id.inode);
            instance.observe(seen.processes, pids, mount, seen.now);
        }
        changes
    }

    fn remove_missing(&mut self, inodes: &HashSet<u32>) -> Vec<Instance> {
        let gone: Vec<u32> = self.alive.keys().filter(|inode| !inodes.contains(inode)).copied().collect();
        gone.iter().filter_map(|inode| self.alive.remove(inode)).collect()
    }

    /// Namespaces that are new, or for which no process and no mount vouches any more.
    fn doubtful(&mut self, inodes: &HashSet<u32>, seen: &Sighting<'_>) -> HashSet<u32> {
        let mut is_doubtful = |inode: &u32| {
            let (pids, mount) = seen.of(*inode);
            let known = self.alive.get_mut(inode);
            !known.is_some_and(|instance| instance.is_same(seen.processes, pids, mount))
        };
        inodes.iter().copied().filter(|inode| is_doubtful(inode)).collect()
    }

    /// Whether a namespace must be entered: to tell it from another one, or to read its addresses again.
    fn is_worth_a_visit(&self, inode: u32, doubtful: &HashSet<u32>, seen: &Sighting<'_>) -> bool {
        let due = |instance: &Instance| instance.wants_addresses(seen.now);
        doubtful.contains(&inode) || self.alive.get(&inode).is_some_and(due)
    }

    /// Keeps the instance with this inode if it is proven to be the same one, else replaces it.
    fn decide(&mut self, id: Netns, seen: &Sighting<'_>, changes: &mut Changes) {
        if let Some(known) = self.alive.get(&id.inode) {
            let (_, mount) = seen.of(id.inode);
            let same = match (known.id.cookie, id.cookie) {
                (0, 0) => known.is_mounted_as_before(mount),
                (before, now) => before == now,
            };
            if same {
                return;
            }
            changes.departed.extend(self.alive.remove(&id.inode));
        }
        if self.alive.len() == MAX_NAMESPACES {
            self.refused += 1;
            return;
        }
        self.made += 1;
        changes.appeared = true;
        self.alive.insert(id.inode, Instance::new(id, self.made, seen.now));
    }
}
