//! Which probes run: opens them, gives them their tasks, switches them when the settings change. A probe fails alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use jitterscope_ebpf::spans::Spans;
use jitterscope_semconv::value::SpanLinkSource;
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinHandle, block_in_place},
    time::Instant,
};
use tracing::{info, warn};

use crate::{
    account::{Account, Accounts, State},
    config::{ProbeSettings, Settings, SpanSources},
    probe::{
        Definition, Machine, Opening, Probe, Skip,
        task::{Command, Running, Surroundings, Task},
    },
    spans::SpanStore,
};

/// Commands that wait for a task; they are rare, so this is only against a task that hangs.
const COMMANDS: usize = 8;
/// Time between two tries of probes that something passing kept from running.
pub const RETRY: Duration = Duration::from_secs(60);
/// Far enough for a probe that does not tick.
const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// The running probes.
pub struct Supervisor {
    accounts: Accounts,
    around: Surroundings,
    /// Every probe without events is in this one, so that each table is read once.
    counters: Option<Handle>,
    /// One for each probe with events.
    tasks: BTreeMap<&'static str, Handle>,
    running: BTreeMap<&'static str, Current>,
    /// Probes that something passing keeps from running.
    temporary: BTreeSet<&'static str>,
    /// What is known of the applications' spans.
    spans: Arc<SpanStore>,
    /// Sources of spans that are wanted and cannot run, and why.
    unlinked: Vec<(SpanLinkSource, Skip)>,
    /// Type information of a kernel that does not bring its own.
    btf: Option<PathBuf>,
}

/// How a probe runs at present.
struct Current {
    settings: ProbeSettings,
    /// The sources of spans that it was opened with: its programs have their maps, or are made without.
    linked: Option<SpanSources>,
}

/// A task and how to tell it something.
struct Handle {
    commands: mpsc::Sender<Command>,
    task: JoinHandle<()>,
}

/// A probe that the user requires cannot run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("probe {name} is required and cannot run: {skip}")]
pub struct Required {
    /// Which.
    pub name: &'static str,
    /// Why.
    pub skip: Skip,
}

impl Supervisor {
    /// Nothing runs yet.
    pub fn new(accounts: Accounts, around: Surroundings) -> Self {
        let spans = Arc::clone(&around.spans);
        Self {
            accounts,
            around,
            counters: None,
            tasks: BTreeMap::new(),
            running: BTreeMap::new(),
            temporary: BTreeSet::new(),
            spans,
            unlinked: Vec::new(),
            btf: None,
        }
    }

    /// Makes what runs equal to the settings. Probes whose settings did not change go on undisturbed.
    ///
    /// # Errors
    /// Every required probe that cannot run; the others run all the same.
    pub async fn apply(&mut self, settings: &Settings) -> Result<(), Vec<Required>> {
        self.btf.clone_from(&settings.kernel.btf);
        let machine = Machine::new(self.btf.as_deref());
        let mut required = Vec::new();
        self.find_spans(settings, &machine);
        for account in self.accounts.clone().iter() {
            let Some(wanted) = settings.probes.get(account.definition.name) else { continue };
            if let Err(skip) = self.apply_one(account, wanted, &machine).await
                && wanted.required
            {
                required.push(Required { name: account.definition.name, skip });
            }
        }
        self.forget_spans(settings);
        if required.is_empty() { Ok(()) } else { Err(required) }
    }

    /// Opens the sources of spans before the probes that read them: their hooks then see a packet first.
    fn find_spans(&mut self, settings: &Settings, machine: &Machine) {
        let Some(wanted) = wanted_sources(settings) else { return };
        if self.spans.sources() == Some(wanted) {
            return;
        }
        let refused = block_in_place(|| match machine.kernel() {
            Ok(kernel) => self.spans.open(kernel, wanted),
            Err(skip) => vec![(SpanLinkSource::Wire, skip)],
        });
        for (source, skip) in refused.iter().filter(|refused| !self.unlinked.contains(refused)) {
            warn!(source = source.as_str(), reason = %skip, "no span links");
        }
        self.unlinked = refused;
    }

    /// The sources of spans that a probe's anomalies are linked by when it is opened now.
    fn links(&self, wanted: &ProbeSettings) -> Option<SpanSources> {
        wanted.links.and_then(|_| self.spans.sources())
    }

    /// Closes them when nobody reads them any more.
    fn forget_spans(&mut self, settings: &Settings) {
        if wanted_sources(settings).is_none() && self.spans.sources().is_some() {
            self.spans.close();
        }
    }

    async fn apply_one(
        &mut self,
        account: &Arc<Account>,
        wanted: &ProbeSettings,
        machine: &Machine,
    ) -> Result<(), Skip> {
        let definition = account.definition;
        let linked = self.links(wanted);
        match (self.running.get_mut(definition.name), wanted.enabled) {
            // What it has counted is told before; then it counts from zero, from then on.
            (Some(current), true) if current.linked != linked => {
                self.stop(definition).await;
                self.start(account, wanted, machine).await
            }
            (Some(current), true) if current.settings == *wanted => Ok(()),
            (Some(current), true) => {
                current.settings = wanted.clone();
                self.tell(definition, Command::Reconfigure(definition.name, Box::new(wanted.clone()))).await;
                Ok(())
            }
            (Some(_), false) => {
                self.stop(definition).await;
                account.disable();
                Ok(())
            }
            (None, true) => self.start(account, wanted, machine).await,
            (None, false) => {
                account.state.store(Arc::new(State::Disabled));
                Ok(())
            }
        }
    }

    async fn start(
        &mut self,
        account: &Arc<Account>,
        wanted: &ProbeSettings,
        machine: &Machine,
    ) -> Result<(), Skip> {
        match open(account.definition, wanted, machine, &self.spans) {
            Ok(probe) => {
                let limitation = probe.limitation();
                let running = Running::new(probe, Arc::clone(account), wanted, self.first());
                self.place(account.definition, running).await?;
                info!(probe = account.definition.name, limitation, "running");
                let current = Current { settings: wanted.clone(), linked: self.links(wanted) };
                self.running.insert(account.definition.name, current);
                Ok(())
            }
            Err(skip) => {
                let state = State::Skipped(skip.clone());
                if **account.state.load() != state {
                    tell_skipped(account.definition.name, &skip);
                }
                account.state.store(Arc::new(state));
                if matches!(skip, Skip::Temporary(_) | Skip::Absent(_)) {
                    self.temporary.insert(account.definition.name);
                }
                Err(skip)
            }
        }
    }

    /// When a probe that starts now is collected first.
    fn first(&self) -> Instant {
        if self.around.ticks { Instant::now() } else { Instant::now() + NEVER }
    }

    /// Gives a probe its task: the counters' common one, or one of its own.
    async fn place(&mut self, definition: &'static Definition, running: Running) -> Result<(), Skip> {
        if definition.has_own_task() {
            let handle = self.spawn(running)?;
            self.tasks.insert(definition.name, handle);
        } else if let Some(counters) = &self.counters {
            send(&counters.commands, Command::Add(Box::new(running))).await;
        } else {
            self.counters = Some(self.spawn(running)?);
        }
        Ok(())
    }

    fn spawn(&self, running: Running) -> Result<Handle, Skip> {
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let task = Task::new(vec![running], self.around.clone(), receiver)
            .map_err(|error| Skip::Temporary(format!("its ring cannot be watched: {error}")))?;
        Ok(Handle { commands, task: tokio::spawn(task.run()) })
    }

    fn handle(&self, definition: &Definition) -> Option<&Handle> {
        if definition.has_own_task() { self.tasks.get(definition.name) } else { self.counters.as_ref() }
    }

    async fn tell(&self, definition: &Definition, command: Command) {
        if let Some(handle) = self.handle(definition) {
            send(&handle.commands, command).await;
        }
    }

    async fn stop(&mut self, definition: &'static Definition) {
        self.running.remove(definition.name);
        // A collection that is under way still says that the probe runs: what comes after must wait for it.
        let (done, gone) = oneshot::channel();
        self.tell(definition, Command::Remove(definition.name, done)).await;
        // A task that broke has no probe left.
        let _ = gone.await;
        if let Some(handle) = self.tasks.remove(definition.name) {
            handle.end().await;
        }
        info!(probe = definition.name, "stopped");
    }

    /// Tries again what something passing kept from running.
    pub async fn retry(&mut self, settings: &Settings) {
        let machine = Machine::new(self.btf.as_deref());
        let mut again = std::mem::take(&mut self.temporary);
        if self.unlinked.iter().any(|(_, skip)| matches!(skip, Skip::Temporary(_))) {
            self.find_spans(settings, &machine);
            again.extend(self.running.keys());
        }
        for name in again {
            let account = self.accounts.iter().find(|account| account.definition.name == name).cloned();
            if let (Some(account), Some(wanted)) = (account, settings.probes.get(name)) {
                // What cannot run is logged and in its account; nothing more is to be done about it here.
                let _ = self.apply_one(&account, wanted, &machine).await;
            }
        }
    }

    /// One collection of everything, now.
    pub async fn collect(&self) {
        for handle in self.counters.iter().chain(self.tasks.values()) {
            let (done, finished) = oneshot::channel();
            send(&handle.commands, Command::Collect(done)).await;
            // A task that broke has nothing to collect.
            let _ = finished.await;
        }
    }

    /// Ends every probe after a last collection; programs are detached when this returns.
    pub async fn shutdown(self) {
        for handle in self.counters.into_iter().chain(self.tasks.into_values()) {
            handle.end().await;
        }
    }
}

impl Handle {
    async fn end(self) {
        drop(self.commands);
        if let Err(error) = self.task.await {
            warn!(%error, "a probe's task broke");
        }
    }
}

/// How the spans are to be known that a probe links its anomalies to.
fn sources_of(probe: &ProbeSettings) -> Option<SpanSources> {
    probe.links.map(|links| links.sources)
}

/// What the probes that run want: the same for all of them.
fn wanted_sources(settings: &Settings) -> Option<SpanSources> {
    settings.probes.values().filter(|probe| probe.enabled).find_map(sources_of)
}

/// That there is nothing to watch is no reason to worry.
fn tell_skipped(probe: &str, skip: &Skip) {
    match skip {
        Skip::Absent(_) => info!(probe, reason = %skip, "skipped"),
        _ => warn!(probe, reason = %skip, "skipped"),
    }
}

async fn send(commands: &mpsc::Sender<Command>, command: Command) {
    if commands.send(command).await.is_err() {
        warn!("a probe's task is gone");
    }
}

/// Opens a probe; loading programs takes some time, which other tasks on this thread must not wait for.
fn open(
    definition: &Definition,
    settings: &ProbeSettings,
    machine: &Machine,
    spans: &SpanStore,
) -> Result<Box<dyn Probe>, Skip> {
    let open = |spans: Option<&Spans>| {
        let spans = spans.filter(|_| settings.links.is_some());
        (definition.open)(&Opening { settings, machine, spans })
    };
    block_in_place(|| spans.with(open))
}
