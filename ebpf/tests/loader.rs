//! The loader: attach forms, constants, map access, errors, detaching; and the BTF reader against bpftool.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command};

use common::{Network, Probe, can_load, eventually, sh};
use jitterscope_ebpf::abi::{drop_key, neighbour, neighbour_key};
use jitterscope_ebpf::btf::{Btf, VMLINUX};
use jitterscope_ebpf::packetloss::{Options, PacketLoss};
use jitterscope_ebpf::{
    Constant, Form, Functions, Kernel, KernelError, LoadError, LoadOptions, Object, PerCpuTable,
    RunTimeStats, Symbols, Table, TableError,
};

fn kernel() -> Kernel {
    Kernel::read(None).unwrap()
}

#[test]
fn the_best_form_that_the_kernel_accepts_is_attached() {
    if !can_load() {
        return;
    }
    let loaded = Object::PACKETLOSS.load(&LoadOptions::new(&kernel())).unwrap();
    let form = |hook: &str| loaded.attachments().iter().find(|a| a.hook == hook).map(|a| a.form);
    assert_eq!(form("kfree_skb"), Some(Form::TpBtf));
    let missing = loaded.missing().iter().find(|m| m.hook == "tcp_conn_request");
    match form("tcp_conn_request") {
        Some(form) => assert!(matches!(form, Form::Fentry | Form::Kprobe)),
        None => {
            let text = missing.unwrap().to_string();
            assert!(text.contains("fentry: ") && text.contains("kprobe: "), "{text}");
        }
    }
}

/// Stops and continues this process every few milliseconds, until it is dropped.
struct Signals(Child);

impl Signals {
    fn start() -> Self {
        let storm =
            format!("while kill -STOP {0} && kill -CONT {0}; do sleep 0.03; done", std::process::id());
        Self(Command::new("sh").args(["-c", &storm]).spawn().unwrap())
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // It may just have stopped this process and be about to continue it: it must not die between the two.
        sh(&format!("kill -TERM {}; kill -CONT {}", self.0.id(), std::process::id()));
        self.0.wait().unwrap();
    }
}

#[test]
fn signals_that_interrupt_the_verifier_do_not_refuse_a_program() {
    if !can_load() {
        return;
    }
    let kernel = kernel();
    let _signals = Signals::start();
    // The largest program, which is verified for longest.
    for _ in 0..20 {
        let loaded = Object::SOCKETS.load(&LoadOptions::new(&kernel)).unwrap();
        assert_eq!(loaded.missing().len(), 0, "{:?}", loaded.missing());
    }
}

#[test]
fn btf_from_a_file_leaves_the_forms_that_need_no_type_ids() {
    if !can_load() {
        return;
    }
    let kernel = Kernel::read(Some(Path::new(VMLINUX))).unwrap();
    let options = LoadOptions { without: &["tcp_conn_request"], ..LoadOptions::new(&kernel) };
    let loaded = Object::PACKETLOSS.load(&options).unwrap();
    assert_eq!(loaded.attachments()[0].form, Form::RawTp);
}

#[test]
fn absent_btf_is_an_error_that_names_the_file() {
    let error = Kernel::read(Some(Path::new("/nonexistent/btf"))).unwrap_err();
    assert!(matches!(error, KernelError::Btf(_)));
    assert!(error.to_string().contains("/nonexistent/btf"), "{error}");
    let error = Kernel::read(Some(Path::new("/proc/version"))).unwrap_err();
    assert!(error.to_string().contains("is not BTF"), "{error}");
}

fn constant<'a>(name: &'a str, value: &'a [u8]) -> Constant<'a> {
    Constant { name, value }
}

#[test]
fn constants_and_limits_arrive_in_the_kernel() {
    if !can_load() {
        return;
    }
    let kernel = kernel();
    let network = Network::new();
    let mut options = Options::new(network.router.inode());
    options.drops = 4;
    let probe = PacketLoss::open(&kernel, &options).unwrap();
    let usage = probe.observer.loaded().maps().unwrap();
    let drops = usage.iter().find(|m| m.name == "drops").unwrap();
    assert_eq!(drops.limit, 4);
    assert!(drops.memory > 0);
    let unknown =
        LoadOptions { constants: &[constant("no_such_constant", &[0; 4])], ..LoadOptions::new(&kernel) };
    assert!(matches!(Object::PACKETLOSS.load(&unknown), Err(LoadError::Object { .. })));
}

#[test]
fn a_reason_of_its_own_is_not_counted_when_the_verdict_says_harmless() {
    if !can_load() {
        return;
    }
    let kernel = kernel();
    let network = Network::new();
    let harmless = [1u8; 256];
    let not_specified = [0xff; 4];
    let constants = [constant("verdicts", &harmless), constant("reason_not_specified", &not_specified)];
    let loaded =
        Object::PACKETLOSS.load(&LoadOptions { constants: &constants, ..LoadOptions::new(&kernel) }).unwrap();
    some_drops(&network);
    let drops: PerCpuTable<drop_key, u64> = loaded.per_cpu_table("drops").unwrap();
    assert_eq!(drops.for_each(|_, _| {}).unwrap(), 0);
}

#[test]
fn a_full_map_is_counted_as_overflow() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let mut options = Options::new(network.router.inode());
    options.drops = 2;
    let probe = PacketLoss::open(&kernel(), &options).unwrap();
    for namespace in [&network.a, &network.b, &network.router] {
        for to in ["127.0.0.1:9", "[::1]:9"] {
            namespace.inside(|| {
                let any = if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
                std::net::UdpSocket::bind(any).unwrap().send_to(b"x", to).unwrap();
            });
        }
    }
    eventually("the overflow is counted", || probe.observer.account().unwrap().overflow >= 4);
    let mut counted = 0;
    probe.drops.for_each(|_, packets| counted += packets).unwrap();
    let account = probe.observer.account().unwrap();
    assert!(account.seen >= 6 && counted + account.overflow >= 6, "{account:?} {counted}");
}

/// Drops in many namespaces, so that a table has some entries.
fn some_drops(network: &Network) {
    for namespace in [&network.a, &network.b, &network.router] {
        namespace.inside(|| {
            for (any, to) in [("0.0.0.0:0", "127.0.0.1:9"), ("[::]:0", "[::1]:9")] {
                let socket = std::net::UdpSocket::bind(any).unwrap();
                for _ in 0..10 {
                    socket.send_to(b"x", to).unwrap();
                }
            }
        });
    }
}

#[test]
fn a_batch_read_equals_a_read_key_by_key() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let probe = Probe::open(&network);
    some_drops(&network);
    let ours = [network.a.inode(), network.b.inode(), network.router.inode()];
    let (mut batch, mut keys) = (BTreeMap::new(), BTreeMap::new());
    let key = |k: &drop_key| (k.netns, k.family, k.reason);
    let keep = |map: &mut BTreeMap<_, _>, k: &drop_key, n: u64| {
        if ours.contains(&k.netns) {
            map.insert(key(k), n);
        }
    };
    probe.probe.drops.for_each(|k, n| keep(&mut batch, k, *n)).unwrap();
    probe.probe.drops.for_each_by_key(|k, n| keep(&mut keys, k, *n)).unwrap();
    assert_eq!(batch, keys);
    assert_eq!(batch.len(), 6);
    assert!(batch.values().all(|n| *n == 10), "{batch:?}");
}

#[test]
fn tables_write_read_and_remove_more_entries_than_one_batch_holds() {
    if !can_load() {
        return;
    }
    let loaded = Object::PACKETLOSS.load(&LoadOptions::new(&kernel())).unwrap();
    let table: Table<neighbour_key, neighbour> = loaded.table("neighbours").unwrap();
    let key = |i: u32| neighbour_key { kind: i, ..neighbour_key::default() };
    for i in 0..1000 {
        table.insert(&key(i), &neighbour { netns: i, ..neighbour::default() }).unwrap();
    }
    let mut sum = 0;
    assert_eq!(table.for_each(|k, v| sum += u64::from(k.kind == v.netns)).unwrap(), 1000);
    assert_eq!(sum, 1000);
    assert_eq!(table.get(&key(7)).unwrap().unwrap().netns, 7);
    assert_eq!(table.retain(|k, _| k.kind < 10).unwrap(), 990);
    assert!(table.remove(&key(7)).unwrap() && !table.remove(&key(7)).unwrap());
    assert_eq!(table.get(&key(7)).unwrap(), None);
    assert!(matches!(loaded.table::<u32, u32>("neighbours"), Err(TableError::Layout { .. })));
    assert!(matches!(loaded.table::<u32, u32>("nothing"), Err(TableError::Absent(_))));
}

/// Ids of the programs of this name that the kernel has.
fn programs() -> Vec<String> {
    let text = sh("bpftool prog list");
    let ours = text.lines().filter(|l| l.contains("name packetloss") || l.contains("name listen_overflow"));
    ours.map(|l| l.split(':').next().unwrap().to_owned()).collect()
}

#[test]
fn dropping_an_object_detaches_it() {
    if !can_load() {
        return;
    }
    let kernel = kernel();
    let loaded = Object::PACKETLOSS.load(&LoadOptions::new(&kernel)).unwrap();
    let fresh = programs();
    drop(loaded);
    // Other tests of this process load the program too: at least one of those listed must be gone for good.
    eventually("the program is gone", || fresh.iter().any(|id| !programs().contains(id)));
}

#[test]
fn run_time_statistics_count_runs_and_nanoseconds() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let probe = Probe::open(&network);
    let _on = RunTimeStats::enable().unwrap();
    some_drops(&network);
    let stats = probe.probe.observer.loaded().programs().unwrap();
    let program = stats.iter().find(|p| p.name == "packetloss_btf").unwrap();
    assert!(program.runs >= 60 && program.time > program.runs, "{program:?}");
}

#[test]
fn enumerators_equal_what_bpftool_reads_from_the_same_btf() {
    if !Path::new(VMLINUX).exists() {
        return assert!(!can_load());
    }
    let btf = Btf::read(Path::new(VMLINUX)).unwrap();
    let text = sh(&format!("bpftool btf dump file {VMLINUX}"));
    for name in ["tcp_ca_state", "sk_pacing", "skb_drop_reason", "bpf_prog_type"] {
        assert_eq!(btf.enumerators(name), from_bpftool(&text, name), "{name}");
    }
    assert!(btf.enumerators("bpf_prog_type").is_some());
    assert_eq!(btf.enumerators("no_such_enum"), None);
    assert!(btf.has_member("sk_buff", "skb_iif") && !btf.has_member("sk_buff", "no_such_member"));
    assert!(btf.has_function("tcp_sendmsg") && !btf.has_function("no_such_function"));
    assert!(btf.has_typedef("btf_trace_kfree_skb"));
    assert!((2..=4).contains(&btf.tracepoint_arguments("kfree_skb").unwrap()));
    assert_eq!(btf.tracepoint_arguments("tcp_probe"), Some(2));
    assert_eq!(btf.tracepoint_arguments("no_such_tracepoint"), None);
}

fn from_bpftool(text: &str, name: &str) -> Option<Vec<(String, u64)>> {
    let head = format!("ENUM '{name}'");
    let mut lines = text.lines().skip_while(|l| !l.contains(&head));
    lines.next()?;
    let constant = |line: &str| {
        let (name, value) = line.trim().split_once("' val=")?;
        Some((name.trim_start_matches('\'').to_owned(), value.parse::<i64>().ok()? as u32 as u64))
    };
    Some(lines.take_while(|l| l.starts_with('\t')).filter_map(constant).collect())
}

#[test]
fn an_address_inside_a_function_has_its_name_and_offset() {
    if !can_load() {
        return;
    }
    let functions = std::sync::Arc::new(Functions::read().unwrap());
    let ranges = functions.ranges(&["tcp_sendmsg", "no_such_function"]);
    let range = ranges.iter().find(|r| r.name == "tcp_sendmsg").unwrap();
    assert!(ranges.iter().all(|r| r.wanted == 0 && r.end > r.start));
    for mut symbols in [Symbols::default(), Symbols::new(functions)] {
        symbols.learn(&[range.start + 5, 1]);
        assert_eq!(symbols.name(range.start + 5), Some("tcp_sendmsg+0x5"));
        assert_eq!(symbols.name(1), None);
    }
}
