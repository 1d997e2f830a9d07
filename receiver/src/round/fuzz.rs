//! Tables of procfs, and what `sock_diag` answers.

use super::{
    counters::{Counters, Parser},
    interfaces, ipvs, sockets, softnet,
};
use crate::fuzz::Target;

const SNMP: &[u8] = include_bytes!("fixtures/snmp");
const NETSTAT: &[u8] = include_bytes!("fixtures/netstat");
const SNMP6: &[u8] = include_bytes!("fixtures/snmp6");
const DEV: &[u8] = include_bytes!("fixtures/dev");
const SOCKSTAT: &[u8] = b"sockets: used 94\nTCP: inuse 4 orphan 0 tw 0 alloc 5 mem 1\nUDP: inuse 1 mem 0\n";
const SOFTNET: &[u8] = b"0000003a 00000000 00000001 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000\n";
const IPVS: &[u8] = b"   Total Incoming Outgoing         Incoming         Outgoing\n   Conns  Packets  Packets            Bytes            Bytes\n       3       1e        0              5d0                0\n";
const LIMITS: &[u8] = b"Max open files            1024                 524288               files\n";

pub(crate) const TARGETS: &[Target] = &[
    Target { name: "counters", read: tables, samples: &[SNMP, NETSTAT, SNMP6, SOCKSTAT] },
    Target { name: "lines", read: lines, samples: &[DEV, SOFTNET, IPVS, LIMITS] },
    Target { name: "sock_diag", read: sockets::read_diag, samples: &[&[0; 128]] },
];

type Parse = fn(&mut Parser, &str) -> Counters;

/// Tables of counters. What was read before and what is read after another table is the same as without that.
fn tables(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let known = String::from_utf8_lossy(SNMP);
    let parsers: [Parse; 3] = [Parser::paired, Parser::listed, Parser::grouped];
    for parse in parsers {
        let list = |counters: Counters| -> Vec<(String, u64)> {
            counters.iter().map(|(name, value)| (name.to_owned(), value)).collect()
        };
        let alone = |text: &str| list(parse(&mut Parser::default(), text));
        let mut parser = Parser::default();
        for text in [&known, &text, &known, &text] {
            assert_eq!(list(parse(&mut parser, text)), alone(text));
        }
    }
}

/// Files with a line for each thing.
fn lines(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    assert!(interfaces::parse(&text).len() <= text.lines().count());
    assert!(softnet::parse(&text).len() <= text.lines().count());
    std::hint::black_box((ipvs::parse(&text), sockets::read_limit(&text)));
}
