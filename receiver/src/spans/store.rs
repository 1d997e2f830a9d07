//! The sources that run.

use std::{path::Path, sync::Arc};

use arc_swap::{ArcSwap, ArcSwapOption};
use jitterscope_ebpf::{
    Kernel, Merge as _,
    abi::{SPAN_SOURCE_INSTRUMENTATION, SPAN_SOURCE_THREAD, SPAN_SOURCE_WIRE, span_counts},
    spans::{
        Reads, Spans, Threads, Wire,
        instrumentation::{Instrumentation, InstrumentationError, PATH},
        storage,
    },
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
    instrumentation: Option<span_counts>,
}

struct Open {
    wanted: SpanSources,
    wire: Option<Wire>,
    thread: Option<Thread>,
}

/// What is known of the threads that send.
struct Thread {
    threads: Threads,
    /// What they are known by.
    reads: SpanSources,
    _watcher: Option<Watcher>,
}

impl Open {
    /// Both sources have the same maps.
    fn spans(&self) -> Option<&Spans> {
        let threads = || self.thread.as_ref().map(|thread| &thread.threads.spans);
        self.wire.as_ref().map(|wire| &wire.spans).or_else(threads)
    }

    /// Something if threads are known by this.
    fn reads(&self, by: impl Fn(&SpanSources) -> bool) -> Option<()> {
        self.thread.as_ref().filter(|thread| by(&thread.reads)).map(|_| ())
    }

    fn counts(&self) -> Counts {
        let of = |source| self.spans().and_then(|spans| spans.counts(source).ok());
        Counts {
            wire: self.wire.as_ref().and_then(|_| of(SPAN_SOURCE_WIRE)),
            thread: self.reads(|reads| reads.thread).and_then(|()| of(SPAN_SOURCE_THREAD)),
            instrumentation: self
                .reads(|reads| reads.instrumentation)
                .and_then(|()| of(SPAN_SOURCE_INSTRUMENTATION)),
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
        let thread = Thread::open(kernel, wire.as_ref().map(|wire| &wire.spans), wanted, &mut note);
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
            SpanLinkSource::Instrumentation => self.all_counts().instrumentation,
            SpanLinkSource::Tap => self.tap.counts(),
        }
    }

    fn all_counts(&self) -> Counts {
        let (before, open) = (**self.before.load(), self.open.load());
        let now = open.as_ref().map(|open| open.counts()).unwrap_or_default();
        Counts {
            wire: sum(before.wire, now.wire),
            thread: sum(before.thread, now.thread),
            instrumentation: sum(before.instrumentation, now.instrumentation),
        }
    }
}

fn sum(before: Option<span_counts>, now: Option<span_counts>) -> Option<span_counts> {
    let (Some(mut sum), Some(now)) = (before, now) else { return before.or(now) };
    sum.merge(&now);
    Some(sum)
}

impl Thread {
    /// Those of its two sources that are wanted and can run; why the others cannot is noted.
    fn open(
        kernel: &Kernel,
        beside: Option<&Spans>,
        wanted: SpanSources,
        note: &mut impl FnMut(SpanLinkSource, Skip),
    ) -> Option<Self> {
        let memory = wanted.thread.then(can_read_memory);
        let thread =
            memory.and_then(|can| can.map_err(|skip| note(SpanLinkSource::Thread, skip)).ok()).is_some();
        let table = wanted
            .instrumentation
            .then(|| Instrumentation::open(Path::new(PATH)).map_err(|error| unread(&error)));
        let table =
            table.and_then(|opened| opened.map_err(|skip| note(SpanLinkSource::Instrumentation, skip)).ok());
        let reads = SpanSources { wire: false, thread, instrumentation: table.is_some() };
        if !reads.any() {
            return None;
        }
        let source = if thread { SpanLinkSource::Thread } else { SpanLinkSource::Instrumentation };
        Self::load(kernel, beside, reads, table.as_ref()).map_err(|skip| note(source, skip)).ok()
    }

    fn load(
        kernel: &Kernel,
        beside: Option<&Spans>,
        reads: SpanSources,
        table: Option<&Instrumentation>,
    ) -> Result<Self, Skip> {
        let what = Reads { threads: reads.thread, instrumentation: table };
        let mut threads = Threads::open_with(kernel, beside, storage(kernel), what)?;
        let questions = threads.questions().filter(|_| reads.thread);
        let watcher = questions.map(Watcher::start).transpose();
        let watcher =
            watcher.map_err(|error| Skip::Temporary(format!("processes cannot be looked at: {error}")))?;
        Ok(Self { threads, reads, _watcher: watcher })
    }
}

/// Whether what threads say in their memory can be read, and of which processes they are.
fn can_read_memory() -> Result<(), Skip> {
    if !capabilities::lacking(&[READING]).is_empty() {
        let reason = "the memory of processes cannot be read".to_owned();
        return Err(Skip::Privilege { capabilities: READING.to_owned(), reason });
    }
    if std::fs::read_link("/proc/self/ns/pid").is_ok_and(|pids| pids.as_os_str() != FIRST_PIDS) {
        return Err(Skip::Missing("needs the host's pid namespace (hostPID)".to_owned()));
    }
    Ok(())
}

/// Whoever pins it may come later.
fn unread(error: &InstrumentationError) -> Skip {
    match error {
        InstrumentationError::Absent { .. } => Skip::Temporary(error.to_string()),
        _ => Skip::Missing(error.to_string()),
    }
}
