//! The account of each destination: what it was given and what became of it.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use arc_swap::ArcSwapOption;
use jitterscope_semconv::value::ExporterDropCause;

use super::Signal;

/// What became of the points or records of one signal. At every instant
/// `produced = delivered + queued + dropped` over all causes; what the server refused for good is one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Given to the destination.
    pub produced: u64,
    /// Taken by the server.
    pub delivered: u64,
    /// Waiting or being sent.
    pub queued: u64,
    /// Given up, by cause in the order of `ExporterDropCause::ALL`.
    dropped: [u64; ExporterDropCause::ALL.len()],
    /// Encoded bytes that wait.
    pub bytes: u64,
    /// Tries that failed and were made again.
    pub retries: u64,
}

impl Terms {
    /// Items that were given up for this cause.
    pub fn dropped(&self, cause: ExporterDropCause) -> u64 {
        self.dropped[cause as usize]
    }
}

/// The account of one destination.
#[derive(Debug, Default)]
pub struct DestinationAccount {
    /// Where to, without secrets.
    pub name: String,
    metrics: Mutex<Terms>,
    logs: Mutex<Terms>,
    capacity: AtomicU64,
    over_http: AtomicBool,
    error: ArcSwapOption<String>,
}

impl DestinationAccount {
    /// An empty account.
    pub fn new(name: String) -> Self {
        Self { name, ..Self::default() }
    }

    /// The terms of one signal, all of one instant.
    pub fn terms(&self, signal: Signal) -> Terms {
        *self.lock(signal)
    }

    /// Bytes that may wait, for each signal; 0: nothing waits here.
    pub fn capacity(&self) -> u64 {
        self.capacity.load(Relaxed)
    }

    /// Whether it is reached by HTTP rather than gRPC.
    pub fn over_http(&self) -> bool {
        self.over_http.load(Relaxed)
    }

    /// Why the last try failed, if it did.
    pub fn error(&self) -> Option<String> {
        self.error.load().as_deref().cloned()
    }

    pub(super) fn set(&self, capacity: u64, over_http: bool) {
        self.capacity.store(capacity, Relaxed);
        self.over_http.store(over_http, Relaxed);
    }

    pub(super) fn failed(&self, why: String) {
        self.error.store(Some(why.into()));
    }

    pub(super) fn succeeded(&self) {
        self.error.store(None);
    }

    pub(super) fn produced(&self, signal: Signal, items: u64) {
        let mut terms = self.lock(signal);
        terms.produced += items;
        terms.queued += items;
    }

    pub(super) fn delivered(&self, signal: Signal, items: u64) {
        let mut terms = self.lock(signal);
        terms.queued -= items;
        terms.delivered += items;
    }

    pub(super) fn dropped(&self, signal: Signal, cause: ExporterDropCause, items: u64) {
        let mut terms = self.lock(signal);
        terms.queued -= items;
        terms.dropped[cause as usize] += items;
    }

    pub(super) fn retried(&self, signal: Signal) {
        self.lock(signal).retries += 1;
    }

    pub(super) fn wait(&self, signal: Signal, bytes: usize) {
        self.lock(signal).bytes += bytes as u64;
    }

    pub(super) fn waited(&self, signal: Signal, bytes: usize) {
        self.lock(signal).bytes -= bytes as u64;
    }

    /// Held for an addition or a copy: whoever reads sees each item in one place, never in two or none.
    fn lock(&self, signal: Signal) -> MutexGuard<'_, Terms> {
        let terms = match signal {
            Signal::Metrics => &self.metrics,
            Signal::Logs => &self.logs,
        };
        terms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
