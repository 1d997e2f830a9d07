//! The entities of the node by identity, so that one that is met again keeps its key, and learns its names in place.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cgroup::Owner;
use super::cri::Demand;
use super::entity::{self, ContainerFacts, Entity, EntityKind};
use super::instance::Instance;
use super::names::{Names, PodName};

/// Entities beyond this many are refused and counted: ten times what a node's 110 to 1,000 pods need. One costs about
/// 2 KiB.
pub const MAX_ENTITIES: usize = 10_000;

/// How long a name may be waited for: "within one second of its first packet".
const PENDING: Duration = Duration::from_secs(1);

/// How long the runtime is asked at the high rate for an entity that it does not name.
const EAGER: Duration = Duration::from_secs(5);

/// What makes two entities the same one.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Identity {
    Pod(String),
    Container(String),
    /// Number of the instance.
    Netns(u64),
}

/// Which names an entity was made with.
#[derive(PartialEq, Eq)]
struct Named {
    /// All names are known.
    whole: bool,
    /// Those labels of its pod that are wanted.
    labels: Vec<(String, String)>,
}

impl Named {
    /// With those of its pod; `whole`: its own is known too.
    fn of(names: Option<&PodName>, whole: bool) -> Self {
        Self { whole, labels: names.map(|names| names.labels.clone()).unwrap_or_default() }
    }
}

struct Held {
    entity: Arc<Entity>,
    named: Named,
    since: Instant,
}

/// What is known at one scan beside what the kernel says.
pub(super) struct Knowledge<'a> {
    pub(super) names: &'a Arc<Names>,
    /// The runtime answers, so that missing names can be waited for.
    pub(super) names_come: bool,
    pub(super) now: Instant,
}

/// All entities but the node.
#[derive(Default)]
pub(super) struct Registry {
    held: HashMap<Identity, Held>,
    node_name: Option<String>,
    made: u64,
    refused: u64,
}

impl Registry {
    pub(super) fn new(node_name: Option<String>) -> Self {
        Self { node_name, ..Self::default() }
    }

    /// Entities that did not fit, over all times that they were asked for.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// How many entities of a kind there are, those that are gone but still resolve included.
    pub(super) fn count(&self, kind: EntityKind) -> usize {
        self.held.values().filter(|held| held.entity.kind == kind).count()
    }

    /// Forgets those that nothing refers to any more.
    pub(super) fn forget_unused(&mut self) {
        self.held.retain(|_, held| Arc::strong_count(&held.entity) > 1);
    }

    /// How urgently names are wanted.
    pub(super) fn demand(&self, now: Instant) -> Demand {
        let mut unnamed = self.held.values().filter(|held| !held.named.whole).peekable();
        if unnamed.peek().is_none() {
            return Demand::None;
        }
        let eager = unnamed.any(|held| now.duration_since(held.since) < EAGER);
        if eager { Demand::Urgent } else { Demand::Idle }
    }

    /// The pod or container that a cgroup belongs to. `None`: to neither, or there are too many entities.
    pub(super) fn owned(&mut self, owner: &Owner, known: &Knowledge<'_>) -> Option<Arc<Entity>> {
        let Some(id) = owner.container.as_deref() else {
            return self.pod(owner.pod.as_deref()?, known);
        };
        if let Some(uid) = known.names.sandboxes.get(id) {
            return self.pod(uid, known);
        }
        let told = known.names.containers.get(id);
        let uid = told.map(|container| container.pod.as_str()).or(owner.pod.as_deref());
        let runtime = owner.runtime.or(Some(known.names.runtime.as_str()).filter(|_| told.is_some()));
        let facts = ContainerFacts { id, name: told.map(|container| container.name.as_str()), runtime };
        self.container(&facts, uid, known)
    }

    /// The pod that a namespace belongs to, whichever of its containers was found in it; else its container.
    pub(super) fn namespace_owner(&mut self, owner: &Owner, known: &Knowledge<'_>) -> Option<Arc<Entity>> {
        let id = owner.container.as_deref();
        let told = id.and_then(|id| known.names.containers.get(id).map(|container| container.pod.as_str()));
        match told.or(owner.pod.as_deref()) {
            Some(uid) => self.pod(uid, known),
            None => self.owned(owner, known),
        }
    }

    /// The entity of a namespace outside Kubernetes and containers. `settled`: it was there at the first scan, so that no
    /// runtime is about to move its first process into a container.
    pub(super) fn netns(&mut self, of: &Instance, settled: bool) -> Option<Arc<Entity>> {
        let identity = Identity::Netns(of.number);
        let name = of.mount.as_ref().map(|mount| mount.name.as_str());
        if let Some(held) = self.held.get(&identity) {
            return Some(held.entity.clone());
        }
        let (resource, shown) = entity::netns(of.id, name);
        let pending_until = (!settled).then(|| of.first_seen + PENDING);
        let make =
            |key| Entity { kind: EntityKind::Netns, key, pod: None, name: shown, resource, pending_until };
        self.hold(identity, Named::of(None, true), of.first_seen, make)
    }

    fn pod(&mut self, uid: &str, known: &Knowledge<'_>) -> Option<Arc<Entity>> {
        let identity = Identity::Pod(uid.to_owned());
        let names = known.names.pods.get(uid);
        let named = Named::of(names, names.is_some());
        if let Some(entity) = self.unchanged(&identity, &named) {
            return Some(entity);
        }
        let (resource, name) = entity::pod(uid, names, None, self.node_name.as_deref());
        let pending_until = pending(&named, known);
        let make = |key| Entity { kind: EntityKind::Pod, key, pod: Some(key), name, resource, pending_until };
        self.hold(identity, named, known.now, make)
    }

    fn container(
        &mut self,
        facts: &ContainerFacts<'_>,
        uid: Option<&str>,
        known: &Knowledge<'_>,
    ) -> Option<Arc<Entity>> {
        let identity = Identity::Container(facts.id.to_owned());
        let names = uid.and_then(|uid| known.names.pods.get(uid));
        let named = Named::of(names, names.is_some() && facts.name.is_some());
        if let Some(entity) = self.unchanged(&identity, &named) {
            return Some(entity);
        }
        let pod = match uid {
            Some(uid) => Some(self.pod(uid, known)?.key),
            None => None,
        };
        let (resource, name) = match uid {
            Some(uid) => entity::pod(uid, names, Some(facts), self.node_name.as_deref()),
            None => entity::container(facts),
        };
        let pending_until = pending(&named, known);
        let make = |key| Entity { kind: EntityKind::Container, key, pod, name, resource, pending_until };
        self.hold(identity, named, known.now, make)
    }

    /// The entity as it is held, unless names can be added now, or other labels are wanted.
    fn unchanged(&self, identity: &Identity, named: &Named) -> Option<Arc<Entity>> {
        let held = self.held.get(identity)?;
        (!named.whole || held.named == *named).then(|| held.entity.clone())
    }

    /// Holds an entity under its identity; one that was held before passes its key on.
    fn hold(
        &mut self,
        identity: Identity,
        named: Named,
        now: Instant,
        make: impl FnOnce(u64) -> Entity,
    ) -> Option<Arc<Entity>> {
        let before = self.held.get(&identity).map(|held| (held.entity.key, held.since));
        if before.is_none() && self.held.len() >= MAX_ENTITIES {
            self.refused += 1;
            return None;
        }
        let (key, since) = before.unwrap_or_else(|| {
            self.made += 1;
            (self.made, now)
        });
        let entity = Arc::new(make(key));
        self.held.insert(identity, Held { entity: entity.clone(), named, since });
        Some(entity)
    }
}

/// Until when names may still come.
fn pending(named: &Named, known: &Knowledge<'_>) -> Option<Instant> {
    (!named.whole && known.names_come).then(|| known.now + PENDING)
}
