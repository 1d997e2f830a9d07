//! What a probe task remembers of each series between two collections, probe by probe: its start time and its last value.
//!
//! OTLP's cumulative points need a start time that moves when, and only when, the counter started anew
//! (metrics data model, "Resets and gaps").

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    time::Duration,
};

use jitterscope_semconv::Metric;

use super::attributes::Pair;

/// Series of one probe that are remembered at most. The probe with the most has about 50 a pod, and some more for what the
/// pod counted of TCP's details: with 250 pods on a node, a quarter of this. Past it, points still go out, but a counter
/// that falls is not noticed.
pub const SERIES_LIMIT: usize = 65_536;

/// The memory of one probe task.
#[derive(Default)]
pub struct Series {
    probes: Vec<Probe>,
    /// Which of them is being collected.
    current: usize,
    hasher: RandomState,
    /// Time of the collection under way, in nanoseconds since the epoch.
    now: u64,
    /// Nanoseconds after which a series that no longer shows up is forgotten.
    keep: u64,
}

/// The memory of one probe.
#[derive(Default)]
struct Probe {
    name: &'static str,
    known: HashMap<u64, State>,
}

struct State {
    start: u64,
    last: u64,
    seen: u64,
}

impl Series {
    /// Remembers series that are collected at `interval` past one failed read of a namespace, for that is no
    /// restart of its counters.
    pub fn keep(&mut self, interval: Duration) {
        self.keep = u64::try_from(interval.as_nanos().saturating_mul(5) / 2).unwrap_or(u64::MAX);
    }

    /// Begins a collection at `now` (nanoseconds since the epoch).
    pub fn begin(&mut self, now: u64) {
        self.now = now;
    }

    /// What follows is this probe's.
    pub fn of(&mut self, probe: &'static str) {
        let known = self.probes.iter().position(|memory| memory.name == probe);
        self.current = known.unwrap_or_else(|| {
            self.probes.push(Probe { name: probe, ..Probe::default() });
            self.probes.len() - 1
        });
    }

    /// Ends a collection: series that were not seen for a while are forgotten.
    pub fn end(&mut self) {
        let oldest = self.now.saturating_sub(self.keep);
        for probe in &mut self.probes {
            probe.known.retain(|_, state| state.seen >= oldest);
        }
    }

    /// Start time of a counter that now stands at `value`. `origin` is when the counter began at zero, where
    /// that is known; without it a new series starts at its first point. A counter that fell began anew
    /// between the last collection and this one.
    pub fn start(
        &mut self,
        entity: u64,
        metric: &Metric,
        attributes: &[Pair<'_>],
        origin: Option<u64>,
        value: u64,
    ) -> u64 {
        let key = self.key(entity, metric, attributes);
        let first = origin.unwrap_or(self.now).min(self.now);
        if self.probes.is_empty() {
            self.of("");
        }
        let known = &mut self.probes[self.current].known;
        if let Some(state) = known.get_mut(&key) {
            if value < state.last {
                state.start = state.seen.max(first);
            } else if origin.is_some_and(|origin| origin > state.start) {
                state.start = first;
            }
            state.last = value;
            state.seen = self.now;
            return state.start;
        }
        if known.len() < SERIES_LIMIT {
            known.insert(key, State { start: first, last: value, seen: self.now });
        }
        first
    }

    /// Series of a probe that are remembered.
    pub fn remembered(&self, probe: &str) -> usize {
        self.probes.iter().find(|memory| memory.name == probe).map_or(0, |memory| memory.known.len())
    }

    /// 64 bits of a keyed hash stand for the series: among 65,536 of them two collide with a chance of 1 in 10¹⁰.
    fn key(&self, entity: u64, metric: &Metric, attributes: &[Pair<'_>]) -> u64 {
        let attributes = AttributeSet(attributes);
        self.hasher.hash_one((entity, metric.name.as_ptr(), attributes))
    }
}

struct AttributeSet<'a>(&'a [Pair<'a>]);

impl Hash for AttributeSet<'_> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        for (attribute, value) in self.0 {
            attribute.key.as_ptr().hash(state);
            value.hash(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use jitterscope_semconv::metric;

    use super::*;

    const PROBE: &str = "tcp";

    fn series() -> Series {
        let mut series = Series::default();
        series.of(PROBE);
        series.keep(Duration::from_nanos(100));
        series
    }

    fn collect(series: &mut Series, now: u64, origin: Option<u64>, value: u64) -> u64 {
        series.begin(now);
        let start = series.start(1, &metric::TCP_SEGMENT_RETRANSMITS, &[], origin, value);
        series.end();
        start
    }

    #[test]
    fn a_series_without_known_origin_starts_at_its_first_point_and_stays_there() {
        let mut series = series();
        assert_eq!(collect(&mut series, 100, None, 7), 100);
        assert_eq!(collect(&mut series, 200, None, 7), 100);
        assert_eq!(collect(&mut series, 300, None, 9), 100);
    }

    #[test]
    fn a_counter_that_fell_starts_anew_after_the_collection_before() {
        let mut series = series();
        collect(&mut series, 100, Some(50), 7);
        assert_eq!(collect(&mut series, 200, Some(50), 3), 100);
        assert_eq!(collect(&mut series, 300, Some(50), 4), 100);
    }

    #[test]
    fn a_later_origin_is_a_new_start_even_when_the_value_rose() {
        let mut series = series();
        collect(&mut series, 100, Some(50), 7);
        assert_eq!(collect(&mut series, 200, Some(150), 8), 150);
    }

    #[test]
    fn a_series_that_is_gone_is_forgotten() {
        let mut series = series();
        collect(&mut series, 100, None, 7);
        for now in [200, 500] {
            series.begin(now);
            series.end();
        }
        assert_eq!(series.remembered(PROBE), 0);
    }

    #[test]
    fn each_probe_has_a_memory_of_its_own_that_is_full_by_itself() {
        let mut series = series();
        series.begin(100);
        for (probe, entities) in [("many", SERIES_LIMIT as u64 + 3), ("few", 2)] {
            series.of(probe);
            for entity in 0..entities {
                series.start(entity, &metric::TCP_SEGMENT_RETRANSMITS, &[], None, 1);
            }
        }
        series.end();
        let remembered = ["many", "few", "none"].map(|probe| series.remembered(probe));
        assert_eq!(remembered, [SERIES_LIMIT, 2, 0]);
    }
}
