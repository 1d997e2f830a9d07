//! The cgroup v2 hierarchy as a table from cgroup id to owner, learnt by walking its directories.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::LATE;
use super::cgroup::{Owner, owner};

/// Cgroups beyond this many are not walked: 250 pods with a handful of containers each, and systemd's units, make some
/// 3,000. Origins in the rest resolve by namespace alone.
const MAX_CGROUPS: usize = 20_000;

/// One cgroup: its owner, if it is a pod's or a container's, and since when its directory is gone.
#[derive(Clone, Debug)]
pub(super) struct Cgroup {
    pub(super) owner: Option<Arc<Owner>>,
    /// Its directory, if it is the outermost one of its owner.
    pub(super) directory: Option<Arc<Path>>,
    gone: Option<Instant>,
}

impl Cgroup {
    /// Whether its directory was there at the last walk.
    pub(super) fn is_alive(&self) -> bool {
        self.gone.is_none()
    }
}

/// Where the v2 hierarchy below `mount` is: mounted there, or at `unified` in it beside v1 controllers. `None`: there is
/// none, and ids cannot be known.
pub fn hierarchy(mount: &Path) -> Option<PathBuf> {
    let candidates = [mount.to_owned(), mount.join("unified")];
    candidates.into_iter().find(|root| root.join("cgroup.controllers").exists())
}

/// All cgroups by id, which is the inode of their directory (`cgroup_id`, include/linux/cgroup.h). The kernel does not reuse
/// ids before 2^32 cgroups have been made.
pub(super) struct Tree {
    root: Option<PathBuf>,
    cgroups: HashMap<u64, Cgroup>,
    refused: u64,
}

impl Tree {
    /// The hierarchy below `mount`, see [`hierarchy`].
    pub(super) fn new(mount: &Path) -> Self {
        Self { root: hierarchy(mount), cgroups: HashMap::new(), refused: 0 }
    }

    /// Whether there is a v2 hierarchy, so that ids mean something.
    pub(super) fn exists(&self) -> bool {
        self.root.is_some()
    }

    /// Cgroups that did not fit in the table, over all walks.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// The cgroups, those that are gone for less than [`LATE`] included.
    pub(super) fn cgroups(&self) -> &HashMap<u64, Cgroup> {
        &self.cgroups
    }

    /// Reads all directories anew.
    pub(super) fn walk(&mut self, now: Instant) {
        let Some(root) = self.root.clone() else { return };
        let mut found = HashMap::with_capacity(self.cgroups.len());
        let mut waiting = vec![Waiting { directory: root, path: String::new(), around: None }];
        while let Some(next) = waiting.pop() {
            if found.len() == MAX_CGROUPS {
                self.refused += 1 + waiting.len() as u64;
                break;
            }
            visit(next, &mut found, &mut waiting);
        }
        self.keep_late(found, now);
    }

    /// Replaces the table, but lets cgroups that are gone stay for a while.
    fn keep_late(&mut self, found: HashMap<u64, Cgroup>, now: Instant) {
        let before = std::mem::replace(&mut self.cgroups, found);
        for (id, mut cgroup) in before {
            let gone = *cgroup.gone.get_or_insert(now);
            if now.duration_since(gone) < LATE && self.cgroups.len() < 2 * MAX_CGROUPS {
                self.cgroups.entry(id).or_insert(cgroup);
            }
        }
    }
}

/// A directory that is still to be visited.
struct Waiting {
    directory: PathBuf,
    /// Within the hierarchy.
    path: String,
    /// Owner of the directory that it is in.
    around: Option<Arc<Owner>>,
}

/// Notes one directory and queues those in it. A directory with two links has none (kernfs counts as other file systems
/// do), which spares listing the dozens of control files of every leaf.
fn visit(of: Waiting, found: &mut HashMap<u64, Cgroup>, waiting: &mut Vec<Waiting>) {
    let Waiting { directory, path, around } = of;
    let Ok(metadata) = std::fs::metadata(&directory) else { return };
    let named = owner(&path);
    let inside = around.filter(|around| **around == named);
    let outermost = inside.is_none() && !named.is_none();
    let owner = inside.or_else(|| (!named.is_none()).then(|| Arc::new(named)));
    let own = outermost.then(|| Arc::from(directory.as_path()));
    found.insert(metadata.ino(), Cgroup { owner: owner.clone(), directory: own, gone: None });
    if metadata.nlink() == 2 {
        return;
    }
    let Ok(entries) = std::fs::read_dir(&directory) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        let below = format!("{path}/{}", entry.file_name().to_string_lossy());
        waiting.push(Waiting { directory: entry.path(), path: below, around: owner.clone() });
    }
}
