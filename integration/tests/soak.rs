//! All probes at once, for long, under load, and switched on and off again and again: memory, maps and descriptors stand
//! still, the accounts are right, and nothing stays in the kernel. A minute of it belongs to every run of the tests; `make soak`
//! takes as many seconds as `JITTERSCOPE_SOAK` says, and switches 500 times.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use jitterscope::probe::PROBES;
use jitterscope_integration::netns::run;
use jitterscope_integration::network::{Family, Network};
use jitterscope_integration::objects::Objects;
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::traffic::{CLOSED_PORT, Server, flood, requests, serve};
use jitterscope_integration::{poll, requirements};
use jitterscope_semconv::{attribute as key, metric};

/// The programs of a machine are compared: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Memory that the allocator may take back late, in KiB.
const SLACK: u64 = 6 * 1024;

const TOOLS: [&str; 4] = ["ip", "bpftool", "dmesg", "taskset"];

fn long() -> Option<u64> {
    std::env::var("JITTERSCOPE_SOAK").ok().map(|seconds| seconds.parse().unwrap())
}

/// Everything that makes the probes work, until `over`: connections and datagrams of both families, refused ones too, a disk
/// that is written to, and tasks that compete for a processor.
fn load(network: &Network, over: &AtomicBool) {
    let servers = Family::BOTH.map(|family| serve(&network.b, family.address(2, 2)).unwrap());
    scope(|scope| {
        for (family, server) in Family::BOTH.into_iter().zip(servers) {
            scope.spawn(move || while_not(over, || connect(network, server)));
            scope.spawn(move || while_not(over, || refused(network, family)));
        }
        scope.spawn(|| while_not(over, write_a_file));
        for _ in 0..2 {
            scope.spawn(|| while_not(over, compete));
        }
    });
}

fn while_not(over: &AtomicBool, work: impl Fn()) {
    while !over.load(Relaxed) {
        work();
    }
}

fn connect(network: &Network, server: Server) {
    requests(&network.a, server, 20).unwrap();
}

/// A pause between bursts leaves something of the machine to the others.
fn refused(network: &Network, family: Family) {
    flood(&network.b, (family.loopback(), CLOSED_PORT).into(), 500).unwrap();
    sleep(Duration::from_millis(20));
}

fn write_a_file() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[7; 1 << 16]).unwrap();
    file.sync_all().unwrap();
    sleep(Duration::from_millis(20));
}

/// Runs for a while on the first processor, beside another one that does the same.
fn compete() {
    let work = "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done";
    run(Command::new("taskset").args(["1", "sh", "-c", work])).unwrap();
    sleep(Duration::from_millis(10));
}

/// Resident memory of a process in KiB.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// What the kernel complained of: warnings, and whatever the verifier or the maps say.
fn kernel_complaints() -> Vec<String> {
    let log = run(&mut Command::new("dmesg")).unwrap();
    let complains = |line: &&str| ["BUG:", "WARNING:", "bpf", "BPF"].iter().any(|word| line.contains(word));
    log.lines().filter(complains).map(str::to_owned).collect()
}

fn nothing_is_left(before: &Objects) {
    let left = || Objects::list().unwrap().beyond(before);
    let gone = || (left() == Objects::default()).then_some(());
    let result = poll::within(Duration::from_secs(20), "nothing is left in the kernel", gone);
    assert!(result.is_ok(), "{:?}", left());
}

#[test]
fn all_probes_under_load_keep_memory_and_maps_flat_and_leave_nothing() {
    let _alone = ALONE.lock();
    if !requirements::met(&TOOLS) {
        return;
    }
    let (before, complaints) = (Objects::list().unwrap(), kernel_complaints());
    let network = Network::new().unwrap();
    let all = ["--format", "json", "--set", "profile=troubleshoot", "--set", "interval=2s"];
    let mut receiver = Receiver::start(&all).unwrap();
    receiver.settle().unwrap();
    let time = Duration::from_secs(long().unwrap_or(60));
    let sizes = under_load(&network, || sizes(&receiver, time));
    let (early, late) = sizes.split_at(sizes.len() / 2);
    let (early, late) = (early.iter().max().unwrap(), late.iter().max().unwrap());
    assert!(*late < early + early / 10 + SLACK, "{sizes:?} KiB resident");
    // The maps of what is on its way are empty again soon.
    receiver.prints(metric::PROBE_MAP_ENTRIES.name, 2).unwrap();
    receiver.stop().unwrap();
    check_maps(&receiver);
    check_accounts(&receiver);
    assert_eq!(receiver.complaints(), [""; 0]);
    nothing_is_left(&before);
    assert_eq!(kernel_complaints(), complaints);
}

/// Does something under load, which ends with it, also when it fails.
fn under_load<T: Send>(network: &Network, work: impl FnOnce() -> T + Send) -> T {
    let over = AtomicBool::new(false);
    scope(|scope| {
        scope.spawn(|| load(network, &over));
        let done = scope.spawn(work).join();
        over.store(true, Relaxed);
        done.unwrap()
    })
}

/// Resident memory of the receiver each second.
fn sizes(receiver: &Receiver, time: Duration) -> Vec<u64> {
    let (began, mut sizes) = (Instant::now(), Vec::new());
    while began.elapsed() < time {
        sleep(Duration::from_secs(1));
        sizes.push(resident(receiver.pid()));
    }
    sizes
}

/// No map is fuller than it may be, and those of things on their way (a packet, a request, a waiting task) hold few at the end.
fn check_maps(receiver: &Receiver) {
    let mut fill: BTreeMap<(String, String), f64> = BTreeMap::new();
    let mut limits = fill.clone();
    receiver
        .each_printed(metric::PROBE_MAP_LIMIT.name, |printed| {
            for (name, found) in
                [(metric::PROBE_MAP_ENTRIES.name, &mut fill), (metric::PROBE_MAP_LIMIT.name, &mut limits)]
            {
                for point in printed.points(name) {
                    let text = |key: &str| point.attributes.get(key).cloned().unwrap_or_default();
                    found.insert((text(key::PROBE_NAME.key), text(key::PROBE_MAP.key)), point.value);
                }
            }
        })
        .unwrap();
    assert!(!fill.is_empty());
    for (map, entries) in &fill {
        assert!(*entries <= limits[map], "{map:?}: {entries} of {}", limits[map]);
        if ["requests", "runnable", "queue"].contains(&map.1.as_str()) {
            assert!(*entries < 100.0, "{map:?}: {entries} on their way");
        }
    }
}

/// The account of each probe with events is right to the unit.
fn check_accounts(receiver: &Receiver) {
    let mut told = 0;
    for probe in PROBES.iter().filter(|probe| !probe.events.is_empty()) {
        // One that cannot run here has none.
        if let Ok(account) = receiver.account(probe.name) {
            assert_eq!(account.seen, account.sum(), "{}: {account:?}", probe.name);
            told += account.exported;
        }
    }
    assert!(told > 0);
}

#[test]
fn a_killed_receiver_leaves_nothing_attached() {
    let _alone = ALONE.lock();
    if !requirements::met(&TOOLS) {
        return;
    }
    let before = Objects::list().unwrap();
    let receiver = Receiver::start(&["--set", "profile=troubleshoot", "--format", "json"]).unwrap();
    receiver.settle().unwrap();
    assert!(!Objects::list().unwrap().beyond(&before).links.is_empty());
    // Dropping it kills it.
    drop(receiver);
    nothing_is_left(&before);
}

#[test]
fn probes_are_attached_and_detached_again_and_again_under_traffic() {
    let _alone = ALONE.lock();
    if !requirements::met(&TOOLS) {
        return;
    }
    let times = if long().is_some() { 500 } else { 10 };
    let before = Objects::list().unwrap();
    let network = Network::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("jitterscope.yaml");
    switch(&file, "none");
    let arguments = ["--format", "json", "--set", "interval=200ms", "-c", file.to_str().unwrap()];
    let mut receiver = Receiver::start_without_probes(&arguments).unwrap();
    under_load(&network, || switch_often(&receiver, &file, &before, times));
    assert_eq!(receiver.complaints(), [""; 0]);
    receiver.stop().unwrap();
    nothing_is_left(&before);
}

fn switch(file: &Path, profile: &str) {
    let mut file = File::create(file).unwrap();
    writeln!(file, "profile: {profile}").unwrap();
}

/// What the receiver has after the first few times it has after the last.
fn switch_often(receiver: &Receiver, file: &Path, before: &Objects, times: usize) {
    let mut held = Vec::new();
    for _ in 0..times {
        switch(file, "troubleshoot");
        receiver.reload().unwrap();
        let on = || (Objects::list().unwrap().beyond(before).programs.len() > 20).then_some(());
        poll::until("the programs are attached", on).unwrap();
        switch(file, "none");
        receiver.reload().unwrap();
        nothing_is_left(before);
        held.push((descriptors(receiver.pid()), resident(receiver.pid())));
    }
    let (warm, last) = (held[times / 2 - 1], held[times - 1]);
    assert!(last.0 <= warm.0 + 2, "descriptors and KiB: {held:?}");
    assert!(last.1 < warm.1 + SLACK, "descriptors and KiB: {held:?}");
}
