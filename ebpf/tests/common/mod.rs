//! Network namespaces of a test: a router that plays the host, and two containers behind it.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod contexts;
pub(crate) mod expected;
pub(crate) mod held;
pub(crate) mod http;
pub(crate) mod http2;
pub(crate) mod netkit;

pub(crate) mod cgroup;
pub(crate) mod load;
pub(crate) mod passages;
pub(crate) mod refuse;
pub(crate) mod score;
pub(crate) mod segments;
pub(crate) mod tcp;

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use jitterscope_ebpf::abi::drop_key;
use jitterscope_ebpf::packetloss::{Options, PacketLoss};
use jitterscope_ebpf::{Kernel, Telling};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// False, with a line that says why, where eBPF cannot be loaded; a failure under CI.
pub(crate) fn can_load() -> bool {
    let missing = if !rustix::process::geteuid().is_root() {
        "root"
    } else if !Path::new(jitterscope_ebpf::btf::VMLINUX).exists() {
        "BTF"
    } else {
        return true;
    };
    assert!(std::env::var_os("CI").is_none(), "needs {missing}");
    skip(&format!("needs {missing}"));
    false
}

/// Says why a test is skipped, also where the output of tests that pass is not shown.
pub(crate) fn skip(reason: &str) {
    note(&format!("skipped: {reason}"));
}

/// Says something of a run that does not decide its outcome.
pub(crate) fn note(text: &str) {
    // A closed standard error does not change the outcome.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Runs `command` in a shell and fails with its output if it fails.
pub(crate) fn sh(command: &str) -> String {
    let output = Command::new("sh").arg("-c").arg(command).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Polls until `condition` is true.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A counter once it has stood still for half a second: on a busy machine datagrams wait in the backlog.
pub(crate) fn settled(read: impl Fn() -> u64) -> u64 {
    let mut last = (read(), Instant::now());
    eventually("the counter stands still", || {
        let now = read();
        if now != last.0 {
            last = (now, Instant::now());
        }
        last.1.elapsed() > Duration::from_millis(500)
    });
    last.0
}

/// A network namespace, deleted on drop.
pub(crate) struct Namespace {
    pub(crate) name: String,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        let name = format!("jse{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        sh(&format!("ip netns add {name} && ip -n {name} link set lo up"));
        Self { name }
    }

    pub(crate) fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    pub(crate) fn inode(&self) -> u32 {
        fs::metadata(self.path()).unwrap().ino() as u32
    }

    /// Runs a shell command inside.
    pub(crate) fn sh(&self, command: &str) -> String {
        sh(&format!("ip netns exec {} sh -c '{command}'", self.name))
    }

    /// Runs `body` on a thread inside; what it opens stays inside.
    pub(crate) fn inside<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let file = fs::File::open(self.path()).unwrap();
        let enter = || {
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network))
                .unwrap();
            body()
        };
        std::thread::scope(|scope| scope.spawn(enter).join().unwrap())
    }

    /// A counter of `/proc/net/snmp` or `/proc/net/netstat` (`Udp`, `NoPorts`), or of snmp6 (`""`, `Udp6NoPorts`).
    pub(crate) fn counter(&self, group: &str, name: &str) -> u64 {
        let read =
            |file: &str| self.inside(|| fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap());
        if group.is_empty() {
            let text = read("snmp6");
            let line = text.lines().find(|l| l.split_whitespace().next() == Some(name)).unwrap();
            return line.split_whitespace().nth(1).unwrap().parse().unwrap();
        }
        let text = read("snmp") + &read("netstat");
        let mut lines = text.lines().filter(|l| l.starts_with(&format!("{group}: ")));
        let position = lines.next().unwrap().split(' ').position(|n| n == name).unwrap();
        lines.next().unwrap().split(' ').nth(position).unwrap().parse().unwrap()
    }

    /// Drops what matches `rule` at netfilter hook `hook`, until [`Self::allow`].
    pub(crate) fn refuse(&self, hook: &str, rule: &str) {
        self.sh(&format!(
            "nft add table inet t && nft \"add chain inet t c {{ type filter hook {hook} priority 0; }}\" && \
             nft add rule inet t c {rule} drop"
        ));
    }

    pub(crate) fn allow(&self) {
        self.sh("nft delete table inet t");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        sh(&format!("ip netns del {}", self.name));
    }
}

/// Two containers, each on a veth pair of a router that forwards between them.
pub(crate) struct Network {
    pub(crate) router: Namespace,
    pub(crate) a: Namespace,
    pub(crate) b: Namespace,
}

impl Network {
    pub(crate) fn new() -> Self {
        let network = Self { router: Namespace::new(), a: Namespace::new(), b: Namespace::new() };
        network.connect(&network.a, "porta", 1);
        network.connect(&network.b, "portb", 2);
        network.router.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        network
    }

    fn connect(&self, container: &Namespace, port: &str, net: u8) {
        let (r, c) = (&self.router.name, &container.name);
        sh(&format!("ip link add name {port} netns {r} type veth peer name eth0 netns {c}"));
        self.address_pair(container, port, net);
    }

    /// Gives both ends of a pair their addresses and waits until it is up.
    pub(crate) fn address_pair(&self, container: &Namespace, port: &str, net: u8) {
        let (r, c) = (&self.router.name, &container.name);
        sh(&format!(
            "ip -n {r} addr add 10.99.{net}.1/24 dev {port} && ip -n {r} addr add fd99:{net}::1/64 dev {port} nodad && \
             ip -n {c} addr add 10.99.{net}.2/24 dev eth0 && ip -n {c} addr add fd99:{net}::2/64 dev eth0 nodad && \
             ip -n {r} link set {port} up && ip -n {c} link set eth0 up && \
             ip -n {c} route add default via 10.99.{net}.1 && ip -n {c} -6 route add default via fd99:{net}::1"
        ));
        self.settle(container, net);
    }

    /// The link is up when both families reach the router.
    fn settle(&self, container: &Namespace, net: u8) {
        for router in [format!("10.99.{net}.1:9"), format!("[fd99:{net}::1]:9")] {
            eventually("neighbours are resolved", || {
                container.inside(|| {
                    let any = if router.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
                    let socket = std::net::UdpSocket::bind(any).unwrap();
                    socket.connect(&router).is_ok() && {
                        let _ = socket.send(b"x");
                        std::thread::sleep(Duration::from_millis(20));
                        socket.take_error().is_ok_and(|e| e.is_some())
                    }
                })
            });
        }
    }

    /// The address of a container in one family.
    pub(crate) fn address(net: u8, family: u8) -> IpAddr {
        let text = if family == 4 { format!("10.99.{net}.2") } else { format!("fd99:{net}::2") };
        text.parse().unwrap()
    }
}

/// The packet-loss program, with the router as the host.
pub(crate) struct Probe {
    pub(crate) probe: PacketLoss,
}

impl Probe {
    pub(crate) fn open(network: &Network) -> Self {
        Self::open_with(&Options::new(network.router.inode()))
    }

    pub(crate) fn open_with(options: &Options<'_>) -> Self {
        let kernel = Kernel::read(None).unwrap();
        let probe = PacketLoss::open(&kernel, options).unwrap();
        probe
            .observer
            .configure(&Telling { rate: 1000, burst: 1000, stack: false, ..Telling::default() })
            .unwrap();
        Self { probe }
    }

    /// Packets counted under the keys that `wanted` accepts.
    pub(crate) fn count(&self, wanted: impl Fn(&drop_key) -> bool) -> u64 {
        let mut count = 0;
        self.probe.drops.for_each(|key, packets| count += if wanted(key) { *packets } else { 0 }).unwrap();
        count
    }

    /// Every key that charges `namespaces`, to be shown when a test fails.
    pub(crate) fn describe(&self, namespaces: &[&Namespace]) -> String {
        let mut text = String::new();
        self.probe
            .drops
            .for_each(|k, n| {
                if namespaces.iter().any(|ns| ns.inode() == k.netns) {
                    let reason = self.probe.reasons().name(k.reason);
                    text += &format!("{n} × {reason:?} {k:?}\n");
                }
            })
            .unwrap();
        let mut symbols = jitterscope_ebpf::Symbols::default();
        let mut locations = String::new();
        self.probe
            .drops
            .for_each(|k, _| {
                if k.location != 0 {
                    locations += &format!("{:#x} {:?}\n", k.location, symbols.name(k.location));
                }
            })
            .unwrap();
        text + &locations
    }
}

/// A name of the kernel: what is behind its end is left over from former ones.
pub(crate) fn text(name: &[u8]) -> String {
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    String::from_utf8_lossy(&name[..end]).into_owned()
}

/// Whether the running kernel is of this version (major, minor) or a later one.
pub(crate) fn is_at_least(version: (u32, u32)) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap(), numbers.next().unwrap()) >= version
}

/// An address as programs have it: IPv4 in the first four bytes.
pub(crate) fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(address) => address.octets(),
        IpAddr::V4(address) => {
            let mut octets = [0; 16];
            octets[..4].copy_from_slice(&address.octets());
            octets
        }
    }
}
