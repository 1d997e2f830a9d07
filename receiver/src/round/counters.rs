//! The kernel's counter tables of one network namespace: `/proc/net/{snmp,netstat,snmp6,sockstat,sockstat6}`.
//!
//! `snmp` and `netstat` are pairs of lines, names then values, each begun by the group
//! (`net/ipv4/proc.c`, `snmp_seq_show`, `netstat_seq_show`); `snmp6` is a name and a value a line
//! (`net/ipv6/proc.c`, `snmp6_seq_show`). Names are group and column in one word, as nstat(8) writes them:
//! `TcpActiveOpens`, `TcpExtListenOverflows`, `Udp6InDatagrams`. `sockstat` and `sockstat6` have names and values in
//! turn on the line of a group (`sockstat_seq_show`, `sockstat6_seq_show`); the group keeps its colon: `TCP:inuse`.

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
    messages: Vec<Messages>,
}

/// ICMP messages of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Messages {
    /// Whether they were received; else sent.
    pub received: bool,
    /// The type (RFC 792, RFC 4443).
    pub number: u8,
    /// How many.
    pub count: u64,
}

impl Counters {
    /// Values in the order of the layout's columns.
    pub(super) fn new(layout: Arc<Layout>, values: Vec<u64>) -> Self {
        Self { layout, values, messages: Vec::new() }
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

    /// ICMP messages by type, for the types that the namespace has seen: of IPv4 in `snmp`, of IPv6 in `snmp6`.
    pub fn messages(&self) -> &[Messages] {
        &self.messages
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
        let types = text.find("IcmpMsg:").map_or("", |at| &text[at..]);
        Counters { messages: messages(paired(types)), ..self.read(paired(text)) }
    }

    /// Parses `snmp6`.
    pub fn listed(&mut self, text: &str) -> Counters {
        Counters { messages: messages(listed(text)), ..self.read(listed(text)) }
    }

    /// Parses `sockstat` or `sockstat6`.
    pub fn grouped(&mut self, text: &str) -> Counters {
        self.read(text.lines().flat_map(|line| {
            let (group, cells) = line.split_at(line.find(' ').unwrap_or(0));
            let names = cells.split_ascii_whitespace().step_by(2);
            let numbers = cells.split_ascii_whitespace().skip(1).step_by(2);
            names.zip(numbers).map(move |(name, number)| (group, name, number))
        }))
    }

    fn read<'t>(&mut self, cells: impl Iterator<Item = Cell<'t>> + Clone) -> Counters {
        let cells = cells.filter(|(group, name, _)| !varies(group, name));
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
        Counters { layout: Arc::clone(&self.layout), values, messages: Vec::new() }
    }
}

impl Layout {
    fn of(names: impl Iterator<Item = String>) -> Self {
        let names: Vec<String> = names.collect();
        let columns = names.iter().cloned().enumerate().map(|(column, name)| (name, column)).collect();
        Self { names, columns }
    }
}

/// Group, name and number of a column.
type Cell<'t> = (&'t str, &'t str, &'t str);

/// The cells of a table that comes in pairs of lines.
fn paired(text: &str) -> impl Iterator<Item = Cell<'_>> + Clone {
    let names = text.lines().step_by(2);
    let numbers = text.lines().skip(1).step_by(2);
    names
        .zip(numbers)
        .filter_map(|(names, numbers)| {
            let (group, names) = names.split_once(':')?;
            let (_, numbers) = numbers.split_once(':')?;
            let cells = names.split_ascii_whitespace().zip(numbers.split_ascii_whitespace());
            let cells = cells.map(move |(name, number)| (group, name, number));
            Some(cells.filter(|(group, name, _)| !is_setting(group, name)))
        })
        .flatten()
}

/// The cells of a table of lines.
fn listed(text: &str) -> impl Iterator<Item = Cell<'_>> + Clone {
    text.lines().filter_map(|line| {
        let (name, number) = line.split_once(|c: char| c.is_ascii_whitespace())?;
        Some(("", name, number.trim()))
    })
}

/// Whether a column is listed only in namespaces that have seen such a message: ICMP by type. These would give each
/// namespace a layout of its own.
fn varies(group: &str, name: &str) -> bool {
    message(group, name).is_some()
}

/// ICMP by type, of the columns that are that.
fn messages<'t>(cells: impl Iterator<Item = Cell<'t>>) -> Vec<Messages> {
    let messages = |(group, name, number): Cell<'t>| {
        let (received, kind) = message(group, name)?;
        Some(Messages { received, number: kind, count: parse(number) })
    };
    cells.filter_map(messages).collect()
}

/// What a column counts, if that is ICMP by type: `InType3` of the group `IcmpMsg`, `Icmp6OutType135`.
fn message(group: &str, name: &str) -> Option<(bool, u8)> {
    let name = if group == "IcmpMsg" { name } else { name.strip_prefix("Icmp6")? };
    let (received, number) = match name.strip_prefix("InType") {
        Some(number) => (true, number),
        None => (false, name.strip_prefix("OutType")?),
    };
    Some((received, number.parse().ok()?))
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
    fn icmp_is_read_by_type_and_gives_no_namespace_a_layout_of_its_own() {
        let mut parser = Parser::default();
        let quiet = parser.paired("IcmpX: A\nIcmpX: 1\n");
        let text =
            "IcmpMsg: InType3 OutType8\nIcmpMsg: 5 7\nIcmpMsg: OutType255\nIcmpMsg: 9\nIcmpX: A\nIcmpX: 2\n";
        let busy = parser.paired(text);
        let message = |received, number, count| Messages { received, number, count };
        assert_eq!(busy.messages(), [message(true, 3, 5), message(false, 8, 7), message(false, 255, 9)]);
        assert!(quiet.messages().is_empty() && Arc::ptr_eq(&quiet.layout, &busy.layout));
        let v6 = Parser::default().listed("Icmp6InMsgs 4\nIcmp6InType128 \t 3\nIcmp6OutType129 \t 2\n");
        assert_eq!(v6.messages(), [message(true, 128, 3), message(false, 129, 2)]);
        assert_eq!(v6.iter().collect::<Vec<_>>(), [("Icmp6InMsgs", 4)]);
    }

    #[test]
    fn a_grouped_table_gives_every_number_under_group_and_name() {
        let counters = Parser::default().grouped("sockets: used 22\nTCP: inuse 1 mem 155\nUDP: inuse\n");
        let all: Vec<_> = counters.iter().collect();
        assert_eq!(all, [("sockets:used", 22), ("TCP:inuse", 1), ("TCP:mem", 155)]);
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
