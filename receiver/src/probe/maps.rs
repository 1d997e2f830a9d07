//! The maps of an eBPF probe's program, and what their entries are told as: a counter or a distribution for each entity, or
//! nothing but how many there are.

use std::hash::Hash;

use jitterscope_ebpf::{
    Entries, Merge, Table, TableError,
    abi::{entity, histogram},
    histogram::Range,
};
use jitterscope_semconv::{Instrument, Metric};
use rustix::time::{ClockId, clock_gettime};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{
    cgroups::{Ledger, Row},
    observed::origin,
    shown::{Exemplars, Latest, of_durations},
    sums::{Sum, Sums},
};
use crate::{
    batch::{Batch, Emitter, attributes::Pair},
    clock::{Clock, nanoseconds},
    round::Round,
    spans::exemplars::exemplar_of_count,
};

/// One map of a program.
pub(super) trait KernelMap: Send {
    /// Emits what it holds, counted since `attached` (nanoseconds since the epoch); says how full it is.
    ///
    /// # Errors
    /// The map cannot be read.
    fn collect(
        &mut self,
        round: &Round<'_>,
        batch: &mut Batch<'_>,
        attached: u64,
    ) -> Result<Fill, TableError>;

    /// Removes what belongs to entities for which `is_gone`.
    ///
    /// # Errors
    /// The map cannot be read or written.
    fn forget(&mut self, _is_gone: &dyn Fn(&entity) -> bool) -> Result<(), TableError> {
        Ok(())
    }

    /// The counter that its entries are told as.
    fn counter(&self) -> Option<&'static Metric> {
        None
    }
}

/// How full a map is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fill {
    pub(super) map: &'static str,
    pub(super) entries: usize,
    /// Past half of it, what belongs to entities that are gone is removed. `usize::MAX`: nothing is to be removed.
    pub(super) limit: usize,
}

/// A value of a map, and the points that it makes.
pub(super) trait Amount: Merge + Copy + Send + 'static {
    fn emit(&self, emit: &mut Emitter<'_, '_>, point: &Point<'_>, shown: &Latest);
}

/// What a point of a map is besides its value.
pub(super) struct Point<'a> {
    told: &'a Told,
    attributes: &'a [Pair<'a>],
    clock: &'a Clock,
}

impl Amount for u64 {
    fn emit(&self, emit: &mut Emitter<'_, '_>, point: &Point<'_>, shown: &Latest) {
        let exemplar = shown.values().next().map(|raw| exemplar_of_count(raw, point.clock));
        emit.counter_with(point.told.metric, point.attributes, *self, exemplar);
    }
}

impl Amount for histogram {
    fn emit(&self, emit: &mut Emitter<'_, '_>, point: &Point<'_>, shown: &Latest) {
        let range = point.told.range;
        let latest = shown.iter().map(|(bucket, raw)| (*bucket, raw));
        let exemplars = of_durations(latest, range, point.clock);
        emit.histogram_with(point.told.metric, point.attributes, range, self, exemplars);
    }
}

/// What the series of a metric are told apart by.
pub(super) trait Attributes: Eq + Hash + Clone + Send + 'static {
    fn attributes(&self) -> Vec<Pair<'_>>;
}

impl Attributes for () {
    fn attributes(&self) -> Vec<Pair<'_>> {
        Vec::new()
    }
}

/// Which map is told as which metric.
#[derive(Clone, Copy)]
pub(super) struct Told {
    pub(super) map: &'static str,
    /// Entries that it has room for.
    pub(super) limit: u32,
    pub(super) metric: &'static Metric,
    /// Of the durations, if it holds any.
    range: Range,
}

impl Told {
    /// A map of `u64`, or of durations within [`Range::LATENCY`].
    pub(super) fn new(map: &'static str, limit: u32, metric: &'static Metric) -> Self {
        Self { map, limit, metric, range: Range::LATENCY }
    }

    /// A map of durations in another range.
    pub(super) fn within(self, range: Range) -> Self {
        Self { range, ..self }
    }

    fn fill(&self, entries: usize) -> Fill {
        Fill { map: self.map, entries, limit: self.limit as usize }
    }

    fn emit<W: Attributes, V: Amount>(
        &self,
        sums: Sums<W, V>,
        clock: &Clock,
        batch: &mut Batch<'_>,
        attached: u64,
    ) {
        for Sum { entity, what, value, shown } in sums {
            let point = Point { told: self, attributes: &what.attributes(), clock };
            value.emit(&mut batch.entity(&entity, Some(attached)), &point, &shown);
        }
    }
}

/// What makes a series of a key; `None` for keys that nobody knows.
type Naming<K, W> = Box<dyn Fn(&K) -> Option<W> + Send>;

/// A map by network namespace, or by cgroup in the host's.
struct ByEntity<T: Entries, W> {
    told: Told,
    table: T,
    /// Anomalies to be shown with the values, where there are some.
    exemplars: Option<Exemplars<T::Key>>,
    whose: fn(&T::Key) -> entity,
    what: Naming<T::Key, W>,
}

pub(super) fn by_entity<T, W>(
    told: Told,
    table: T,
    whose: fn(&T::Key) -> entity,
    what: impl Fn(&T::Key) -> Option<W> + Send + 'static,
) -> Box<dyn KernelMap>
where
    T: Entries<Value: Amount> + Send + 'static,
    W: Attributes,
{
    by_entity_with(told, table, None, whose, what)
}

/// The same with anomalies to be shown with the values.
pub(super) fn by_entity_with<T, W>(
    told: Told,
    table: T,
    exemplars: Option<Exemplars<T::Key>>,
    whose: fn(&T::Key) -> entity,
    what: impl Fn(&T::Key) -> Option<W> + Send + 'static,
) -> Box<dyn KernelMap>
where
    T: Entries<Value: Amount> + Send + 'static,
    W: Attributes,
{
    Box::new(ByEntity { told, table, exemplars, whose, what: Box::new(what) })
}

impl<T, W> KernelMap for ByEntity<T, W>
where
    T: Entries<Value: Amount> + Send,
    W: Attributes,
{
    fn collect(
        &mut self,
        round: &Round<'_>,
        batch: &mut Batch<'_>,
        attached: u64,
    ) -> Result<Fill, TableError> {
        let mut sums = Sums::default();
        // Before the values, which then contain them.
        let shown = self.exemplars.as_ref().map(|take| take(round)).transpose()?.unwrap_or_default();
        let entries = self.table.for_each(|key, value| {
            if let Some(what) = (self.what)(key) {
                sums.add(round, &origin(&(self.whose)(key)), what, value);
            }
        })?;
        for one in &shown {
            if let Some(what) = (self.what)(&one.key) {
                sums.show(round, &origin(&(self.whose)(&one.key)), what, one);
            }
        }
        self.told.emit(sums, &round.clock, batch, attached);
        Ok(self.told.fill(entries))
    }

    fn forget(&mut self, is_gone: &dyn Fn(&entity) -> bool) -> Result<(), TableError> {
        self.table.retain(|key, _| !is_gone(&(self.whose)(key))).map(drop)
    }

    fn counter(&self) -> Option<&'static Metric> {
        Some(self.told.metric).filter(|metric| metric.instrument == Instrument::Counter)
    }
}

/// A map by cgroup, whose entities keep what cgroups that are gone have counted.
struct ByCgroup<T: Entries, W> {
    told: Told,
    table: T,
    cgroup: fn(&T::Key) -> u64,
    what: Naming<T::Key, W>,
    ledger: Ledger<W, T::Value>,
}

pub(super) fn by_cgroup<T, W>(
    told: Told,
    table: T,
    cgroup: fn(&T::Key) -> u64,
    what: impl Fn(&T::Key) -> Option<W> + Send + 'static,
) -> Box<dyn KernelMap>
where
    T: Entries<Value: Amount> + Send + 'static,
    W: Attributes,
{
    Box::new(ByCgroup { told, table, cgroup, what: Box::new(what), ledger: Ledger::default() })
}

impl<T, W> KernelMap for ByCgroup<T, W>
where
    T: Entries<Value: Amount> + Send,
    W: Attributes,
{
    fn collect(
        &mut self,
        round: &Round<'_>,
        batch: &mut Batch<'_>,
        attached: u64,
    ) -> Result<Fill, TableError> {
        let mut rows: Vec<Row<W, T::Value>> = Vec::new();
        let entries = self.table.for_each(|key, value| {
            rows.extend((self.what)(key).map(|what| ((self.cgroup)(key), what, *value)));
        })?;
        let (sums, gone) = self.ledger.add_up(&rows, round);
        self.told.emit(sums, &round.clock, batch, attached);
        if !gone.is_empty() {
            self.table.retain(|key, _| !gone.contains(&(self.cgroup)(key)))?;
        }
        Ok(self.told.fill(entries))
    }
}

/// A map of what is on its way. Its entries go by themselves: there is no room to be made.
struct InFlight<K, V> {
    map: &'static str,
    table: Table<K, V>,
}

pub(super) fn in_flight<K, V>(map: &'static str, table: Table<K, V>) -> Box<dyn KernelMap>
where
    K: FromBytes + IntoBytes + Immutable + KnownLayout + Send + 'static,
    V: FromBytes + IntoBytes + Immutable + KnownLayout + Send + 'static,
{
    Box::new(InFlight { map, table })
}

impl<K, V> KernelMap for InFlight<K, V>
where
    K: FromBytes + IntoBytes + Immutable + KnownLayout + Send,
    V: FromBytes + IntoBytes + Immutable + KnownLayout + Send,
{
    fn collect(&mut self, _: &Round<'_>, _: &mut Batch<'_>, _: u64) -> Result<Fill, TableError> {
        Ok(Fill { map: self.map, entries: self.table.for_each(|_, _| {})?, limit: usize::MAX })
    }
}

/// Nanoseconds after which a packet is not believed to be on its way any more: the last bucket of [`Range::LATENCY`] begins
/// there.
const LONGEST: u64 = 107_634_741_152;

/// A map of packets on their way. One whose end no hook has seen is forgotten some time.
struct Waiting<V> {
    map: &'static str,
    table: Table<u64, V>,
    /// `CLOCK_MONOTONIC`, nanoseconds.
    since: fn(&V) -> u64,
}

pub(super) fn waiting<V>(map: &'static str, table: Table<u64, V>, since: fn(&V) -> u64) -> Box<dyn KernelMap>
where
    V: FromBytes + IntoBytes + Immutable + KnownLayout + Send + 'static,
{
    Box::new(Waiting { map, table, since })
}

impl<V> KernelMap for Waiting<V>
where
    V: FromBytes + IntoBytes + Immutable + KnownLayout + Send,
{
    fn collect(&mut self, _: &Round<'_>, _: &mut Batch<'_>, _: u64) -> Result<Fill, TableError> {
        let now = nanoseconds(clock_gettime(ClockId::Monotonic));
        let mut entries = 0;
        self.table.retain(|_, packet| {
            let stays = now.saturating_sub((self.since)(packet)) < LONGEST;
            entries += usize::from(stays);
            stays
        })?;
        // Packets leave by themselves: there is no room to be made.
        Ok(Fill { map: self.map, entries, limit: usize::MAX })
    }
}
