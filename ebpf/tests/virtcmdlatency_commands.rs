//! Every command to the device behind virtio-net has one duration, by its class, and is told with the task that waited. Needs a
//! virtual machine with such a device (`JITTERSCOPE_VM_DEVICES` of `integration/vm.sh`); slow answers come from a host that does
//! not run it for a while again and again (`JITTERSCOPE_VM_STALLS`).

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod common;

use std::fs;
use std::ops::Range;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::spawn;
use std::time::{Duration, Instant};

use common::{can_load, skip};
use jitterscope_ebpf::abi::command_event;
use jitterscope_ebpf::virtcmdlatency::VirtCmdLatency;
use jitterscope_ebpf::{Kernel, LoadError, ObserverOptions, Telling};

/// `VIRTIO_NET_CTRL_MAC`, `include/uapi/linux/virtio_net.h`.
const MAC: u64 = 1;
/// Changes of the address.
const CHANGES: u64 = 20;

/// An interface with the driver.
fn interface() -> Option<String> {
    let all = fs::read_dir("/sys/class/net").unwrap().map(|entry| entry.unwrap());
    let mut ours = all.filter(|entry| {
        let driver = fs::read_link(entry.path().join("device/driver"));
        driver.is_ok_and(|driver| driver.ends_with("virtio_net"))
    });
    ours.next().map(|entry| entry.file_name().into_string().unwrap())
}

/// An interface and a probe that tells each command of at least `threshold`, if there are such.
fn open(threshold: Duration) -> Option<(String, VirtCmdLatency)> {
    if !can_load() {
        return None;
    }
    // Debian's kernels have the driver as a module; where it is built in, there is nothing to do.
    let _ = Command::new("modprobe").arg("virtio_net").status();
    let kernel = Kernel::read(None).unwrap();
    let probe = match VirtCmdLatency::open(&kernel, &ObserverOptions::new(0)) {
        Ok(probe) => probe,
        Err(LoadError::Hook { missing, .. }) => {
            skip(&format!("no hook {missing}"));
            return None;
        }
        Err(error) => panic!("{error}"),
    };
    let Some(interface) = interface() else {
        skip("needs a device of virtio-net");
        return None;
    };
    probe.observer.configure(&Telling { rate: 1000, burst: 1000, threshold, ..Telling::default() }).unwrap();
    Some((interface, probe))
}

#[test]
fn every_command_is_counted_by_its_class_and_told_with_the_task_that_waited() {
    let Some((interface, mut probe)) = open(Duration::ZERO) else { return };
    let mut ring = probe.observer.events().unwrap();
    let mut pids = Vec::new();
    let began = Instant::now();
    for change in 0..CHANGES {
        let address = format!("02:00:00:00:00:{change:02x}");
        let mut ip =
            Command::new("ip").args(["link", "set", &interface, "address", &address]).spawn().unwrap();
        pids.push(ip.id());
        assert!(ip.wait().unwrap().success());
    }
    let took = began.elapsed();
    let durations = probe.durations.get(&MAC).unwrap().unwrap();
    assert_eq!(durations.count(), CHANGES);
    assert!(durations.sum > 0 && u128::from(durations.sum) <= took.as_nanos(), "{durations:?} {took:?}");
    let told = std::iter::from_fn(|| ring.take::<command_event>()).map(Result::unwrap);
    let told: Vec<command_event> = told.filter(|event| u64::from(event.class) == MAC).collect();
    assert_eq!(told.iter().map(|event| event.pid).collect::<Vec<_>>(), pids);
    assert_eq!(told.iter().map(|event| event.duration).sum::<u64>(), durations.sum);
    assert!(told.iter().all(|event| event.command.starts_with(b"ip\0")), "{told:?}");
    assert_eq!(probe.commands.for_each(|_, _| {}).unwrap(), 0);
    let account = probe.observer.account().unwrap();
    assert_eq!((account.overflow, account.seen), (0, account.submitted));
    println!(
        "{interface}: {} ns a command, {:?}",
        durations.sum / CHANGES,
        probe.observer.loaded().attachments()
    );
}

/// Shorter than a stall of the machine, longer than anything else.
const SLOW: Duration = Duration::from_millis(60);
/// Changes in one go of `ip`.
const BATCH: usize = 200;
/// By how much what a command saw of a stall, and what the watching task saw, may differ: a turn of the scheduler.
const APART: u64 = 30_000_000;

/// `CLOCK_BOOTTIME`, ns.
fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).unwrap()
}

/// When nothing ran for as long as `SLOW`, as a task sees it that does nothing but read the clock.
fn stalls(until: &AtomicBool) -> Vec<Range<u64>> {
    let mut found = Vec::new();
    let mut last = now();
    while !until.load(Ordering::Relaxed) {
        let read = now();
        if u128::from(read - last) >= SLOW.as_nanos() {
            found.push(last..read);
        }
        last = read;
    }
    found
}

/// Changes the address of the interface many times.
fn change(interface: &str, ip: &mut impl std::io::Write) {
    for change in 0..BATCH {
        writeln!(ip, "link set {interface} address 02:00:00:00:01:{change:02x}").unwrap();
    }
}

#[test]
fn a_command_that_the_host_lets_wait_takes_as_long_and_is_told() {
    if std::env::var_os("JITTERSCOPE_VM_STALLS").is_none() {
        return skip("needs a virtual machine that its host stops again and again");
    }
    let Some((interface, mut probe)) = open(SLOW) else { return };
    let mut ring = probe.observer.events().unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let until = over.clone();
    let watch = spawn(move || stalls(&until));
    let began = Instant::now();
    let mut told: Vec<command_event> = Vec::new();
    let mut pids = Vec::new();
    while told.len() < 3 && began.elapsed() < Duration::from_secs(120) {
        let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        pids.push(ip.id());
        change(&interface, &mut ip.stdin.take().unwrap());
        assert!(ip.wait().unwrap().success());
        told.extend(std::iter::from_fn(|| ring.take::<command_event>()).map(Result::unwrap));
    }
    over.store(true, Ordering::Relaxed);
    let stalls = watch.join().unwrap();
    assert!(told.len() >= 3, "{told:?} {stalls:?}");
    for event in &told {
        let command = event.head.time - event.duration..event.head.time;
        let stall = stalls.iter().find(|stall| stall.start < command.end && command.start < stall.end);
        let stall = stall.unwrap_or_else(|| panic!("{command:?} {stalls:?}"));
        assert!((stall.end - stall.start).abs_diff(event.duration) < APART, "{command:?} {stall:?}");
        assert!(pids.contains(&event.pid), "{event:?}");
    }
    let durations = probe.durations.get(&MAC).unwrap().unwrap();
    assert_eq!(durations.count(), u64::try_from(pids.len() * BATCH).unwrap());
    println!("{} of {} commands in {} stalls", told.len(), durations.count(), stalls.len());
}
