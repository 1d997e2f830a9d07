//! Processes as `/proc` shows them: which network namespace each is in, when it started, which cgroup it is in.

use std::collections::HashMap;
use std::ffi::CStr;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Dir, Mode, OFlags, openat, readlinkat_raw};
use rustix::io::Errno;

/// The processes below one `/proc`.
pub(super) struct Processes {
    root: PathBuf,
}

/// Which processes are in which namespace, at one moment.
#[derive(Default, Debug)]
pub(super) struct Census {
    /// Process ids by inode of the network namespace.
    pub(super) namespaces: HashMap<u32, Vec<u32>>,
    /// Processes whose namespace we may not read (needs `CAP_SYS_PTRACE`). Those hidden by `hidepid` are not even listed.
    pub(super) unreadable: u64,
}

impl Processes {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Lists all processes and reads one link of each. Threads that moved away from their process's namespace are not seen.
    ///
    /// Errors: the directory itself cannot be read. A process that vanishes meanwhile, or a zombie, which has no namespace
    /// any more, is left out.
    pub(super) fn census(&self) -> io::Result<Census> {
        let proc = openat(CWD, &self.root, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut census = Census::default();
        for entry in Dir::read_from(&proc)? {
            let entry = entry?;
            let Some(pid) = pid(entry.file_name()) else { continue };
            match netns(&proc, pid) {
                Ok(inode) => census.namespaces.entry(inode).or_default().push(pid),
                Err(Errno::ACCESS | Errno::PERM) => census.unreadable += 1,
                Err(_) => {}
            }
        }
        Ok(census)
    }

    /// A process in the host's network namespace, and that one's inode: process 1, which never leaves it. Without the
    /// host's pid namespace that is the first process of our own pod. Where process 1 is protected from us, our own
    /// namespace is taken for the host's.
    pub(super) fn host(&self) -> Option<(u32, u32)> {
        [1, std::process::id()].iter().find_map(|pid| {
            let link = std::fs::read_link(self.file(*pid, "ns/net")).ok()?;
            Some((*pid, inode(link.as_os_str().as_encoded_bytes())?))
        })
    }

    /// When the process started, in clock ticks since boot; `None`: it is gone. With the pid this names one process for
    /// good: field 22 of `/proc/<pid>/stat`, see `proc_pid_stat(5)`.
    pub(super) fn start_ticks(&self, pid: u32) -> Option<u64> {
        started(&std::fs::read_to_string(self.file(pid, "stat")).ok()?)
    }

    /// Text of `/proc/<pid>/cgroup`; `None`: the process is gone or hidden.
    pub(super) fn cgroups(&self, pid: u32) -> Option<String> {
        std::fs::read_to_string(self.file(pid, "cgroup")).ok()
    }

    /// Nanoseconds since boot, suspended time included; start times count from there.
    pub(super) fn uptime_nanos(&self) -> Option<u64> {
        let text = std::fs::read_to_string(self.root.join("uptime")).ok()?;
        let seconds: f64 = text.split_ascii_whitespace().next()?.parse().ok()?;
        Some((seconds * 1e9) as u64)
    }

    /// A file of one process.
    pub(super) fn file(&self, pid: u32, name: &str) -> PathBuf {
        self.root.join(pid.to_string()).join(name)
    }

    /// Where `/proc` is.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }
}

pub(super) fn started(stat: &str) -> Option<u64> {
    // The command, field 2, is in parentheses and may contain anything, parentheses and blanks too.
    let (_, after_command) = stat.rsplit_once(')')?;
    after_command.split_ascii_whitespace().nth(19)?.parse().ok()
}

fn pid(name: &CStr) -> Option<u32> {
    let name = name.to_bytes();
    // Most entries of /proc that are no process begin with a letter: decide that without parsing.
    name.first().filter(|byte| byte.is_ascii_digit())?;
    std::str::from_utf8(name).ok()?.parse().ok()
}

/// Room for `net:[4294967295]`.
const LINK_SIZE: usize = 32;

fn netns(proc: &OwnedFd, pid: u32) -> Result<u32, Errno> {
    let mut link = [0_u8; LINK_SIZE];
    let length = readlinkat_raw(proc, format!("{pid}/ns/net"), &mut link)?;
    inode(&link[..length]).ok_or(Errno::INVAL)
}

/// The number in `net:[4026531840]`.
pub(super) fn inode(link: &[u8]) -> Option<u32> {
    let number = link.strip_prefix(b"net:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(number).ok()?.parse().ok()
}
