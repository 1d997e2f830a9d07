//! Softirqs are counted as often as the kernel counts them, wait and run as long as the test makes them, and what holds them
//! off is named.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::net::UdpSocket;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::{Namespace, can_load, eventually, sh, skip};
use jitterscope_ebpf::abi::{SOFTIRQ_RUN, SOFTIRQ_WAIT, histogram, softirq_event};
use jitterscope_ebpf::histogram::Range;
use jitterscope_ebpf::{Kernel, Object, Observer, ObserverOptions, PerCpuTable, Ring, Telling};

/// How long the program of `hold.bpf.c` holds a CPU.
const HOLD: Duration = Duration::from_millis(100);
/// Between what softirqs wait on a busy machine by themselves, and that.
const THRESHOLD: Duration = Duration::from_millis(80);
/// `include/linux/interrupt.h`
const NET_RX: u32 = 3;
/// Vectors in the order of their numbers, as `/proc/softirqs` has them.
const VECTORS: usize = 10;
/// Runs that begin or end between two readings.
const UNDER_WAY: u64 = 8;

/// What one test holds up the others would see.
static ALONE: Mutex<()> = Mutex::new(());

/// The program, and the right to hold the machine's CPUs.
struct Probe {
    _alone: MutexGuard<'static, ()>,
    waits: PerCpuTable<u32, histogram>,
    durations: PerCpuTable<u32, histogram>,
    ring: Ring,
    observer: Observer,
}

impl Probe {
    fn open() -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let kernel = Kernel::read(None).unwrap();
        let latency = Range::LATENCY.bounds();
        let constants = [latency.constant()];
        let options = ObserverOptions { constants: &constants, ..ObserverOptions::new(0) };
        let mut observer = Observer::open(&Object::SOFTIRQ, &kernel, &options).unwrap();
        observer.configure(&telling(THRESHOLD)).unwrap();
        Self {
            _alone: alone,
            waits: observer.loaded().per_cpu_table("waits").unwrap(),
            durations: observer.loaded().per_cpu_table("durations").unwrap(),
            ring: observer.events().unwrap(),
            observer,
        }
    }

    /// The events that wait, of one stage of receiving.
    fn told(&mut self, stage: u32) -> Vec<softirq_event> {
        let records = std::iter::from_fn(|| self.ring.take::<softirq_event>()).map(Result::unwrap);
        records.filter(|event| (event.vector, event.stage) == (NET_RX, stage)).collect()
    }
}

fn telling(threshold: Duration) -> Telling {
    Telling { rate: 1000, burst: 1000, threshold, ..Telling::default() }
}

/// Count of each vector.
fn counts(table: &PerCpuTable<u32, histogram>) -> Vec<u64> {
    let mut counts = BTreeMap::new();
    let mut add = |vector: &u32, histogram: &histogram| {
        counts.insert(*vector, histogram.count());
    };
    table.for_each(&mut add).unwrap();
    counts.into_values().take(VECTORS).collect()
}

/// The kernel's own count of each vector, over all CPUs.
fn kernel_counts() -> Vec<u64> {
    let text = fs::read_to_string("/proc/softirqs").unwrap();
    let sum = |line: &str| line.split_whitespace().skip(1).map(|n| n.parse::<u64>().unwrap()).sum();
    text.lines().skip(1).map(sum).collect()
}

/// Values of a histogram that are at least as long as the hold, by the bounds of its buckets.
fn held(table: &PerCpuTable<u32, histogram>) -> u64 {
    let all = table.get(&NET_RX).unwrap().unwrap_or_default();
    let low = |bucket: usize| (f64::from(Range::LATENCY.lowest + bucket as i32) / 4.0).exp2();
    let long = |(bucket, _): &(usize, &u64)| low(*bucket + 1) >= HOLD.as_secs_f64();
    all.buckets.iter().enumerate().filter(long).map(|(_, count)| count).sum()
}

/// A namespace whose loopback device holds the CPU at `hook` for every packet.
fn holding(hook: &str) -> Namespace {
    let namespace = Namespace::new();
    let object = format!("{}/{}.o", std::env::temp_dir().display(), namespace.name);
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/hold.bpf.c");
    let include = format!("-I/usr/include/{}-linux-gnu", std::env::consts::ARCH);
    let hold = format!("-DHOLD={}", HOLD.as_nanos());
    let clang = std::env::var("JITTERSCOPE_CLANG").unwrap_or("clang-19".to_owned());
    sh(&format!("{clang} -O2 -g -target bpf {hold} {include} -c {source} -o {object}"));
    namespace.sh(&format!(
        "tc qdisc add dev lo clsact && tc filter add dev lo {hook} bpf direct-action object-file {object} section {hook}"
    ));
    fs::remove_file(object).unwrap();
    namespace
}

/// Sends one datagram to nobody, and says how long that took.
fn send(from: &Namespace) -> Duration {
    from.inside(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let began = Instant::now();
        socket.send_to(b"x", "127.0.0.1:9").unwrap();
        began.elapsed()
    })
}

/// False, with the reason, where programs cannot loop for as long as the test wants.
fn can_hold() -> bool {
    let loops = can_load() && !jitterscope_ebpf::Functions::read().unwrap().ranges(&["bpf_loop"]).is_empty();
    if can_load() && !loops {
        skip("needs the helper bpf_loop (5.17)");
    }
    loops
}

#[test]
fn every_run_is_counted_as_the_kernel_counts_it_and_every_raise_waits_once() {
    if !can_load() {
        return;
    }
    let before = kernel_counts();
    let probe = Probe::open();
    let opened = kernel_counts();
    let first = [counts(&probe.waits), counts(&probe.durations)];
    let network = common::Network::new();
    network.a.inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let peer = (common::Network::address(2, 4), 9);
        (0..20_000).for_each(|_| drop(socket.send_to(b"x", peer)));
    });
    let last_seen = kernel_counts();
    let [waits, runs] = [counts(&probe.waits), counts(&probe.durations)];
    let after = kernel_counts();
    assert!(runs[NET_RX as usize] - first[1][NET_RX as usize] >= 20_000, "{runs:?}");
    for vector in 0..VECTORS {
        let counted = runs[vector] - first[1][vector];
        let ours = format!("vector {vector}: {counted}");
        assert!(runs[vector] <= after[vector] - before[vector], "{ours}, {after:?} {before:?}");
        assert!(runs[vector] + 2 >= last_seen[vector] - opened[vector], "{ours}, {last_seen:?} {opened:?}");
        // A run without a wait was raised before the probe.
        let waited = waits[vector] - first[0][vector];
        assert!(waited.abs_diff(counted) <= UNDER_WAY, "{ours}, waited {waited}");
    }
}

#[test]
fn a_wait_is_as_long_as_the_sender_keeps_softirqs_off_and_the_sender_is_named() {
    if !can_hold() {
        return;
    }
    let mut probe = Probe::open();
    let slow = holding("egress");
    let before = held(&probe.waits);
    for sent in 1..=5 {
        let took = send(&slow);
        assert!(took >= HOLD, "{took:?}");
        let mut told = Vec::new();
        eventually("the wait is told", || {
            told = probe.told(SOFTIRQ_WAIT);
            !told.is_empty()
        });
        assert_eq!(held(&probe.waits) - before, sent);
        let [event] = told.as_slice() else { panic!("{told:?}") };
        let waited = Duration::from_nanos(event.duration);
        assert!(waited >= HOLD && waited <= took, "{waited:?} {took:?}");
        assert_eq!((event.holder.handler, event.holder.pid), (0, std::process::id()), "{event:?}");
        // The thread that sends has the name of the test's own: 15 bytes of it.
        let name = fs::read_to_string("/proc/thread-self/comm").unwrap();
        assert!(event.holder.command.starts_with(name.trim().as_bytes()), "{event:?}");
    }
    assert_eq!(probe.told(SOFTIRQ_RUN).len(), 0, "the handler itself was quick");
}

#[test]
fn a_handler_runs_as_long_as_a_packet_holds_it_and_keeps_others_waiting() {
    if !can_hold() {
        return;
    }
    let mut probe = Probe::open();
    let slow = holding("ingress");
    let before = held(&probe.durations);
    for sent in 1..=5 {
        let took = send(&slow);
        let mut told = Vec::new();
        eventually("the run is told", || {
            told.extend(probe.told(SOFTIRQ_RUN));
            !told.is_empty()
        });
        assert_eq!(held(&probe.durations) - before, sent);
        let ran = Duration::from_nanos(told[0].duration);
        assert!(ran >= HOLD && ran <= took + HOLD, "{ran:?} {took:?}");
        assert_eq!((told.len(), told[0].holder.to), (1, 0), "{told:?}");
    }
}

#[test]
fn nothing_is_told_without_a_delay_and_the_threshold_changes_without_losing_what_was_counted() {
    if !can_hold() {
        return;
    }
    let mut probe = Probe::open();
    let quick = Namespace::new();
    for _ in 0..100 {
        send(&quick);
    }
    assert_eq!(probe.told(SOFTIRQ_WAIT).len() + probe.told(SOFTIRQ_RUN).len(), 0);
    let counted = counts(&probe.waits)[NET_RX as usize];
    assert!(counted >= 100);
    let slow = holding("egress");
    probe.observer.configure(&telling(HOLD * 10)).unwrap();
    send(&slow);
    assert_eq!(probe.told(SOFTIRQ_WAIT).len(), 0);
    probe.observer.configure(&telling(THRESHOLD)).unwrap();
    send(&slow);
    eventually("the wait is told", || probe.told(SOFTIRQ_WAIT).len() == 1);
    assert!(counts(&probe.waits)[NET_RX as usize] >= counted + 2);
    let account = probe.observer.account().unwrap();
    assert_eq!(account.seen, account.submitted + account.suppressed + account.lost);
}
