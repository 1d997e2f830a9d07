//! The source `thread`: what the thread was at that sent, as its SDK says in its memory (OpenTelemetry's OTEP 4947). The
//! kernel's programs read it in the thread's own system calls; here it is found out of which processes, and where.

use std::os::fd::{AsFd, BorrowedFd};

use super::instrumentation::Instrumentation;
use super::process::Finder;
use super::{Spans, storage, unneeded};
use zerocopy::IntoBytes as _;

use crate::abi::{THREAD_ASKED, THREAD_KNOWN, THREAD_SILENCES, thread_process, thread_question};
use crate::load::links::PROCESSES;
use crate::{Constant, Kernel, Links, LoadError, LoadOptions, Loaded, Object, Ring, Table, TableError};

/// Names in `thread.bpf.c`.
const QUESTIONS: &str = "questions";
const SILENCES: &str = "silences";

/// Its programs. Dropping it detaches them.
#[derive(Debug)]
pub struct Threads {
    /// What it knows, and what the source knows that it joined.
    pub spans: Spans,
    questions: Option<Questions>,
    loaded: Loaded,
}

/// What the programs ask of user space. Its descriptor is readable while questions wait.
#[derive(Debug)]
pub struct Questions {
    ring: Ring,
    processes: Table<u32, thread_process>,
    silences: Table<u32, u64>,
    finder: Finder,
}

/// What its programs are to read.
#[derive(Clone, Copy, Debug)]
pub struct Reads<'a> {
    /// What threads say in their memory.
    pub threads: bool,
    /// What OpenTelemetry eBPF Instrumentation says of threads that say nothing.
    pub instrumentation: Option<&'a Instrumentation>,
}

impl Reads<'_> {
    /// What threads say alone.
    pub const THREADS: Self = Self { threads: true, instrumentation: None };
}

impl Threads {
    /// Loads and attaches its programs. `beside`: the source with whose maps it shares what it knows.
    ///
    /// # Errors
    /// The kernel refuses them.
    pub fn open(kernel: &Kernel, beside: Option<&Spans>) -> Result<Self, LoadError> {
        Self::open_with(kernel, beside, storage(kernel), Reads::THREADS)
    }

    /// The same with a storage that need not be the best one; a source beside decides itself.
    ///
    /// # Errors
    /// As of [`Self::open`].
    pub fn open_with(
        kernel: &Kernel,
        beside: Option<&Spans>,
        storage: u32,
        reads: Reads<'_>,
    ) -> Result<Self, LoadError> {
        let (links, without) = match beside {
            Some(spans) => (Links::Reader(spans), unneeded_beside()),
            None => (Links::Owner(storage), unneeded(storage)),
        };
        let is_read = [reads.threads, reads.instrumentation.is_some()].map(u32::from);
        let mut loaded = Object::THREAD.load(&LoadOptions {
            links,
            without,
            instrumentation: reads.instrumentation.map(AsFd::as_fd),
            constants: &[
                Constant { name: "reads_threads", value: is_read[0].as_bytes() },
                Constant { name: "reads_instrumentation", value: is_read[1].as_bytes() },
            ],
            ..LoadOptions::new(kernel)
        })?;
        let failed = |source| TableError::Kernel { name: PROCESSES.to_owned(), source };
        let spans = match beside {
            Some(spans) => spans.share().map_err(failed)?,
            None => Spans::of(&loaded, storage)?,
        };
        let processes = Table::new(PROCESSES, spans.processes.try_clone().map_err(failed)?);
        let questions = Questions {
            ring: loaded.ring(QUESTIONS)?,
            processes,
            silences: loaded.table(SILENCES)?,
            finder: Finder::default(),
        };
        Ok(Self { spans, questions: Some(questions), loaded })
    }

    /// Who answers the programs' questions takes them; a second call finds none.
    pub fn questions(&mut self) -> Option<Questions> {
        self.questions.take()
    }

    /// Attached hooks, programs, maps.
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }
}

/// The end of sockets is the owner's.
fn unneeded_beside() -> &'static [&'static str] {
    &[super::END]
}

impl Questions {
    /// Answers all that wait: looks at each process, and tells the programs where its threads keep their contexts. Returns
    /// of how many that was found. What makes no sense in a process is nothing found.
    ///
    /// # Errors
    /// The map cannot be written.
    pub fn answer(&mut self) -> Result<usize, TableError> {
        let mut found = 0;
        while let Some(question) = self.ring.take::<thread_question>() {
            let Ok(question) = question else { continue };
            if !self.is_open(&question)? {
                continue;
            }
            let Some(place) = self.finder.find(question.process, question.started) else { continue };
            let known = thread_process {
                started: question.started,
                program: question.program,
                again: 0,
                state: THREAD_KNOWN,
                asked: 0,
                place,
            };
            // One that ended meanwhile has no entry; one that became another program is not taken for this one.
            found += usize::from(self.processes.replace(&question.process, &known)?);
            self.silences.insert(&(question.process % THREAD_SILENCES), &0)?;
        }
        Ok(found)
    }

    /// Whether its answer is not known yet: two threads may ask the same. What the programs read is not replaced.
    fn is_open(&self, question: &thread_question) -> Result<bool, TableError> {
        let entry = self.processes.get(&question.process)?;
        Ok(entry.is_some_and(|entry| {
            (entry.state, entry.started, entry.program) == (THREAD_ASKED, question.started, question.program)
        }))
    }
}

impl AsFd for Questions {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}
