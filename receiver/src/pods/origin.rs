//! Who caused something, in kernel terms: a network namespace, a cgroup, a process.

/// One network namespace of the running kernel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Netns {
    /// Inode number in nsfs, as `readlink /proc/<pid>/ns/net` prints it. The kernel hands out the lowest free number,
    /// so that a number is reused at once. 0: unknown.
    pub inode: u32,
    /// `net->net_cookie`, never reused before a reboot (`SO_NETNS_COOKIE`, Linux 5.14). 0: unknown.
    pub cookie: u64,
}

impl Netns {
    /// Whether both can be the same namespace: equal inodes, and cookies that do not contradict each other.
    pub fn agrees_with(&self, other: &Self) -> bool {
        self.inode == other.inode && (self.cookie == other.cookie || self.cookie == 0 || other.cookie == 0)
    }
}

/// Who caused a packet, an event or a count.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Origin {
    /// Namespace of the socket or of the device. Default: unknown.
    pub netns: Netns,
    /// Id in the cgroup v2 hierarchy of the socket's cgroup, which is the inode number of its directory. 0: unknown.
    pub cgroup: u64,
    /// Process, in the initial pid namespace. Not used for attribution, only told. 0: unknown.
    pub pid: u32,
}
