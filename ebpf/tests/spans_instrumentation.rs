//! What is kept of a thread that says nothing of itself, and that is in a table like the one of OpenTelemetry eBPF
//! Instrumentation, here made and filled by `bpftool`: the trace, and no span.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::net::TcpStream;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use common::http::{Ids, Pair, get};
use common::{Namespace, can_load, sh, skip};
use jitterscope_ebpf::abi::{
    SPAN_KNOWN, SPAN_ROLE_CLIENT, SPAN_ROLE_SERVER, SPAN_SOURCE_INSTRUMENTATION, SPAN_STORAGE_SOCKET,
    span_context,
};
use jitterscope_ebpf::spans::instrumentation::{Instrumentation, InstrumentationError};
use jitterscope_ebpf::spans::{Reads, Spans, Threads, Wire, storage};
use jitterscope_ebpf::{Kernel, Table};
use zerocopy::IntoBytes as _;

/// A file system for pinned maps with a table of a kind. Unmounted when dropped.
struct Pinned {
    directory: tempfile::TempDir,
}

impl Pinned {
    fn new(kind: &str) -> Self {
        let pinned = Self { directory: tempfile::tempdir().unwrap() };
        sh(&format!("mount -t bpf none {}", pinned.directory.path().display()));
        let path = pinned.path().display().to_string();
        sh(&format!("bpftool map create {path} type {kind} key 8 value 24 entries 16384 name traces_ctx_v1"));
        pinned
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("traces_ctx_v1")
    }

    /// `bpftool map` on this thread's entry.
    fn change(&self, what: &str, value: &str) {
        let thread = rustix::thread::gettid().as_raw_nonzero().get() as u64;
        let key = hex(&(u64::from(std::process::id()) << 32 | thread).to_ne_bytes());
        sh(&format!("bpftool map {what} pinned {} key hex {key} {value}", self.path().display()));
    }

    /// The thread is in this trace from now on.
    fn enter(&self, ids: &Ids) {
        self.change("update", &format!("value hex {} {}", hex(&ids.trace), hex(&ids.span)));
    }

    fn leave(&self) {
        self.change("delete", "");
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        sh(&format!("umount {}", self.directory.path().display()));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

/// The trace and the role that are kept of a socket, if they are good.
fn known(contexts: &Table<i32, span_context>, of: &TcpStream) -> Option<([u8; 16], u32)> {
    let kept = contexts.get(&of.as_raw_fd()).unwrap()?;
    let words = kept.as_bytes().chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap()));
    let is_whole = words.fold(0, |all, word| all ^ word) == 0;
    if kept.state != SPAN_KNOWN || !is_whole {
        return None;
    }
    assert_eq!(kept.link.span_id, [0; 8]);
    assert_eq!((u32::from(kept.link.source), kept.link.flags), (SPAN_SOURCE_INSTRUMENTATION, 0));
    Some((kept.link.trace_id, kept.link.role.into()))
}

/// The source, alone or beside another one.
fn open(pinned: &Pinned, beside: Option<&Spans>) -> Threads {
    let table = Instrumentation::open(&pinned.path()).unwrap();
    let reads = Reads { threads: false, instrumentation: Some(&table) };
    Threads::open_with(&Kernel::read(None).unwrap(), beside, SPAN_STORAGE_SOCKET, reads).unwrap()
}

fn can_test() -> bool {
    if !can_load() {
        return false;
    }
    let has_storage = storage(&Kernel::read(None).unwrap()) == SPAN_STORAGE_SOCKET;
    if !has_storage {
        skip("needs storage with sockets");
    }
    has_storage
}

#[test]
fn a_thread_in_the_table_is_in_its_trace_until_it_is_taken_out() {
    if !can_test() {
        return;
    }
    let pinned = Pinned::new("lru_hash");
    let namespace = Namespace::new();
    let threads = open(&pinned, None);
    let contexts = threads.loaded().table("thread_contexts").unwrap();
    for family in [4, 6] {
        let mut pair = Pair::new(&namespace, family);
        pair.ask([0x17; 100]);
        assert_eq!(known(&contexts, &pair.client), None);
        let (asks, answers) = (Ids::new(), Ids::new());
        pinned.enter(&asks);
        pair.ask([0x17; 100]);
        pinned.enter(&answers);
        pair.answer([0x17; 100]);
        assert_eq!(known(&contexts, &pair.client), Some((asks.trace, SPAN_ROLE_CLIENT)));
        assert_eq!(known(&contexts, &pair.server), Some((answers.trace, SPAN_ROLE_SERVER)));
        // Another thread is in no trace, though it is of the same process.
        std::thread::scope(|scope| scope.spawn(|| pair.ask([0x17; 100])).join().unwrap());
        assert_eq!(known(&contexts, &pair.client), None);
        pair.ask([0x17; 100]);
        assert_eq!(known(&contexts, &pair.client), Some((answers.trace, SPAN_ROLE_CLIENT)));
        pinned.leave();
        pair.ask([0x17; 100]);
        assert_eq!(known(&contexts, &pair.client), None);
    }
    let captured = threads.spans.counts(SPAN_SOURCE_INSTRUMENTATION).unwrap().captured;
    // Those of others on this machine that are in nobody's table are none.
    assert_eq!(captured, 6);
}

#[test]
fn what_the_request_itself_says_goes_before_the_table_and_takes_its_word_away() {
    if !can_test() {
        return;
    }
    let pinned = Pinned::new("lru_hash");
    let namespace = Namespace::new();
    let wire = Wire::open(&Kernel::read(None).unwrap()).unwrap();
    let contexts = wire.loaded().table("thread_contexts").unwrap();
    let _threads = open(&pinned, Some(&wire.spans));
    let mut pair = Pair::new(&namespace, 4);
    let (same, other) = (Ids::new(), Ids::new());
    pinned.enter(&same);
    pair.ask(get(&same, 100));
    assert_eq!(known(&contexts, &pair.client), Some((same.trace, SPAN_ROLE_CLIENT)));
    assert_eq!(wire.counts(SPAN_SOURCE_INSTRUMENTATION).unwrap().conflicting, 0);
    pair.ok();
    pair.ask(get(&other, 100));
    assert_eq!(known(&contexts, &pair.client), None);
    assert_eq!(wire.counts(SPAN_SOURCE_INSTRUMENTATION).unwrap().conflicting, 1);
    pinned.leave();
}

#[test]
fn a_table_that_is_not_there_or_another_one_is_told() {
    if !can_test() {
        return;
    }
    let pinned = Pinned::new("hash");
    let other = Instrumentation::open(&pinned.path()).unwrap_err();
    assert!(matches!(other, InstrumentationError::Other { .. }), "{other}");
    assert!(other.to_string().contains("Hash of 8 and 24 bytes"), "{other}");
    let absent = Instrumentation::open(&pinned.path().with_extension("none")).unwrap_err();
    assert!(matches!(absent, InstrumentationError::Absent { .. }), "{absent}");
}
