//! What one request tells, by entity, in the order in which they were met.

use std::{collections::HashMap, sync::Arc};

use crate::pods::Entity;

/// Lists of records or spans, one for each entity.
pub(super) struct ByEntity<T> {
    lists: Vec<(Arc<Entity>, Vec<T>)>,
    index: HashMap<u64, usize>,
    length: usize,
}

impl<T> Default for ByEntity<T> {
    fn default() -> Self {
        Self { lists: Vec::new(), index: HashMap::new(), length: 0 }
    }
}

impl<T> ByEntity<T> {
    /// Adds one of `entity`.
    pub(super) fn add(&mut self, entity: &Arc<Entity>, one: T) {
        let next = self.lists.len();
        let slot = *self.index.entry(entity.key).or_insert(next);
        if slot == next {
            self.lists.push((Arc::clone(entity), Vec::new()));
        }
        self.lists[slot].1.push(one);
        self.length += 1;
    }

    /// How many were added.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// What `finish` makes of each list.
    pub(super) fn finish<M>(self, finish: impl Fn(&Entity, Vec<T>) -> M) -> Vec<M> {
        self.lists.into_iter().map(|(entity, list)| finish(&entity, list)).collect()
    }
}
