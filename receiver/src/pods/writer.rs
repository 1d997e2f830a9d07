//! The one task that scans and publishes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use super::Settings;
use super::cri::{Demand, Told};
use super::origin::Origin;
use super::scan::{Request, Scanner};
use super::snapshot::Snapshot;

/// Without being asked: namespaces that make no events are noticed, and the end of one before its inode is likely to be in
/// use again. A scan of 500 processes takes 2 to 3 ms on a slow virtual machine, so this costs about a thousandth of a core.
const SCAN_EVERY: Duration = Duration::from_secs(2);

/// Scans that are asked for are at least so far apart: together they stay below three hundredths of a core,
/// and are made only for origins that are really new.
const SCAN_PAUSE: Duration = Duration::from_millis(100);

/// Asks that come so soon after the first are answered by the same scan: the probes' tasks collect at the same instant,
/// and a scan is a large part of what a collection costs.
const GATHER: Duration = Duration::from_millis(2);

/// The writer's state and its ends of the channels.
pub(super) struct Writer {
    pub(super) scanner: Scanner,
    pub(super) settings: watch::Receiver<Settings>,
    pub(super) current: Arc<ArcSwap<Snapshot>>,
    /// Number of the last ask.
    pub(super) asked: watch::Receiver<u64>,
    pub(super) unresolved: mpsc::Receiver<Origin>,
    /// What the container runtime tells.
    pub(super) told: watch::Receiver<Told>,
    /// How urgently names are wanted of it.
    pub(super) demand: watch::Sender<Demand>,
    /// Number of the last ask that a published scan answers.
    pub(super) answered: watch::Sender<u64>,
}

impl Writer {
    /// Scans every two seconds, when asked, and when there are new names or settings, until it is dropped or all readers are gone.
    pub(super) async fn run(mut self) {
        let mut tick = tokio::time::interval(SCAN_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.tick().await;
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                changed = self.asked.changed() => if changed.is_err() { return },
                Ok(()) = self.told.changed() => {}
                Ok(()) = self.settings.changed() => {}
            }
            tokio::time::sleep(GATHER).await;
            let Some(writer) = self.scan().await else { return };
            self = writer;
            tokio::time::sleep(SCAN_PAUSE).await;
        }
    }

    /// One scan, on a thread for blocking work: it reads hundreds of files, some milliseconds in which a worker thread
    /// would answer nobody else. `None`: the runtime is shutting down.
    async fn scan(mut self) -> Option<Self> {
        let ask = *self.asked.borrow_and_update();
        let request = self.request();
        self.scanner.include_netns(self.settings.borrow_and_update().netns);
        let scanned = tokio::task::spawn_blocking(move || {
            let now = Instant::now();
            let snapshot = self.scanner.scan(&request, now);
            self.demand.send_replace(self.scanner.demand(now));
            (self, snapshot)
        });
        let (writer, snapshot) = scanned.await.ok()?;
        writer.current.store(Arc::new(snapshot));
        writer.answered.send_replace(ask);
        Some(writer)
    }

    fn request(&mut self) -> Request {
        let origins = std::iter::from_fn(|| self.unresolved.try_recv().ok()).collect();
        Request { origins, told: self.told.borrow_and_update().clone() }
    }
}
