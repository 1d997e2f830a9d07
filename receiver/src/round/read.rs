//! The tables of a namespace as procfs has them: `/proc/<pid>/net` of one of its tasks, without leaving the receiver's
//! own namespace; for a namespace without a process, a short-lived thread that enters it.

use std::{cell::OnceCell, fs::File, os::fd::AsFd, os::unix::fs::MetadataExt, path::Path};

use rustix::{
    fs::{CWD, Mode, OFlags, openat, readlinkat_raw},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::pods::NetnsSource;

/// A table below `/proc/<pid>/net`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    Snmp,
    Netstat,
    Snmp6,
    Dev,
    Sockstat,
    Sockstat6,
    IpVsStats,
    /// The node's, whichever namespace it is read in: only the host's is, which has processes.
    SoftnetStat,
}

impl Table {
    /// Those that each namespace has.
    const ALL: [Self; 7] =
        [Self::Snmp, Self::Netstat, Self::Snmp6, Self::Dev, Self::Sockstat, Self::Sockstat6, Self::IpVsStats];

    pub(super) fn file(self) -> &'static str {
        match self {
            Self::Snmp => "snmp",
            Self::Netstat => "netstat",
            Self::Snmp6 => "snmp6",
            Self::Dev => "dev",
            Self::Sockstat => "sockstat",
            Self::Sockstat6 => "sockstat6",
            Self::IpVsStats => "ip_vs_stats",
            Self::SoftnetStat => "softnet_stat",
        }
    }
}

/// Reads the tables of one namespace in one round.
#[derive(Default)]
pub(super) struct Reader {
    /// Whether the task still lives in the namespace: it may have ended or moved since the scan.
    present: OnceCell<bool>,
    /// What the thread in a namespace without a process read, by table.
    visited: OnceCell<[Option<String>; Table::ALL.len()]>,
}

impl Reader {
    /// The table's text, in `buffer` or in the reader; `None` when the namespace is gone or the kernel lacks
    /// the file.
    pub(super) fn read<'b>(
        &'b self,
        (source, inode): (&NetnsSource, u32),
        table: Table,
        buffer: &'b mut String,
    ) -> Option<&'b str> {
        match source {
            NetnsSource::Task(pid) => {
                let present = || namespace_of(*pid) == Some(inode);
                if !*self.present.get_or_init(present) {
                    return None;
                }
                read_into(buffer, &format!("/proc/{pid}/net/{}", table.file()))?;
                Some(buffer)
            }
            NetnsSource::Mount(path) => {
                let tables = self.visited.get_or_init(|| visit(path, inode));
                tables.get(table as usize)?.as_deref()
            }
        }
    }
}

/// Room for `net:[4294967295]`.
const LINK_SIZE: usize = 32;

/// Inode of the network namespace of a task.
pub(super) fn namespace_of(pid: u32) -> Option<u32> {
    let mut link = [0_u8; LINK_SIZE];
    let length = readlinkat_raw(CWD, format!("/proc/{pid}/ns/net"), &mut link).ok()?;
    let number = link.get(..length)?.strip_prefix(b"net:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

/// Most of a table is less; what is beyond takes another read.
const CHUNK: usize = 16 * 1024;

/// Reads a file of procfs whole. Its size is not known before, so it is not asked for.
fn read_into(buffer: &mut String, path: &str) -> Option<()> {
    let file = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut bytes = std::mem::take(buffer).into_bytes();
    let mut length = 0;
    loop {
        bytes.resize(bytes.len().max(length + CHUNK), 0);
        match rustix::io::read(&file, bytes.get_mut(length..)?).ok()? {
            0 => break,
            read => length += read,
        }
    }
    bytes.truncate(length);
    *buffer = String::from_utf8(bytes).ok()?;
    Some(())
}

/// All tables of the namespace mounted at `path`. The thread ends with the visit, so no other task of the
/// receiver ever runs in a foreign namespace. Needs `CAP_SYS_ADMIN`; without it there are no tables.
fn visit(path: &Path, inode: u32) -> [Option<String>; Table::ALL.len()] {
    std::thread::scope(|scope| {
        let visitor = scope.spawn(|| {
            let entered = File::open(path).is_ok_and(|target| {
                // Another namespace can be behind the path by now.
                target.metadata().is_ok_and(|found| found.ino() == u64::from(inode))
                    && move_into_link_name_space(target.as_fd(), Some(LinkNameSpaceType::Network)).is_ok()
            });
            Table::ALL.map(|table| {
                let mut text = String::new();
                let read =
                    entered.then(|| read_into(&mut text, &format!("/proc/thread-self/net/{}", table.file())));
                read.flatten().map(|()| text)
            })
        });
        visitor.join().unwrap_or_default()
    })
}
