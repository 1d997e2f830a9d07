//! Names of pods and containers from the node's container runtime, over the CRI socket.
//!
//! The runtime is asked for all names at once: at start, when it tells of a change, and, bounded in rate, while the kernel
//! shows a pod or container that has no name. It can be slow, hang or be gone: nothing waits for it.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tonic::Code;

mod client;
pub(super) mod messages;

use super::names::{Memory, Names};
use super::{CriSetting, Settings};
use client::{Client, CriError};

/// Where runtimes listen, in the order in which they are tried. Docker's CRI needs cri-dockerd.
const SOCKETS: [&str; 4] = [
    "/run/containerd/containerd.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/var/run/cri-dockerd.sock",
];

/// Lists are at least so far apart: a name is to be there within a second, and a list of 250 pods costs the runtime about
/// ten milliseconds.
const LIST_PAUSE: Duration = Duration::from_millis(250);

/// How often the runtime is asked for entities that it did not name so far: containers that it does not manage.
const IDLE_PAUSE: Duration = Duration::from_secs(10);

/// First and longest pause before a connection is tried again.
const RETRY: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(30)];

/// How urgently names are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Demand {
    /// All are known.
    #[default]
    None,
    /// Some have been unknown for long: the runtime seems not to know them.
    Idle,
    /// Some entity is new.
    Urgent,
}

impl Demand {
    /// When to list next, after a list at this time.
    fn due(self, listed: Instant) -> Option<Instant> {
        match self {
            Self::None => None,
            Self::Idle => Some(listed + IDLE_PAUSE),
            Self::Urgent => Some(listed + LIST_PAUSE),
        }
    }
}

/// How the connection to the container runtime is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum CriState {
    /// Switched off.
    #[default]
    Off,
    /// No socket where one is looked for; it is looked for again.
    NoSocket,
    /// A socket is there, and has not answered yet.
    Connecting,
    /// The runtime of this name answers.
    Connected(String),
    /// The last attempt failed, for this reason; there will be another one.
    Failed(String),
}

impl CriState {
    /// Whether names that are missing can be expected.
    pub(super) fn names_come(&self) -> bool {
        matches!(self, Self::Connecting | Self::Connected(_))
    }
}

/// What the runtime told last.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    pub(super) state: CriState,
    pub(super) names: Arc<Names>,
}

/// The task's ends of its channels, and what it remembers.
pub(super) struct Cri {
    settings: watch::Receiver<Settings>,
    told: watch::Sender<Told>,
    demand: watch::Receiver<Demand>,
    memory: Memory,
}

impl Cri {
    pub(super) fn new(
        settings: watch::Receiver<Settings>,
        demand: watch::Receiver<Demand>,
    ) -> (Self, watch::Receiver<Told>) {
        let state = at_first(&settings.borrow().cri);
        let (told, receiver) = watch::channel(Told { state, names: Arc::default() });
        (Self { settings, told, demand, memory: Memory::default() }, receiver)
    }

    /// Runs until it is dropped. Names that were told stay while the runtime does not answer, and when the settings turn
    /// to another one or to none. Where other labels are wanted it is asked anew.
    pub(super) async fn run(mut self) {
        loop {
            let Settings { cri, labels, .. } = self.settings.borrow_and_update().clone();
            let mut settings = self.settings.clone();
            self.say(at_first(&cri));
            tokio::select! {
                never = self.attend(&cri, &labels) => match never {},
                Ok(_) = settings.wait_for(|settings| settings.cri != cri || settings.labels != labels) => {}
            }
        }
    }

    /// Asks the runtime of this setting, and connects again when that ends.
    async fn attend(&mut self, setting: &CriSetting, labels: &[String]) -> Infallible {
        if *setting == CriSetting::Off {
            return std::future::pending().await;
        }
        let mut pause = RETRY[0];
        loop {
            let state = match socket(setting) {
                Some(path) => match self.converse(path, labels).await {
                    Ok(never) => match never {},
                    Err(error) => CriState::Failed(reason(&error)),
                },
                None => CriState::NoSocket,
            };
            if matches!(self.told.borrow().state, CriState::Connected(_)) {
                pause = RETRY[0];
            }
            self.say(state);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY[1]);
        }
    }

    /// Asks one runtime for names, as often as is worth it, until it fails.
    async fn converse(&mut self, socket: PathBuf, labels: &[String]) -> Result<Infallible, CriError> {
        let mut client = Client::connect(&socket).await?;
        let runtime = client.runtime().await?;
        self.list(&mut client, &runtime, labels).await?;
        self.say(CriState::Connected(runtime.clone()));
        let changed = Notify::new();
        let mut watching = std::pin::pin!(watch_events(client.clone(), &changed));
        let (mut listed, mut watched) = (Instant::now(), true);
        loop {
            let due = self.demand.borrow_and_update().due(listed);
            tokio::select! {
                _ = self.demand.changed() => continue,
                () = changed.notified() => tokio::time::sleep_until(listed + LIST_PAUSE).await,
                () = sleep_until(due) => {}
                result = &mut watching, if watched => {
                    result?;
                    watched = false;
                    continue;
                }
            }
            self.list(&mut client, &runtime, labels).await?;
            listed = Instant::now();
        }
    }

    async fn list(&mut self, client: &mut Client, runtime: &str, labels: &[String]) -> Result<(), CriError> {
        let told = client.names(runtime, labels).await?;
        let names = Arc::new(self.memory.update(told, Instant::now().into_std()));
        self.told.send_if_modified(|told| {
            let changed = told.names != names;
            if changed {
                told.names = names;
            }
            changed
        });
        Ok(())
    }

    fn say(&self, state: CriState) {
        self.told.send_if_modified(|told| {
            let changed = told.state != state;
            if changed {
                tracing::info!(?state, "container runtime");
            }
            told.state = state;
            changed
        });
    }
}

/// How the connection is before anything was tried.
fn at_first(setting: &CriSetting) -> CriState {
    match (setting, socket(setting)) {
        (CriSetting::Off, _) => CriState::Off,
        (_, None) => CriState::NoSocket,
        (_, Some(_)) => CriState::Connecting,
    }
}

/// The socket to use, if it is there.
fn socket(setting: &CriSetting) -> Option<PathBuf> {
    match setting {
        CriSetting::Off => None,
        CriSetting::Auto => SOCKETS.map(PathBuf::from).into_iter().find(|path| path.exists()),
        CriSetting::Socket(path) => Some(path.clone()).filter(|path| path.exists()),
    }
}

/// Tells of every change, until the connection is lost. Ends well where the runtime has no events: names then come by
/// demand alone.
async fn watch_events(mut client: Client, changed: &Notify) -> Result<(), CriError> {
    let watch = async {
        let mut events = client.events().await?;
        while events.message().await?.is_some() {
            changed.notify_one();
        }
        Err(tonic::Status::unavailable("the stream of events ended"))
    };
    match watch.await {
        Err(status) if status.code() == Code::Unimplemented => Ok(()),
        Err(status) => Err(CriError::Call { method: "GetContainerEvents", status: Box::new(status) }),
        Ok(()) => Ok(()),
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// An error with its causes on one line.
fn reason(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
