//! The task of one probe with events, or of all others together: collects at each tick, drains the ring when it is
//! readable, takes commands in between. The end of its commands is its end, after a last collection.

use std::{
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use jitterscope_semconv::value::ProbeDropStage;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc::Receiver,
    task::block_in_place,
    time::{Instant, Interval, MissedTickBehavior, interval, sleep, sleep_until},
};
use tracing::warn;

use super::{CollectError, Probe};
use crate::{
    account::{Account, KernelAccount, State},
    batch::{Batch, Logs, Occurrence, Series},
    clock::Clock,
    config::ProbeSettings,
    export::{Delivery, OutboxHandle, Payload},
    pods::{Entity, Origin, Pods},
    round::{Parsers, Round, Setup, netlink::Wanted},
};

/// Time between the first collection and the second, so that rates are there soon after the start.
const SECOND_COLLECTION: Duration = Duration::from_secs(2);
/// Records that come within this time of the first are read in one turn: one wake-up for a burst.
const TURN: Duration = Duration::from_millis(10);
/// Records of one turn at the ring; what is beyond waits for the next turn.
const RECORDS_PER_TURN: usize = 4096;
/// How often probes that listen inside namespaces are told which there are: they hear a new one soon, and let go of one that
/// is gone soon.
const FOLLOW: Duration = Duration::from_secs(1);

/// What a running task is told.
pub enum Command {
    /// One more probe.
    Add(Box<Running>),
    /// Settings of a probe that changed.
    Reconfigure(&'static str, Box<ProbeSettings>),
    /// A probe is switched off; tells when it is gone.
    Remove(&'static str, tokio::sync::oneshot::Sender<()>),
    /// Collect now, whatever is due; tells when it is done.
    Collect(tokio::sync::oneshot::Sender<()>),
}

/// A probe in a task.
pub struct Running {
    probe: Box<dyn Probe>,
    account: Arc<Account>,
    /// What its former runs had counted.
    base: KernelAccount,
    every: Duration,
    next: Instant,
    collections: u32,
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
        Self { probe, account, base, every: settings.interval, next: first, collections: 0 }
    }

    fn name(&self) -> &'static str {
        self.account.definition.name
    }

    /// When to collect next: soon after the first time, then at its interval without drifting.
    fn schedule(&mut self, now: Instant) {
        self.collections = self.collections.saturating_add(1);
        self.next = match self.collections {
            1 => now + self.every.min(SECOND_COLLECTION),
            2 => now + self.every,
            _ => (self.next + self.every).max(now + self.every / 2),
        };
    }

    /// One collection; a panic in a probe is its own end, not the task's.
    fn collect(&mut self, round: &Round<'_>, batch: &mut Batch<'_>) -> Result<(), Broken> {
        let started = Instant::now();
        batch.of(self.name());
        let probe = &mut self.probe;
        let collected = catch_unwind(AssertUnwindSafe(|| probe.collect(round, batch))).map_err(|_| Broken)?;
        self.account.kernel(self.base, self.probe.account());
        self.account.usage.store(Arc::new(self.probe.usage()));
        self.account.collected(started.elapsed());
        self.tell(collected);
        Ok(())
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

/// A probe panicked.
struct Broken;

/// What a task works with besides its probes.
#[derive(Clone)]
pub struct Surroundings {
    /// Who is who.
    pub pods: Pods,
    /// Where finished requests go.
    pub outbox: OutboxHandle,
    /// Where the counters of namespaces come from.
    pub counters: Setup,
    /// Whether probes are collected at their interval, or only when they are told to and at their end.
    pub ticks: bool,
}

/// A task before it runs.
pub struct Task {
    probes: Vec<Running>,
    ring: Option<AsyncFd<OwnedFd>>,
    around: Surroundings,
    commands: Receiver<Command>,
    parsers: Parsers,
    series: Series,
}

impl Task {
    /// A task with its first probes.
    ///
    /// # Errors
    /// A ring cannot be watched.
    pub fn new(
        probes: Vec<Running>,
        around: Surroundings,
        commands: Receiver<Command>,
    ) -> std::io::Result<Self> {
        // The probe keeps its ring; a second descriptor of it is enough to wait on.
        let ring = probes.iter().find_map(|running| running.probe.events()).map(|fd| fd.try_clone_to_owned());
        let ring = ring.transpose()?.map(watch).transpose()?;
        let parsers = Parsers::new(around.counters.clone());
        Ok(Self { probes, ring, around, commands, parsers, series: Series::default() })
    }

    /// Runs until the commands end.
    pub async fn run(mut self) {
        let follows = self.probes.iter().any(|running| running.probe.follows());
        let mut follow = follows.then(|| interval(FOLLOW));
        follow.iter_mut().for_each(|interval| interval.set_missed_tick_behavior(MissedTickBehavior::Delay));
        loop {
            let due = self.probes.iter().map(|running| running.next).min();
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(command) => self.apply(command).await,
                    None => break,
                },
                () = until(due) => self.collect(false).await,
                () = tick(follow.as_mut()) => self.follow().await,
                () = readable(self.ring.as_ref()) => {
                    sleep(TURN).await;
                    self.drain().await;
                }
            }
        }
        self.end().await;
    }

    async fn follow(&mut self) {
        self.around.pods.refreshed().await;
        let snapshot = self.around.pods.snapshot();
        block_in_place(|| self.probes.iter_mut().for_each(|running| running.probe.follow(&snapshot)));
        self.drain().await;
    }

    /// Stops counting first: what the kernel saw and what came out of the ring must be of the same packets.
    async fn end(&mut self) {
        if self.probes.is_empty() {
            return;
        }
        self.probes.iter_mut().for_each(|running| running.probe.detach());
        sleep(TURN).await;
        self.drain().await;
        self.collect(true).await;
    }

    /// Lets a probe go and tells that its series end.
    async fn remove(&mut self, name: &str) {
        if self.probes.iter().any(|running| running.account.definition.has_own_task()) {
            self.end().await;
        }
        self.probes.retain(|running| running.name() != name);
        self.parsers.unload();
        let request = Batch::end_of(&mut self.series, name, Clock::read().now());
        if let Some(request) = request {
            self.around.outbox.load().send(Delivery { payload: Payload::Metrics(request), account: None });
        }
    }

    async fn apply(&mut self, command: Command) {
        match command {
            Command::Add(running) => self.probes.push(*running),
            Command::Remove(name, done) => {
                self.remove(name).await;
                // The asker may have stopped waiting.
                let _ = done.send(());
            }
            Command::Reconfigure(name, settings) => {
                for running in self.probes.iter_mut().filter(|running| running.name() == name) {
                    running.every = settings.interval;
                    running.next = running.next.min(Instant::now() + running.every);
                    let result = running.probe.reconfigure(&settings);
                    running.tell(result);
                }
            }
            Command::Collect(done) => {
                self.drain().await;
                self.collect(true).await;
                // The asker may have stopped waiting.
                let _ = done.send(());
            }
        }
    }

    /// One round over the probes that are due, or all.
    async fn collect(&mut self, all: bool) {
        self.around.pods.refreshed().await;
        let delivery = block_in_place(|| self.round(all));
        if let Some(delivery) = delivery {
            self.around.outbox.load().send(delivery);
        }
    }

    fn round(&mut self, all: bool) -> Option<Delivery> {
        let now = Instant::now();
        let is_due = |running: &Running| all || running.next <= now;
        let due = self.probes.iter().filter(|running| is_due(running));
        let wanted = due.map(|running| running.probe.wanted()).fold(Wanted::default(), Wanted::or);
        let round = Round::new(self.around.pods.snapshot(), Clock::read(), &self.parsers, wanted);
        let mut batch = Batch::new(&mut self.series, round.now);
        self.probes.retain_mut(|running| {
            if !is_due(running) {
                return true;
            }
            running.schedule(now);
            let intact = running.collect(&round, &mut batch).is_ok();
            if !intact {
                let reason = "it panicked; see the log".to_owned();
                running.account.state.store(Arc::new(State::Failed(reason)));
            }
            intact
        });
        let request = batch.finish();
        if let Some(origin) = round.missed() {
            self.around.pods.look_for(origin);
        }
        for running in &self.probes {
            running.account.set_series(self.series.remembered(running.name()));
        }
        Some(Delivery { payload: Payload::Metrics(request?), account: None })
    }

    /// Reads what is in the ring and sends it.
    async fn drain(&mut self) {
        let Some(running) = self.probes.first_mut() else { return };
        let account = Arc::clone(&running.account);
        loop {
            let clock = Clock::read();
            let occurrences = read(running, &clock);
            if occurrences.is_empty() {
                return;
            }
            let logs = attribute(&self.around.pods, &account, occurrences, Clock::read().now()).await;
            if logs.is_empty() {
                continue;
            }
            let payload = Payload::Logs(logs.finish());
            self.around.outbox.load().send(Delivery { payload, account: Some(Arc::clone(&account)) });
        }
    }
}

#[expect(
    deprecated,
    reason = "its replacement is unsafe for types that change their descriptor; OwnedFd does not"
)]
fn watch(ring: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(ring, Interest::READABLE)
}

/// Events of one turn.
fn read(running: &mut Running, clock: &Clock) -> Vec<Occurrence> {
    let mut occurrences = Vec::new();
    for _ in 0..RECORDS_PER_TURN {
        match running.probe.next_event(clock) {
            None => break,
            Some(Ok(occurrence)) => occurrences.push(occurrence),
            Some(Err(error)) => {
                running.account.add_dropped(ProbeDropStage::Undecodable, 1);
                warn!(probe = running.name(), %error);
            }
        }
    }
    occurrences
}

/// Gives each event its entity, and new entities a moment to get their names. Events of namespaces that the
/// settings leave out are counted as that.
async fn attribute(pods: &Pods, account: &Account, occurrences: Vec<Occurrence>, observed: u64) -> Logs {
    let mut logs = Logs::default();
    for occurrence in occurrences {
        match named(pods, &occurrence.origin).await {
            Some(entity) => logs.add(&entity, observed, occurrence),
            None => account.add_dropped(ProbeDropStage::Excluded, 1),
        }
    }
    logs
}

/// The entity of an origin; while the container runtime may still tell its name, that is waited for.
async fn named(pods: &Pods, origin: &Origin) -> Option<Arc<Entity>> {
    loop {
        let entity = pods.attribute(origin).await?;
        match entity.pending_until {
            Some(until) if std::time::Instant::now() < until => pods.refreshed().await,
            _ => return Some(entity),
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

async fn tick(interval: Option<&mut Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// Returns when the ring has records. Readiness is cleared at once: what comes later makes it ready again.
async fn readable(ring: Option<&AsyncFd<OwnedFd>>) {
    match ring {
        Some(ring) => match ring.readable().await {
            Ok(mut ready) => ready.clear_ready(),
            Err(error) => {
                warn!(%error, "the ring cannot be watched");
                std::future::pending::<()>().await;
            }
        },
        None => std::future::pending().await,
    }
}
