//! From a kernel's rows by cgroup to series of entities that never fall: what cgroups that are gone had counted stays with
//! their entity as long as that lives, else with the node.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::Arc,
};

use jitterscope_ebpf::Merge;

use super::sums::{Sum, Sums};
use crate::{pods::Entity, round::Round};

/// A row: cgroup, what tells its series apart, value.
pub(super) type Row<W, V> = (u64, W, V);

/// What is remembered from round to round. Its size follows the kernel's map, which is bounded, and the entities that are
/// alive.
pub(super) struct Ledger<W, V> {
    /// Whose each cgroup in the map is.
    owners: HashMap<u64, Arc<Entity>>,
    /// What cgroups that are gone had counted.
    past: HashMap<(u64, W), Sum<W, V>>,
    /// Cgroups that were not known in the round before, since when they were looked for.
    missed: HashSet<u64>,
}

impl<W, V> Default for Ledger<W, V> {
    fn default() -> Self {
        Self { owners: HashMap::new(), past: HashMap::new(), missed: HashSet::new() }
    }
}

impl<W: Eq + Hash + Clone, V: Merge + Copy> Ledger<W, V> {
    /// Adds up all rows of the map, and says which cgroups' rows are to be removed from it.
    pub(super) fn add_up(&mut self, rows: &[Row<W, V>], round: &Round<'_>) -> (Sums<W, V>, HashSet<u64>) {
        let mut sums = Sums::default();
        let mut gone = HashSet::new();
        let missed = std::mem::take(&mut self.missed);
        for (id, what, value) in rows {
            if let Some(entity) = round.pods.by_cgroup(*id) {
                self.owners.insert(*id, Arc::clone(&entity));
                sums.add_to(entity, what.clone(), value);
            } else if self.owners.contains_key(id) || missed.contains(id) {
                self.retire(*id, what, value, round);
                gone.insert(*id);
            } else {
                // New since the last walk. Its entity's points wait for it without loss.
                self.missed.insert(*id);
                round.miss(*id);
            }
        }
        gone.iter().for_each(|id| drop(self.owners.remove(id)));
        self.add_past(&mut sums, round);
        (sums, gone)
    }

    /// One row of a cgroup that is gone. Whose it was nobody can say of one that came and went between two looks at the tree.
    fn retire(&mut self, id: u64, what: &W, value: &V, round: &Round<'_>) {
        let entity = self.owners.get(&id).cloned().unwrap_or_else(|| round.pods.node());
        self.past
            .entry((entity.key, what.clone()))
            .and_modify(|past| past.value.merge(value))
            .or_insert_with(|| Sum { entity, what: what.clone(), value: *value });
    }

    /// Adds what is past to entities that are alive, and forgets it for others. The node always lives.
    fn add_past(&mut self, sums: &mut Sums<W, V>, round: &Round<'_>) {
        let node = round.pods.node().key;
        let alive: HashSet<u64> = self.owners.values().map(|entity| entity.key).chain([node]).collect();
        self.past.retain(|(entity, _), _| alive.contains(entity));
        self.past.values().for_each(|past| sums.add_to(past.entity.clone(), past.what.clone(), &past.value));
    }
}
