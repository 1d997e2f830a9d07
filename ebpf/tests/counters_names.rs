//! The names of the walk's counters against the tables by which the kernel itself prints them. Values cannot show that a
//! counter which stands at zero everywhere is taken for another; these tables do.
#![expect(clippy::expect_used, clippy::print_stdout, clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use jitterscope_ebpf::Kernel;
use jitterscope_ebpf::abi::{
    SLOT_ICMP_TYPES, SLOT_ICMP6, SLOT_ICMP6_TYPES, SLOT_IP, SLOT_IP6, SLOT_MPTCP, SLOT_NET, SLOT_TCP,
    SLOT_UDP, SLOT_UDP6, SLOT_UDPLITE, SLOT_UDPLITE6,
};
use jitterscope_ebpf::counters::Names;

/// Lists of `struct snmp_mib` and `struct icmpmibmap`: a pointer to a name and an index, sixteen bytes. With each the
/// groups of procfs that it prints, where their slots begin, and what stands before the names.
const LISTS: &[(&str, &[(&str, u32)])] = &[
    ("snmp4_ipstats_list", &[("Ip", SLOT_IP)]),
    ("snmp4_ipextstats_list", &[("IpExt", SLOT_IP)]),
    ("snmp4_tcp_list", &[("Tcp", SLOT_TCP)]),
    ("snmp4_udp_list", &[("Udp", SLOT_UDP), ("UdpLite", SLOT_UDPLITE)]),
    ("snmp4_net_list", &[("TcpExt", SLOT_NET)]),
    ("mptcp_snmp_list", &[("MPTcpExt", SLOT_MPTCP)]),
    ("icmpmibmap", &[("IcmpIn", SLOT_ICMP_TYPES), ("IcmpOut", SLOT_ICMP_TYPES + 256)]),
    ("snmp6_ipstats_list", &[("", SLOT_IP6)]),
    ("snmp6_icmp6_list", &[("", SLOT_ICMP6)]),
    ("snmp6_udp6_list", &[("", SLOT_UDP6)]),
    ("snmp6_udplite6_list", &[("", SLOT_UDPLITE6)]),
];

/// The kernel's memory.
struct Memory {
    file: File,
    /// Address, length, place in the file.
    segments: Vec<(u64, u64, u64)>,
}

impl Memory {
    /// Reads the program headers of an ELF core file (elf(5)).
    fn open(path: &Path) -> Option<Self> {
        let file = File::open(path).ok()?;
        let long = |at: u64| {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, at).ok().map(|()| u64::from_ne_bytes(bytes))
        };
        let (start, count) = (long(32)?, long(56)? & 0xffff);
        let segment = |i: u64| {
            let at = start + i * 56;
            Some((long(at + 16)?, long(at + 32)?, long(at + 8)?))
        };
        let segments = (0..count).filter_map(segment).collect();
        Some(Self { file, segments })
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> Option<()> {
        let holds = |(start, length, _): &&(u64, u64, u64)| {
            address.checked_sub(*start).is_some_and(|at| at < *length)
        };
        let (start, _, place) = self.segments.iter().find(holds)?;
        self.file.read_exact_at(bytes, place + (address - start)).ok()
    }

    fn long(&self, address: u64) -> u64 {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes).expect("kernel memory is readable");
        u64::from_ne_bytes(bytes)
    }

    /// The string to which the pointer at `address` leads; `None` for a null pointer.
    fn name(&self, address: u64) -> Option<String> {
        let start = self.long(address);
        let byte = |at: u64| {
            let mut byte = [0];
            self.read(start + at, &mut byte).map(|()| byte[0])
        };
        let text = || (0..64).map_while(|at| byte(at).filter(|byte| *byte != 0)).map(char::from).collect();
        (start != 0).then(text)
    }
}

fn addresses() -> BTreeMap<String, u64> {
    let symbols = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    let symbol = |line: &str| {
        let mut words = line.split_whitespace();
        let address = u64::from_str_radix(words.next()?, 16).ok()?;
        Some((words.nth(1)?.to_owned(), address))
    };
    symbols.lines().filter_map(symbol).filter(|(_, address)| *address != 0).collect()
}

/// Names of all counters in procfs, as nstat(8) writes them.
fn printed() -> Vec<String> {
    let mut names = Vec::new();
    for file in ["snmp", "netstat"] {
        let text = fs::read_to_string(format!("/proc/net/{file}")).unwrap();
        for line in text.lines().step_by(2) {
            let (group, columns) = line.split_once(": ").unwrap();
            names.extend(columns.split(' ').map(|column| format!("{group}{column}")));
        }
    }
    let text = fs::read_to_string("/proc/net/snmp6").unwrap_or_default();
    names.extend(text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned));
    names.retain(|name| {
        !matches!(name.as_str(), "IpForwarding" | "IpDefaultTTL")
            && !name.contains("Type")
            && !name.starts_with("IcmpMsg")
    });
    names
}

#[test]
fn every_counter_of_procfs_has_a_slot_of_its_own() {
    let Ok(kernel) = Kernel::read(None) else {
        assert!(std::env::var_os("CI").is_none());
        return println!("skipped: needs BTF");
    };
    let printed = printed();
    let slots = Names::read(kernel.btf()).slots(printed.iter().map(String::as_str)).unwrap();
    println!("{} counters", slots.len());
    assert!(slots.len() > 250, "{slots:?}");
}

#[test]
fn names_lead_to_the_places_that_the_kernel_prints_under_them() {
    let (Some(memory), addresses) = (Memory::open(Path::new("/proc/kcore")), addresses()) else {
        return println!("skipped: needs a kernel with /proc/kcore");
    };
    if !addresses.contains_key("snmp4_net_list") {
        return println!("skipped: needs a kernel that lists its data in /proc/kallsyms");
    }
    let names = Names::read(Kernel::read(None).unwrap().btf());
    let printed = printed();
    let mut checked = 0;
    let mut check = |name: String, place: u32| {
        // A list may go on behind its end, where others begin.
        if printed.contains(&name) {
            assert_eq!(names.slot(&name), Some(place as usize), "{name}");
            checked += 1;
        }
    };
    for (symbol, groups) in LISTS {
        let Some(start) = addresses.get(*symbol) else { continue };
        for (group, slot) in *groups {
            let entries = (0..printed.len() as u64).map(|i| start + i * 16);
            let entry = |at: u64| Some((memory.name(at)?, memory.long(at + 8) as u32));
            let own = |(name, _): &(String, u32)| printed.contains(&format!("{group}{name}"));
            for (name, place) in entries.map_while(entry).take_while(own) {
                check(format!("{group}{name}"), slot + place);
            }
        }
    }
    if let Some(start) = addresses.get("icmp6type2name") {
        for kind in 0..256 {
            let Some(name) = memory.name(start + kind * 8) else { continue };
            check(format!("Icmp6In{name}"), SLOT_ICMP6_TYPES + kind as u32);
            check(format!("Icmp6Out{name}"), SLOT_ICMP6_TYPES + 256 + kind as u32);
        }
    }
    println!("{checked} of {} counters checked", printed.len());
    // Only the total, failed and limited messages of ICMP for IPv4 are in no list.
    assert!(checked + 8 >= printed.len(), "{checked} of {}", printed.len());
}
