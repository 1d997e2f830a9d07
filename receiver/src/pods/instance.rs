//! One network namespace from the scan that first saw it to the scan that misses it, told apart from another one with the
//! same inode number.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::address::Address;
use super::cgroup::{Owner, owner_of_process};
use super::named::Mount;
use super::origin::Netns;
use super::process::Processes;

/// Processes that are remembered to vouch for a namespace: as long as one of them lives in it, it is the same namespace.
/// More than one, so that the end of one process rarely needs a cookie.
const WITNESSES: usize = 4;

/// Processes of one namespace that are examined at a time, for their start and for a container's cgroup. A pod's first
/// process is among those with the lowest ids.
const EXAMINED: usize = 64;

/// For so long an unowned namespace's processes are asked for their cgroup again: runtimes move them after making them.
const YOUNG: Duration = Duration::from_secs(10);

/// Addresses of a running container hardly ever change; entering a namespace to read them takes some 50 µs.
const ADDRESSES_EVERY: Duration = Duration::from_secs(30);

/// A process that cannot be confused with a later one of the same id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Witness {
    pid: u32,
    start_ticks: u64,
}

/// One network namespace while it lives.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) id: Netns,
    /// Unique among all instances of this receiver.
    pub(super) number: u64,
    /// Pod or container, none for a namespace outside of both.
    pub(super) owner: Owner,
    /// Start of its first process in nanoseconds of wall-clock time, if a process was the first that was seen of it.
    pub(super) started_unix_nano: Option<u64>,
    pub(super) first_seen: Instant,
    pub(super) mount: Option<Mount>,
    /// Of its interfaces.
    pub(super) addresses: Arc<[Address]>,
    addresses_read: Option<Instant>,
    witnesses: Vec<Witness>,
    examined: HashSet<u32>,
}

impl Instance {
    pub(super) fn new(id: Netns, number: u64, now: Instant) -> Self {
        Self {
            id,
            number,
            owner: Owner::default(),
            started_unix_nano: None,
            first_seen: now,
            mount: None,
            addresses: Arc::default(),
            addresses_read: None,
            witnesses: Vec::new(),
            examined: HashSet::new(),
        }
    }

    /// The process through whose `/proc/<pid>/net` the namespace can be read.
    pub(super) fn representative(&self) -> Option<u32> {
        self.witnesses.first().map(|witness| witness.pid)
    }

    /// Whether this certainly is the namespace that now has these processes and this mount.
    pub(super) fn is_same(&mut self, processes: &Processes, pids: &[u32], mount: Option<&Mount>) -> bool {
        while let Some(witness) = self.witnesses.first() {
            if pids.contains(&witness.pid) && processes.start_ticks(witness.pid) == Some(witness.start_ticks)
            {
                return true;
            }
            self.witnesses.remove(0);
        }
        mount.is_some_and(|mount| !mount.recent) && self.is_mounted_as_before(mount)
    }

    /// Whether it is mounted where it was, in a directory that has not changed since.
    pub(super) fn is_mounted_as_before(&self, mount: Option<&Mount>) -> bool {
        let same_path = |mount: &Mount| self.mount.as_ref().is_some_and(|known| known.path == mount.path);
        mount.is_some_and(|mount| !mount.changed && same_path(mount))
    }

    /// Takes over what the scan saw of it.
    pub(super) fn observe(
        &mut self,
        processes: &Processes,
        pids: &[u32],
        mount: Option<&Mount>,
        now: Instant,
    ) {
        let without_process = self.witnesses.is_empty() && self.mount.is_some();
        self.mount = mount.cloned();
        if self.witnesses.len() < pids.len().min(2) {
            self.witnesses = oldest(processes, pids);
            let first = self.witnesses.first().map(|witness| witness.start_ticks);
            if !without_process && self.started_unix_nano.is_none() {
                self.started_unix_nano = first.and_then(|ticks| unix_nanos(processes, ticks));
            }
        }
        if self.owner.is_none() {
            self.find_owner(processes, pids, now);
        }
    }

    /// Asks the processes that were not asked before, and all while the namespace is young, for a container's cgroup.
    fn find_owner(&mut self, processes: &Processes, pids: &[u32], now: Instant) {
        let young = now.duration_since(self.first_seen) < YOUNG;
        for pid in pids.iter().take(EXAMINED) {
            if !self.examined.insert(*pid) && !young {
                continue;
            }
            let owner = processes.cgroups(*pid).map(|lines| owner_of_process(&lines)).unwrap_or_default();
            if !owner.is_none() {
                self.owner = owner;
                self.examined = HashSet::new();
                return;
            }
        }
        self.examined.retain(|pid| pids.contains(pid));
    }

    /// Whether its addresses should be read again: often while they are being assigned, seldom afterwards.
    pub(super) fn wants_addresses(&self, now: Instant) -> bool {
        let young = now.duration_since(self.first_seen) < YOUNG;
        young || self.addresses_read.is_none_or(|read| now.duration_since(read) >= ADDRESSES_EVERY)
    }

    pub(super) fn take_addresses(&mut self, addresses: Vec<Address>, now: Instant) {
        self.addresses_read = Some(now);
        if *self.addresses != *addresses {
            self.addresses = addresses.into();
        }
    }

    /// A path that opens the namespace.
    pub(super) fn path(processes: &Processes, pids: &[u32], mount: Option<&Mount>) -> Option<PathBuf> {
        let process = || pids.iter().min().map(|pid| processes.file(*pid, "ns/net"));
        mount.map(|mount| mount.path.clone()).or_else(process)
    }
}

/// The processes that started first, oldest first.
fn oldest(processes: &Processes, pids: &[u32]) -> Vec<Witness> {
    let mut pids = pids.to_vec();
    pids.sort_unstable();
    let witness = |pid: &u32| Some(Witness { pid: *pid, start_ticks: processes.start_ticks(*pid)? });
    let mut witnesses: Vec<_> = pids.iter().take(EXAMINED).filter_map(witness).collect();
    witnesses.sort_by_key(|witness| (witness.start_ticks, witness.pid));
    witnesses.truncate(WITNESSES);
    witnesses
}

/// A time in ticks since boot as wall-clock time in nanoseconds.
pub(super) fn unix_nanos(processes: &Processes, ticks: u64) -> Option<u64> {
    let since_boot = ticks * (1_000_000_000 / rustix::param::clock_ticks_per_second());
    Some(boot_unix_nanos(processes)? + since_boot)
}

/// When the machine booted, by the wall clock of now.
pub(super) fn boot_unix_nanos(processes: &Processes) -> Option<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(now.as_nanos()).ok()?.checked_sub(processes.uptime_nanos()?)
}
