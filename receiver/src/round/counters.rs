//! The kernel's counter tables of one network namespace: `/proc/net/{snmp,netstat,snmp6}`.
//!
//! `snmp` and `netstat` are pairs of lines, names then values, each begun by the group
//! (`net/ipv4/proc.c`, `snmp_seq_show`, `netstat_seq_show`); `snmp6` is a name and a value a line
//! (`net/ipv6/proc.c`, `snmp6_seq_show`). Names are group and column in one word, as nstat(8) writes them:
//! `TcpActiveOpens`, `TcpExtListenOverflows`, `Udp6InDatagrams`.

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::FixedState;

/// The columns of a table, which all namespaces of a kernel share.
#[derive(Default)]
pub(super) struct Layout {
    names: Vec<String>,
    /// Asked some hundred times for each namespace. The names are the kernel's: nobody chooses them to collide.
    columns: HashMap<String, usize, FixedState>,
}

/// The values of one table in one namespace.
pub struct Counters {
    layout: Arc<Layout>,
    values: Vec<u64>,
}

impl Counters {
    /// Values in the order of the layout's columns.
    pub(super) fn new(layout: Arc<Layout>, values: Vec<u64>) -> Self {
        Self { layout, values }
    }

    pub(super) fn layout(&self) -> Arc<Layout> {
        Arc::clone(&self.layout)
    }

    /// The value of a counter by its name in nstat(8); `None` when this kernel has no such counter.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.layout.columns.get(name).and_then(|&column| self.values.get(column)).copied()
    }

    /// Every counter of the table, in the kernel's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.layout.names.iter().map(String::as_str).zip(self.values.iter().copied())
    }
}

/// Parses tables of one kind and remembers their columns, so that only the first one costs allocations.
#[derive(Default)]
pub struct Parser {
    layout: Arc<Layout>,
}

impl Parser {
    /// Parses `snmp` or `netstat`. Of a line pair whose lengths differ, what fits is taken.
    pub fn paired(&mut self, text: &str) -> Counters {
        self.read(paired(text))
    }

    /// Parses `snmp6`.
    pub fn listed(&mut self, text: &str) -> Counters {
        self.read(text.lines().filter_map(|line| {
            let (name, number) = line.split_once(|c: char| c.is_ascii_whitespace())?;
            (!varies(name)).then_some(("", name, number.trim()))
        }))
    }

    fn read<'t>(&mut self, cells: impl Iterator<Item = (&'t str, &'t str, &'t str)> + Clone) -> Counters {
        let mut values = Vec::with_capacity(self.layout.names.len());
        let mut fits = true;
        for (group, name, number) in cells.clone() {
            fits &=
                self.layout.names.get(values.len()).and_then(|known| known.strip_prefix(group)) == Some(name);
            values.push(parse(number));
        }
        if !fits || values.len() != self.layout.names.len() {
            self.layout = Arc::new(Layout::of(cells.map(|(group, name, _)| format!("{group}{name}"))));
        }
        Counters { layout: Arc::clone(&self.layout), values }
    }
}

impl Layout {
    fn of(names: impl Iterator<Item = String>) -> Self {
        let names: Vec<String> = names.collect();
        let columns = names.iter().cloned().enumerate().map(|(column, name)| (name, column)).collect();
        Self { names, columns }
    }
}

/// (group, name, number) of every column of a table that comes in pairs of lines.
fn paired(text: &str) -> impl Iterator<Item = (&str, &str, &str)> + Clone {
    let names = text.lines().step_by(2);
    let numbers = text.lines().skip(1).step_by(2);
    names
        .zip(numbers)
        .filter_map(|(names, numbers)| {
            let (group, names) = names.split_once(':')?;
            let (_, numbers) = numbers.split_once(':')?;
            if varies(group) {
                return None;
            }
            let cells = names.split_ascii_whitespace().zip(numbers.split_ascii_whitespace());
            let cells = cells.map(move |(name, number)| (group, name, number));
            Some(cells.filter(|(group, name, _)| !is_setting(group, name)))
        })
        .flatten()
}

/// Whether a group or column is listed only in namespaces that have seen such a message: ICMP by type. These
/// would give each namespace a layout of its own.
fn varies(name: &str) -> bool {
    name == "IcmpMsg" || name.starts_with("Icmp6InType") || name.starts_with("Icmp6OutType")
}

/// Whether a column is a setting of the namespace's, which is no counter.
fn is_setting(group: &str, name: &str) -> bool {
    group == "Ip" && matches!(name, "Forwarding" | "DefaultTTL")
}

/// Counters are unsigned; the few signed entries (`Tcp MaxConn` is -1) keep their bits.
fn parse(number: &str) -> u64 {
    number.parse().or_else(|_| number.parse::<i64>().map(i64::cast_unsigned)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SNMP: &str = include_str!("fixtures/snmp");
    const SNMP6: &str = include_str!("fixtures/snmp6");
    const NETSTAT: &str = include_str!("fixtures/netstat");

    #[test]
    fn paired_tables_give_every_counter_under_its_nstat_name() {
        let counters = Parser::default().paired(SNMP);
        assert_eq!(counters.get("TcpActiveOpens"), Some(2));
        assert_eq!(counters.get("UdpNoPorts"), Some(4));
        assert_eq!(counters.get("TcpMaxConn"), Some((-1_i64).cast_unsigned()));
        assert_eq!(counters.get("TcpNoSuch"), None);
        assert!(Parser::default().paired(NETSTAT).get("TcpExtListenOverflows").is_some());
    }

    #[test]
    fn a_listed_table_gives_every_counter() {
        let counters = Parser::default().listed(SNMP6);
        assert_eq!(counters.get("Udp6NoPorts"), Some(3));
        assert_eq!(counters.iter().count(), SNMP6.lines().filter(|line| !line.contains("Type")).count());
    }

    #[test]
    fn a_table_with_other_columns_is_read_by_its_own_names() {
        let mut parser = Parser::default();
        parser.paired(SNMP);
        let counters = parser.paired("Tcp: A B\nTcp: 1 2\n");
        assert_eq!(
            (counters.get("TcpA"), counters.get("TcpB"), counters.get("TcpActiveOpens")),
            (Some(1), Some(2), None)
        );
    }

    #[test]
    fn a_torn_table_gives_what_is_whole() {
        assert_eq!(Parser::default().paired("Tcp: A B\nTcp: 1").get("TcpA"), Some(1));
        assert_eq!(Parser::default().paired("Tcp: A B\n").get("TcpA"), None);
    }
}
