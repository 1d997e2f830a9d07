//! What is known of the node's entities at one moment: immutable, shared, read without locks.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::address::Address;
use super::cri::CriState;
use super::entity::{Entity, EntityKind, unseen_netns};
use super::origin::{Netns, Origin};

/// How a namespace's tables can be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NetnsSource {
    /// Through `/proc/<pid>/net` of this process, without entering the namespace.
    Task(u32),
    /// It has no process: only by entering the namespace that is mounted on this file.
    Mount(PathBuf),
}

/// A network namespace and whose it is.
#[derive(Clone, PartialEq, Debug)]
pub struct Namespace {
    /// Which it is. Another one with the same inode has another cookie, or, where cookies are unknown, another `instance`.
    pub id: Netns,
    /// Unique among all namespaces that this receiver ever saw; counters of one instance never go on in another.
    pub instance: u64,
    /// How to read its tables.
    pub source: NetnsSource,
    /// Whose it is: the node's, a pod's, a container's, or its own.
    pub entity: Arc<Entity>,
    /// Start of its first process, in nanoseconds since 1970; of the host's, boot. `None`: unknown.
    pub started_unix_nano: Option<u64>,
    /// Addresses of its interfaces but loopback, as read within the last 30 s; of the host's none. Empty too where it
    /// may not be entered.
    pub addresses: Arc<[Address]>,
    /// Whether it is the host's.
    pub host: bool,
}

/// What could not be seen or kept. All are numbers since the start, but `unreadable`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Gaps {
    /// Processes whose namespace we may not read, in the last scan.
    pub unreadable: u64,
    /// Namespaces, entities and cgroups beyond their limits.
    pub refused: u64,
    /// Scans that failed as a whole, because `/proc` could not be read.
    pub failed_scans: u64,
}

/// How many entities there are, those that are gone but still resolve included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Pods.
    pub pods: usize,
    /// Containers, in pods and by themselves.
    pub containers: usize,
    /// Namespaces outside of both.
    pub netns: usize,
}

impl Counts {
    /// Those of one kind; there is one node.
    pub fn of(&self, kind: EntityKind) -> usize {
        match kind {
            EntityKind::Node => 1,
            EntityKind::Pod => self.pods,
            EntityKind::Container => self.containers,
            EntityKind::Netns => self.netns,
        }
    }
}

/// A namespace that is gone, whose late events still resolve.
#[derive(Clone, Debug)]
pub(super) struct Late {
    pub(super) id: Netns,
    pub(super) entity: Option<Arc<Entity>>,
}

/// The outermost cgroup of a pod or a container, in the v2 hierarchy.
#[derive(Clone, PartialEq, Debug)]
pub struct Directory {
    /// Whose it is.
    pub entity: Arc<Entity>,
    /// Where its files are.
    pub path: Arc<Path>,
    /// Start of the first process in it, in nanoseconds since 1970. `None`: unknown.
    pub started_unix_nano: Option<u64>,
}

/// Cgroup ids: with the entity of those that belong to a pod or container, with `None` for the node's own.
pub(super) type CgroupEntities = HashMap<u64, Option<Arc<Entity>>>;

/// What the walk of the v2 hierarchy found.
#[derive(Default, Debug)]
pub(super) struct Cgroups {
    pub(super) entities: CgroupEntities,
    /// One for each entity.
    pub(super) directories: Vec<Directory>,
}

/// All entities at one moment.
#[derive(Debug)]
pub struct Snapshot {
    pub(super) node: Arc<Entity>,
    /// The host's is the first.
    pub(super) namespaces: Vec<Namespace>,
    /// Where in `namespaces` each inode is.
    pub(super) by_inode: HashMap<u32, usize>,
    /// Namespaces that the settings leave out.
    pub(super) excluded: HashSet<u32>,
    /// Oldest first.
    pub(super) late: Vec<Late>,
    /// `None`: there is no v2 hierarchy.
    pub(super) cgroups: Option<Arc<Cgroups>>,
    /// Origins that a scan made for them did not find: not worth another one for a while.
    pub(super) absent: HashSet<(Netns, u64)>,
    pub(super) gaps: Gaps,
    pub(super) counts: Counts,
    pub(super) cri: CriState,
}

impl Snapshot {
    /// The node's entity.
    pub fn node(&self) -> Arc<Entity> {
        self.node.clone()
    }

    /// All namespaces, the host's first.
    pub fn namespaces(&self) -> &[Namespace] {
        &self.namespaces
    }

    /// Which of [`Self::namespaces`] a namespace of the kernel's is.
    pub fn position(&self, id: Netns) -> Option<usize> {
        let at = *self.by_inode.get(&id.inode)?;
        self.namespaces.get(at).filter(|known| known.id.agrees_with(&id)).map(|_| at)
    }

    /// Whose an address is, for each that only one namespace has: isolated networks may use the same ones.
    pub fn addresses(&self) -> HashMap<Address, Netns> {
        let mut owners: HashMap<Address, Option<Netns>> = HashMap::new();
        for namespace in &self.namespaces {
            for address in namespace.addresses.iter() {
                owners.entry(*address).and_modify(|owner| *owner = None).or_insert(Some(namespace.id));
            }
        }
        owners.into_iter().filter_map(|(address, owner)| Some((address, owner?))).collect()
    }

    /// What could not be seen or kept.
    pub fn gaps(&self) -> Gaps {
        self.gaps
    }

    /// How many entities there are.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How the connection to the container runtime is.
    pub fn cri(&self) -> &CriState {
        &self.cri
    }

    /// Whether names of some namespace's owner may still come.
    pub fn is_pending(&self, now: Instant) -> bool {
        self.namespaces.iter().any(|one| one.entity.pending_until.is_some_and(|until| now < until))
    }

    /// Whose an origin is. `None`: not known yet, or of a namespace that the settings leave out.
    ///
    /// The namespace decides; the socket's cgroup then picks one of the pod's containers. In the host's namespace, or
    /// without any, the cgroup alone decides between a pod on the host's network and the node.
    pub fn resolve(&self, origin: &Origin) -> Option<Arc<Entity>> {
        if self.is_host(origin.netns) {
            return self.by_cgroup(origin.cgroup);
        }
        let owner = self.by_netns(origin.netns)?;
        if owner.kind == EntityKind::Netns || origin.cgroup == 0 {
            return Some(owner);
        }
        let narrower = self.by_cgroup(origin.cgroup)?;
        Some(if narrows(&owner, &narrower) { narrower } else { owner })
    }

    /// The best that can be said of an origin that does not resolve: the namespace's owner without the container, the node,
    /// or an entity that has nothing but the namespace's inode. `None`: the settings leave it out.
    pub fn fallback(&self, origin: &Origin) -> Option<Arc<Entity>> {
        if self.is_host(origin.netns) {
            return Some(self.by_cgroup(origin.cgroup).unwrap_or_else(|| self.node()));
        }
        if self.excluded.contains(&origin.netns.inode) {
            return None;
        }
        Some(self.by_netns(origin.netns).unwrap_or_else(|| Arc::new(unseen_netns(origin.netns))))
    }

    /// Whether a scan was made for this origin lately, in vain.
    pub(super) fn is_absent(&self, origin: &Origin) -> bool {
        self.excluded.contains(&origin.netns.inode) || self.absent.contains(&(origin.netns, origin.cgroup))
    }

    /// Whether this is the host's namespace, or unknown, so that nothing speaks against the host's.
    fn is_host(&self, netns: Netns) -> bool {
        netns.inode == 0
            || self.namespaces.first().is_some_and(|host| host.host && host.id.agrees_with(&netns))
    }

    fn by_netns(&self, netns: Netns) -> Option<Arc<Entity>> {
        let alive = self.by_inode.get(&netns.inode).and_then(|index| self.namespaces.get(*index));
        if let Some(alive) = alive
            && alive.id.agrees_with(&netns)
        {
            return Some(alive.entity.clone());
        }
        // Without its cookie, an origin of a number that is in use again could be the new owner's as well.
        let late = self.late.iter().rev().find(|late| late.id.agrees_with(&netns))?;
        let certain = alive.is_none() || late.id.cookie == netns.cookie;
        late.entity.clone().filter(|_| certain)
    }

    /// The cgroup directories of pods and containers, one for each; none without a v2 hierarchy.
    pub fn directories(&self) -> &[Directory] {
        self.cgroups.as_ref().map_or(&[], |cgroups| &cgroups.directories)
    }

    /// The pod or container of a cgroup, else the node. `None`: a cgroup that was not seen yet.
    pub fn by_cgroup(&self, id: u64) -> Option<Arc<Entity>> {
        match &self.cgroups {
            Some(cgroups) if id != 0 => {
                Some(cgroups.entities.get(&id)?.clone().unwrap_or_else(|| self.node()))
            }
            _ => Some(self.node()),
        }
    }
}

/// Whether an entity says more than the owner of its namespace does: a container of that pod, or, in a namespace that plain
/// containers share, another one of these.
fn narrows(owner: &Entity, narrower: &Entity) -> bool {
    narrower.kind == EntityKind::Container && owner.pod == narrower.pod
}
