//! The loaded walk, and what is believed of it: a table whose every counter has a known place and stood every
//! comparison with procfs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jitterscope_ebpf::{
    abi::namespace_counters,
    counters::{Names, Walk, WalkError},
};
use tracing::warn;

use super::{Account, Setup, TABLES};
use crate::{
    pods::{Netns, NetnsSource},
    probe::{Machine, Skip},
    round::{
        Parsers, Round,
        counters::{Counters, Layout},
        read::{Reader, namespace_of},
    },
};

/// Namespaces that are checked at the start, besides the receiver's own.
const CHECKED_AT_START: usize = 3;
/// Time between two checks, of one namespace each: a check costs as much as reading its files twice.
const CHECK_EVERY: Duration = Duration::from_secs(60);
/// A number of connections can go up and down between two readings, so a check may need more than one try.
const TRIES: usize = 5;

/// Why there is no walk.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unavailable {
    /// Privileges or type information are missing.
    #[error(transparent)]
    Machine(#[from] Skip),
    /// The programs.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// A walk that was not compared with anything is not believed.
    #[error("the receiver's own namespace cannot be read to check it")]
    Unchecked,
}

/// A table's columns and where the walk has them.
struct Columns {
    layout: Arc<Layout>,
    slots: Vec<usize>,
}

impl Columns {
    fn counters(&self, record: &namespace_counters) -> Counters {
        let value = |slot: &usize| record.values.get(*slot).copied().unwrap_or_default();
        Counters::new(Arc::clone(&self.layout), self.slots.iter().map(value).collect())
    }
}

/// A walk that is loaded, and was compared with procfs.
pub(super) struct Checked {
    walk: Walk,
    /// In the order of `TABLES`; `None` for those that procfs alone tells.
    columns: [Option<Columns>; TABLES.len()],
    next_check: Instant,
    /// Checks so far: which namespace is next.
    checks: usize,
}

impl Checked {
    pub(super) fn open(setup: &Setup, round: &Round<'_>) -> Result<Self, Unavailable> {
        let machine = Machine::new(setup.btf.as_deref());
        let kernel = machine.kernel()?;
        let names = Names::read(kernel.btf());
        let (own, id) = own().ok_or(Unavailable::Unchecked)?;
        let own = (&own, id);
        let columns = tables(round.parsers, own).map(|table| columns(&names, &table?));
        let walk = Walk::open(kernel)?;
        let mut open = Self { walk, columns, next_check: Instant::now() + CHECK_EVERY, checks: 0 };
        if !open.check(round, own, &setup.account) {
            return Err(Unavailable::Unchecked);
        }
        for namespace in round.pods.namespaces().iter().take(CHECKED_AT_START) {
            open.check(round, (&namespace.source, namespace.id), &setup.account);
        }
        Ok(open)
    }

    pub(super) fn memory(&self) -> u64 {
        let maps = self.walk.loaded().maps().unwrap_or_default();
        maps.iter().map(|map| map.memory).sum()
    }

    /// Names of the tables that it gives.
    pub(super) fn served(&self) -> String {
        let tables = TABLES.iter().zip(&self.columns).filter(|(_, columns)| columns.is_some());
        tables.map(|(table, _)| table.file()).collect::<Vec<_>>().join(" ")
    }

    pub(super) fn serve(&mut self, round: &Round<'_>, account: &Account) -> Result<(), WalkError> {
        let columns = &self.columns;
        self.walk.visit(|record| {
            let id = Netns { inode: record.netns, cookie: record.cookie };
            let Some(tables) = round.pods.position(id).and_then(|at| round.tables.get(at)) else { return };
            for (columns, cell) in columns.iter().zip(tables.counted()) {
                if let Some(columns) = columns
                    && cell.set(Some(columns.counters(record))).is_ok()
                {
                    account.add_walked();
                }
            }
        })?;
        Ok(())
    }

    pub(super) fn check_when_due(&mut self, round: &Round<'_>, account: &Account) {
        let namespaces = round.pods.namespaces();
        if Instant::now() < self.next_check || namespaces.is_empty() {
            return;
        }
        self.next_check = Instant::now() + CHECK_EVERY;
        let next = self.checks % namespaces.len();
        self.checks += 1;
        if let Some(namespace) = namespaces.get(next) {
            self.check(round, (&namespace.source, namespace.id), account);
        }
    }

    /// Compares all tables of one namespace with procfs. One in which a counter differs is not used any more. False when
    /// there was nothing to compare: the namespace is gone or cannot be read.
    fn check(&mut self, round: &Round<'_>, of: (&NetnsSource, Netns), account: &Account) -> bool {
        let mut different = [const { None }; TABLES.len()];
        for _ in 0..TRIES {
            let before = tables(round.parsers, of);
            let Some(record) = self.record(of.1) else { return false };
            let after = tables(round.parsers, of);
            for (at, (before, after)) in before.iter().zip(&after).enumerate() {
                let columns = self.columns.get(at).and_then(Option::as_ref);
                different[at] = match (columns, before, after) {
                    (Some(columns), Some(before), Some(after)) => {
                        difference(before, &columns.counters(&record), after)
                    }
                    (Some(_), ..) => return false,
                    (None, ..) => None,
                };
            }
            if different.iter().all(Option::is_none) {
                return true;
            }
        }
        for ((difference, columns), table) in different.iter().zip(&mut self.columns).zip(TABLES) {
            if let Some(difference) = difference {
                warn!(
                    table = table.file(),
                    difference, "the walk and procfs differ; this table comes from procfs from now on"
                );
                account.add_mismatch();
                *columns = None;
            }
        }
        true
    }

    /// What the walk says of one namespace.
    fn record(&mut self, id: Netns) -> Option<Box<namespace_counters>> {
        let mut found = None;
        let walked = self.walk.visit(|record| {
            if id.agrees_with(&Netns { inode: record.netns, cookie: record.cookie }) {
                found = Some(Box::new(*record));
            }
        });
        walked.ok().and(found)
    }
}

/// The receiver's own namespace.
fn own() -> Option<(NetnsSource, Netns)> {
    let pid = std::process::id();
    Some((NetnsSource::Task(pid), Netns { inode: namespace_of(pid)?, cookie: 0 }))
}

/// The tables of one namespace from procfs.
fn tables(parsers: &Parsers, (source, id): (&NetnsSource, Netns)) -> [Option<Counters>; TABLES.len()] {
    let reader = Reader::default();
    TABLES.map(|table| parsers.read(&reader, (source, id.inode), table))
}

/// Where the columns of a table are; `None`, and a line in the log, when that is not sure for all of them.
fn columns(names: &Names, table: &Counters) -> Option<Columns> {
    match names.slots(table.iter().map(|(name, _)| name)) {
        Ok(slots) => Some(Columns { layout: table.layout(), slots }),
        Err(reason) => {
            warn!(%reason, "the table with it comes from procfs");
            None
        }
    }
}

/// The first counter that is not between what procfs showed before and after.
fn difference(before: &Counters, walked: &Counters, after: &Counters) -> Option<String> {
    before.iter().zip(walked.iter()).zip(after.iter()).find_map(|(((name, before), walked), (_, after))| {
        let within = before.min(after)..=before.max(after);
        let agrees = walked.0 == name && within.contains(&walked.1);
        (!agrees).then(|| format!("{name}: {} {}, in procfs {before} and then {after}", walked.0, walked.1))
    })
}

#[cfg(test)]
#[expect(clippy::print_stdout, reason = "says why a test is skipped")]
mod tests {
    use super::*;
    use crate::{
        clock::Clock,
        pods,
        round::{counters::Parser, netlink::Wanted},
    };

    fn table(text: &str) -> Counters {
        Parser::default().paired(text)
    }

    #[test]
    fn a_counter_differs_when_it_is_outside_of_what_procfs_showed_around_it() {
        let before = table("Tcp: A B\nTcp: 1 5\n");
        let after = table("Tcp: A B\nTcp: 3 5\n");
        let difference = |walked| difference(&before, &table(walked), &after);
        assert_eq!(difference("Tcp: A B\nTcp: 1 5\n"), None);
        assert_eq!(difference("Tcp: A B\nTcp: 3 5\n"), None);
        assert!(difference("Tcp: A B\nTcp: 4 5\n").is_some_and(|text| text.starts_with("TcpA: TcpA 4,")));
        assert!(difference("Tcp: A B\nTcp: 2 4\n").is_some_and(|text| text.starts_with("TcpB: TcpB 4,")));
    }

    #[test]
    fn a_table_in_which_a_counter_is_taken_for_another_is_not_used_again() {
        if let Err(missing) = Machine::new(None).kernel() {
            assert!(std::env::var_os("CI").is_none(), "{missing}");
            return println!("skipped: {missing}");
        }
        let setup = Setup { walk: Arc::default(), btf: None, account: Arc::default() };
        let parsers = Parsers::new(setup.clone());
        let (pods, _) = pods::start(&pods::Settings::default());
        let round = Round::new(pods.snapshot(), Clock::read(), &parsers, Wanted::default());
        let mut checked = Checked::open(&setup, &round).unwrap();
        assert_eq!((checked.served().as_str(), setup.account.mismatches()), ("snmp netstat snmp6", 0));
        let (source, id) = own().unwrap();
        let [snmp, ..] = tables(&parsers, (&source, id));
        let at = |name| snmp.as_ref().unwrap().iter().position(|(column, _)| column == name).unwrap();
        checked.columns[0].as_mut().unwrap().slots.swap(at("TcpRtoMin"), at("TcpRtoMax"));
        assert!(checked.check(&round, (&source, id), &setup.account));
        assert_eq!((checked.served().as_str(), setup.account.mismatches()), ("netstat snmp6", 1));
        checked.serve(&round, &setup.account).unwrap();
        let host = round.tables.first().unwrap();
        assert!(host.snmp.get().is_none() && host.netstat.get().is_some());
    }
}
