//! A test that is an instrumented process itself: it publishes a process context (OTEP 4719), and its threads their contexts by
//! a library that others wrote.
#![expect(unsafe_code, reason = "mappings that the standard library does not have")]

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::ptr;
use std::sync::LazyLock;

use jitterscope_ebpf::spans::fuzz::MESSAGE;
use libdd_otel_thread_ctx::linux::OwnedThreadContext;
use rustix::fs::{MemfdFlags, memfd_create};

const LENGTH: usize = 4096;
const HEADER: usize = 32;

/// Says that its threads have contexts. Once for the process, until it ends.
pub(crate) fn publish() {
    static PUBLISHED: LazyLock<usize> = LazyLock::new(map_context);
    assert_ne!(*PUBLISHED, 0);
}

/// Maps the process context. Where it is.
fn map_context() -> usize {
    let file = File::from(memfd_create("OTEL_CTX", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(LENGTH as u64).unwrap();
    file.write_all_at(MESSAGE, HEADER as u64).unwrap();
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    // SAFETY: a new mapping at an address of the kernel's choice, of a file that is as long.
    let at = unsafe { libc::mmap(ptr::null_mut(), LENGTH, access, kind, file.as_raw_fd(), 0) };
    assert_ne!(at, libc::MAP_FAILED);
    // SAFETY: the mapping was made just now; children do not have it, as the specification wants it.
    assert_eq!(unsafe { libc::madvise(at, LENGTH, libc::MADV_DONTFORK) }, 0);
    let at = at as usize;
    file.write_all_at(b"OTEL_CTX", 0).unwrap();
    file.write_all_at(&2u32.to_ne_bytes(), 8).unwrap();
    file.write_all_at(&(MESSAGE.len() as u32).to_ne_bytes(), 12).unwrap();
    file.write_all_at(&((at + HEADER) as u64).to_ne_bytes(), 24).unwrap();
    file.write_all_at(&1u64.to_ne_bytes(), 16).unwrap();
    at
}

/// The thread is in this sampled span from now on.
pub(crate) fn enter_span(trace: [u8; 16], span: [u8; 8]) {
    OwnedThreadContext::update(trace, span, 1, span, &[]);
}

/// The thread is in no span from now on.
pub(crate) fn leave() {
    drop(OwnedThreadContext::detach());
}
