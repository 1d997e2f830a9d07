//! Every command to the device behind virtio-net has one duration, by its class, and is told with the task that waited. Needs a
//! virtual machine with such a device (`JITTERSCOPE_VM_DEVICES` of `integration/vm.sh`).

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod common;

use std::fs;
use std::process::Command;
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

#[test]
fn every_command_is_counted_by_its_class_and_told_with_the_task_that_waited() {
    if !can_load() {
        return;
    }
    let kernel = Kernel::read(None).unwrap();
    let mut probe = match VirtCmdLatency::open(&kernel, &ObserverOptions::new(0)) {
        Ok(probe) => probe,
        Err(LoadError::Hook { missing, .. }) => return skip(&format!("no hook {missing}")),
        Err(error) => panic!("{error}"),
    };
    let Some(interface) = interface() else { return skip("needs a device of virtio-net") };
    let threshold = Duration::ZERO;
    probe.observer.configure(&Telling { rate: 1000, burst: 1000, threshold, ..Telling::default() }).unwrap();
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
