//! One running receiver: built from settings, run until it is told to end, drained.

pub mod check;
mod destinations;
pub mod once;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use jitterscope_semconv::value::{ExporterDropCause, ProbeDropStage};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
    time::{interval_at, sleep},
};
use tracing::{error, info, warn};

use crate::{
    account::{Accounts, State, accounts},
    clock::Clock,
    config::{Change, ConfigError, Counters, Settings, Sources, Tap, Watch},
    export::{self, BuildError, DestinationAccount, Exporters, Outbox, OutboxHandle},
    health::{self, Health},
    logging::Logging,
    pods::{self, Pods},
    probe::{PROBES, Skip, task::Surroundings},
    round::{self, Setup},
    spans::tap::server,
    supervisor::{RETRY, Required, Supervisor},
    telemetry::{Observed, Telemetry},
};

/// How a run prints what it has when there is no Collector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// OTLP/JSON, one request a line.
    Json,
}

impl From<crate::cli::Format> for Format {
    fn from(format: crate::cli::Format) -> Self {
        match format {
            crate::cli::Format::Text => Self::Text,
            crate::cli::Format::Json => Self::Json,
        }
    }
}

/// Why a receiver cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A destination cannot be used as it is configured.
    #[error("export.otlp: {0}")]
    Destination(#[from] BuildError),
    /// Probes that the user requires cannot run.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Required(Vec<Required>),
    /// Nothing of what was asked for may run.
    #[error("privileges are missing for all that was asked:\n{0}\nadd the capabilities, or run as root")]
    Privileges(String),
    /// The operating system refused something that every receiver needs.
    #[error("{what}: {source}")]
    System {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl Failure {
    /// The exit code, as the interface promises.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Destination(_) => 78,
            Self::Required(_) => 69,
            Self::Privileges(_) => 77,
            Self::System { .. } => 1,
        }
    }
}

/// The signals that end a receiver in order.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on they no longer end the process by themselves.
    ///
    /// # Errors
    /// They cannot be received.
    pub fn new() -> Result<Self, Failure> {
        let handler = |kind| signal(kind).map_err(|source| Failure::System { what: "signals", source });
        Ok(Self {
            terminate: handler(SignalKind::terminate())?,
            interrupt: handler(SignalKind::interrupt())?,
        })
    }

    /// Returns when one of them has come.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// A receiver that is built and runs.
pub struct Node {
    settings: Settings,
    format: Format,
    logging: Logging,
    telemetry: Telemetry,
    observed: Observed,
    outbox: OutboxHandle,
    exporters: Exporters,
    supervisor: Supervisor,
    /// Where the counters of namespaces come from.
    counters: Setup,
    /// Tasks that end with the receiver.
    background: Vec<JoinHandle<()>>,
    health: Option<JoinHandle<()>>,
    /// Where spans are taken.
    tap: Option<JoinHandle<()>>,
    started: u64,
}

impl Node {
    /// Builds a receiver and starts its probes.
    ///
    /// # Errors
    /// Everything in [`Failure`]; probes that merely cannot run here are skipped with a reason.
    pub async fn start(settings: Settings, format: Format, logging: Logging) -> Result<Self, Failure> {
        let mut telemetry = Telemetry::new(&settings.resource);
        let (pods, writer) = pods::start(&identity(&settings));
        let (exporters, outbox) = Exporters::start(destinations::of(&settings, format)?);
        let outbox = Arc::new(ArcSwap::from_pointee(outbox));
        let observed = Observed {
            accounts: accounts(PROBES, &telemetry.collect_duration()),
            destinations: Arc::new(ArcSwap::from_pointee(exporters.accounts())),
            pods: pods.clone(),
            counters: Arc::default(),
            spans: Arc::default(),
        };
        telemetry.observe(&observed);
        let counters = counters(&settings, Arc::clone(&observed.counters));
        let around = Surroundings {
            pods,
            outbox: Arc::clone(&outbox),
            counters: counters.clone(),
            spans: Arc::clone(&observed.spans),
            ticks: true,
        };
        let supervisor = Supervisor::new(Arc::clone(&observed.accounts), around);
        let started = Clock::read().now();
        let background = vec![tokio::spawn(writer)];
        let mut node = Self {
            settings,
            format,
            logging,
            telemetry,
            observed,
            outbox,
            exporters,
            supervisor,
            counters,
            background,
            health: None,
            tap: None,
            started,
        };
        node.supervisor.apply(&node.settings.clone()).await.map_err(Failure::Required)?;
        node.any_runs()?;
        node.serve_health().await;
        node.serve_tap().await;
        Ok(node)
    }

    /// Nothing runs although something was asked for, and privileges are all that is missing.
    fn any_runs(&self) -> Result<(), Failure> {
        let mut reasons = Vec::new();
        for account in self.observed.accounts.iter() {
            match &**account.state.load() {
                State::Disabled => {}
                State::Skipped(Skip::Privilege { capabilities, reason }) => {
                    reasons.push(format!("  {}: needs {capabilities}: {reason}", account.definition.name));
                }
                _ => return Ok(()),
            }
        }
        if reasons.is_empty() { Ok(()) } else { Err(Failure::Privileges(reasons.join("\n"))) }
    }

    async fn serve_health(&mut self) {
        if let Some(serving) = self.health.take() {
            serving.abort();
        }
        let Some(address) = self.settings.health else { return };
        match health::bind(address).await {
            Ok(listener) => {
                let health = Health {
                    accounts: Arc::clone(&self.observed.accounts),
                    destinations: Arc::clone(&self.observed.destinations),
                    started: self.started,
                };
                self.health = Some(tokio::spawn(health::serve(listener, health)));
            }
            Err(error) => {
                warn!(%address, %error, "no health endpoint; set health.endpoint to a free address or off");
            }
        }
    }

    async fn serve_tap(&mut self) {
        if let Some(serving) = self.tap.take() {
            serving.abort();
            // Its socket is closed when this returns.
            let _ = serving.await;
        }
        let spans = &self.observed.spans;
        let Some(Tap { endpoint, wait }) = self.settings.spans.tap else { return spans.tap.close() };
        match TcpListener::bind(endpoint).await {
            Ok(listener) => {
                spans.tap.open(wait);
                self.tap = Some(tokio::spawn(server::serve(listener, Arc::clone(spans))));
            }
            Err(error) => {
                spans.tap.close();
                warn!(%endpoint, %error, "no spans are taken; set spans.sources.tap.endpoint to a free address");
            }
        }
    }

    /// Runs until a signal, the end of `duration` or the end of who reads its output, following changes of the configuration.
    pub async fn run(
        &mut self,
        sources: &Sources,
        watch: &mut Watch,
        duration: Option<Duration>,
        signals: &mut Signals,
    ) {
        let mut over = std::pin::pin!(sleep(duration.unwrap_or(Duration::MAX)));
        let mut retry = interval_at(tokio::time::Instant::now() + RETRY, RETRY);
        // From here on signals and changed files are followed, also by a receiver without probes.
        info!(version = env!("CARGO_PKG_VERSION"), "running");
        loop {
            let own = self.telemetry.run(self.settings.interval, &self.outbox);
            let outbox = self.outbox.load_full();
            tokio::select! {
                () = own => {}
                () = outbox.closed() => break,
                () = signals.end() => break,
                () = &mut over => break,
                _ = retry.tick() => self.supervisor.retry(&self.settings).await,
                change = watch.changed() => self.reload(sources, change).await,
            }
        }
    }

    /// Applies a changed configuration, or keeps the running one and says why.
    async fn reload(&mut self, sources: &Sources, change: Change) {
        if change == Change::Gone {
            warn!("the configuration file is gone; the running configuration stays");
            return;
        }
        let settings = match sources.load(PROBES) {
            Ok(settings) if settings == self.settings => {
                info!("the configuration did not change");
                return;
            }
            Ok(settings) => settings,
            Err(invalid) => {
                error!("the configuration is invalid; the running configuration stays\n{invalid}");
                return;
            }
        };
        if let Err(failure) = self.take_over(settings).await {
            error!("the configuration cannot be applied; the running configuration stays: {failure}");
        }
    }

    async fn take_over(&mut self, settings: Settings) -> Result<(), Failure> {
        let moved =
            settings.export != self.settings.export || settings.events_text != self.settings.events_text;
        let destinations = moved.then(|| destinations::of(&settings, self.format)).transpose()?;
        let log = settings.log != self.settings.log;
        let entities = settings.entities != self.settings.entities;
        let health = settings.health != self.settings.health;
        let tap = settings.spans.tap != self.settings.spans.tap;
        self.settings = settings;
        if let Some(destinations) = destinations {
            self.redirect(destinations);
        }
        if log {
            self.logging.change(self.settings.log);
        }
        if entities {
            self.observed.pods.change(&identity(&self.settings));
        }
        if health {
            self.serve_health().await;
        }
        if tap {
            self.serve_tap().await;
        }
        self.counters.walk.store(self.settings.kernel.counters == Counters::Auto, Relaxed);
        if let Err(required) = self.supervisor.apply(&self.settings).await {
            error!("{}", Failure::Required(required));
        }
        info!("the configuration was applied");
        Ok(())
    }

    /// Sends to other destinations from now on; those that are no longer wanted get their grace period to finish, and
    /// stay in sight until the next change.
    fn redirect(&mut self, destinations: Vec<export::Destination>) {
        let (former, outbox) = self.exporters.change(destinations);
        let mut accounts = self.exporters.accounts();
        let gone = former.accounts().into_iter();
        let gone = gone.filter(|gone| accounts.iter().all(|account| account.name != gone.name));
        accounts.extend(gone.collect::<Vec<_>>());
        self.observed.destinations.store(Arc::new(accounts));
        self.outbox.store(Arc::new(outbox));
        self.background.push(tokio::spawn(former.drain(self.settings.shutdown_grace)));
    }

    /// Collects everything once more and sends it.
    pub async fn collect(&self) {
        self.supervisor.collect().await;
        self.telemetry.send(&self.outbox);
    }

    /// Stops the probes after a last collection, sends what there is within the grace period, reports what remained.
    pub async fn shutdown(self) {
        self.supervisor.shutdown().await;
        self.telemetry.send(&self.outbox);
        self.outbox.store(Arc::new(Outbox::default()));
        self.exporters.drain(self.settings.shutdown_grace).await;
        for task in self.health.iter().chain(&self.tap).chain(&self.background) {
            task.abort();
        }
        report(&self.observed.accounts);
        self.observed.destinations.load().iter().for_each(|account| report_destination(account));
    }

    /// Who is who on this node.
    pub fn pods(&self) -> &Pods {
        &self.observed.pods
    }
}

/// The account at the end: what the probes saw and what became of it.
fn report(accounts: &Accounts) {
    for account in accounts.iter().filter(|account| !account.definition.events.is_empty()) {
        let terms = account.kernel_terms();
        let dropped: u64 = ProbeDropStage::ALL.iter().map(|stage| account.dropped(*stage)).sum();
        info!(
            probe = account.definition.name,
            seen = terms.seen,
            exported = account.exported(),
            suppressed = terms.suppressed,
            lost = terms.lost,
            dropped,
            "account"
        );
    }
}

/// The account of a destination at the end: what it was given and what became of it. What is queued then is on disk.
fn report_destination(account: &DestinationAccount) {
    for signal in export::Signal::ALL {
        let terms = account.terms(signal);
        let dropped: u64 = ExporterDropCause::ALL.iter().map(|cause| terms.dropped(*cause)).sum();
        info!(
            destination = account.name,
            signal = signal.name(),
            produced = terms.produced,
            recovered = terms.recovered,
            delivered = terms.delivered,
            queued = terms.queued,
            dropped,
            "account"
        );
    }
}

/// Where the counters of namespaces come from.
fn counters(settings: &Settings, account: Arc<round::Account>) -> Setup {
    let walk = Arc::new(AtomicBool::new(settings.kernel.counters == Counters::Auto));
    Setup { walk, btf: settings.kernel.btf.clone(), account }
}

/// What identity depends on.
fn identity(settings: &Settings) -> pods::Settings {
    pods::Settings {
        node_name: std::env::var("K8S_NODE_NAME").ok().filter(|name| !name.is_empty()),
        cri: match &settings.entities.cri {
            crate::config::Cri::Auto => pods::CriSetting::Auto,
            crate::config::Cri::Off => pods::CriSetting::Off,
            crate::config::Cri::Socket(path) => pods::CriSetting::Socket(path.clone()),
        },
        netns: settings.entities.netns,
        labels: settings.entities.labels.clone(),
        ..pods::Settings::default()
    }
}

/// The threads of the process. To be called before there are others.
///
/// # Errors
/// The kernel gives none.
pub fn runtime() -> io::Result<Runtime> {
    jitterscope_ebpf::memory::share_one_heap();
    // Two workers: one may be busy with a collection while the other drains rings and sends.
    Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

/// Runs a receiver from its sources to the end.
///
/// # Errors
/// Everything in [`Failure`].
pub async fn run(sources: &Sources, format: Format, duration: Option<Duration>) -> Result<(), Failure> {
    // Both before anything starts: no change is missed, and a signal while it starts ends it in order too.
    let mut signals = Signals::new()?;
    let mut watch = Watch::new(sources.file.as_deref())
        .map_err(|source| Failure::System { what: "watching the configuration", source })?;
    let settings = sources.load(PROBES)?;
    let logging = Logging::start(settings.log);
    let mut node = Node::start(settings, format, logging).await?;
    node.run(sources, &mut watch, duration, &mut signals).await;
    info!("ending");
    node.shutdown().await;
    Ok(())
}
