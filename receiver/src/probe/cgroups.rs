//! From a kernel's rows by cgroup to series of entities that never fall: what cgroups that are gone had counted stays with
//! their entity as long as that lives, else with the node.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::Arc,
};

use jitterscope_ebpf::Merge;

use super::{
    shown::Latest,
    sums::{Sum, Sums},
};
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

/// Who is known in a round.
struct Known<'a> {
    whose: &'a dyn Fn(u64) -> Option<Arc<Entity>>,
    node: Arc<Entity>,
    /// Keys of all that are alive.
    alive: HashSet<u64>,
}

impl<W, V> Default for Ledger<W, V> {
    fn default() -> Self {
        Self { owners: HashMap::new(), past: HashMap::new(), missed: HashSet::new() }
    }
}

impl<W: Eq + Hash + Clone, V: Merge + Copy> Ledger<W, V> {
    /// Adds up all rows of the map, and says which cgroups' rows are to be removed from it.
    pub(super) fn add_up(&mut self, rows: &[Row<W, V>], round: &Round<'_>) -> (Sums<W, V>, HashSet<u64>) {
        let node = round.pods.node();
        let directories = round.pods.directories().iter().map(|directory| directory.entity.key);
        let alive = directories.chain([node.key]).collect();
        let answer = self.add(rows, &Known { whose: &|id| round.pods.by_cgroup(id), node, alive });
        // New since the last walk of the tree. Its entity's points wait for it without loss.
        self.missed.iter().for_each(|id| round.miss(*id));
        answer
    }

    fn add(&mut self, rows: &[Row<W, V>], known: &Known<'_>) -> (Sums<W, V>, HashSet<u64>) {
        let mut sums = Sums::default();
        let mut gone = HashSet::new();
        let missed = std::mem::take(&mut self.missed);
        for (id, what, value) in rows {
            if let Some(entity) = (known.whose)(*id) {
                self.owners.insert(*id, Arc::clone(&entity));
                sums.add_to(entity, what.clone(), value);
            } else if self.owners.contains_key(id) || missed.contains(id) {
                self.retire(*id, what, value, known);
                gone.insert(*id);
            } else {
                self.missed.insert(*id);
            }
        }
        gone.iter().for_each(|id| drop(self.owners.remove(id)));
        self.past.retain(|(entity, _), _| known.alive.contains(entity));
        self.past.values().for_each(|past| sums.add_to(past.entity.clone(), past.what.clone(), &past.value));
        (sums, gone)
    }

    /// One row of a cgroup that is gone. Whose it was nobody can say of one that came and went between two looks at the tree.
    fn retire(&mut self, id: u64, what: &W, value: &V, known: &Known<'_>) {
        let entity = self.owners.get(&id).unwrap_or(&known.node).clone();
        self.past
            .entry((entity.key, what.clone()))
            .and_modify(|past| past.value.merge(value))
            .or_insert_with(|| Sum { entity, what: what.clone(), value: *value, shown: Latest::new() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::EntityKind;

    const NODE: u64 = 1;
    const POD: u64 = 2;

    fn entity(key: u64) -> Arc<Entity> {
        let (name, resource) =
            (key.to_string(), opentelemetry_proto::tonic::resource::v1::Resource::default());
        Arc::new(Entity { kind: EntityKind::Pod, key, pod: None, name, resource, pending_until: None })
    }

    /// What each entity has after a round in which cgroups belong as said, and which cgroups are gone.
    fn round(
        ledger: &mut Ledger<(), u64>,
        rows: &[(u64, u64)],
        owners: &[(u64, u64)],
    ) -> (Vec<(u64, u64)>, Vec<u64>) {
        let rows: Vec<Row<(), u64>> = rows.iter().map(|(id, value)| (*id, (), *value)).collect();
        let whose = |id| owners.iter().find(|(cgroup, _)| *cgroup == id).map(|(_, key)| entity(*key));
        let alive = owners.iter().map(|(_, key)| *key).chain([NODE]).collect();
        let (sums, gone) = ledger.add(&rows, &Known { whose: &whose, node: entity(NODE), alive });
        let mut sums: Vec<_> = sums.into_iter().map(|sum| (sum.entity.key, sum.value)).collect();
        sums.sort_unstable();
        (sums, gone.into_iter().collect())
    }

    #[test]
    fn a_cgroup_that_is_gone_leaves_what_it_counted_to_its_entity_for_as_long_as_that_lives() {
        let mut ledger = Ledger::default();
        let both = [(10, POD), (11, POD)];
        assert_eq!(round(&mut ledger, &[(10, 5), (11, 7)], &both), (vec![(POD, 12)], vec![]));
        assert_eq!(round(&mut ledger, &[(10, 6), (11, 8)], &both[1..]), (vec![(POD, 14)], vec![10]));
        assert_eq!(round(&mut ledger, &[(11, 9)], &both[1..]), (vec![(POD, 15)], vec![]));
        assert_eq!(round(&mut ledger, &[(11, 9)], &[]), (vec![], vec![11]));
        assert_eq!(round(&mut ledger, &[(12, 1)], &[(12, POD)]), (vec![(POD, 1)], vec![]));
    }

    #[test]
    fn a_cgroup_that_nobody_ever_saw_is_waited_for_once_and_then_the_nodes() {
        let mut ledger = Ledger::default();
        assert_eq!(round(&mut ledger, &[(10, 5)], &[]), (vec![], vec![]));
        assert_eq!(round(&mut ledger, &[(10, 6)], &[]), (vec![(NODE, 6)], vec![10]));
        assert_eq!(round(&mut ledger, &[(11, 3)], &[]), (vec![(NODE, 6)], vec![]));
        assert_eq!(round(&mut ledger, &[(11, 3)], &[(11, POD)]), (vec![(NODE, 6), (POD, 3)], vec![]));
    }
}
