//! A probe in a task: when it is due, and what becomes of it when it fails.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use jitterscope_ebpf::TooShort;
use tokio::time::Instant;
use tracing::warn;

use crate::{
    account::{Account, KernelAccount, State},
    batch::{Batch, Occurrence, SpanLimit},
    clock::Clock,
    config::ProbeSettings,
    pods::Snapshot,
    probe::{CollectError, Probe},
    round::Round,
    spans::Link,
};

/// Time between the first collection and the second, so that rates are there soon after the start.
const SECOND_COLLECTION: Duration = Duration::from_secs(2);

/// A probe in a task.
pub struct Running {
    pub(super) probe: Box<dyn Probe>,
    pub(super) account: Arc<Account>,
    /// What its former runs had counted.
    base: KernelAccount,
    every: Duration,
    pub(super) next: Instant,
    collections: u32,
    /// How many spans of anomalies it may make; None: none is wanted.
    spans: Option<SpanLimit>,
    /// Whether it panicked: nothing more is asked of it.
    broken: bool,
}

impl Running {
    /// A probe that was just opened, to be collected for the first time at `first`.
    pub fn new(
        probe: Box<dyn Probe>,
        account: Arc<Account>,
        settings: &ProbeSettings,
        first: Instant,
    ) -> Self {
        let base = account.kernel_terms();
        account.state.store(Arc::new(State::Running(probe.limitation())));
        Self {
            probe,
            account,
            base,
            every: settings.interval,
            next: first,
            collections: 0,
            spans: span_limit(settings),
            broken: false,
        }
    }

    pub(super) fn name(&self) -> &'static str {
        self.account.definition.name
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// When to collect next: soon after the first time, then at its interval without drifting.
    pub(super) fn schedule(&mut self, now: Instant) {
        self.collections = self.collections.saturating_add(1);
        self.next = match self.collections {
            1 => now + self.every.min(SECOND_COLLECTION),
            2 => now + self.every,
            _ => (self.next + self.every).max(now + self.every / 2),
        };
    }

    /// One collection.
    pub(super) fn collect(&mut self, round: &Round<'_>, batch: &mut Batch<'_>) {
        let started = Instant::now();
        batch.of(self.name());
        let collect = |probe: &mut dyn Probe| (probe.collect(round, batch), probe.account(), probe.usage());
        let Some((collected, counted, usage)) = self.guarded(collect) else { return };
        self.account.kernel(self.base, counted);
        self.account.usage.store(Arc::new(usage));
        self.account.collected(started.elapsed());
        self.tell(collected);
    }

    /// Takes over settings that changed.
    pub(super) fn reconfigure(&mut self, settings: &ProbeSettings) {
        self.every = settings.interval;
        self.spans = span_limit(settings);
        self.next = self.next.min(Instant::now() + self.every);
        if let Some(result) = self.guarded(|probe| probe.reconfigure(settings)) {
            self.tell(result);
        }
    }

    pub(super) fn follow(&mut self, pods: &Arc<Snapshot>) {
        self.guarded(|probe| probe.follow(pods));
    }

    pub(super) fn next_event(&mut self, clock: &Clock) -> Option<Result<Occurrence, TooShort>> {
        self.guarded(|probe| probe.next_event(clock)).flatten()
    }

    /// The span that an event is to be shown in: one that is recorded, while there are not too many.
    pub(super) fn shown_in(&mut self, occurrence: &Occurrence) -> Option<Link> {
        let limit = self.spans.as_mut()?;
        let link = occurrence.link.filter(Link::is_sampled)?;
        if limit.take(std::time::Instant::now()) {
            return Some(link);
        }
        self.account.suppress_span();
        None
    }

    pub(super) fn detach(&mut self) {
        self.guarded(|probe| probe.detach());
    }

    /// A panic in a probe is its own end, not the task's. `None` then, and ever after.
    fn guarded<T>(&mut self, work: impl FnOnce(&mut dyn Probe) -> T) -> Option<T> {
        if self.broken {
            return None;
        }
        let done = catch_unwind(AssertUnwindSafe(|| work(&mut *self.probe))).ok();
        if done.is_none() {
            self.broken = true;
            let reason = "it panicked; see the log".to_owned();
            self.account.state.store(Arc::new(State::Failed(reason)));
        }
        done
    }

    fn tell(&self, collected: Result<(), CollectError>) {
        let state = match collected {
            Ok(()) => State::Running(self.probe.limitation()),
            Err(error) => State::Failed(error.to_string()),
        };
        if **self.account.state.load() != state {
            if let State::Failed(reason) = &state {
                warn!(probe = self.name(), reason, "collection failed");
            }
            self.account.state.store(Arc::new(state));
        }
    }
}

fn span_limit(settings: &ProbeSettings) -> Option<SpanLimit> {
    let rate = settings.anomaly_spans?;
    Some(SpanLimit::new(rate, std::time::Instant::now()))
}
