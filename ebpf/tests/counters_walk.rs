//! The walk's sums against procfs, read by others inside each namespace.
#![expect(clippy::expect_used, clippy::print_stdout, clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, TcpStream, UdpSocket};

use common::{Namespace, Network, can_load, eventually, sh};
use jitterscope_ebpf::Kernel;
use jitterscope_ebpf::abi::{SLOT_ICMP_TYPES, SLOT_ICMP6_TYPES, namespace_counters};
use jitterscope_ebpf::counters::{Names, Walk, Walked};

/// Counters by their names in nstat(8).
type Table = BTreeMap<String, u64>;

/// The columns of procfs that are settings.
fn is_counter(name: &str) -> bool {
    !matches!(name, "IpForwarding" | "IpDefaultTTL")
}

/// Where ICMP messages are counted that procfs shows by the number of their type, once there are some.
fn type_slot(name: &str) -> Option<usize> {
    let (first, name) = match name.strip_prefix("IcmpMsg") {
        Some(name) => (SLOT_ICMP_TYPES, name),
        None => (SLOT_ICMP6_TYPES, name.strip_prefix("Icmp6")?),
    };
    let number = |prefix| name.strip_prefix(prefix).and_then(|number| number.parse::<u32>().ok());
    let slot = number("InType").or_else(|| Some(256 + number("OutType")?))?;
    Some((first + slot) as usize)
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| text.parse::<i64>().unwrap().cast_unsigned())
}

/// All counters of the namespace in which the thread is.
fn procfs() -> Table {
    let read = |file: &str| fs::read_to_string(format!("/proc/thread-self/net/{file}"));
    let mut table = Table::new();
    for file in ["snmp", "netstat"] {
        let text = read(file).unwrap();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        for pair in lines.chunks(2) {
            let group = pair[0][0].trim_end_matches(':');
            table.extend(
                pair[0]
                    .iter()
                    .zip(&pair[1])
                    .skip(1)
                    .map(|(name, value)| (format!("{group}{name}"), number(value))),
            );
        }
    }
    for line in read("snmp6").unwrap_or_default().lines() {
        let (name, value) = line.split_once(char::is_whitespace).unwrap();
        table.insert(name.to_owned(), number(value.trim()));
    }
    table.retain(|name, _| is_counter(name));
    table
}

/// What nstat(8) shows inside, run as another process.
fn nstat(namespace: &Namespace) -> Table {
    let listed = namespace.sh("nstat --ignore --zeros --noupdate");
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), number(words.next()?)))
    };
    let mut table: Table = listed.lines().skip(1).filter_map(row).collect();
    table.retain(|name, _| is_counter(name));
    table
}

struct Walker {
    walk: Walk,
    names: Names,
}

impl Walker {
    fn open() -> Self {
        let kernel = Kernel::read(None).unwrap();
        Self { walk: Walk::open(&kernel).unwrap(), names: Names::read(kernel.btf()) }
    }

    fn walk(&mut self) -> (BTreeMap<u32, namespace_counters>, Walked) {
        let mut found = BTreeMap::new();
        let walked = self.walk.visit(|record| {
            found.insert(record.netns, *record);
        });
        let walked = walked.unwrap();
        (found, walked)
    }

    /// What the walk says of one namespace between two readings of procfs inside.
    fn around(&mut self, namespace: &Namespace) -> (Table, Table, Table) {
        let before = namespace.inside(procfs);
        let record = self.walk().0[&namespace.inode()];
        let after = namespace.inside(procfs);
        let slot = |name: &String| type_slot(name).or_else(|| self.names.slot(name)).expect(name);
        let value = |name: &String| record.values[slot(name)];
        let walked = before.keys().map(|name| (name.clone(), value(name))).collect();
        (before, walked, after)
    }
}

/// Answered requests and what nobody listens for, in both families, and messages of both ICMPs.
fn traffic(network: &Network) {
    for family in [4, 6] {
        let address = Network::address(2, family);
        let listener = network.b.inside(|| TcpListener::bind((address, 0)).unwrap());
        let to = listener.local_addr().unwrap();
        network.a.inside(|| {
            for _ in 0..20 {
                let stream = TcpStream::connect(to).unwrap();
                drop((listener.accept().unwrap(), stream));
            }
            let socket = UdpSocket::bind(if family == 4 { ("0.0.0.0", 0) } else { ("::", 0) }).unwrap();
            for _ in 0..50 {
                socket.send_to(b"x", (address, 9)).unwrap();
            }
            assert!(TcpStream::connect((address, 9)).is_err());
        });
        network.a.sh(&format!("ping -q -c 3 -i 0.2 {address}"));
    }
}

#[test]
fn every_counter_of_every_namespace_is_what_procfs_shows_inside() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let mut walker = Walker::open();
    traffic(&network);
    for namespace in [&network.router, &network.a, &network.b] {
        let mut nonzero = 0;
        // Neighbour discovery goes on for some seconds: a table that moved meanwhile is compared once more.
        eventually("the namespace is quiet", || {
            let (before, walked, after) = walker.around(namespace);
            nonzero = walked.values().filter(|value| **value > 0).count();
            before == after && {
                assert_eq!(walked, before);
                assert!(walked.len() > 250, "{}", walked.len());
                let shown = nstat(namespace);
                shown.len() > 250 && shown.iter().all(|(name, value)| walked.get(name) == Some(value))
            }
        });
        println!("{}: {nonzero} counters are not zero", namespace.name);
        assert!(nonzero > 25, "{nonzero}");
    }
}

#[test]
fn counters_that_move_are_between_what_procfs_showed_before_and_after() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let mut walker = Walker::open();
    let mut moved = std::collections::BTreeSet::new();
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| (0..3).for_each(|_| traffic(&network)));
        while !sender.is_finished() {
            for namespace in [&network.router, &network.a, &network.b] {
                let (before, walked, after) = walker.around(namespace);
                // How many connections there are goes down too.
                for (name, value) in walked.iter().filter(|(name, _)| !name.ends_with("CurrEstab")) {
                    assert!((before[name]..=after[name]).contains(value), "{name}: {value}");
                    if before[name] != after[name] {
                        moved.insert(name.clone());
                    }
                }
            }
        }
    });
    println!("{} counters moved: {moved:?}", moved.len());
    assert!(moved.len() > 30, "{moved:?}");
}

#[test]
fn open_connections_are_counted_over_all_cpus() {
    if !can_load() {
        return;
    }
    let namespace = Namespace::new();
    let mut walker = Walker::open();
    let slot = walker.names.slot("TcpCurrEstab").unwrap();
    let inode = namespace.inode();
    let mut established = || walker.walk().0[&inode].values[slot];
    let cpus = std::thread::available_parallelism().unwrap().get();
    // Opened on one CPU and closed on another: the share of a CPU becomes negative, the sum does not.
    let on = |cpu: usize, body: &mut (dyn FnMut() + Send)| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut set = rustix::thread::CpuSet::new();
                set.set(cpu % cpus);
                rustix::thread::sched_setaffinity(None, &set).unwrap();
                body();
            });
        });
    };
    let mut streams = Vec::new();
    on(0, &mut || {
        streams = namespace.inside(|| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let to = listener.local_addr().unwrap();
            (0..5).map(|_| (TcpStream::connect(to).unwrap(), listener.accept().unwrap().0)).collect()
        });
    });
    assert_eq!(established(), 10);
    on(1, &mut || streams.clear());
    eventually("no connection is established", || established() == 0);
}

#[test]
fn more_namespaces_than_one_run_has_room_for_are_all_visited_with_their_cookies() {
    if !can_load() {
        return;
    }
    let names: Vec<Namespace> = (0..70).map(|_| Namespace::new()).collect();
    let mut walker = Walker::open();
    let mut found = BTreeMap::new();
    // Other tests make and delete namespaces meanwhile, see below.
    eventually("a walk sees all", || {
        let (seen, walked) = walker.walk();
        assert!(walked.complete && walked.namespaces > 60, "{walked:?}");
        found = seen;
        names.iter().all(|namespace| found.contains_key(&namespace.inode()))
    });
    let cookies: std::collections::BTreeSet<u64> =
        found.values().map(|record| record.cookie).filter(|cookie| *cookie > 0).collect();
    // Before 5.12 a namespace has none until somebody asks for it.
    let release = sh("uname -r");
    assert!(
        cookies.len() == found.len() || release.starts_with("5.10."),
        "{} of {}",
        cookies.len(),
        found.len()
    );
}

#[test]
fn namespaces_that_come_and_go_meanwhile_do_no_harm() {
    if !can_load() {
        return;
    }
    let stays = Namespace::new();
    stays.sh("ping -q -c 3 -i 0.2 127.0.0.1");
    let mut walker = Walker::open();
    let slot = walker.names.slot("IcmpInEchos").unwrap();
    let (inode, mut walks, mut missed) = (stays.inode(), 0, 0);
    std::thread::scope(|scope| {
        // Each ends with its only process.
        let churn = scope.spawn(|| (0..200).for_each(|_| drop(sh("unshare --net true"))));
        while !churn.is_finished() {
            // Deleting a namespace waits for all CPUs: a walk after the other would be in its way.
            std::thread::sleep(std::time::Duration::from_millis(5));
            let (found, walked) = walker.walk();
            assert!(walked.complete);
            match found.get(&inode) {
                Some(record) => assert_eq!(record.values[slot], 3),
                None => missed += 1,
            }
            walks += 1;
        }
    });
    println!("{walks} walks, {missed} without the namespace that stays");
    // Only one that is deleted just after a run of the walk ended with it takes others with it.
    assert!(walks > 20 && missed * 100 <= walks, "{missed} of {walks}");
}
