//! What the source `thread` keeps of sockets.

use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jitterscope_ebpf::abi::{
    SPAN_KNOWN, SPAN_SOURCE_THREAD, SPAN_STORAGE_ADDRESS, SPAN_STORAGE_SOCKET, THREAD_KNOWN, span_counts,
    thread_process,
};
use jitterscope_ebpf::spans::{Questions, Reads, Threads, storage};
use jitterscope_ebpf::{Kernel, Table};

use super::publish;
use crate::common::contexts::Contexts;
use crate::common::http::Ids;
use crate::common::{Namespace, can_load, eventually};

/// Programs see the processes of all tests, and what they say is counted for all.
static ALONE: Mutex<()> = Mutex::new(());

/// Until that is dropped no other case runs.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The source, and who answers its questions.
pub(crate) struct Kept {
    pub(crate) threads: Threads,
    pub(crate) contexts: Contexts,
    questions: Mutex<Questions>,
}

impl Kept {
    pub(crate) fn open(kernel: &Kernel, storage: u32) -> Self {
        let mut threads = Threads::open_with(kernel, None, storage, Reads::THREADS).unwrap();
        let contexts = Contexts::of(threads.loaded(), storage, ["thread_contexts", "thread_by_address"]);
        let questions = threads.questions().unwrap().into();
        Self { threads, contexts, questions }
    }

    /// The span of who sent last.
    pub(crate) fn known(&self, of: &TcpStream, role: u32) -> Option<Ids> {
        let context = self.contexts.get(of).filter(|kept| kept.state == SPAN_KNOWN)?;
        let link = &context.link;
        assert_eq!((u32::from(link.source), u32::from(link.role)), (SPAN_SOURCE_THREAD, role));
        Ids::of(link)
    }

    pub(crate) fn processes(&self) -> Table<u32, thread_process> {
        self.threads.loaded().table("thread_processes").unwrap()
    }

    pub(crate) fn counts(&self) -> span_counts {
        self.threads.spans.counts(SPAN_SOURCE_THREAD).unwrap()
    }

    pub(crate) fn is_known(&self, process: u32) -> bool {
        self.processes().get(&process).unwrap().is_some_and(|entry| entry.state == THREAD_KNOWN)
    }

    /// Answers what was asked; how many processes were found.
    pub(crate) fn answer(&self) -> usize {
        self.questions.lock().unwrap().answer().unwrap()
    }

    /// Until this process is known.
    pub(crate) fn find(&self) {
        eventually("this process is known", || {
            // Nobody listens there.
            assert!(TcpStream::connect(("127.0.0.1", 9)).is_err());
            self.answer();
            self.is_known(std::process::id())
        });
    }
}

/// Runs a case with each storage that the kernel has, while no other case runs.
pub(crate) fn each(case: impl Fn(&Kept, &Namespace)) {
    if !can_load() {
        return;
    }
    let _alone = alone();
    let namespace = Namespace::new();
    let kernel = Kernel::read(None).unwrap();
    for storage in storages(&kernel) {
        case(&Kept::open(&kernel, storage), &namespace);
    }
}

/// The same when this process is known.
pub(crate) fn each_known(case: impl Fn(&Kept, &Namespace)) {
    each(|kept, namespace| {
        publish();
        kept.find();
        case(kept, namespace);
    });
}

/// Those that the kernel has.
pub(crate) fn storages(kernel: &Kernel) -> impl Iterator<Item = u32> {
    let has = storage(kernel);
    [SPAN_STORAGE_SOCKET, SPAN_STORAGE_ADDRESS].into_iter().filter(move |one| *one >= has)
}
