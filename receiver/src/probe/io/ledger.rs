//! From rows of cgroups to totals of entities that never fall: what cgroups that are gone had counted stays with their
//! entity as long as it lives.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use jitterscope_ebpf::{
    abi::{io_cgroup, io_totals},
    io::REST,
};

use crate::{pods::Entity, round::Round};

/// What is remembered from round to round. Its size follows the kernel's map, which is bounded.
#[derive(Default)]
pub(super) struct Ledger {
    /// Whose each cgroup in the map is.
    owners: HashMap<u64, Arc<Entity>>,
    /// What cgroups that are gone had counted, by the entity's key.
    past: HashMap<u64, io_totals>,
    /// What cgroups had counted whose entity nobody can tell any more.
    unknown: io_totals,
    /// Cgroups that were not known in the round before, since when they were looked for.
    missed: HashSet<u64>,
}

/// The totals of one round.
pub(super) struct Totals {
    pub(super) entities: Vec<(Arc<Entity>, io_totals)>,
    /// What had no room in the map, or no entity.
    pub(super) rest: io_totals,
    /// Cgroups whose rows are to be removed from the map.
    pub(super) gone: Vec<u64>,
}

impl Ledger {
    /// Adds up all rows of the map.
    pub(super) fn add_up(&mut self, rows: &[(u64, io_cgroup)], round: &Round<'_>) -> Totals {
        let mut sums: HashMap<u64, (Arc<Entity>, io_totals)> = HashMap::new();
        let mut rest = io_totals::default();
        let mut gone = Vec::new();
        let missed = std::mem::take(&mut self.missed);
        for (id, row) in rows {
            if *id == REST {
                rest = row.totals;
            } else if let Some(entity) = round.pods.by_cgroup(*id) {
                self.owners.insert(*id, Arc::clone(&entity));
                sums.entry(entity.key).or_insert_with(|| (entity, io_totals::default())).1.add(&row.totals);
            } else if self.owners.contains_key(id) || missed.contains(id) {
                self.retire(*id, row, round);
                gone.push(*id);
            } else {
                // New since the last walk. Its entity's points wait for it without loss.
                self.missed.insert(*id);
                round.miss(*id);
            }
        }
        self.add_past(&mut sums, round);
        rest.add(&self.unknown);
        Totals { entities: sums.into_values().collect(), rest, gone }
    }

    /// A cgroup that is gone. One that came and went between two looks at the tree is taken for a part of the one around
    /// it: that of its pod, if it was a container's.
    fn retire(&mut self, id: u64, row: &io_cgroup, round: &Round<'_>) {
        let around = || round.pods.by_cgroup(row.parent).or_else(|| self.owners.get(&row.parent).cloned());
        let entity = self.owners.get(&id).cloned().or_else(around);
        self.owners.remove(&id);
        match entity {
            Some(entity) => self.past.entry(entity.key).or_default().add(&row.totals),
            None => self.unknown.add(&row.totals),
        }
    }

    /// Adds what is past to entities that are alive, and forgets it for others. The node always lives.
    fn add_past(&mut self, sums: &mut HashMap<u64, (Arc<Entity>, io_totals)>, round: &Round<'_>) {
        let node = round.pods.node();
        sums.entry(node.key).or_insert_with(|| (node, io_totals::default()));
        self.past.retain(|key, totals| match sums.get_mut(key) {
            Some((_, sum)) => {
                sum.add(totals);
                true
            }
            None => false,
        });
    }
}
