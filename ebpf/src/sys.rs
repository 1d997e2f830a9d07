//! The bpf(2) commands that we issue ourselves, and the memlock limit: every unsafe call of this crate.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use zerocopy::{Immutable, IntoBytes};

/// Commands of bpf(2), `enum bpf_cmd` in include/uapi/linux/bpf.h.
#[derive(Clone, Copy)]
#[repr(i32)]
enum Command {
    LookupElement = 1,
    UpdateElement = 2,
    DeleteElement = 3,
    NextKey = 4,
    TestRun = 10,
    InfoByFd = 15,
    LookupBatch = 24,
    EnableStats = 32,
}

#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    element_flags: u64,
    flags: u64,
}

#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
struct InfoAttr {
    fd: u32,
    length: u32,
    info: u64,
}

#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
struct TestRunAttr {
    program_fd: u32,
    returned: u32,
    data_size: [u32; 2],
    data: [u64; 2],
    repeat: u32,
    duration: u32,
    context_size: [u32; 2],
    context: [u64; 2],
    flags: u32,
    cpu: u32,
    batch_size: u32,
    reserved: u32,
}

/// `BPF_F_TEST_RUN_ON_CPU`, include/uapi/linux/bpf.h.
const ON_CPU: u32 = 1;

/// Issues one bpf(2) command. Every pointer in `attr` must be valid for what the command does with it.
fn bpf<T: IntoBytes + Immutable>(command: Command, attr: &mut T) -> io::Result<i64> {
    // SAFETY: `attr` is a live structure of the given size whose pointers the callers in this file take from
    // slices that outlive the call and are as long as the kernel expects.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as i32, &raw mut *attr, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn element(fd: BorrowedFd<'_>, key: &[u8], value: u64, flags: u64) -> ElementAttr {
    let key = if key.is_empty() { 0 } else { key.as_ptr() as u64 };
    ElementAttr { map_fd: fd.as_raw_fd() as u32, reserved: 0, key, value, flags }
}

/// Turns "no such entry" into false.
fn found(result: io::Result<i64>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Reads the value of `key` into `value` (all CPUs' values of a per-CPU map); false when there is none.
pub(crate) fn lookup(fd: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    found(bpf(Command::LookupElement, &mut element(fd, key, value.as_mut_ptr() as u64, 0)))
}

/// Writes `value` under `key`, new or not.
pub(crate) fn update(fd: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    bpf(Command::UpdateElement, &mut element(fd, key, value.as_ptr() as u64, 0)).map(|_| ())
}

/// `BPF_EXIST`, include/uapi/linux/bpf.h.
const EXIST: u64 = 2;

/// Writes `value` over what is under `key`; false when nothing is.
pub(crate) fn replace_value(fd: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<bool> {
    found(bpf(Command::UpdateElement, &mut element(fd, key, value.as_ptr() as u64, EXIST)))
}

/// Removes `key`; false when there was none.
pub(crate) fn delete(fd: BorrowedFd<'_>, key: &[u8]) -> io::Result<bool> {
    found(bpf(Command::DeleteElement, &mut element(fd, key, 0, 0)))
}

/// The key after `key` (the first, if empty) into `next`; false at the end.
pub(crate) fn next_key(fd: BorrowedFd<'_>, key: &[u8], next: &mut [u8]) -> io::Result<bool> {
    found(bpf(Command::NextKey, &mut element(fd, key, next.as_mut_ptr() as u64, 0)))
}

/// What one batch read gave.
pub(crate) struct Batch {
    /// Entries now in the buffers.
    pub(crate) count: usize,
    /// No entries after these.
    pub(crate) last: bool,
}

/// Reads up to `capacity` entries after `position` (from the start, if `None`) and moves `position` on.
pub(crate) fn lookup_batch(
    fd: BorrowedFd<'_>,
    position: &mut Option<[u8; 64]>,
    (keys, values): (&mut [u8], &mut [u8]),
    capacity: usize,
) -> io::Result<Batch> {
    let mut next = [0u8; 64];
    let mut attr = BatchAttr {
        in_batch: position.as_ref().map_or(0, |p| p.as_ptr() as u64),
        out_batch: next.as_mut_ptr() as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: capacity as u32,
        map_fd: fd.as_raw_fd() as u32,
        ..BatchAttr::default()
    };
    let more = found(bpf(Command::LookupBatch, &mut attr))?;
    *position = Some(next);
    Ok(Batch { count: attr.count as usize, last: !more })
}

/// Runs a raw tracepoint program once with these arguments (5.10+), on this CPU or on `cpu`, which must be online
/// (`ENXIO`); gives what the program returned.
pub(crate) fn test_run(fd: BorrowedFd<'_>, arguments: &[u64], cpu: Option<u32>) -> io::Result<u32> {
    let mut attr = TestRunAttr {
        program_fd: fd.as_raw_fd() as u32,
        context_size: [size_of_val(arguments) as u32, 0],
        context: [if arguments.is_empty() { 0 } else { arguments.as_ptr() as u64 }, 0],
        flags: if cpu.is_some() { ON_CPU } else { 0 },
        cpu: cpu.unwrap_or(0),
        ..TestRunAttr::default()
    };
    bpf(Command::TestRun, &mut attr)?;
    Ok(attr.returned)
}

/// Lets the descriptor `fd` mean what `by` means.
pub(crate) fn replace(fd: BorrowedFd<'_>, by: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: `fd` stays open and its owner's, who uses it as a descriptor of some map before and after.
    match unsafe { libc::dup3(by.as_raw_fd(), fd.as_raw_fd(), libc::O_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Fills `info` with the kernel's description of a program or map; returns its length in bytes.
pub(crate) fn info(fd: BorrowedFd<'_>, info: &mut [u8]) -> io::Result<usize> {
    let mut attr =
        InfoAttr { fd: fd.as_raw_fd() as u32, length: info.len() as u32, info: info.as_mut_ptr() as u64 };
    bpf(Command::InfoByFd, &mut attr)?;
    Ok(attr.length as usize)
}

/// Switches run-time statistics of all programs on while the descriptor lives (5.8+).
pub(crate) fn enable_stats() -> io::Result<OwnedFd> {
    let mut run_time = 0u32;
    let fd = bpf(Command::EnableStats, &mut run_time)?;
    // SAFETY: the kernel has just returned this descriptor and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Lifts the memlock limit, which kernels before 5.11 charge maps to. Needs `CAP_SYS_RESOURCE`.
pub(crate) fn raise_memlock() -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: `limit` is a live, initialised structure.
    match unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
