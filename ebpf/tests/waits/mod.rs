//! The program that measures waits in sockets, connections between two namespaces, and what it counted of one of them.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use jitterscope_ebpf::abi::{
    EXEMPLARS_SAMPLED, exemplar, histogram, socket_wait_event, socket_wait_key, socket_wait_place,
};
use jitterscope_ebpf::histogram::Range;
use jitterscope_ebpf::socketlatency::{Half, SocketLatency};
use jitterscope_ebpf::spans::Spans;
use jitterscope_ebpf::{Kernel, LoadError, Merge as _, ObserverOptions, Ring, Table, Telling};

use rustix::net::{RecvFlags, recv};

use super::common::{Namespace, Network, can_load, eventually, skip};

pub(crate) const FAMILIES: [u8; 2] = [4, 6];
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const PORT: u16 = 7777;
/// How long a test lets data wait.
pub(crate) const HOLD: Duration = Duration::from_millis(300);
/// Between what data waits on a busy machine, and that. A bound of the histogram, 2^-2 s.
pub(crate) const THRESHOLD: Duration = Duration::from_millis(250);
/// The first bucket above the threshold.
const SLOW: usize = (-8 - Range::LATENCY.lowest) as usize;

pub(crate) struct Probe {
    pub(crate) probe: SocketLatency,
    ring: Ring,
}

impl Probe {
    /// The program, where the kernel has the half that the test is about.
    pub(crate) fn open(half: Half) -> Option<Self> {
        let opened = can_load().then(|| Self::open_without(half, &[]))?;
        opened.inspect_err(|missing| skip(missing)).ok()
    }

    /// The same without some of its hooks, else what is missing.
    pub(crate) fn open_without(half: Half, without: &[&str]) -> Result<Self, String> {
        Self::open_with(half, &ObserverOptions { without, ..ObserverOptions::new(0) })
    }

    /// The same with links to spans.
    pub(crate) fn open_linked(half: Half, spans: &Spans) -> Option<Self> {
        let opened =
            Self::open_with(half, &ObserverOptions { spans: Some(spans), ..ObserverOptions::new(0) });
        opened.inspect_err(|missing| skip(missing)).ok()
    }

    fn open_with(half: Half, options: &ObserverOptions<'_>) -> Result<Self, String> {
        let kernel = Kernel::read(None).unwrap();
        let mut probe = match SocketLatency::open(&kernel, options) {
            Ok(probe) => probe,
            Err(LoadError::Hook { missing, .. }) => return Err(format!("no hook {missing}")),
            Err(error) => panic!("{error}"),
        };
        match &probe.missing {
            Some((lacking, missing)) if *lacking == half => return Err(format!("no hook {missing}")),
            _ => {}
        }
        let telling = Telling {
            rate: 1000,
            burst: 1000,
            threshold: THRESHOLD,
            span_age: Duration::from_secs(30),
            exemplars: EXEMPLARS_SAMPLED,
            ..Telling::default()
        };
        probe.observer.configure(&telling).unwrap();
        let ring = probe.observer.events().unwrap();
        Ok(Self { probe, ring })
    }

    pub(crate) fn reads(&self, of: &Namespace, family: u8, protocol: u8) -> histogram {
        waits(&self.probe.reads, of, family, protocol)
    }

    pub(crate) fn writes(&self, of: &Namespace, family: u8) -> histogram {
        waits(&self.probe.writes, of, family, TCP)
    }

    /// The events of a namespace so far.
    pub(crate) fn told(&mut self, of: &Namespace) -> Vec<socket_wait_event> {
        self.told_of(&[of])
    }

    /// The events of some namespaces so far; those of others are gone.
    pub(crate) fn told_of(&mut self, of: &[&Namespace]) -> Vec<socket_wait_event> {
        let inodes: Vec<u32> = of.iter().map(|namespace| namespace.inode()).collect();
        let records = std::iter::from_fn(|| self.ring.take::<socket_wait_event>()).map(Result::unwrap);
        records.filter(|event| inodes.contains(&event.head.entity.netns)).collect()
    }

    /// Takes what is to be shown with the buckets of a namespace.
    pub(crate) fn shown_of(&self, of: &[&Namespace]) -> Vec<(socket_wait_place, exemplar)> {
        let inodes: Vec<u32> = of.iter().map(|namespace| namespace.inode()).collect();
        let table = self.probe.observer.loaded().table::<socket_wait_place, exemplar>("exemplars").unwrap();
        let mut shown = Vec::new();
        table
            .retain(|place, one| {
                if inodes.contains(&place.key.entity.netns) {
                    shown.push((*place, *one));
                }
                false
            })
            .unwrap();
        shown
    }

    /// What found no room, of the whole machine.
    pub(crate) fn overflow(&self) -> u64 {
        self.probe.observer.account().unwrap().overflow
    }
}

fn waits(table: &Table<socket_wait_key, histogram>, of: &Namespace, family: u8, protocol: u8) -> histogram {
    let (mut sum, wanted) = (histogram::default(), (of.inode(), family, protocol));
    table
        .for_each(|key, waits| {
            if (key.entity.netns, key.family, key.protocol) == wanted {
                sum.merge(waits);
            }
        })
        .unwrap();
    sum
}

/// What came on top of `before`.
pub(crate) fn more(now: histogram, before: &histogram) -> histogram {
    let mut more = now;
    more.sum -= before.sum;
    more.buckets.iter_mut().zip(before.buckets).for_each(|(now, then)| *now -= then);
    more
}

/// How many of the waits are in the buckets above the threshold.
pub(crate) fn slow(of: &histogram) -> u64 {
    of.buckets[SLOW..].iter().sum()
}

/// The only wait lasted at least `least`, and at most what the test itself measured around it, and is in its bucket.
pub(crate) fn check_one(of: &histogram, least: Duration, most: Duration) {
    assert_eq!(of.count(), 1, "{of:?}");
    let bucket = of.buckets.iter().position(|count| *count == 1).unwrap();
    let bound = |index: usize| (f64::from(Range::LATENCY.lowest + index as i32) / 4.0).exp2();
    let sum = of.sum as f64 / 1e9;
    assert!(bound(bucket) < sum && sum <= bound(bucket + 1), "{sum} s in bucket {bucket}");
    assert!(least.as_secs_f64() <= sum && sum <= most.as_secs_f64(), "{least:?} {sum} {most:?}");
}

/// Some hosts run no tracing program while a task of their own is current, and whose task a softirq interrupts is chance:
/// a run that is short of waits is repeated. That there are too many is a failure in any run, and checked by `body`.
pub(crate) fn undisturbed(what: &str, mut body: impl FnMut() -> bool) {
    assert!((0..10).any(|_| body()), "{what}: in none of 10 runs");
}

pub(crate) fn server(family: u8) -> SocketAddr {
    (Network::address(2, family), PORT).into()
}

/// A connection from `a` to `b`: the client's end and the server's.
pub(crate) fn connection(network: &Network, family: u8) -> (TcpStream, TcpStream) {
    let listener = network.b.inside(|| TcpListener::bind(server(family)).unwrap());
    let connect = || TcpStream::connect_timeout(&server(family), Duration::from_secs(10)).unwrap();
    let client = network.a.inside(connect);
    client.set_nodelay(true).unwrap();
    (client, listener.accept().unwrap().0)
}

/// A socket in `a` that sends to one in `b`, and that one.
pub(crate) fn datagrams(network: &Network, family: u8) -> (UdpSocket, UdpSocket) {
    let receiver = network.b.inside(|| UdpSocket::bind(server(family)).unwrap());
    receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let any = if family == 4 { "0.0.0.0:0" } else { "[::]:0" };
    let sender = network.a.inside(|| UdpSocket::bind(any).unwrap());
    sender.connect(server(family)).unwrap();
    (sender, receiver)
}

/// Runs `body` on a thread of this name.
pub(crate) fn named<T: Send>(name: &str, body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name(name.to_owned());
        thread.spawn_scoped(scope, body).unwrap().join().unwrap()
    })
}

/// Time in which something waits that a test holds up.
pub(crate) fn hold() -> Instant {
    let began = Instant::now();
    std::thread::sleep(HOLD);
    began
}

/// Waits until so many bytes, or a datagram of so many, can be read.
pub(crate) fn readable(socket: impl AsFd, bytes: usize) {
    eventually("it can be read", || {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        recv(socket.as_fd(), &mut vec![0; bytes], flags).is_ok_and(|(_, length)| length == bytes)
    });
}

/// An event's ends, local first.
pub(crate) fn ends(event: &socket_wait_event) -> (SocketAddr, SocketAddr) {
    let ends = &event.head.connection;
    let address = |bytes: [u8; 16]| match ends.family {
        4 => IpAddr::from(<[u8; 4]>::try_from(&bytes[..4]).unwrap()),
        _ => IpAddr::from(bytes),
    };
    (
        (address(ends.local_address), ends.local_port).into(),
        (address(ends.peer_address), ends.peer_port).into(),
    )
}

/// Whose call an event says it was.
pub(crate) fn caller(event: &socket_wait_event) -> (u32, String) {
    (event.pid, String::from_utf8_lossy(&event.command).trim_end_matches('\0').to_owned())
}
