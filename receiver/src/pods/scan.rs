//! One look at the whole node: processes, mounted namespaces and, when that can help, cgroups, made into a snapshot.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cri::{CriState, Demand, Told};
use super::directories::Starts;
use super::entity::{Entity, EntityKind};
use super::inside::{self, Visit};
use super::instance::{Instance, boot_unix_nanos};
use super::instances::{Instances, Sighting};
use super::named::Mounts;
use super::names::Names;
use super::origin::{Netns, Origin};
use super::process::{Census, Processes};
use super::registry::{Knowledge, Registry};
use super::snapshot::{Cgroups, Counts, Gaps, Late, Namespace, NetnsSource, Snapshot};
use super::tree::Tree;
use super::{LATE, Settings, node};

/// Most namespaces that are gone and still resolve. Beyond it the oldest go first.
const MAX_LATE: usize = 10_000;

/// The cgroup tree is walked at least so often, so that groups that are gone are noticed: walks are otherwise made for new
/// namespaces and unknown ids only.
const WALK_EVERY: Duration = Duration::from_secs(30);

/// For so long no scan is made again for an origin that one did not find. A cgroup can be gone before its first event is
/// read.
const ABSENT_FOR: Duration = Duration::from_secs(10);

/// Most origins remembered as absent; more are asked for again.
const MAX_ABSENT: usize = 4_096;

/// What a scan is asked to do beyond looking at the processes.
#[derive(Default)]
pub(super) struct Request {
    /// Origins that did not resolve.
    pub(super) origins: Vec<Origin>,
    /// What the container runtime told last.
    pub(super) told: Told,
}

/// The writer's state: all that is carried from scan to scan.
pub(super) struct Scanner {
    include_netns: bool,
    processes: Processes,
    mounts: Mounts,
    tree: Tree,
    walked: Option<Instant>,
    instances: Instances,
    registry: Registry,
    /// Namespaces that are gone, and since when.
    late: Vec<(Instance, Instant)>,
    /// Entities of cgroups, and the names with which they were made. Empty after a walk.
    cgroups: Option<(Arc<Names>, Arc<Cgroups>)>,
    starts: Starts,
    absent: HashMap<(Netns, u64), Instant>,
    node: Arc<Entity>,
    host: Namespace,
    unreadable: u64,
    scans: u64,
    failed_scans: u64,
}

impl Scanner {
    pub(super) fn new(settings: &Settings) -> Self {
        let roots = &settings.roots;
        let processes = Processes::new(roots.proc.clone());
        let node_name = settings.node_name.clone();
        let node = Arc::new(Entity {
            kind: EntityKind::Node,
            key: 0,
            pod: None,
            name: "host".to_owned(),
            resource: node::resource(&roots.host, node_name.as_deref()),
            pending_until: None,
        });
        Self {
            include_netns: settings.netns,
            host: host(&processes, &node),
            processes,
            mounts: Mounts::new(&roots.netns),
            tree: Tree::new(&roots.cgroup),
            walked: None,
            instances: Instances::default(),
            registry: Registry::new(node_name),
            late: Vec::new(),
            cgroups: None,
            starts: Starts::default(),
            absent: HashMap::new(),
            node,
            unreadable: 0,
            scans: 0,
            failed_scans: 0,
        }
    }

    /// Whether namespaces outside Kubernetes and containers are entities from the next scan on.
    pub(super) fn include_netns(&mut self, include: bool) {
        self.include_netns = include;
    }

    /// How urgently names are wanted.
    pub(super) fn demand(&self, now: Instant) -> Demand {
        self.registry.demand(now)
    }

    /// Looks at the node and says what there is. When `/proc` cannot be read, what was known stays.
    pub(super) fn scan(&mut self, request: &Request, now: Instant) -> Snapshot {
        let names_come = request.told.state.names_come();
        let known = Knowledge { names: &request.told.names, names_come, now };
        let appeared = match self.processes.census() {
            Ok(census) => self.take_census(&census, &known),
            Err(error) => {
                tracing::warn!(%error, path = %self.processes.root().display(), "cannot list processes");
                self.failed_scans += 1;
                false
            }
        };
        let due = self.walked.is_none_or(|walked| now.duration_since(walked) >= WALK_EVERY);
        if appeared || due || !request.origins.is_empty() {
            self.tree.walk(now);
            self.cgroups = None;
            self.walked = Some(now);
        }
        self.scans += 1;
        let mut snapshot = self.snapshot(&known);
        self.note_absent(request, &mut snapshot, now);
        self.registry.forget_unused();
        snapshot.counts = self.counts();
        snapshot.cri = request.told.state.clone();
        snapshot
    }

    /// Brings namespaces up to date; says whether there are new ones.
    fn take_census(&mut self, census: &Census, known: &Knowledge<'_>) -> bool {
        self.unreadable = census.unreadable;
        let mounts = self.mounts.list();
        let seen = Sighting {
            processes: &self.processes,
            pids: &census.namespaces,
            mounts: &mounts,
            host: self.host.id.inode,
            now: known.now,
        };
        let changes = self.instances.update(&seen);
        self.late.extend(changes.departed.into_iter().map(|instance| (instance, known.now)));
        self.late.retain(|(_, gone)| known.now.duration_since(*gone) < LATE);
        self.late.drain(..self.late.len().saturating_sub(MAX_LATE));
        changes.appeared
    }

    fn snapshot(&mut self, known: &Knowledge<'_>) -> Snapshot {
        let mut namespaces = vec![self.host.clone()];
        let mut excluded = HashSet::new();
        let settled = self.scans <= 1;
        let include_netns = self.include_netns;
        let registry = RefCell::new(&mut self.registry);
        let entity = |instance| entity(&mut registry.borrow_mut(), instance, include_netns, settled, known);
        let further =
            |instance| include_netns.then(|| registry.borrow_mut().netns(instance, settled)).flatten();
        // Made anew each time, for names can come after the end.
        let late = self
            .late
            .iter()
            .map(|(instance, _)| Late { id: instance.id, entity: entity(instance) })
            .collect();
        let mut instances: Vec<&Instance> = self.instances.iter().collect();
        instances.sort_unstable_by_key(|one| (one.started_unix_nano.unwrap_or(u64::MAX), one.number));
        let mut owners = HashSet::new();
        for instance in instances {
            // A pod has one network. A further namespace that one of its processes made has counters of its own,
            // which would be the same series as the pod's: it is an entity by itself.
            let owned = entity(instance).filter(|entity| owners.insert(entity.key));
            match owned.or_else(|| further(instance)) {
                Some(entity) => namespaces.extend(namespace(instance, entity)),
                None => excluded.extend((!self.include_netns).then_some(instance.id.inode)),
            }
        }
        let by_inode = namespaces.iter().enumerate().map(|(at, one)| (one.id.inode, at)).collect();
        let cgroups = self.tree.exists().then(|| self.cgroups(known));
        Snapshot {
            node: self.node.clone(),
            namespaces,
            by_inode,
            excluded,
            late,
            cgroups,
            absent: HashSet::new(),
            gaps: self.gaps(),
            counts: Counts::default(),
            cri: CriState::default(),
        }
    }

    /// Entities of all cgroups. They change with walks and with names only.
    fn cgroups(&mut self, known: &Knowledge<'_>) -> Arc<Cgroups> {
        if let Some((names, cgroups)) = &self.cgroups
            && Arc::ptr_eq(names, known.names)
        {
            return cgroups.clone();
        }
        let registry = &mut self.registry;
        let mut entity = |owner: &Option<Arc<_>>| registry.owned(owner.as_ref()?, known);
        let entities = self.tree.cgroups().iter().map(|(id, cgroup)| (*id, entity(&cgroup.owner))).collect();
        let directories = self.starts.directories(&self.tree, &entities, &self.processes);
        let made = Arc::new(Cgroups { entities, directories });
        let (_, cgroups) = self.cgroups.insert((known.names.clone(), made));
        cgroups.clone()
    }

    fn gaps(&self) -> Gaps {
        let refused = self.instances.refused() + self.registry.refused() + self.tree.refused();
        Gaps { unreadable: self.unreadable, refused, failed_scans: self.failed_scans }
    }

    fn counts(&self) -> Counts {
        let count = |kind| self.registry.count(kind);
        Counts {
            pods: count(EntityKind::Pod),
            containers: count(EntityKind::Container),
            netns: count(EntityKind::Netns),
        }
    }

    /// Remembers which of the origins that the scan was made for it did not find.
    fn note_absent(&mut self, request: &Request, snapshot: &mut Snapshot, now: Instant) {
        self.absent.retain(|_, since| now.duration_since(*since) < ABSENT_FOR);
        for origin in &request.origins {
            if self.absent.len() < MAX_ABSENT && snapshot.resolve(origin).is_none() {
                self.absent.insert((origin.netns, origin.cgroup), now);
            }
        }
        snapshot.absent = self.absent.keys().copied().collect();
    }
}

/// Whose a namespace is. `None`: the settings leave it out, or there are too many.
fn entity(
    registry: &mut Registry,
    instance: &Instance,
    include_netns: bool,
    settled: bool,
    known: &Knowledge<'_>,
) -> Option<Arc<Entity>> {
    if !instance.owner.is_none() {
        return registry.namespace_owner(&instance.owner, known);
    }
    if include_netns { registry.netns(instance, settled) } else { None }
}

/// A namespace as readers see it. One that was made by name is older than its first process: its start is unknown.
fn namespace(instance: &Instance, entity: Arc<Entity>) -> Option<Namespace> {
    let mount = || instance.mount.as_ref().map(|mount| NetnsSource::Mount(mount.path.clone()));
    Some(Namespace {
        id: instance.id,
        instance: instance.number,
        source: instance.representative().map(NetnsSource::Task).or_else(mount)?,
        started_unix_nano: instance
            .started_unix_nano
            .filter(|_| entity.kind != EntityKind::Netns || instance.mount.is_none()),
        entity,
        addresses: instance.addresses.clone(),
        host: false,
    })
}

/// The host's namespace, see [`Processes::host`].
fn host(processes: &Processes, node: &Arc<Entity>) -> Namespace {
    let (pid, inode) = processes.host().unwrap_or((1, 0));
    let seen = inside::look(vec![Visit { path: processes.file(pid, "ns/net"), inode }]);
    Namespace {
        id: Netns { inode, cookie: seen.first().map_or(0, |inside| inside.cookie) },
        instance: 0,
        source: NetnsSource::Task(pid),
        entity: node.clone(),
        started_unix_nano: boot_unix_nanos(processes),
        addresses: Arc::default(),
        host: true,
    }
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
