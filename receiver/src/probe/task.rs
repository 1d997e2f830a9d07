//! The task of one probe with events, or of all others together: collects at each tick, drains the ring when it is
//! readable, takes commands in between. The end of its commands is its end, after a last collection.

mod held;
mod running;
#[cfg(test)]
mod tests;

use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

use jitterscope_semconv::value::ProbeDropStage;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc::Receiver,
    task::block_in_place,
    time::{Instant, Interval, MissedTickBehavior, interval, sleep, sleep_until},
};
use tracing::warn;

use self::held::{Attributed, Held};
pub use self::running::Running;
use crate::{
    batch::{Batch, Logs, Occurrence, Series, Traces},
    clock::Clock,
    config::ProbeSettings,
    export::{Delivery, Metrics, OutboxHandle, Payload},
    pods::{Entity, Origin, Pods},
    round::{Parsers, Round, Setup, netlink::Wanted},
    spans::SpanStore,
};

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

/// What a task works with besides its probes.
#[derive(Clone)]
pub struct Surroundings {
    /// Who is who.
    pub pods: Pods,
    /// Where finished requests go.
    pub outbox: OutboxHandle,
    /// Where the counters of namespaces come from.
    pub counters: Setup,
    /// What is known of the applications' spans.
    pub spans: Arc<SpanStore>,
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
    held: Held,
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
        Ok(Self { probes, ring, around, commands, parsers, series: Series::default(), held: Held::default() })
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
                () = until(self.held.due()) => self.release(false),
                () = tick(follow.as_mut()) => self.follow().await,
                () = readable(self.ring.as_ref()) => {
                    sleep(TURN).await;
                    self.drain().await;
                }
            }
            self.bury();
        }
        self.end().await;
        self.bury();
    }

    async fn follow(&mut self) {
        self.around.pods.refreshed().await;
        let snapshot = self.around.pods.snapshot();
        block_in_place(|| self.probes.iter_mut().for_each(|running| running.follow(&snapshot)));
        self.drain().await;
    }

    /// Stops counting first: what the kernel saw and what came out of the ring must be of the same packets.
    async fn end(&mut self) {
        if self.probes.is_empty() {
            return;
        }
        self.probes.iter_mut().for_each(Running::detach);
        sleep(TURN).await;
        self.drain().await;
        self.release(true);
        self.collect(true).await;
    }

    /// Lets a probe go and tells that its series end.
    async fn remove(&mut self, name: &str) {
        if self.probes.iter().any(|running| running.account.definition.has_own_task()) {
            self.end().await;
        }
        self.forget(name);
    }

    /// Lets go of the probes that panicked.
    fn bury(&mut self) {
        while let Some(name) = self.probes.iter().find(|running| running.is_broken()).map(Running::name) {
            self.forget(name);
        }
    }

    fn forget(&mut self, name: &str) {
        self.release(true);
        for running in self.probes.extract_if(.., |running| running.name() == name) {
            running.account.set_series(0);
        }
        self.parsers.unload();
        let ended = Batch::end_of(&mut self.series, name, Clock::read().now());
        self.send(ended);
    }

    fn send(&self, metrics: Option<Metrics>) {
        if let Some(metrics) = metrics {
            let delivery = Delivery { payload: Payload::Metrics(metrics), account: None };
            self.around.outbox.load().send(delivery);
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
                    running.reconfigure(&settings);
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
        let metrics = block_in_place(|| self.round(all));
        self.send(metrics);
    }

    fn round(&mut self, all: bool) -> Option<Metrics> {
        let now = Instant::now();
        let is_due = |running: &Running| all || running.next <= now;
        let due = self.probes.iter().filter(|running| is_due(running));
        let wanted = due.map(|running| running.probe.wanted()).fold(Wanted::default(), Wanted::or);
        let round = Round::new(self.around.pods.snapshot(), Clock::read(), &self.parsers, wanted);
        let mut batch = Batch::new(&mut self.series, round.now);
        for running in self.probes.iter_mut().filter(|running| is_due(running)) {
            running.schedule(now);
            running.collect(&round, &mut batch);
        }
        let metrics = batch.finish();
        if let Some(origin) = round.missed() {
            self.around.pods.look_for(origin);
        }
        for running in &self.probes {
            running.account.set_series(self.series.remembered(running.name()));
        }
        metrics
    }

    /// Reads what is in the ring and sends it.
    async fn drain(&mut self) {
        let Some(running) = self.probes.first_mut() else { return };
        loop {
            let occurrences = read(running);
            if occurrences.is_empty() {
                return;
            }
            let mut events = attribute(&self.around.pods, running, occurrences, Clock::read().now()).await;
            self.held.hold(&mut events, &self.around.spans.tap);
            tell(running, &self.around.outbox, events);
        }
    }

    /// Sends the events that have waited for their spans long enough, or all.
    fn release(&mut self, all: bool) {
        let events = self.held.release(&self.around.spans.tap, all);
        if let Some(running) = self.probes.first_mut() {
            tell(running, &self.around.outbox, events);
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

/// Events of one turn. The clocks are read for each of them: what comes while others are read may come after a step.
fn read(running: &mut Running) -> Vec<Occurrence> {
    let mut occurrences = Vec::new();
    for _ in 0..RECORDS_PER_TURN {
        match running.next_event(&Clock::read()) {
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
async fn attribute(
    pods: &Pods,
    running: &mut Running,
    occurrences: Vec<Occurrence>,
    observed: u64,
) -> Vec<Attributed> {
    let mut events = Vec::with_capacity(occurrences.len());
    for occurrence in occurrences {
        let Some(entity) = named(pods, &occurrence.origin).await else {
            running.account.add_dropped(ProbeDropStage::Excluded, 1);
            continue;
        };
        events.push(Attributed { entity, observed, occurrence });
    }
    events
}

/// Sends events: each as a record, and as a span where that is wanted.
fn tell(running: &mut Running, outbox: &OutboxHandle, events: Vec<Attributed>) {
    let (mut logs, mut traces) = (Logs::default(), Traces::default());
    for Attributed { entity, observed, occurrence } in events {
        if let Some(link) = running.shown_in(&occurrence) {
            traces.add(&entity, &occurrence, &link);
        }
        logs.add(&entity, observed, occurrence);
    }
    let outbox = outbox.load();
    if !logs.is_empty() {
        let account = Some(Arc::clone(&running.account));
        outbox.send(Delivery { payload: Payload::Logs(logs.finish()), account });
    }
    if let Some(request) = traces.finish() {
        outbox.send(Delivery { payload: Payload::Traces(request), account: None });
    }
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
