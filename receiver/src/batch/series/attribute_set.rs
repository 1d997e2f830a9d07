//! Attribute sets that are remembered. Each stands once, for the series of all entities have the same few.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, Hasher},
    sync::Arc,
};

use foldhash::quality::RandomState;
use jitterscope_semconv::Attribute;

use crate::batch::attributes::{Pair, Value};

/// One attribute.
pub(in crate::batch) struct Owned {
    attribute: &'static Attribute,
    value: OwnedValue,
}

enum OwnedValue {
    Str(Box<str>),
    Int(i64),
    Bool(bool),
}

impl Owned {
    fn new((attribute, value): &Pair<'_>) -> Self {
        let value = match value {
            Value::Str(text) => OwnedValue::Str((*text).into()),
            Value::Int(number) => OwnedValue::Int(*number),
            Value::Bool(truth) => OwnedValue::Bool(*truth),
        };
        Self { attribute, value }
    }

    pub(in crate::batch) fn pair(&self) -> Pair<'_> {
        let value = match &self.value {
            OwnedValue::Str(text) => Value::Str(text),
            OwnedValue::Int(number) => Value::Int(*number),
            OwnedValue::Bool(truth) => Value::Bool(*truth),
        };
        (self.attribute, value)
    }
}

/// Attribute sets by their hash: 64 bits of a keyed one, so that among 65,536 series two collide with a chance of 1 in 10¹⁰.
#[derive(Default)]
pub(super) struct AttributeSets {
    sets: HashMap<u64, Arc<[Owned]>, RandomState>,
    hasher: RandomState,
}

impl AttributeSets {
    pub(super) fn hash(&self, pairs: &[Pair<'_>]) -> u64 {
        let mut state = self.hasher.build_hasher();
        for (attribute, value) in pairs {
            attribute.key.as_ptr().hash(&mut state);
            value.hash(&mut state);
        }
        state.finish()
    }

    /// The set of that hash.
    pub(super) fn get(&mut self, hash: u64, pairs: &[Pair<'_>]) -> Arc<[Owned]> {
        let new = || pairs.iter().map(Owned::new).collect();
        Arc::clone(self.sets.entry(hash).or_insert_with(new))
    }

    /// Forgets those that no series has any more.
    pub(super) fn tidy(&mut self) {
        self.sets.retain(|_, set| Arc::strong_count(set) > 1);
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }
}
