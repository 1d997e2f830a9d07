//! The account of each probe: what it saw and what became of it, each term counted where it happens.
//!
//! `seen = exported + suppressed + lost + dropped` over all stages, once nothing is under way. The kernel's terms
//! (seen, suppressed, lost) are copied from its maps, the others are added up here; none is computed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use jitterscope_semconv::{
    attribute,
    value::{ProbeDropStage, ProbeState},
};
use opentelemetry::{KeyValue, metrics::Histogram};

use crate::probe::{Definition, Skip, Usage};

/// What became of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs. The text says what it cannot see here, if anything.
    Running(Option<String>),
    /// It cannot run here, for this reason.
    Skipped(Skip),
    /// It is switched off by configuration.
    Disabled,
    /// It ran and broke, for this reason; it is tried again.
    Failed(String),
}

impl State {
    /// The state as telemetry names it.
    pub fn name(&self) -> ProbeState {
        match self {
            Self::Running(_) => ProbeState::Running,
            Self::Skipped(_) => ProbeState::Skipped,
            Self::Disabled => ProbeState::Disabled,
            Self::Failed(_) => ProbeState::Failed,
        }
    }

    /// The reason that goes with the state, if any.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Running(reason) => reason.clone(),
            Self::Skipped(skip) => Some(skip.to_string()),
            Self::Failed(reason) => Some(reason.clone()),
            Self::Disabled => None,
        }
    }
}

/// Drops of records after the ring, by stage, in the order of `ProbeDropStage::ALL`.
type Drops = [AtomicU64; ProbeDropStage::ALL.len()];

/// The account of one probe.
pub struct Account {
    /// Which probe.
    pub definition: &'static Definition,
    /// What became of it.
    pub state: ArcSwap<State>,
    /// Maps and programs, as of the last collection.
    pub usage: ArcSwap<Usage>,
    seen: AtomicU64,
    suppressed: AtomicU64,
    lost: AtomicU64,
    overflow: AtomicU64,
    exported: AtomicU64,
    dropped: Drops,
    suppressed_spans: AtomicU64,
    series: AtomicI64,
    collect_duration: Histogram<f64>,
}

/// The kernel's terms of the account, cumulative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelAccount {
    /// Everything that could have become an event.
    pub seen: u64,
    /// Rate limited.
    pub suppressed: u64,
    /// No room in the ring.
    pub lost: u64,
    /// Counted or measured, and no room for it in the maps: no term of the events' account.
    pub overflow: u64,
}

impl Account {
    /// An empty account of a probe that does not run yet.
    /// Its collections' durations go to `collect_duration`.
    pub fn new(definition: &'static Definition, collect_duration: Histogram<f64>) -> Self {
        Self {
            definition,
            state: ArcSwap::from_pointee(State::Disabled),
            usage: ArcSwap::default(),
            seen: AtomicU64::default(),
            suppressed: AtomicU64::default(),
            lost: AtomicU64::default(),
            overflow: AtomicU64::default(),
            exported: AtomicU64::default(),
            dropped: Drops::default(),
            suppressed_spans: AtomicU64::default(),
            series: AtomicI64::default(),
            collect_duration,
        }
    }

    /// It was switched off: what it held is given back, what it counted stays.
    pub fn disable(&self) {
        self.state.store(Arc::new(State::Disabled));
        self.usage.store(Arc::default());
        self.set_series(0);
    }

    /// Takes over what the kernel has counted since the probe was attached, on top of `base`.
    pub fn kernel(&self, base: KernelAccount, counted: KernelAccount) {
        self.seen.store(base.seen + counted.seen, Relaxed);
        self.suppressed.store(base.suppressed + counted.suppressed, Relaxed);
        self.lost.store(base.lost + counted.lost, Relaxed);
        self.overflow.store(base.overflow + counted.overflow, Relaxed);
    }

    /// The kernel's terms so far.
    pub fn kernel_terms(&self) -> KernelAccount {
        KernelAccount {
            seen: self.seen.load(Relaxed),
            suppressed: self.suppressed.load(Relaxed),
            lost: self.lost.load(Relaxed),
            overflow: self.overflow.load(Relaxed),
        }
    }

    /// Records that a destination has taken for good.
    pub fn exported(&self) -> u64 {
        self.exported.load(Relaxed)
    }

    /// Counts records that a destination has taken for good.
    pub fn add_exported(&self, records: u64) {
        self.exported.fetch_add(records, Relaxed);
    }

    /// Records that were given up at a stage.
    pub fn dropped(&self, stage: ProbeDropStage) -> u64 {
        self.dropped[stage as usize].load(Relaxed)
    }

    /// Counts records that were given up at a stage.
    pub fn add_dropped(&self, stage: ProbeDropStage, records: u64) {
        self.dropped[stage as usize].fetch_add(records, Relaxed);
    }

    /// Spans of anomalies that were not made because there were too many.
    pub fn suppressed_spans(&self) -> u64 {
        self.suppressed_spans.load(Relaxed)
    }

    /// Counts a span that was not made.
    pub fn suppress_span(&self) {
        self.suppressed_spans.fetch_add(1, Relaxed);
    }

    /// Notes how long a collection took.
    pub fn collected(&self, took: Duration) {
        let probe = KeyValue::new(attribute::PROBE_NAME.key, self.definition.name);
        self.collect_duration.record(took.as_secs_f64(), &[probe]);
    }

    /// Series of it that are remembered.
    pub fn series(&self) -> i64 {
        self.series.load(Relaxed)
    }

    /// Notes how many of its series are remembered.
    pub fn set_series(&self, series: usize) {
        self.series.store(i64::try_from(series).unwrap_or(i64::MAX), Relaxed);
    }
}

/// The accounts of all probes, in the order of `PROBES`.
pub type Accounts = Arc<[Arc<Account>]>;

/// Empty accounts of all probes.
pub fn accounts(probes: &[&'static Definition], collect_duration: &Histogram<f64>) -> Accounts {
    let account =
        |definition: &&'static Definition| Arc::new(Account::new(definition, collect_duration.clone()));
    probes.iter().map(account).collect()
}
