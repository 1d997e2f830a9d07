//! Who is who: from an origin in kernel terms to the OTLP Resource of its pod, container, namespace or node.
//!
//! One writer task scans `/proc`, the directories of named namespaces and the cgroup tree, takes names from the container
//! runtime, and publishes an immutable [`Snapshot`]. Readers load it without locks and never wait for the writer, unless
//! they ask for a fresh one.
//!
//! A namespace inode or process id that is used again never inherits the former owner: see [`Netns`] and
//! [`Namespace::instance`]. What is gone still resolves for 30 s.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};

mod address;
mod cgroup;
mod cri;
mod directories;
mod entity;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod inside;
mod instance;
mod instances;
mod named;
mod names;
mod node;
mod origin;
mod process;
mod registry;
mod scan;
mod snapshot;
mod tree;
mod writer;

pub use address::Address;
pub use cri::{CriState, messages::ContainerMetadata, messages::PodSandboxMetadata};
pub use entity::{Entity, EntityKind};
pub(crate) use inside::netns_cookie;
pub use origin::{Netns, Origin};
pub use registry::MAX_ENTITIES;
pub use snapshot::{Counts, Directory, Gaps, Namespace, NetnsSource, Snapshot};
pub use tree::hierarchy;

/// How long what is gone still resolves: events wait in rings and channels for at most a few collection rounds.
const LATE: Duration = Duration::from_secs(30);

/// How long a reader waits for a fresh snapshot. A scan takes milliseconds; if one hangs in a file read, the reader goes on
/// with what is there.
const FRESH_WITHIN: Duration = Duration::from_secs(1);

/// Origins that readers ask for between two scans. Those beyond it are asked for again with their next event.
const MAX_ASKED: usize = 256;

/// Where the host's files are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Roots {
    /// procfs of the host's pid namespace.
    pub proc: PathBuf,
    /// Where cgroup hierarchies are mounted.
    pub cgroup: PathBuf,
    /// Directories in which network namespaces are mounted on files.
    pub netns: Vec<PathBuf>,
    /// The host's root directory, for `etc/machine-id` and `etc/os-release`.
    pub host: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        // `/var/run` is a link to `/run` on all current distributions; where it is a directory, both are looked at.
        let netns = ["/run/netns", "/run/docker/netns", "/var/run/netns"];
        Self {
            proc: "/proc".into(),
            cgroup: "/sys/fs/cgroup".into(),
            netns: netns.map(PathBuf::from).into(),
            host: "/".into(),
        }
    }
}

/// Where names of pods and containers come from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum CriSetting {
    /// The first well-known socket that exists.
    #[default]
    Auto,
    /// From nowhere.
    Off,
    /// This socket.
    Socket(PathBuf),
}

/// What identity depends on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Where the host's files are.
    pub roots: Roots,
    /// The node's name in Kubernetes, from the environment (`K8S_NODE_NAME`).
    pub node_name: Option<String>,
    /// Where names come from.
    pub cri: CriSetting,
    /// Whether namespaces outside Kubernetes and containers are entities.
    pub netns: bool,
    /// Names of the labels of pods that are told, in order.
    pub labels: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            roots: Roots::default(),
            node_name: None,
            cri: CriSetting::default(),
            netns: true,
            labels: Vec::new(),
        }
    }
}

/// The readers' side. Cheap to clone.
#[derive(Clone)]
pub struct Pods {
    current: Arc<ArcSwap<Snapshot>>,
    asks: watch::Sender<u64>,
    settings: watch::Sender<Settings>,
    origins: mpsc::Sender<Origin>,
    published: watch::Receiver<u64>,
}

impl Pods {
    /// What is known now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Other settings from now on: which namespaces are entities, and where names come from. Names that were told stay with
    /// those who have them. The roots and the node's name are those of the start.
    pub fn change(&self, settings: &Settings) {
        self.settings.send_replace(settings.clone());
    }

    /// Returns when a scan that began after this call has been published, at the latest after a second. Scans are made at
    /// most every 100 ms.
    pub async fn refreshed(&self) {
        let mut ask = 0;
        self.asks.send_modify(|asks| {
            *asks += 1;
            ask = *asks;
        });
        let mut published = self.published.clone();
        // Either error means going on with what is there: the scan hangs, or the writer has ended.
        let _ = tokio::time::timeout(FRESH_WITHIN, published.wait_for(|answered| *answered >= ask)).await;
    }

    /// Has the next scan look for an origin that is not known, without waiting for it.
    pub fn look_for(&self, origin: Origin) {
        // A full queue is no loss: the next scan looks everywhere anyway.
        let _ = self.origins.try_send(origin);
    }

    /// Returns when all namespaces have their names, or the names' time is up: at the latest after a second.
    pub async fn settled(&self) {
        let mut published = self.published.clone();
        let settled = async {
            while self.snapshot().is_pending(Instant::now()) && published.changed().await.is_ok() {}
        };
        let _ = tokio::time::timeout(FRESH_WITHIN, settled).await;
    }

    /// Whose an origin is, after a fresh scan if it is not known yet. `None`: the settings leave its namespace out.
    ///
    /// An origin that one scan did not find is not asked for again for some seconds, and gets what can be said of it
    /// without ([`Snapshot::fallback`]).
    pub async fn attribute(&self, origin: &Origin) -> Option<Arc<Entity>> {
        let snapshot = self.snapshot();
        if let Some(entity) = snapshot.resolve(origin) {
            return Some(entity);
        }
        if snapshot.is_absent(origin) {
            return snapshot.fallback(origin);
        }
        // A full queue is no loss: the scan is asked for all the same.
        let _ = self.origins.try_send(*origin);
        self.refreshed().await;
        let snapshot = self.snapshot();
        snapshot.resolve(origin).or_else(|| snapshot.fallback(origin))
    }
}

/// Makes the first scan, and gives the readers' side and the writer, a future that runs until it is dropped.
///
/// Blocks for the milliseconds of one scan, so that readers never see an empty node.
pub fn start(settings: &Settings) -> (Pods, impl Future<Output = ()> + Send + use<>) {
    let (demand, wanted) = watch::channel(cri::Demand::default());
    let (changes, changed) = watch::channel(settings.clone());
    let (cri, told) = cri::Cri::new(changed.clone(), wanted);
    let mut scanner = scan::Scanner::new(settings);
    let request = scan::Request { told: told.borrow().clone(), ..scan::Request::default() };
    let current = Arc::new(ArcSwap::from_pointee(scanner.scan(&request, Instant::now())));
    let (asks, asked) = watch::channel(0);
    let (origins, unresolved) = mpsc::channel(MAX_ASKED);
    let (answered, published) = watch::channel(0);
    let pods = Pods { current: current.clone(), asks, settings: changes, origins, published };
    let writer =
        writer::Writer { scanner, settings: changed, current, asked, unresolved, told, demand, answered };
    let run = async {
        tokio::select! {
            () = writer.run() => {}
            () = cri.run() => {}
        }
    };
    (pods, run)
}
