//! Sockets and descriptors of all processes, by one pass over every open file for all namespaces together.
//!
//! The pass is an eBPF program that adds up in the kernel (`ebpf/src/bpf/sockets.bpf.c`); reading
//! `/proc/<pid>/net/tcp` or asking over netlink walks the kernel's table of all sockets once for each namespace.
//! Where the program cannot run, netlink and `/proc/<pid>/fd` give the same sums at a longer interval.

mod diag;
#[cfg(any(test, fuzzing))]
pub(super) use diag::{read_diag, read_limit};

use std::{
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::{Arc, Weak},
};

use jitterscope_ebpf::{
    Kernel, TableError,
    abi::{descriptor_sums, entity as holder, flow, flow_key, histogram, pass, socket_key, socket_sums},
    sockets::{Options, PassError, Sockets},
};
use tracing::{debug, info};

use self::diag::Diag;
use super::Round;
use crate::{
    clock::Clock,
    pods::{Netns, Origin},
    probe::{Machine, Skip, Usage},
};

/// Passes without a connection after which a peer's sums make room for others', once half of the room is taken.
const SILENT: u64 = 40;

/// Inode of the initial pid namespace (`include/linux/proc_ns.h`, `PROC_PID_INIT_INO`).
const INITIAL_PIDS: u64 = 0xEFFF_FFFC;

/// Why there are no sockets in a round.
#[derive(Debug, thiserror::Error)]
pub enum SocketsError {
    /// The pass.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// A map.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// What one pass found. Rows are the kernel's, whoever made them.
#[derive(Default)]
pub struct View {
    /// When counting began of what is cumulative, nanoseconds since the epoch.
    pub started: u64,
    /// Sums over sockets; zeros for kinds that there are no more.
    pub sockets: Vec<(socket_key, socket_sums)>,
    /// Descriptors of processes; zeros for holders that have none any more.
    pub descriptors: Vec<(holder, descriptor_sums)>,
    /// Round-trip times since `started`, one for each live connection and pass.
    pub round_trips: Vec<(holder, histogram)>,
    /// Traffic by peer since `started`, empty unless somebody is interested.
    pub flows: Vec<(flow_key, flow)>,
    /// Traffic with peers for which there was no room.
    pub flow_rest: flow,
    /// What the pass could not keep.
    pub account: pass,
    /// What cannot be seen this way, and why.
    pub limitation: Option<String>,
    /// Maps and programs.
    pub usage: Usage,
}

/// A probe's need for passes. They are made as long as there is one.
#[derive(Debug)]
pub struct Interest {
    /// In traffic by peer, too.
    flow: bool,
    /// BTF of the kernel, where it does not bring its own.
    btf: Option<PathBuf>,
    /// Why the program cannot run here.
    obstacle: Option<String>,
}

impl Interest {
    /// The need of a probe that is being opened.
    pub fn new(machine: &Machine) -> Arc<Self> {
        let obstacle = obstacle(machine).err().map(|skip| skip.to_string());
        Arc::new(Self { flow: false, btf: machine.btf().map(PathBuf::from), obstacle })
    }

    /// The need of a probe for traffic by peer, too, which only the program counts.
    ///
    /// # Errors
    /// It cannot run here; it is loaded once to see.
    pub fn in_flows(machine: &Machine) -> Result<Arc<Self>, Skip> {
        obstacle(machine)?;
        drop(Sockets::open(machine.kernel()?, &Options { flow: true, ..Options::default() })?);
        Ok(Arc::new(Self { flow: true, btf: None, obstacle: None }))
    }

    /// Why less can be seen here than the program would see.
    pub fn limitation(&self) -> Option<String> {
        self.obstacle.as_deref().map(diag::limitation)
    }
}

/// Fails with the reason for which the program cannot run here.
fn obstacle(machine: &Machine) -> Result<(), Skip> {
    let walks = machine.kernel()?.btf().has_function("bpf_iter_task_file");
    if machine.btf().is_some() {
        return Err(Skip::Missing("without the kernel's own BTF".to_owned()));
    }
    if walks {
        Ok(())
    } else {
        Err(Skip::Missing("without a walk over open files (iter/task_file)".to_owned()))
    }
}

/// Where views come from, kept from round to round.
#[derive(Default)]
pub(super) struct Source {
    interests: Vec<Weak<Interest>>,
    means: Option<Means>,
}

enum Means {
    Pass(Box<Pass>),
    Diag(Box<Diag>),
}

/// The program, loaded.
struct Pass {
    program: Sockets,
    flow: bool,
    started: u64,
}

impl Source {
    /// Notes that somebody needs passes.
    pub(super) fn remember(&mut self, interest: &Arc<Interest>) {
        self.interests.retain(|known| known.strong_count() > 0);
        if !self.interests.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(interest))) {
            self.interests.push(Arc::downgrade(interest));
        }
    }

    /// Unloads the program when nobody needs it any more.
    pub(super) fn retire(&mut self) {
        self.interests.retain(|known| known.strong_count() > 0);
        if self.interests.is_empty() {
            self.means = None;
        }
    }

    /// Makes a pass.
    pub(super) fn view(
        &mut self,
        interest: &Arc<Interest>,
        round: &Round<'_>,
    ) -> Result<Arc<View>, SocketsError> {
        self.remember(interest);
        let flow = self.interests.iter().filter_map(Weak::upgrade).any(|known| known.flow);
        if matches!(&self.means, Some(Means::Pass(pass)) if pass.flow != flow) {
            // Round-trip times start anew; nothing else goes on from pass to pass.
            self.means = None;
        }
        match self.means.get_or_insert_with(|| Means::choose(interest, flow)) {
            Means::Pass(pass) => pass.view(round).map(Arc::new),
            Means::Diag(diag) => Ok(diag.view(round)),
        }
    }
}

impl Means {
    fn choose(interest: &Interest, flow: bool) -> Self {
        let loaded = match &interest.obstacle {
            None => Pass::load(interest, flow),
            Some(obstacle) => Err(obstacle.clone()),
        };
        match loaded {
            Ok(pass) => Self::Pass(Box::new(pass)),
            Err(reason) => {
                info!(reason, "sockets are asked for over netlink");
                Self::Diag(Box::new(Diag::new(&reason)))
            }
        }
    }
}

impl Pass {
    fn load(interest: &Interest, flow: bool) -> Result<Self, String> {
        let kernel = Kernel::read(interest.btf.as_deref()).map_err(|error| error.to_string())?;
        let options = Options { flow, ..Options::default() };
        let program = Sockets::open(&kernel, &options).map_err(|error| error.to_string())?;
        Ok(Self { program, flow, started: Clock::read().now() })
    }

    fn view(&mut self, round: &Round<'_>) -> Result<View, SocketsError> {
        let account = self.program.pass()?;
        let mut view = View { started: self.started, account, ..View::default() };
        let counted = self.program.sockets(|key, sums| view.sockets.push((*key, *sums)))?;
        let described = self.program.descriptors(|holder, sums| view.descriptors.push((*holder, *sums)))?;
        let timed = self.program.round_trips(|holder, times| view.round_trips.push((*holder, *times)))?;
        let flows = self.program.flows(|key, flow| view.flows.push((*key, *flow)))?;
        view.flow_rest = self.program.flow_rest()?;
        self.forget_gone(&mut view, round)?;
        if flows > Options::default().flows as usize / 2 {
            self.program.forget_silent(SILENT)?;
        }
        view.limitation = gaps(&account);
        view.usage = Usage::of(self.program.loaded());
        let entries = [("sockets", counted), ("descriptors", described), ("rtt", timed), ("flows", flows)];
        view.usage.entries = entries.map(|(map, entries)| (map, entries as u64)).to_vec();
        debug!(descriptors = account.descriptors, sockets = account.sockets, "a pass over all open files");
        Ok(view)
    }

    /// Removes what is kept of namespaces that nobody knows any more, from the view too.
    fn forget_gone(&self, view: &mut View, round: &Round<'_>) -> Result<(), TableError> {
        let is_gone = |holder: &holder| {
            let netns = Netns { inode: holder.netns, cookie: holder.netns_cookie };
            round.pods.resolve(&Origin { netns, ..Origin::default() }).is_none()
        };
        let before = view.len();
        view.sockets.retain(|(key, sums)| sums.sockets + sums.subflows > 0 || !is_gone(&key.entity));
        view.descriptors.retain(|(holder, sums)| sums.open.iter().any(|open| *open > 0) || !is_gone(holder));
        view.round_trips.retain(|(holder, _)| !is_gone(holder));
        view.flows.retain(|(key, _)| !is_gone(&key.entity));
        if view.len() == before { Ok(()) } else { self.program.forget(is_gone) }
    }
}

impl View {
    fn len(&self) -> usize {
        self.sockets.len() + self.descriptors.len() + self.round_trips.len() + self.flows.len()
    }
}

/// What passes could not see or keep.
fn gaps(account: &pass) -> Option<String> {
    let rows = [
        (account.unmarked, "shared sockets were counted more than once"),
        (account.uncounted, "sockets were not counted"),
        (account.unattributed, "processes were not counted"),
        (account.unmeasured, "round-trip times were not counted"),
    ];
    let mut gaps: Vec<String> = rows
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, what)| format!("{number} times since the start {what}, for want of room"))
        .collect();
    if std::fs::metadata("/proc/self/ns/pid").is_ok_and(|own| own.ino() != INITIAL_PIDS) {
        gaps.push("only processes of its own pid namespace".to_owned());
    }
    (!gaps.is_empty()).then(|| gaps.join(", "))
}

/// Whose a socket or descriptor is.
pub fn origin(holder: &holder) -> Origin {
    let netns = Netns { inode: holder.netns, cookie: holder.netns_cookie };
    Origin { netns, cgroup: holder.cgroup, pid: 0 }
}
