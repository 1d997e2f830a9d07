//! The account of each destination: what it was given and what became of it.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use arc_swap::ArcSwapOption;
use jitterscope_semconv::value::{ExporterDropCause, ProbeDropStage};

use super::Signal;
use crate::account::Account;

/// What became of the points, records or spans of one signal. At every instant
/// `produced + recovered = delivered + queued + dropped` over all causes; what the server refused for good is one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Given to the destination.
    pub produced: u64,
    /// Left on disk by an earlier process, or by another destination before a reload.
    pub recovered: u64,
    /// Taken by the server.
    pub delivered: u64,
    /// Waiting or being sent.
    pub queued: u64,
    /// Those of them that are on disk: never more than wait, so that all of them are when both are the same.
    pub on_disk: u64,
    /// Given up, by cause in the order of `ExporterDropCause::ALL`.
    dropped: [u64; ExporterDropCause::ALL.len()],
    /// Encoded bytes that wait in memory.
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
    /// By signal, in the order of `Signal::ALL`.
    terms: [Mutex<Terms>; Signal::ALL.len()],
    capacity: AtomicU64,
    over_http: AtomicBool,
    error: ArcSwapOption<String>,
    disk: DiskAccount,
}

/// The queue on disk, where there is one.
#[derive(Debug, Default)]
struct DiskAccount {
    bytes: AtomicU64,
    limit: AtomicU64,
    failures: AtomicU64,
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

    /// Bytes in use of the queue on disk, and how many may be; None: there is none.
    pub fn disk(&self) -> Option<(u64, u64)> {
        let limit = self.disk.limit.load(Relaxed);
        (limit > 0).then(|| (self.disk.bytes.load(Relaxed), limit))
    }

    /// How often the queue on disk failed or had to be made anew.
    pub fn disk_failures(&self) -> u64 {
        self.disk.failures.load(Relaxed)
    }

    /// Why the queue on disk is not used, if it should be.
    pub fn disk_error(&self) -> Option<String> {
        self.disk.error.load().as_deref().cloned()
    }

    pub(super) fn set_disk(&self, limit: u64) {
        self.disk.limit.store(limit, Relaxed);
    }

    pub(super) fn disk_holds(&self, bytes: u64) {
        self.disk.bytes.store(bytes, Relaxed);
    }

    /// Counts a failure; `why` unless it goes on. Whether it worked before.
    pub(super) fn disk_failed(&self, why: Option<String>) -> bool {
        self.disk.failures.fetch_add(1, Relaxed);
        why.is_some_and(|why| self.disk.error.swap(Some(why.into())).is_none())
    }

    /// Whether it did not work before.
    pub(super) fn disk_works(&self) -> bool {
        self.disk.error.swap(None).is_some()
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

    /// Counts items that were given up, also for whose they are.
    pub(super) fn give_up(
        &self,
        signal: Signal,
        owner: Option<&Account>,
        cause: ExporterDropCause,
        items: u64,
    ) {
        self.dropped(signal, cause, items);
        if let Some(owner) = owner {
            owner.add_dropped(stage(cause), items);
        }
    }

    pub(super) fn stored(&self, signal: Signal, items: u64) {
        self.lock(signal).on_disk += items;
    }

    pub(super) fn unstored(&self, signal: Signal, items: u64) {
        self.lock(signal).on_disk -= items;
    }

    /// What is on disk is another destination's business from now on, which finds and counts it.
    pub(super) fn hand_over(&self) {
        for signal in Signal::ALL {
            let items = self.terms(signal).on_disk;
            self.unstored(signal, items);
            self.dropped(signal, ExporterDropCause::HandedOver, items);
        }
    }

    /// A file was opened that has `items` and should have `missing` more. What is not of this process is recovered; what
    /// is not there any more is given up and returned.
    pub(super) fn found(&self, signal: Signal, items: u64, missing: u64) -> u64 {
        let mut terms = self.lock(signal);
        let expected = terms.on_disk.max(items + missing);
        let (recovered, lost) = (expected - terms.on_disk, expected - items);
        terms.recovered += recovered;
        terms.queued += recovered;
        terms.on_disk = items;
        terms.queued -= lost;
        terms.dropped[ExporterDropCause::Corrupted as usize] += lost;
        lost
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
        self.terms[signal as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a probe's account calls a destination's cause.
fn stage(cause: ExporterDropCause) -> ProbeDropStage {
    match cause {
        ExporterDropCause::Channel => ProbeDropStage::Channel,
        ExporterDropCause::QueueFull | ExporterDropCause::Expired | ExporterDropCause::Corrupted => {
            ProbeDropStage::Queue
        }
        // Points are in no probe's account, and what was handed over is not given up.
        ExporterDropCause::HandedOver
        | ExporterDropCause::Rejected
        | ExporterDropCause::TooLarge
        | ExporterDropCause::Baseline => ProbeDropStage::Rejected,
        ExporterDropCause::Shutdown => ProbeDropStage::Shutdown,
    }
}
