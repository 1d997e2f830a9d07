//! What a probe task remembers of each series between two collections, probe by probe: whose it is, its start time and its
//! last value.
//!
//! OTLP's cumulative points need a start time that moves when, and only when, the counter started anew (metrics data
//! model, "Resets and gaps"), and a series that ends is told so once, so that no backend shows its last value any longer.

mod attribute_set;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    hash::BuildHasher,
    sync::Arc,
};

use foldhash::quality::RandomState;
use jitterscope_semconv::Metric;

use self::attribute_set::AttributeSets;
pub(super) use self::attribute_set::Owned;
use super::{attributes::Pair, is_overflow};
use crate::pods::Entity;

/// Series of one probe that are remembered at most. The probe with the most has about 50 a pod, and some more for what the
/// pod counted of TCP's details: with 250 pods on a node, a quarter of this. Past it, points still go out, but a counter
/// that falls is not noticed, nor that a series ends.
pub const SERIES_LIMIT: usize = 65_536;

/// Attribute sets of one metric on one entity. The OpenTelemetry SDK's own default; what is beyond it goes
/// into one point with `otel.metric.overflow`.
pub(super) const ATTRIBUTE_SETS: u32 = 2000;

/// Collections of its probe in which a series must be missing to have ended: a namespace that cannot be read once is not
/// gone.
const MISSES: u32 = 2;

/// The memory of one probe task.
#[derive(Default)]
pub struct Series {
    probes: Vec<Probe>,
    /// Which of them is being collected.
    current: usize,
    entities: HashMap<u64, Arc<Entity>, RandomState>,
    sets: AttributeSets,
    hasher: RandomState,
    /// Time of the collection under way, in nanoseconds since the epoch.
    now: u64,
    ended: Vec<Ended>,
    /// Whether some have ended since it was tidied.
    untidy: bool,
}

/// The memory of one probe.
#[derive(Default)]
struct Probe {
    name: &'static str,
    known: HashMap<u64, State, RandomState>,
    /// How many attribute sets of a metric on an entity have points of their own.
    admitted: HashMap<u64, u32, RandomState>,
    /// Its collections so far.
    collections: u32,
    /// Whether it was collected in the collection under way.
    collected: bool,
}

struct State {
    entity: u64,
    metric: &'static Metric,
    attributes: Arc<[Owned]>,
    start: u64,
    last: u64,
    seen: u64,
    /// The probe's collection in which it was seen last.
    collection: u32,
    told: Told,
}

/// What was told of a series so far.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Nothing: its entity waits for its names.
    Nothing,
    /// Points of its own, if there was any since its resource changed.
    Points(bool),
    /// It adds to the overflow.
    Overflow,
}

/// Where a value goes and since when it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Nanoseconds since the epoch.
    pub(super) start: u64,
    /// Whether it has a point of its own; else it adds to the overflow. `None`: it is too much to be remembered, and has one
    /// while there is room.
    pub(super) own: Option<bool>,
}

/// One value of a series.
pub(super) struct Seen<'a> {
    pub(super) metric: &'static Metric,
    pub(super) attributes: &'a [Pair<'a>],
    /// When its counter began at zero, where that is known.
    pub(super) origin: Option<u64>,
    /// Anything of it that never falls; 0 for what has no start.
    pub(super) value: u64,
    /// Whether it is told; else its entity waits for its names.
    pub(super) told: bool,
}

/// A series that is told of no more.
pub(super) struct Ended {
    pub(super) entity: Arc<Entity>,
    pub(super) metric: &'static Metric,
    pub(super) attributes: Arc<[Owned]>,
    pub(super) start: u64,
}

impl Series {
    /// Begins a collection at `now` (nanoseconds since the epoch).
    pub(super) fn begin(&mut self, now: u64) {
        self.now = now;
        self.probes.iter_mut().for_each(|probe| probe.collected = false);
        if std::mem::take(&mut self.untidy) {
            self.tidy();
        }
    }

    /// What follows is this probe's.
    pub(super) fn of(&mut self, probe: &'static str) {
        let known = self.probes.iter().position(|memory| memory.name == probe);
        self.current = known.unwrap_or_else(|| {
            self.probes.push(Probe { name: probe, ..Probe::default() });
            self.probes.len() - 1
        });
        let probe = &mut self.probes[self.current];
        if !std::mem::replace(&mut probe.collected, true) {
            probe.collections = probe.collections.wrapping_add(1);
        }
    }

    /// Notes whom the next values are of. Under other names than before, its series are others: the former ones end.
    pub(super) fn meet(&mut self, entity: &Arc<Entity>) {
        let Some(known) = self.entities.get_mut(&entity.key) else {
            self.entities.insert(entity.key, Arc::clone(entity));
            return;
        };
        if Arc::ptr_eq(known, entity) {
            return;
        }
        let former = std::mem::replace(known, Arc::clone(entity));
        if former.resource != entity.resource {
            for probe in &mut self.probes {
                probe.rename(&former, &mut self.ended);
            }
        }
    }

    /// Where a value of an entity goes. Its start is when the counter began at zero, where that is known; without it a new
    /// series starts at its first point. A counter that fell began anew between the last collection and this one.
    pub(super) fn place(&mut self, entity: u64, seen: &Seen<'_>) -> Place {
        let set = self.sets.hash(seen.attributes);
        let metric = self.hasher.hash_one((entity, seen.metric.name.as_ptr()));
        let key = self.hasher.hash_one((metric, set));
        let first = seen.origin.unwrap_or(self.now).min(self.now);
        if self.probes.is_empty() {
            self.of("");
        }
        let Probe { known, admitted, collections, .. } = &mut self.probes[self.current];
        let full = known.len() >= SERIES_LIMIT;
        let state = match known.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(_) if full => return Place { start: first, own: None },
            Entry::Vacant(new) => {
                new.insert(State::new(entity, seen, self.sets.get(set, seen.attributes), first))
            }
        };
        state.see(seen, (self.now, first), *collections);
        if seen.told {
            state.told = match state.told {
                Told::Nothing if state.is_overflow() => Told::Points(true),
                Told::Nothing => admit(admitted.entry(metric).or_default()),
                Told::Points(_) => Told::Points(true),
                Told::Overflow => Told::Overflow,
            };
        }
        Place { start: state.start, own: Some(state.told != Told::Overflow) }
    }

    /// Ends a collection: the series that were missing in some collections of their probe have ended.
    pub(super) fn end(&mut self) -> Vec<Ended> {
        for probe in self.probes.iter_mut().filter(|probe| probe.collected) {
            let (hasher, collections) = (&self.hasher, probe.collections);
            let is_gone = |state: &State| collections.wrapping_sub(state.collection) >= MISSES;
            probe.forget(is_gone, hasher, &self.entities, &mut self.ended);
        }
        self.untidy |= !self.ended.is_empty() || self.entities.len() > SERIES_LIMIT;
        std::mem::take(&mut self.ended)
    }

    /// Ends all series of a probe that is switched off, at `now`.
    pub(super) fn end_of(&mut self, probe: &str, now: u64) -> Vec<Ended> {
        self.now = now;
        let named = |memory: &&mut Probe| memory.name == probe;
        if let Some(probe) = self.probes.iter_mut().find(named) {
            probe.forget(|_| true, &self.hasher, &self.entities, &mut self.ended);
        }
        self.untidy |= !self.ended.is_empty() || self.entities.len() > SERIES_LIMIT;
        std::mem::take(&mut self.ended)
    }

    /// Forgets what no series is of any more.
    fn tidy(&mut self) {
        let states = self.probes.iter().flat_map(|probe| probe.known.values());
        let alive: HashSet<u64> = states.map(|state| state.entity).collect();
        self.entities.retain(|key, _| alive.contains(key));
        self.sets.tidy();
    }

    /// Series of a probe that are remembered.
    pub fn remembered(&self, probe: &str) -> usize {
        self.probes.iter().find(|memory| memory.name == probe).map_or(0, |memory| memory.known.len())
    }
}

/// What becomes of a new series, by how many of its metric and entity there are.
fn admit(sets: &mut u32) -> Told {
    if *sets >= ATTRIBUTE_SETS {
        return Told::Overflow;
    }
    *sets += 1;
    Told::Points(true)
}

impl State {
    fn new(entity: u64, seen: &Seen<'_>, attributes: Arc<[Owned]>, start: u64) -> Self {
        let (metric, last) = (seen.metric, seen.value);
        Self { entity, metric, attributes, start, last, seen: 0, collection: 0, told: Told::Nothing }
    }

    /// Notes its value.
    fn see(&mut self, seen: &Seen<'_>, (now, first): (u64, u64), collection: u32) {
        if seen.value < self.last {
            self.start = self.seen.max(first);
        } else if seen.origin.is_some_and(|origin| origin > self.start) {
            self.start = first;
        }
        (self.last, self.seen, self.collection) = (seen.value, now, collection);
    }

    /// Whether it is what has no points of its own, which is not among those that are counted.
    fn is_overflow(&self) -> bool {
        matches!(&*self.attributes, [one] if is_overflow(&[one.pair()]))
    }

    /// Its end, if anything was told of it.
    fn ended(&self, entity: &Arc<Entity>) -> Option<Ended> {
        (self.told == Told::Points(true)).then(|| Ended {
            entity: Arc::clone(entity),
            metric: self.metric,
            attributes: Arc::clone(&self.attributes),
            start: self.start,
        })
    }
}

impl Probe {
    /// Ends what was told under an entity's former names.
    fn rename(&mut self, former: &Arc<Entity>, ended: &mut Vec<Ended>) {
        for state in self.known.values_mut().filter(|state| state.entity == former.key) {
            if let Some(end) = state.ended(former) {
                ended.push(end);
                state.told = Told::Points(false);
            }
        }
    }

    /// Forgets the series for which `is_gone`.
    fn forget(
        &mut self,
        is_gone: impl Fn(&State) -> bool,
        hasher: &RandomState,
        entities: &HashMap<u64, Arc<Entity>, RandomState>,
        ended: &mut Vec<Ended>,
    ) {
        self.known.retain(|_, state| {
            if !is_gone(state) {
                return true;
            }
            if matches!(state.told, Told::Points(_)) && !state.is_overflow() {
                let metric = hasher.hash_one((state.entity, state.metric.name.as_ptr()));
                self.admitted.entry(metric).and_modify(|sets| *sets -= 1);
            }
            ended.extend(entities.get(&state.entity).and_then(|entity| state.ended(entity)));
            false
        });
        self.admitted.retain(|_, sets| *sets > 0);
    }
}
