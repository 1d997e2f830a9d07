//! Where a namespace's tables come from: `/proc/<pid>/net` of one of its tasks, without leaving the receiver's
//! own namespace; for a namespace without a process, a short-lived thread that enters it.

use std::{cell::OnceCell, fs::File, io::Read, os::fd::AsFd, path::Path};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::pods::{Namespace, NetnsSource};

/// A table below `/proc/<pid>/net`.
#[derive(Clone, Copy, Debug)]
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

    fn file(self) -> &'static str {
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
        namespace: &Namespace,
        table: Table,
        buffer: &'b mut String,
    ) -> Option<&'b str> {
        match &namespace.source {
            NetnsSource::Task(pid) => {
                let present = || namespace_of(*pid) == Some(namespace.id.inode);
                if !*self.present.get_or_init(present) {
                    return None;
                }
                read_into(buffer, &format!("/proc/{pid}/net/{}", table.file()))?;
                Some(buffer)
            }
            NetnsSource::Mount(path) => {
                let tables = self.visited.get_or_init(|| visit(path));
                tables.get(table as usize)?.as_deref()
            }
        }
    }
}

/// Inode of the network namespace of a task.
fn namespace_of(pid: u32) -> Option<u32> {
    let link = std::fs::read_link(format!("/proc/{pid}/ns/net")).ok()?;
    link.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

fn read_into(buffer: &mut String, path: &str) -> Option<()> {
    buffer.clear();
    File::open(path).ok()?.read_to_string(buffer).ok().map(|_| ())
}

/// All tables of the namespace mounted at `path`. The thread ends with the visit, so no other task of the
/// receiver ever runs in a foreign namespace. Needs `CAP_SYS_ADMIN`; without it there are no tables.
fn visit(path: &Path) -> [Option<String>; Table::ALL.len()] {
    std::thread::scope(|scope| {
        let visitor = scope.spawn(|| {
            let entered = File::open(path).is_ok_and(|target| {
                move_into_link_name_space(target.as_fd(), Some(LinkNameSpaceType::Network)).is_ok()
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
