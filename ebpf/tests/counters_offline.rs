//! What a CPU counted before it went offline stays in the sums. Only in a virtual machine of `integration/vm.sh`: no other
//! machine has a CPU to spare.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a test")]

mod common;

use std::fs;
use std::net::UdpSocket;

use common::{Namespace, can_load};
use jitterscope_ebpf::Kernel;
use jitterscope_ebpf::counters::{Names, Walk, WalkError};

const SWITCH: &str = "/sys/devices/system/cpu/cpu1/online";

/// The second CPU, switched off until the value is dropped.
struct Offline;

impl Offline {
    fn new() -> Self {
        fs::write(SWITCH, "0").unwrap();
        Self
    }
}

impl Drop for Offline {
    fn drop(&mut self) {
        fs::write(SWITCH, "1").unwrap();
    }
}

/// Sends datagrams to nobody from the second CPU, which counts them on it.
fn send(count: usize) {
    let mut second = rustix::thread::CpuSet::new();
    second.set(1);
    rustix::thread::sched_setaffinity(None, &second).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..count {
        socket.send_to(b"x", "127.0.0.1:9").unwrap();
    }
}

#[test]
fn what_a_cpu_counted_before_it_went_offline_is_told_or_nothing_is() {
    let ours = fs::read_to_string("/proc/cmdline").unwrap().contains("virtme");
    if !ours || !fs::exists(SWITCH).unwrap() {
        return println!("skipped: needs a virtual machine with a CPU that can be switched off");
    }
    if !can_load() {
        return;
    }
    let namespace = Namespace::new();
    namespace.inside(|| send(12));
    let _offline = Offline::new();
    let kernel = Kernel::read(None).unwrap();
    let slot = Names::read(kernel.btf()).slot("UdpOutDatagrams").unwrap();
    match Walk::open(&kernel) {
        Ok(mut walk) => {
            let mut sent = None;
            walk.visit(|record| {
                if record.netns == namespace.inode() {
                    sent = Some(record.values[slot]);
                }
            })
            .unwrap();
            assert_eq!(sent, Some(12));
        }
        Err(WalkError::Unlocated(1)) => println!("this kernel does not tell where an offline CPU counts"),
        Err(other) => panic!("{other}"),
    }
    assert_eq!(namespace.counter("Udp", "OutDatagrams"), 12);
}
