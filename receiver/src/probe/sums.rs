//! Values of a kernel's map added up by what is emitted: several keys can be one series.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use jitterscope_ebpf::Merge;

use super::shown::{Latest, Shown};
use crate::{
    pods::{Entity, Origin},
    round::Round,
};

/// Values by entity and by what tells its series apart.
pub(super) struct Sums<W, V>(HashMap<(u64, W), Sum<W, V>>);

/// One series.
pub(super) struct Sum<W, V> {
    pub(super) entity: Arc<Entity>,
    pub(super) what: W,
    pub(super) value: V,
    /// The last anomalies in the value, of those that are to be shown with it.
    pub(super) shown: Latest,
}

impl<W, V> Default for Sums<W, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<W: Eq + Hash + Clone, V: Merge + Copy> Sums<W, V> {
    /// Adds the value of one key. Namespaces that the settings leave out have no entity and no points.
    pub(super) fn add(&mut self, round: &Round<'_>, origin: &Origin, what: W, value: &V) {
        if let Some(entity) = round.owner(origin) {
            self.add_to(entity, what, value);
        }
    }

    /// Adds a value to an entity's.
    pub(super) fn add_to(&mut self, entity: Arc<Entity>, what: W, value: &V) {
        self.0
            .entry((entity.key, what.clone()))
            .and_modify(|sum| sum.value.merge(value))
            .or_insert_with(|| Sum { entity, what, value: *value, shown: Latest::new() });
    }

    /// Shows an anomaly with the sum of its series, unless a later one is.
    pub(super) fn show<K>(&mut self, round: &Round<'_>, origin: &Origin, what: W, one: &Shown<K>) {
        let Some(entity) = round.entity(origin) else { return };
        let Some(sum) = self.0.get_mut(&(entity.key, what)) else { return };
        let latest = sum.shown.entry(one.place).or_insert(one.exemplar);
        if latest.time < one.exemplar.time {
            *latest = one.exemplar;
        }
    }
}

impl<W, V> IntoIterator for Sums<W, V> {
    type Item = Sum<W, V>;
    type IntoIter = std::collections::hash_map::IntoValues<(u64, W), Sum<W, V>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_values()
    }
}
