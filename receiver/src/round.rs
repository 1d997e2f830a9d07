//! One collection over all network namespaces.
//!
//! Each table of a namespace is read at most once a round, whoever asks, so that every probe sees the same
//! instant and pays once. Where a table comes from is `round::read` alone.

pub mod counters;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub mod interfaces;
pub mod ipvs;
pub mod netlink;
mod owners;
mod read;
pub mod sockets;
pub mod softnet;
mod walk;

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::HashSet,
    sync::Arc,
};

pub use self::walk::{Account, Setup};
use self::{
    counters::{Counters, Messages, Parser},
    interfaces::Interface,
    ipvs::Totals,
    netlink::{Conntrack, Inside, Visitor, Wanted},
    owners::Owners,
    read::{Reader, Table},
    sockets::{Interest, SocketsError, View},
    softnet::Cpu,
    walk::Source,
};
use crate::{
    clock::Clock,
    netlink::qdisc::Qdisc,
    pods::{Entity, Namespace, NetnsSource, Origin, Snapshot},
};

/// What is kept from round to round: the kernel's columns, and the walk where it is the source of tables.
pub struct Parsers {
    snmp: RefCell<Parser>,
    netstat: RefCell<Parser>,
    snmp6: RefCell<Parser>,
    sockstat: RefCell<Parser>,
    sockstat6: RefCell<Parser>,
    buffer: RefCell<String>,
    source: RefCell<Source>,
    visitor: RefCell<Visitor>,
    sockets: RefCell<sockets::Source>,
    owners: RefCell<Owners>,
}

impl Parsers {
    /// Nothing is loaded before a table is asked for.
    pub fn new(setup: Setup) -> Self {
        Self {
            snmp: RefCell::default(),
            netstat: RefCell::default(),
            snmp6: RefCell::default(),
            sockstat: RefCell::default(),
            sockstat6: RefCell::default(),
            buffer: RefCell::default(),
            source: RefCell::new(Source::new(setup)),
            visitor: RefCell::default(),
            sockets: RefCell::default(),
            owners: RefCell::default(),
        }
    }

    /// Unloads what is loaded, in case that nobody asks for tables any more.
    pub fn unload(&self) {
        self.source.borrow_mut().close();
        self.sockets.borrow_mut().retire();
    }

    /// A table of counters from procfs.
    fn read(&self, reader: &Reader, of: (&NetnsSource, u32), table: Table) -> Option<Counters> {
        let buffer = &mut self.buffer.borrow_mut();
        let text = reader.read(of, table, buffer)?;
        match table {
            Table::Snmp => Some(self.snmp.borrow_mut().paired(text)),
            Table::Netstat => Some(self.netstat.borrow_mut().paired(text)),
            Table::Snmp6 => Some(self.snmp6.borrow_mut().listed(text)),
            Table::Sockstat => Some(self.sockstat.borrow_mut().grouped(text)),
            Table::Sockstat6 => Some(self.sockstat6.borrow_mut().grouped(text)),
            Table::Dev | Table::IpVsStats | Table::SoftnetStat => None,
        }
    }
}

/// One collection.
pub struct Round<'p> {
    /// When it began, nanoseconds since the epoch: the time of all its points.
    pub now: u64,
    /// Which entities there are.
    pub pods: Arc<Snapshot>,
    /// The kernel's clock against the wall's.
    pub clock: Clock,
    parsers: &'p Parsers,
    tables: Vec<Tables>,
    /// Set once the walk has filled the tables.
    walked: OnceCell<()>,
    unknown: Cell<Option<Origin>>,
    wanted: Wanted,
    inside: OnceCell<Vec<Inside>>,
    sockets: OnceCell<Arc<View>>,
    /// Keys of all entities that are alive.
    alive: OnceCell<HashSet<u64>>,
}

/// The tables of one namespace, as far as they were asked for.
#[derive(Default)]
struct Tables {
    reader: Reader,
    snmp: OnceCell<Option<Counters>>,
    netstat: OnceCell<Option<Counters>>,
    snmp6: OnceCell<Option<Counters>>,
    sockstat: OnceCell<Option<Counters>>,
    sockstat6: OnceCell<Option<Counters>>,
    interfaces: OnceCell<Vec<Interface>>,
}

impl Tables {
    /// The tables that a walk can fill, in the order of `walk::TABLES`.
    fn counted(&self) -> [&OnceCell<Option<Counters>>; walk::TABLES.len()] {
        [&self.snmp, &self.netstat, &self.snmp6]
    }
}

impl<'p> Round<'p> {
    /// A round over the namespaces of `pods`. Nothing is read before it is asked for; over netlink, all that is `wanted` then
    /// is, so that each namespace is entered once.
    pub fn new(pods: Arc<Snapshot>, clock: Clock, parsers: &'p Parsers, wanted: Wanted) -> Self {
        let tables = pods.namespaces().iter().map(|_| Tables::default()).collect();
        let now = clock.now();
        parsers.owners.borrow_mut().tidy(now);
        Self {
            now,
            pods,
            clock,
            parsers,
            tables,
            walked: OnceCell::new(),
            unknown: Cell::new(None),
            wanted,
            inside: OnceCell::new(),
            sockets: OnceCell::new(),
            alive: OnceCell::new(),
        }
    }

    /// Every namespace of the round.
    pub fn namespaces(&self) -> impl Iterator<Item = InNamespace<'_>> {
        let namespaces = self.pods.namespaces().iter();
        namespaces.zip(&self.tables).enumerate().map(|(at, (namespace, tables))| InNamespace {
            namespace,
            tables,
            round: self,
            at,
        })
    }

    /// Fills what the walk has, once.
    fn walk(&self) {
        self.walked.get_or_init(|| self.parsers.source.borrow_mut().serve(self));
    }

    /// Notes a cgroup that is not known: after the round all of them are looked at.
    pub fn miss(&self, cgroup: u64) {
        self.unknown.set(Some(Origin { cgroup, ..Origin::default() }));
    }

    /// One of those that are not known.
    pub fn missed(&self) -> Option<Origin> {
        self.unknown.get()
    }

    fn inside(&self) -> &[Inside] {
        let visit = || self.parsers.visitor.borrow_mut().visit(self.pods.namespaces(), self.wanted);
        self.inside.get_or_init(visit)
    }

    /// Sockets and descriptors of all namespaces: one pass, for whoever asks first, which serves all.
    ///
    /// # Errors
    /// The kernel does not let the pass come to its end.
    pub fn sockets(&self, interest: &Arc<Interest>) -> Result<Arc<View>, SocketsError> {
        if let Some(view) = self.sockets.get() {
            self.parsers.sockets.borrow_mut().remember(interest);
            return Ok(Arc::clone(view));
        }
        let view = self.parsers.sockets.borrow_mut().view(interest, self)?;
        Ok(Arc::clone(self.sockets.get_or_init(|| view)))
    }

    /// The entity behind an origin. One that nobody knows is its bare network namespace; `None` where the
    /// settings leave it out.
    pub fn entity(&self, origin: &Origin) -> Option<Arc<Entity>> {
        self.pods.resolve(origin).or_else(|| self.pods.fallback(origin))
    }

    /// The entity that counted what a kernel's map holds for an origin. An entity that is gone leaves its counts to nobody.
    pub fn owner(&self, origin: &Origin) -> Option<Arc<Entity>> {
        let is_alive = |key| self.alive.get_or_init(|| self.alive()).contains(&key);
        self.parsers.owners.borrow_mut().of(origin, &self.pods, self.now, is_alive)
    }

    fn alive(&self) -> HashSet<u64> {
        let owners = self.pods.namespaces().iter().map(|namespace| namespace.entity.key);
        let directories = self.pods.directories().iter().map(|directory| directory.entity.key);
        owners.chain(directories).chain([self.pods.node().key]).collect()
    }
}

/// One namespace in a round.
pub struct InNamespace<'r> {
    /// Which.
    pub namespace: &'r Namespace,
    tables: &'r Tables,
    round: &'r Round<'r>,
    /// Its place among the namespaces of the round.
    at: usize,
}

impl<'r> InNamespace<'r> {
    /// `/proc/net/snmp`; `None` when the namespace is gone or cannot be read.
    pub fn snmp(&self) -> Option<&'r Counters> {
        self.counters(Table::Snmp, &self.tables.snmp)
    }

    /// `/proc/net/netstat`; `None` when the namespace is gone or cannot be read.
    pub fn netstat(&self) -> Option<&'r Counters> {
        self.counters(Table::Netstat, &self.tables.netstat)
    }

    /// `/proc/net/snmp6`; `None` also when the kernel has no IPv6.
    pub fn snmp6(&self) -> Option<&'r Counters> {
        self.counters(Table::Snmp6, &self.tables.snmp6)
    }

    /// `/proc/net/sockstat`; `None` when the namespace is gone or cannot be read.
    pub fn sockstat(&self) -> Option<&'r Counters> {
        self.tables.sockstat.get_or_init(|| self.procfs(Table::Sockstat)).as_ref()
    }

    /// `/proc/net/sockstat6`; `None` also when the kernel has no IPv6.
    pub fn sockstat6(&self) -> Option<&'r Counters> {
        self.tables.sockstat6.get_or_init(|| self.procfs(Table::Sockstat6)).as_ref()
    }

    /// `/proc/net/ip_vs_stats`, which one probe asks for; `None` also when the module `ip_vs` is not loaded.
    pub fn ip_vs_stats(&self) -> Option<Totals> {
        self.read(Table::IpVsStats, ipvs::parse).flatten()
    }

    /// `/proc/net/softnet_stat`, which one probe asks for, and of the host only: it is the node's in every namespace.
    pub fn softnet_stat(&self) -> Vec<Cpu> {
        self.read(Table::SoftnetStat, softnet::parse).unwrap_or_default()
    }

    /// `/proc/net/dev`; empty when the namespace is gone or cannot be read.
    pub fn interfaces(&self) -> &'r [Interface] {
        let read = || self.read(Table::Dev, interfaces::parse);
        self.tables.interfaces.get_or_init(|| read().unwrap_or_default())
    }

    /// Its queueing disciplines; none when it is gone or may not be entered.
    pub fn qdiscs(&self) -> &'r [Qdisc] {
        self.round.inside().get(self.at).map_or(&[], |inside| &inside.qdiscs)
    }

    /// Its connection tracking; `None` when it is gone, may not be entered, or never tracked a connection.
    pub fn conntrack(&self) -> Option<&'r Conntrack> {
        self.round.inside().get(self.at)?.conntrack.as_ref()
    }

    /// ICMP messages by type, of IPv4 and of IPv6, which one probe asks for: from procfs, for the walk has no types.
    pub fn icmp(&self) -> [Vec<Messages>; 2] {
        let messages = |counters: Counters| counters.messages().to_vec();
        [Table::Snmp, Table::Snmp6].map(|table| self.procfs(table).map(messages).unwrap_or_default())
    }

    /// A table from the walk, else from procfs.
    fn counters(&self, table: Table, cell: &'r OnceCell<Option<Counters>>) -> Option<&'r Counters> {
        self.round.walk();
        let read = || {
            let counters = self.procfs(table)?;
            self.round.parsers.source.borrow().account().add_procfs();
            Some(counters)
        };
        cell.get_or_init(read).as_ref()
    }

    /// A table of counters from procfs.
    fn procfs(&self, table: Table) -> Option<Counters> {
        self.round.parsers.read(&self.tables.reader, self.of(), table)
    }

    /// Any other table, which only procfs has.
    fn read<T>(&self, table: Table, parse: impl FnOnce(&str) -> T) -> Option<T> {
        let buffer = &mut self.round.parsers.buffer.borrow_mut();
        self.tables.reader.read(self.of(), table, buffer).map(parse)
    }

    fn of(&self) -> (&'r NetnsSource, u32) {
        (&self.namespace.source, self.namespace.id.inode)
    }
}
