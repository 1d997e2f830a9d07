//! Tells when to read the configuration again: on SIGHUP, and when the content of its file has changed, by whatever
//! way: written in place, renamed over, deleted and created, or as a mounted `ConfigMap`, whose `..data` link is
//! swapped.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, Event, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout, timeout_at};

/// A change is over when its directory was quiet for this long: editors and the kubelet take several steps.
const QUIET: Duration = Duration::from_millis(100);

/// A directory that is never quiet is looked at all the same after this long.
const PATIENCE: Duration = Duration::from_secs(1);

/// For what inotify does not show (network file systems, a directory that was replaced, no instances left on the
/// node): one read of a small file in this time.
const LOOK: Duration = Duration::from_secs(10);

/// Why the configuration is to be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// SIGHUP.
    Requested,
    /// The file has other content than before.
    Written,
    /// The file cannot be read any more: nothing to load, the running configuration stays.
    Gone,
}

/// Watches for reasons to read the configuration again. To miss nothing, make it before the first load.
pub struct Watch {
    path: Option<PathBuf>,
    /// Content at the last look; None when it could not be read.
    seen: Option<Vec<u8>>,
    hangup: Signal,
    touched: Arc<Notify>,
    /// None when the kernel has no inotify instance for us.
    watcher: Option<RecommendedWatcher>,
    look: Interval,
    /// Since when a look is due. Kept here so that to drop [`Watch::changed`] half-way loses nothing.
    due: Option<Instant>,
}

impl Watch {
    /// Watches the file, if there is one, and SIGHUP, which from now on does not end the process. Needs to be in a
    /// Tokio runtime.
    ///
    /// # Errors
    ///
    /// When the handler of the signal cannot be installed. Without inotify, the file is looked at every 10 s.
    pub fn new(path: Option<&Path>) -> io::Result<Self> {
        let touched = Arc::new(Notify::new());
        let notify = Arc::clone(&touched);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.is_ok_and(|event| !touches(event.kind)) {
                return;
            }
            notify.notify_one();
        });
        let watcher =
            watcher.inspect_err(|error| tracing::warn!(%error, "no inotify, the file is looked at instead"));
        Self::with(path, watcher.ok().filter(|_| path.is_some()), touched, LOOK)
    }

    fn with(
        path: Option<&Path>,
        watcher: Option<RecommendedWatcher>,
        touched: Arc<Notify>,
        every: Duration,
    ) -> io::Result<Self> {
        let mut look = interval_at(Instant::now() + every, every);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let hangup = signal(SignalKind::hangup())?;
        let path = path.map(Path::to_owned);
        let mut watch = Self { path, seen: None, hangup, touched, watcher, look, due: None };
        watch.seen = watch.read();
        Ok(watch)
    }

    /// Waits for the next reason. Changes that come close together are one; content that is the same is none. It may
    /// be dropped and called again at any time.
    pub async fn changed(&mut self) -> Change {
        loop {
            let since = match self.due {
                Some(since) => since,
                None => tokio::select! {
                    _ = self.hangup.recv() => return self.requested(),
                    () = self.touched.notified() => Instant::now(),
                    _ = self.look.tick() => Instant::now(),
                },
            };
            self.due = Some(since);
            self.settle(since).await;
            self.due = None;
            if let Some(change) = self.compare() {
                return change;
            }
        }
    }

    /// A request is one also when nothing changed: files that the configuration names may have.
    fn requested(&mut self) -> Change {
        self.seen = self.read();
        Change::Requested
    }

    async fn settle(&self, since: Instant) {
        let quiet = async { while timeout(QUIET, self.touched.notified()).await.is_ok() {} };
        // Elapsed means that it is not quiet: look all the same.
        _ = timeout_at(since + PATIENCE, quiet).await;
    }

    fn compare(&mut self) -> Option<Change> {
        let now = self.read();
        if now == self.seen {
            return None;
        }
        self.seen = now;
        Some(if self.seen.is_some() { Change::Written } else { Change::Gone })
    }

    /// Reads the file after its directories are watched, so that no change falls in between.
    fn read(&mut self) -> Option<Vec<u8>> {
        let path = self.path.as_deref()?;
        if let Some(watcher) = &mut self.watcher {
            for directory in directories(path) {
                // To watch one again does no harm, and is needed for one that was replaced. One that is missing now
                // is found by the next look.
                _ = watcher.watch(&directory, RecursiveMode::NonRecursive);
            }
        }
        std::fs::read(path).ok()
    }
}

/// The directory of the file and, behind links, the one where its content is.
fn directories(path: &Path) -> impl Iterator<Item = PathBuf> {
    let of = |path: &Path| match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_owned(),
        None => PathBuf::from("/"),
    };
    let named = of(path);
    let real = path.canonicalize().ok().map(|path| of(&path)).filter(|real| *real != named);
    std::iter::once(named).chain(real)
}

/// Whether an event can mean other content; to read the file makes events, too.
fn touches(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

#[cfg(test)]
mod tests;
