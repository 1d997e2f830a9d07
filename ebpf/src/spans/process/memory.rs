//! The memory of another process.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

/// One address space, for as long as it exists: a process that becomes another program cannot be read any more.
#[derive(Debug)]
pub(super) struct Memory {
    file: File,
}

impl Memory {
    /// `None`: there is no such process, or it may not be read (`CAP_SYS_PTRACE`).
    pub(super) fn open(pid: u32) -> Option<Self> {
        File::open(format!("/proc/{pid}/mem")).ok().map(|file| Self { file })
    }

    /// So many bytes at an address; `None`: they are not all there.
    pub(super) fn read(&self, address: u64, length: usize) -> Option<Vec<u8>> {
        // The kernel takes offsets for signed numbers; nobody has memory beyond.
        i64::try_from(address.checked_add(length as u64)?).ok()?;
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, address).ok()?;
        Some(bytes)
    }

    /// Eight bytes at an address, as a number.
    pub(super) fn word(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        i64::try_from(address).ok()?;
        self.file.read_exact_at(&mut bytes, address).ok()?;
        Some(u64::from_ne_bytes(bytes))
    }
}

/// A number within bytes.
pub(super) fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}
