//! One collection over all network namespaces.
//!
//! Each table of a namespace is read at most once a round, whoever asks, so that every probe sees the same
//! instant and pays once. Where a table comes from is `round::read` alone.

pub mod counters;
pub mod interfaces;
pub mod ipvs;
mod read;
pub mod sockets;
pub mod softnet;

use std::{
    cell::{OnceCell, RefCell},
    sync::Arc,
};

use self::{
    counters::{Counters, Parser},
    interfaces::Interface,
    ipvs::Totals,
    read::{Reader, Table},
    sockets::{Interest, SocketsError, Source, View},
    softnet::Cpu,
};
use crate::{
    clock::Clock,
    pods::{Entity, Namespace, Origin, Snapshot},
};

/// What is kept from round to round: parsers, which remember the kernel's columns, and the programs of passes.
#[derive(Default)]
pub struct Parsers {
    snmp: RefCell<Parser>,
    netstat: RefCell<Parser>,
    snmp6: RefCell<Parser>,
    sockstat: RefCell<Parser>,
    sockstat6: RefCell<Parser>,
    buffer: RefCell<String>,
    sockets: RefCell<Source>,
}

impl Parsers {
    /// Lets go of what only probes needed that are gone.
    pub fn retire(&self) {
        self.sockets.borrow_mut().retire();
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
    sockets: OnceCell<Arc<View>>,
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

impl<'p> Round<'p> {
    /// A round over the namespaces of `pods`. Nothing is read before it is asked for.
    pub fn new(pods: Arc<Snapshot>, clock: Clock, parsers: &'p Parsers) -> Self {
        let tables = pods.namespaces().iter().map(|_| Tables::default()).collect();
        Self { now: clock.now(), pods, clock, parsers, tables, sockets: OnceCell::new() }
    }

    /// Every namespace of the round.
    pub fn namespaces(&self) -> impl Iterator<Item = InNamespace<'_>> {
        let namespaces = self.pods.namespaces().iter();
        namespaces.zip(&self.tables).map(|(namespace, tables)| InNamespace {
            namespace,
            tables,
            parsers: self.parsers,
        })
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
}

/// One namespace in a round.
pub struct InNamespace<'r> {
    /// Which.
    pub namespace: &'r Namespace,
    tables: &'r Tables,
    parsers: &'r Parsers,
}

impl<'r> InNamespace<'r> {
    /// `/proc/net/snmp`; `None` when the namespace is gone or cannot be read.
    pub fn snmp(&self) -> Option<&'r Counters> {
        let parse = |text: &str| self.parsers.snmp.borrow_mut().paired(text);
        self.tables.snmp.get_or_init(|| self.read(Table::Snmp, parse)).as_ref()
    }

    /// `/proc/net/netstat`; `None` when the namespace is gone or cannot be read.
    pub fn netstat(&self) -> Option<&'r Counters> {
        let parse = |text: &str| self.parsers.netstat.borrow_mut().paired(text);
        self.tables.netstat.get_or_init(|| self.read(Table::Netstat, parse)).as_ref()
    }

    /// `/proc/net/snmp6`; `None` also when the kernel has no IPv6.
    pub fn snmp6(&self) -> Option<&'r Counters> {
        let parse = |text: &str| self.parsers.snmp6.borrow_mut().listed(text);
        self.tables.snmp6.get_or_init(|| self.read(Table::Snmp6, parse)).as_ref()
    }

    /// `/proc/net/sockstat`; `None` when the namespace is gone or cannot be read.
    pub fn sockstat(&self) -> Option<&'r Counters> {
        let parse = |text: &str| self.parsers.sockstat.borrow_mut().grouped(text);
        self.tables.sockstat.get_or_init(|| self.read(Table::Sockstat, parse)).as_ref()
    }

    /// `/proc/net/sockstat6`; `None` also when the kernel has no IPv6.
    pub fn sockstat6(&self) -> Option<&'r Counters> {
        let parse = |text: &str| self.parsers.sockstat6.borrow_mut().grouped(text);
        self.tables.sockstat6.get_or_init(|| self.read(Table::Sockstat6, parse)).as_ref()
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
        self.tables.interfaces.get_or_init(|| self.read(Table::Dev, interfaces::parse).unwrap_or_default())
    }

    fn read<T>(&self, table: Table, parse: impl FnOnce(&str) -> T) -> Option<T> {
        let buffer = &mut self.parsers.buffer.borrow_mut();
        self.tables.reader.read(self.namespace, table, buffer).map(parse)
    }
}
