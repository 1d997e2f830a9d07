//! All network namespaces of the node but the host's: which are still the same since the last scan, which are new, which
//! are gone.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use super::cookie;
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
        for id in self.look_up_doubtful(&inodes, seen) {
            self.decide(id, seen, &mut changes);
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

    /// Identities of those namespaces that are new, or for which no process and no mount vouches any more.
    fn look_up_doubtful(&mut self, inodes: &HashSet<u32>, seen: &Sighting<'_>) -> Vec<Netns> {
        let mut doubtful = Vec::new();
        for inode in inodes {
            let (pids, mount) = seen.of(*inode);
            let known = self.alive.get_mut(inode);
            if known.is_some_and(|instance| instance.is_same(seen.processes, pids, mount)) {
                continue;
            }
            let path = Instance::path(seen.processes, pids, mount).unwrap_or_default();
            doubtful.push((path, *inode));
        }
        let ids: Vec<u32> = doubtful.iter().map(|(_, inode)| *inode).collect();
        let cookies = cookie::look_up(doubtful);
        ids.into_iter().zip(cookies).map(|(inode, cookie)| Netns { inode, cookie }).collect()
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
