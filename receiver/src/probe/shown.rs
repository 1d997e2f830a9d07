//! Anomalies that are shown with what counted them: each is taken from the program's map once, at the first collection whose
//! points are about its time.

use std::collections::BTreeMap;

use jitterscope_ebpf::{Loaded, TableError, abi::exemplar, histogram::Range};
use opentelemetry_proto::tonic::metrics::v1::Exemplar;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{clock::Clock, round::Round, spans::exemplars::exemplar_of_duration};

/// An anomaly and where it was counted.
pub(super) struct Shown<K> {
    /// Key of the value that counts it.
    pub(super) key: K,
    /// What of the value: the bucket of a distribution; 0 of a counter.
    pub(super) place: u32,
    pub(super) exemplar: exemplar,
}

/// The last anomaly of each part of one series' value.
pub(super) type Latest = BTreeMap<u32, exemplar>;

/// Takes the anomalies that have come since the last time.
pub(super) type Exemplars<K> = Box<dyn Fn(&Round<'_>) -> Result<Vec<Shown<K>>, TableError> + Send>;

/// Those of the counters of a program that links anomalies to spans; none of one that was loaded without.
pub(super) fn exemplars<K>(of: &Loaded) -> Option<Exemplars<K>>
where
    K: FromBytes + IntoBytes + Immutable + KnownLayout + Clone + Send + 'static,
{
    exemplars_of(of, |key: &K| Some((key.clone(), 0)))
}

/// Those that `place` finds a place for; the others are left to who has one.
pub(super) fn exemplars_of<P, K>(
    of: &Loaded,
    place: impl Fn(&P) -> Option<(K, u32)> + Send + 'static,
) -> Option<Exemplars<K>>
where
    P: FromBytes + IntoBytes + Immutable + KnownLayout + Clone + Send + 'static,
    K: 'static,
{
    let table = of.table::<P, exemplar>("exemplars").ok()?;
    Some(Box::new(move |round| {
        let mut taken = Vec::new();
        table.retain(|under, exemplar| {
            // What came after the beginning of the round is later than its points.
            let is_due = round.clock.at_boot(exemplar.time) <= round.now;
            let Some((key, place)) = place(under).filter(|_| is_due) else { return true };
            taken.push(Shown { key, place, exemplar: *exemplar });
            false
        })?;
        Ok(taken)
    }))
}

/// Those of a distribution, each in its bucket. What is beyond the bounds is counted in the first bucket and the last, but is
/// not shown there.
pub(super) fn of_durations<'a>(
    latest: impl IntoIterator<Item = (u32, &'a exemplar)>,
    range: Range,
    clock: &Clock,
) -> Vec<Exemplar> {
    let within = latest.into_iter().filter(|(bucket, shown)| range.holds(*bucket, shown.value));
    within.map(|(_, shown)| exemplar_of_duration(shown, clock)).collect()
}
