//! What all eBPF probes with events do alike: settings, account, ring, room in their maps. A probe adds how its maps and
//! its records read ([`KernelMap`], [`Reading`]).

use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Duration;

use jitterscope_ebpf::{
    Missing, Observer, Ring, TableError, Telling, TooShort,
    abi::{EXEMPLARS_ALL, EXEMPLARS_NONE, EXEMPLARS_SAMPLED, entity},
};
use jitterscope_semconv::attribute::OTEL_METRIC_OVERFLOW;
use tracing::debug;
use zerocopy::FromBytes;

use super::{
    CollectError, Opening, Probe, Skip, Usage,
    maps::{Fill, KernelMap},
};
use crate::{
    account::KernelAccount,
    batch::{Batch, Occurrence},
    clock::Clock,
    config::{ExemplarFilter, ProbeSettings},
    pods::{Netns, Origin},
    round::Round,
    spans::Link,
};

/// How the records of one program read.
pub(super) trait Reading: Send + 'static {
    /// A record of its ring.
    type Record: FromBytes;

    /// A record as an event.
    fn occurrence(&mut self, record: &Self::Record, clock: &Clock) -> Occurrence;

    /// The application's span that a record belongs to, for a probe that knows.
    fn link(&self, _record: &Self::Record) -> Option<Link> {
        None
    }

    /// How long what a record tells of lasted, to the record's time; zero for what has no length.
    fn lasted(&self, _record: &Self::Record) -> Duration {
        Duration::ZERO
    }

    /// What it cannot see without these hooks.
    fn limitation(&self, missing: &[Missing]) -> Option<String> {
        let missing: Vec<String> =
            missing.iter().map(|missing| format!("without hook {}", missing.hook)).collect();
        (!missing.is_empty()).then(|| missing.join(", "))
    }
}

/// Reads a record as if it came out of the ring, if it is long enough; what comes of it can be told.
#[cfg(any(test, fuzzing))]
pub(super) fn read_record<R: Reading>(mut reading: R, bytes: &[u8]) {
    if let Ok((record, _)) = R::Record::read_from_prefix(bytes) {
        check_record(&mut reading, &record);
    }
}

#[cfg(any(test, fuzzing))]
pub(super) fn check_record<R: Reading>(reading: &mut R, record: &R::Record) {
    let occurrence = reading.occurrence(record, &Clock::read());
    assert!(!occurrence.body.is_empty() && !occurrence.body.contains('\0'), "{occurrence:?}");
    let keys: std::collections::HashSet<_> = occurrence.attributes.iter().map(|one| &one.key).collect();
    assert_eq!(keys.len(), occurrence.attributes.len(), "{occurrence:?}");
}

/// A probe made of a program, its maps, and how its records read.
pub(super) struct Observed<R> {
    observer: Observer,
    maps: Vec<Box<dyn KernelMap>>,
    reading: R,
    ring: Option<Ring>,
    /// Nanoseconds since the epoch when counting began.
    attached: u64,
    /// How full the maps are, as of the last collection.
    fill: Vec<Fill>,
}

impl<R: Reading> Observed<R> {
    /// Lets an attached program tell its events as the settings say.
    pub(super) fn start(
        mut observer: Observer,
        maps: Vec<Box<dyn KernelMap>>,
        reading: R,
        opening: &Opening<'_>,
    ) -> Result<Box<dyn Probe>, Skip> {
        let attached = Clock::read().now();
        observer.configure(&telling(opening.settings))?;
        let ring = observer.events();
        Ok(Box::new(Self { observer, maps, reading, ring, attached, fill: Vec::new() }))
    }

    /// Tells what found no room in the maps, as the overflow point of the first counter. Distributions have none, for the
    /// durations are not known: the probe's account tells how many are missing.
    fn tell_overflow(&self, round: &Round<'_>, batch: &mut Batch<'_>) -> Result<(), TableError> {
        let overflow = self.observer.account()?.overflow;
        let counter = self.maps.iter().find_map(|map| map.counter()).filter(|_| overflow > 0);
        if let Some(metric) = counter {
            let mut emit = batch.entity(&round.pods.node(), Some(self.attached));
            emit.counter(metric, &[(&OTEL_METRIC_OVERFLOW, true.into())], overflow);
        }
        Ok(())
    }

    /// Forgets what nobody knows any more, so that what is new finds room.
    fn make_room(&mut self, round: &Round<'_>) -> Result<(), TableError> {
        let is_gone = |entity: &entity| round.pods.resolve(&origin(entity)).is_none();
        self.observer.forget(is_gone)?;
        self.maps.iter_mut().try_for_each(|map| map.forget(&is_gone))
    }
}

fn telling(settings: &ProbeSettings) -> Telling {
    let (rate, burst) = settings.events.map_or((0, 0), |events| (events.rate, events.burst));
    Telling {
        rate,
        burst,
        stack: settings.stack,
        threshold: settings.threshold.unwrap_or_default(),
        sampling: settings.sampling,
        span_age: settings.links.map_or(Duration::ZERO, |links| links.max_age),
        exemplars: settings.links.map_or(EXEMPLARS_NONE, |links| exemplars(links.exemplars)),
    }
}

fn exemplars(filter: ExemplarFilter) -> u32 {
    match filter {
        ExemplarFilter::TraceBased => EXEMPLARS_SAMPLED,
        ExemplarFilter::AlwaysOn => EXEMPLARS_ALL,
        ExemplarFilter::AlwaysOff => EXEMPLARS_NONE,
    }
}

/// Whose something is, as the kernel knows it.
pub(super) fn origin(entity: &entity) -> Origin {
    Origin {
        netns: Netns { inode: entity.netns, cookie: entity.netns_cookie },
        cgroup: entity.cgroup,
        pid: 0,
    }
}

impl<R: Reading> Probe for Observed<R> {
    fn collect(&mut self, round: &Round<'_>, batch: &mut Batch<'_>) -> Result<(), CollectError> {
        self.fill.clear();
        for map in &mut self.maps {
            self.fill.push(map.collect(round, batch, self.attached)?);
        }
        self.tell_overflow(round, batch)?;
        if self.fill.iter().any(|fill| fill.entries > fill.limit / 2) {
            self.make_room(round)?;
        }
        let (entries, limit) = (self.observer.limited()?, usize::MAX);
        self.fill.push(Fill { map: "limiters", entries, limit });
        Ok(())
    }

    fn reconfigure(&mut self, settings: &ProbeSettings) -> Result<(), CollectError> {
        Ok(self.observer.configure(&telling(settings))?)
    }

    fn events(&self) -> Option<BorrowedFd<'_>> {
        self.ring.as_ref().map(|ring| ring.as_fd())
    }

    fn next_event(&mut self, clock: &Clock) -> Option<Result<Occurrence, TooShort>> {
        let record = self.ring.as_mut()?.take::<R::Record>()?;
        Some(record.map(|record| {
            let (link, lasted) = (self.reading.link(&record), self.reading.lasted(&record));
            Occurrence { link, lasted, ..self.reading.occurrence(&record, clock) }
        }))
    }

    fn account(&self) -> KernelAccount {
        match self.observer.account() {
            Ok(account) => KernelAccount {
                seen: account.seen,
                suppressed: account.suppressed,
                lost: account.lost,
                overflow: account.overflow,
            },
            Err(error) => {
                debug!(%error, "the account of a probe");
                KernelAccount::default()
            }
        }
    }

    fn detach(&mut self) {
        self.observer.detach();
    }

    fn usage(&self) -> Usage {
        let entries = self.fill.iter().map(|fill| (fill.map, fill.entries as u64)).collect();
        Usage { entries, ..Usage::of(self.observer.loaded()) }
    }

    fn limitation(&self) -> Option<String> {
        self.reading.limitation(self.observer.loaded().missing())
    }
}
