//! What the kernel says about loaded programs and maps: run time, recursion misses, limits, memory.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use crate::sys;

/// Offsets in `struct bpf_prog_info` and `struct bpf_map_info`, `include/uapi/linux/bpf.h`.
const RUN_TIME_NS: usize = 192;
const RUN_COUNT: usize = 200;
const RECURSION_MISSES: usize = 208;
const KEY_SIZE: usize = 8;
const VALUE_SIZE: usize = 12;
const MAX_ENTRIES: usize = 16;

/// What one program did since it was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramStats {
    /// The C function.
    pub name: String,
    /// Runs while statistics were on.
    pub runs: u64,
    /// Nanoseconds spent in those runs.
    pub time: u64,
    /// Calls that the kernel skipped because the program was already running on that CPU (5.12+): a
    /// tracepoint that fired in an interrupt on top of the program. They are not in the program's own counts.
    pub recursion_misses: u64,
}

/// Room of one map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapUsage {
    /// Name in the C file.
    pub name: String,
    /// Limit, in entries; in bytes for a ring.
    pub limit: u32,
    /// Kernel memory, bytes.
    pub memory: u64,
}

/// Keeps the run-time statistics of all programs on the machine switched on while it lives. They cost some
/// 20 ns a run.
#[derive(Debug)]
pub struct RunTimeStats {
    _fd: OwnedFd,
}

impl RunTimeStats {
    /// Switches them on; needs `CAP_SYS_ADMIN` (5.8+).
    pub fn enable() -> io::Result<Self> {
        sys::enable_stats().map(|fd| Self { _fd: fd })
    }
}

pub(crate) fn program(name: &str, fd: BorrowedFd<'_>) -> io::Result<ProgramStats> {
    let mut info = [0u8; 256];
    sys::info(fd, &mut info)?;
    Ok(ProgramStats {
        name: name.to_owned(),
        runs: long(&info, RUN_COUNT),
        time: long(&info, RUN_TIME_NS),
        recursion_misses: long(&info, RECURSION_MISSES),
    })
}

pub(crate) fn map(name: &str, fd: BorrowedFd<'_>) -> io::Result<MapUsage> {
    let mut info = [0u8; 128];
    sys::info(fd, &mut info)?;
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?;
    let memory = text.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok());
    Ok(MapUsage { name: name.to_owned(), limit: word(&info, MAX_ENTRIES), memory: memory.unwrap_or(0) })
}

/// Bytes of a map's key and value, the value of one CPU.
pub(crate) fn entry_size(fd: BorrowedFd<'_>) -> io::Result<(usize, usize)> {
    let mut info = [0u8; 128];
    sys::info(fd, &mut info)?;
    Ok((word(&info, KEY_SIZE) as usize, word(&info, VALUE_SIZE) as usize))
}

fn word(info: &[u8], at: usize) -> u32 {
    let bytes = info.get(at..at + 4).and_then(|b| b.try_into().ok());
    bytes.map_or(0, u32::from_ne_bytes)
}

fn long(info: &[u8], at: usize) -> u64 {
    let bytes = info.get(at..at + 8).and_then(|b| b.try_into().ok());
    bytes.map_or(0, u64::from_ne_bytes)
}
