//! What all eBPF probes with events do alike: settings, account, ring, room in their maps. A probe adds how its counters and
//! its records read ([`Reading`]).

use std::os::fd::{AsFd as _, BorrowedFd};

use jitterscope_ebpf::{Observer, Ring, TableError, Telling, TooShort, abi::entity};
use jitterscope_semconv::{Instrument, Metric, attribute::OTEL_METRIC_OVERFLOW};
use tracing::debug;
use zerocopy::FromBytes;

use super::{CollectError, Opening, Probe, Skip, Usage};
use crate::{
    account::KernelAccount,
    batch::{Batch, Occurrence},
    clock::Clock,
    config::ProbeSettings,
    pods::{Netns, Origin},
    round::Round,
};

/// How the counters and records of one program read.
pub(super) trait Reading: Send + 'static {
    /// A record of its ring.
    type Record: FromBytes;

    /// The program.
    fn observer(&self) -> &Observer;

    /// The program, to be changed.
    fn observer_mut(&mut self) -> &mut Observer;

    /// Emits the counters, which began at `attached` (nanoseconds since the epoch); says how full its maps are.
    ///
    /// # Errors
    /// A map cannot be read.
    fn emit(
        &mut self,
        round: &Round<'_>,
        batch: &mut Batch<'_>,
        attached: u64,
    ) -> Result<Vec<Fill>, CollectError>;

    /// The metric whose overflow point tells what found no room in the maps. A distribution has none, for the durations
    /// are not known: the probe's account tells how many are missing.
    fn overflows_to(&self) -> &'static Metric;

    /// Forgets the counters of entities for which `is_gone`.
    ///
    /// # Errors
    /// A map cannot be read or written.
    fn forget(&self, is_gone: &dyn Fn(&entity) -> bool) -> Result<(), TableError>;

    /// A record as an event.
    fn occurrence(&mut self, record: &Self::Record, clock: &Clock) -> Occurrence;

    /// What it cannot see on this kernel.
    fn limitation(&self) -> Option<String> {
        let missing: Vec<String> = self
            .observer()
            .loaded()
            .missing()
            .iter()
            .map(|missing| format!("without hook {}", missing.hook))
            .collect();
        (!missing.is_empty()).then(|| missing.join(", "))
    }
}

/// How full a map is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fill {
    pub(super) map: &'static str,
    pub(super) entries: usize,
    pub(super) limit: usize,
}

/// A probe made of a program and how it reads.
pub(super) struct Observed<R> {
    reading: R,
    ring: Option<Ring>,
    /// Nanoseconds since the epoch when counting began.
    attached: u64,
    /// How full the maps are, as of the last collection.
    fill: Vec<Fill>,
}

impl<R: Reading> Observed<R> {
    /// Lets an attached program tell its events as the settings say.
    pub(super) fn start(mut reading: R, opening: &Opening<'_>) -> Result<Box<dyn Probe>, Skip> {
        let attached = Clock::read().now();
        reading.observer().configure(&telling(opening.settings))?;
        let ring = reading.observer_mut().events();
        Ok(Box::new(Self { reading, ring, attached, fill: Vec::new() }))
    }

    /// Forgets what nobody knows any more, so that what is new finds room.
    fn make_room(&self, round: &Round<'_>) -> Result<(), TableError> {
        let is_gone = |entity: &entity| round.pods.resolve(&origin(entity)).is_none();
        self.reading.observer().forget(is_gone)?;
        self.reading.forget(&is_gone)
    }
}

fn telling(settings: &ProbeSettings) -> Telling {
    let (rate, burst) = settings.events.map_or((0, 0), |events| (events.rate, events.burst));
    Telling { rate, burst, stack: settings.stack, threshold: settings.threshold.unwrap_or_default() }
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
        self.fill = self.reading.emit(round, batch, self.attached)?;
        let overflow = self.reading.observer().account()?.overflow;
        let metric = self.reading.overflows_to();
        if overflow > 0 && metric.instrument == Instrument::Counter {
            let mut emit = batch.entity(&round.pods.node(), Some(self.attached));
            emit.counter(metric, &[(&OTEL_METRIC_OVERFLOW, true.into())], overflow);
        }
        if self.fill.iter().any(|fill| fill.entries > fill.limit / 2) {
            self.make_room(round)?;
        }
        let (entries, limit) = (self.reading.observer().limited()?, usize::MAX);
        self.fill.push(Fill { map: "limiters", entries, limit });
        Ok(())
    }

    fn reconfigure(&mut self, settings: &ProbeSettings) -> Result<(), CollectError> {
        Ok(self.reading.observer().configure(&telling(settings))?)
    }

    fn events(&self) -> Option<BorrowedFd<'_>> {
        self.ring.as_ref().map(|ring| ring.as_fd())
    }

    fn next_event(&mut self, clock: &Clock) -> Option<Result<Occurrence, TooShort>> {
        let record = self.ring.as_mut()?.take::<R::Record>()?;
        Some(record.map(|record| self.reading.occurrence(&record, clock)))
    }

    fn account(&self) -> KernelAccount {
        match self.reading.observer().account() {
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
        self.reading.observer_mut().detach();
    }

    fn usage(&self) -> Usage {
        let entries = self.fill.iter().map(|fill| (fill.map, fill.entries as u64)).collect();
        Usage { entries, ..Usage::of(self.reading.observer().loaded()) }
    }

    fn limitation(&self) -> Option<String> {
        self.reading.limitation()
    }
}
