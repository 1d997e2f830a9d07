//! The sources that run.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use jitterscope_ebpf::{
    Kernel, Merge as _,
    abi::{SPAN_SOURCE_THREAD, SPAN_SOURCE_WIRE, span_counts},
    spans::{Spans, Threads, Wire},
};
use jitterscope_semconv::value::SpanLinkSource;

use super::{tap::Tap, watcher::Watcher};
use crate::{capabilities, config::SpanSources, probe::Skip};

/// Inode of the first pid namespace (`PROC_PID_INIT_INO`, `include/linux/proc_ns.h`): programs of the kernel know processes by
/// their numbers in it.
const FIRST_PIDS: &str = "pid:[4026531836]";
/// What it takes to read the memory of others.
const READING: &str = "CAP_SYS_PTRACE";

/// The sources of one receiver. The supervisor opens and closes them, telemetry reads what became of what they found.
#[derive(Default)]
pub struct SpanStore {
    open: ArcSwapOption<Open>,
    /// Counted by programs that are gone.
    before: ArcSwap<Counts>,
    /// The source that is no program.
    pub tap: Tap,
}

/// What became of what each source found; `None` of one that never ran.
#[derive(Clone, Copy, Default)]
struct Counts {
    wire: Option<span_counts>,
    thread: Option<span_counts>,
}

struct Open {
    wanted: SpanSources,
    wire: Option<Wire>,
    thread: Option<Thread>,
}

struct Thread {
    threads: Threads,
    _watcher: Watcher,
}

impl Open {
    /// Both sources have the same maps.
    fn spans(&self) -> Option<&Spans> {
        let threads = || self.thread.as_ref().map(|thread| &thread.threads.spans);
        self.wire.as_ref().map(|wire| &wire.spans).or_else(threads)
    }

    fn counts(&self) -> Counts {
        let of = |source| self.spans().and_then(|spans| spans.counts(source).ok());
        Counts {
            wire: self.wire.as_ref().and_then(|_| of(SPAN_SOURCE_WIRE)),
            thread: self.thread.as_ref().and_then(|_| of(SPAN_SOURCE_THREAD)),
        }
    }
}

impl SpanStore {
    /// Loads the programs of these sources, unless they run; others end. Those that cannot run, with the reasons: they are
    /// tried again when none runs, or others are wanted.
    pub fn open(&self, kernel: &Kernel, wanted: SpanSources) -> Vec<(SpanLinkSource, Skip)> {
        self.close();
        let mut refused = Vec::new();
        let mut note = |source, skip| refused.push((source, skip));
        let wire = wanted.wire.then(|| Wire::open(kernel).map_err(Skip::from));
        let wire = wire.and_then(|opened| opened.map_err(|skip| note(SpanLinkSource::Wire, skip)).ok());
        let thread = wanted.thread.then(|| Thread::open(kernel, wire.as_ref().map(|wire| &wire.spans)));
        let thread = thread.and_then(|opened| opened.map_err(|skip| note(SpanLinkSource::Thread, skip)).ok());
        if wire.is_some() || thread.is_some() {
            self.open.store(Some(Arc::new(Open { wanted, wire, thread })));
        }
        refused
    }

    /// Ends them; what they counted stays.
    pub fn close(&self) {
        self.before.store(Arc::new(self.all_counts()));
        self.open.store(None);
    }

    /// Those that were wanted of those that run; `None`: none runs.
    pub fn sources(&self) -> Option<SpanSources> {
        self.open.load().as_ref().map(|open| open.wanted)
    }

    /// Calls `with` with what they know, for programs that read it.
    pub fn with<T>(&self, with: impl FnOnce(Option<&Spans>) -> T) -> T {
        with(self.open.load().as_ref().and_then(|open| open.spans()))
    }

    /// What became of what a source found; `None` when it never ran.
    pub fn counts(&self, source: &SpanLinkSource) -> Option<span_counts> {
        match source {
            SpanLinkSource::Wire => self.all_counts().wire,
            SpanLinkSource::Thread => self.all_counts().thread,
            SpanLinkSource::Tap => self.tap.counts(),
        }
    }

    fn all_counts(&self) -> Counts {
        let (before, open) = (**self.before.load(), self.open.load());
        let now = open.as_ref().map(|open| open.counts()).unwrap_or_default();
        Counts { wire: sum(before.wire, now.wire), thread: sum(before.thread, now.thread) }
    }
}

fn sum(before: Option<span_counts>, now: Option<span_counts>) -> Option<span_counts> {
    let (Some(mut sum), Some(now)) = (before, now) else { return before.or(now) };
    sum.merge(&now);
    Some(sum)
}

impl Thread {
    fn open(kernel: &Kernel, beside: Option<&Spans>) -> Result<Self, Skip> {
        if !capabilities::lacking(&[READING]).is_empty() {
            let reason = "the memory of processes cannot be read".to_owned();
            return Err(Skip::Privilege { capabilities: READING.to_owned(), reason });
        }
        if std::fs::read_link("/proc/self/ns/pid").is_ok_and(|pids| pids.as_os_str() != FIRST_PIDS) {
            return Err(Skip::Missing("needs the host's pid namespace (hostPID)".to_owned()));
        }
        let mut threads = Threads::open(kernel, beside)?;
        let questions = threads.questions().ok_or_else(|| Skip::Missing("no ring".to_owned()))?;
        let watcher = Watcher::start(questions)
            .map_err(|error| Skip::Temporary(format!("processes cannot be looked at: {error}")))?;
        Ok(Self { threads, _watcher: watcher })
    }
}
