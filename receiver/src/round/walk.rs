//! The walk of the kernel's list of namespaces as the source of `snmp`, `netstat` and `snmp6`, in place of three files
//! for each namespace; it sees namespaces without a process too.
//!
//! Procfs stays beside it: for what the walk does not see, for tables with a counter whose place is not known for
//! sure, and as a check at the start and once a minute. What does not pass is not used again.

mod checked;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use tracing::{info, warn};

use self::checked::Checked;
use super::{Round, read::Table};

/// The tables that the walk gives.
pub(super) const TABLES: [Table; 3] = [Table::Snmp, Table::Netstat, Table::Snmp6];

/// Where the tables come from.
#[derive(Clone)]
pub struct Setup {
    /// Whether the walk may be used; it can change at any time.
    pub walk: Arc<AtomicBool>,
    /// BTF of the kernel, where it does not bring its own.
    pub btf: Option<PathBuf>,
    /// What is told of it.
    pub account: Arc<Account>,
}

/// How many tables came from where. One table is one namespace's in one collection.
#[derive(Debug, Default)]
pub struct Account {
    walked: AtomicU64,
    procfs: AtomicU64,
    mismatches: AtomicU64,
}

impl Account {
    /// Tables that the walk gave.
    pub fn walked(&self) -> u64 {
        self.walked.load(Relaxed)
    }

    /// Tables that were read from procfs.
    pub fn procfs(&self) -> u64 {
        self.procfs.load(Relaxed)
    }

    /// Checks in which the two differed.
    pub fn mismatches(&self) -> u64 {
        self.mismatches.load(Relaxed)
    }

    /// Counts a table from procfs.
    pub(super) fn add_procfs(&self) {
        self.procfs.fetch_add(1, Relaxed);
    }

    fn add_walked(&self) {
        self.walked.fetch_add(1, Relaxed);
    }

    fn add_mismatch(&self) {
        self.mismatches.fetch_add(1, Relaxed);
    }
}

/// The walk, once it is wanted.
pub(super) struct Source {
    setup: Setup,
    state: State,
    /// Whether a round has asked for tables before.
    asked: bool,
}

enum State {
    /// Nothing is loaded.
    Idle,
    Open(Box<Checked>),
    /// It cannot be used; procfs is the source.
    Closed,
}

impl Source {
    pub(super) fn new(setup: Setup) -> Self {
        Self { setup, state: State::Idle, asked: false }
    }

    pub(super) fn account(&self) -> &Account {
        &self.setup.account
    }

    /// Unloads what is loaded. It is loaded again when it is wanted again.
    pub(super) fn close(&mut self) {
        if matches!(self.state, State::Open(_)) {
            self.state = State::Idle;
        }
    }

    /// Gives each namespace of the round its tables, as far as the walk has them.
    pub(super) fn serve(&mut self, round: &Round<'_>) {
        if !self.setup.walk.load(Relaxed) {
            self.close();
            return;
        }
        // The first round does without: loading takes a moment, which the first values need not wait for, and with
        // which a single round has nothing to gain.
        if !std::mem::replace(&mut self.asked, true) {
            return;
        }
        if matches!(self.state, State::Idle) {
            self.open(round);
        }
        let State::Open(open) = &mut self.state else { return };
        open.check_when_due(round, &self.setup.account);
        if let Err(error) = open.serve(round, &self.setup.account) {
            warn!(%error, "the walk of the network namespaces does not work any more; their counters come from procfs");
            self.state = State::Closed;
        }
    }

    fn open(&mut self, round: &Round<'_>) {
        match Checked::open(&self.setup, round) {
            Ok(open) => {
                let memory = open.memory();
                info!(
                    tables = open.served(),
                    memory, "counters of network namespaces come from a walk in the kernel"
                );
                self.state = State::Open(Box::new(open));
            }
            Err(reason) => {
                info!(%reason, "counters of network namespaces come from procfs");
                self.state = State::Closed;
            }
        }
    }
}
