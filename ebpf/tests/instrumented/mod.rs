//! A test that is an instrumented process itself: it publishes a process context (OTEP 4719), and its threads their contexts by
//! a library that others wrote.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![expect(unsafe_code, reason = "mappings that the standard library does not have")]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::ptr;
use std::sync::LazyLock;

use jitterscope_ebpf::spans::{Questions, Threads, fuzz::MESSAGE};
use libdd_otel_thread_ctx::linux::OwnedThreadContext;
use rustix::fs::{MemfdFlags, memfd_create};

use crate::common::eventually;
use crate::common::http::Ids;

const LENGTH: usize = 4096;
const HEADER: usize = 32;

/// Says that its threads have contexts. Once for the process, until it ends.
pub(crate) fn publish() {
    static PUBLISHED: LazyLock<usize> = LazyLock::new(|| map_context(b"OTEL_CTX", 2, MESSAGE));
    assert_ne!(*PUBLISHED, 0);
}

/// Maps a process context with this signature, version and message. Where it is.
pub(crate) fn map_context(signature: &[u8; 8], version: u32, message: &[u8]) -> usize {
    let file = File::from(memfd_create("OTEL_CTX", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(LENGTH as u64).unwrap();
    file.write_all_at(message, HEADER as u64).unwrap();
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
    // SAFETY: a new mapping at an address of the kernel's choice, of a file that is as long.
    let at = unsafe { libc::mmap(ptr::null_mut(), LENGTH, access, kind, fd, 0) };
    assert_ne!(at, libc::MAP_FAILED);
    // SAFETY: the mapping was made just now; children do not have it, as the specification wants it.
    assert_eq!(unsafe { libc::madvise(at, LENGTH, libc::MADV_DONTFORK) }, 0);
    let at = at as usize;
    file.write_all_at(signature, 0).unwrap();
    file.write_all_at(&version.to_ne_bytes(), 8).unwrap();
    file.write_all_at(&(message.len() as u32).to_ne_bytes(), 12).unwrap();
    file.write_all_at(&((at + HEADER) as u64).to_ne_bytes(), 24).unwrap();
    file.write_all_at(&1u64.to_ne_bytes(), 16).unwrap();
    at
}

/// The thread is in this span from now on.
pub(crate) fn enter(ids: &Ids) {
    OwnedThreadContext::update(ids.trace, ids.span, 1, ids.span, &[]);
}

/// The thread is in no span from now on.
pub(crate) fn leave() {
    drop(OwnedThreadContext::detach());
}

/// Lets the programs ask about this process, and answers them. Who answers later ones.
pub(crate) fn become_known(threads: &mut Threads) -> Questions {
    publish();
    let mut questions = threads.questions().unwrap();
    eventually("this process is known", || {
        // Nobody listens there.
        assert!(std::net::TcpStream::connect(("127.0.0.1", 9)).is_err());
        questions.answer().unwrap() > 0
    });
    questions
}
