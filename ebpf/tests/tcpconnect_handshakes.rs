//! Handshakes, lifetimes and failed attempts are counted as often as they happen, in both families, and last as long as the
//! test made them last.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use common::{Namespace, Network, can_load, eventually};
use jitterscope_ebpf::abi::{
    ROLE_CLIENT, ROLE_SERVER, connect_event, connect_failure_key, handshake_key, histogram,
};
use jitterscope_ebpf::histogram::Range;
use jitterscope_ebpf::{
    Kernel, Merge as _, Object, Observer, ObserverOptions, PerCpuTable, Ring, Table, Telling,
};

const FAMILIES: [u8; 2] = [4, 6];
const PORT: u16 = 7777;

struct Probe {
    handshakes: Table<handshake_key, histogram>,
    lifetimes: Table<handshake_key, histogram>,
    successes: PerCpuTable<handshake_key, u64>,
    failures: PerCpuTable<connect_failure_key, u64>,
    ring: Ring,
    _observer: Observer,
}

impl Probe {
    fn open(network: &Network) -> Self {
        let kernel = Kernel::read(None).unwrap();
        let (latency, lifetime) = (Range::LATENCY.bounds(), Range::LIFETIME.bounds());
        let constants = [latency.constant(), lifetime.named("lifetime_bounds")];
        let options =
            ObserverOptions { constants: &constants, ..ObserverOptions::new(network.router.inode()) };
        let mut observer = Observer::open(&Object::TCPCONNECT, &kernel, &options).unwrap();
        observer.configure(&Telling { rate: 1000, burst: 1000, ..Telling::default() }).unwrap();
        Self {
            handshakes: observer.loaded().table("handshakes").unwrap(),
            lifetimes: observer.loaded().table("lifetimes").unwrap(),
            successes: observer.loaded().per_cpu_table("successes").unwrap(),
            failures: observer.loaded().per_cpu_table("failures").unwrap(),
            ring: observer.events().unwrap(),
            _observer: observer,
        }
    }

    fn successes(&self, of: &Namespace, family: u8, role: u32) -> u64 {
        let (mut sum, inode) = (0, of.inode());
        let add = |key: &handshake_key, n: &u64| sum += if is_of(key, inode, family, role) { *n } else { 0 };
        self.successes.for_each(add).unwrap();
        sum
    }

    fn failures(&self, of: &Namespace, family: u8, error: i32) -> u64 {
        let (mut sum, inode) = (0, of.inode());
        let wanted = (inode, u32::from(family), error as u32);
        self.failures
            .for_each(|key, n| {
                sum += if (key.entity.netns, key.family, key.error) == wanted { *n } else { 0 }
            })
            .unwrap();
        sum
    }
}

fn is_of(key: &handshake_key, netns: u32, family: u8, role: u32) -> bool {
    (key.entity.netns, key.family, key.role) == (netns, family.into(), role)
}

fn durations(table: &Table<handshake_key, histogram>, of: &Namespace, family: u8, role: u32) -> histogram {
    let (mut sum, inode) = (histogram::default(), of.inode());
    table
        .for_each(|key, durations| {
            if is_of(key, inode, family, role) {
                sum.merge(durations);
            }
        })
        .unwrap();
    sum
}

/// Seconds between which the durations of a bucket are.
fn bounds(range: Range, bucket: usize) -> (f64, f64) {
    let bound = |index: i32| (f64::from(index) / 4.0).exp2();
    (bound(range.lowest + bucket as i32), bound(range.lowest + bucket as i32 + 1))
}

/// The only duration is at least `least`, and at most what the test itself measured around it.
fn check_one(of: &histogram, range: Range, least: Duration, most: Duration) {
    assert_eq!(of.count(), 1, "{of:?}");
    let bucket = of.buckets.iter().position(|count| *count == 1).unwrap();
    let (low, high) = bounds(range, bucket);
    let sum = of.sum as f64 / 1e9;
    assert!(low < sum && sum <= high, "{sum} s in the bucket from {low} to {high}");
    assert!(least.as_secs_f64() <= sum && sum <= most.as_secs_f64(), "{least:?} {sum} {most:?}");
}

fn server(family: u8) -> SocketAddr {
    (Network::address(2, family), PORT).into()
}

fn connect(from: &Namespace, family: u8) -> TcpStream {
    from.inside(|| TcpStream::connect_timeout(&server(family), Duration::from_secs(10)).unwrap())
}

#[test]
fn every_connection_is_counted_on_both_sides() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let probe = Probe::open(&network);
    let mut opened = 0;
    for family in FAMILIES {
        let listener = network.b.inside(|| TcpListener::bind(server(family)).unwrap());
        for _ in 0..100 {
            let client = connect(&network.a, family);
            drop(listener.accept().unwrap());
            drop(client);
        }
        opened += 100;
        assert_eq!(network.a.counter("Tcp", "ActiveOpens"), opened);
        assert_eq!(network.b.counter("Tcp", "PassiveOpens"), opened);
        for (side, role) in [(&network.a, ROLE_CLIENT), (&network.b, ROLE_SERVER)] {
            assert_eq!(probe.successes(side, family, role), 100);
            assert_eq!(durations(&probe.handshakes, side, family, role).count(), 100);
            eventually("every connection has ended", || {
                durations(&probe.lifetimes, side, family, role).count() == 100
            });
        }
    }
}

#[test]
fn a_lost_request_makes_the_clients_handshake_as_long_as_its_timeout() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let probe = Probe::open(&network);
    for family in FAMILIES {
        let _listener = network.b.inside(|| TcpListener::bind(server(family)).unwrap());
        network.router.refuse("forward", &format!("tcp dport {PORT} limit rate 1/day burst 1 packets"));
        let began = Instant::now();
        let _client = connect(&network.a, family);
        let took = began.elapsed();
        network.router.allow();
        // The timeout is a second, less up to a jiffy of 10 ms.
        let least = Duration::from_millis(990);
        check_one(
            &durations(&probe.handshakes, &network.a, family, ROLE_CLIENT),
            Range::LATENCY,
            least,
            took,
        );
        eventually("the server's side", || {
            durations(&probe.handshakes, &network.b, family, ROLE_SERVER).count() == 1
        });
        assert!(durations(&probe.handshakes, &network.b, family, ROLE_SERVER).sum < 500_000_000);
    }
}

#[test]
fn a_lost_answer_makes_the_servers_handshake_as_long_as_its_timeout() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let probe = Probe::open(&network);
    for family in FAMILIES {
        let _listener = network.b.inside(|| TcpListener::bind(server(family)).unwrap());
        network.router.refuse("forward", &format!("tcp sport {PORT} limit rate 1/day burst 1 packets"));
        let began = Instant::now();
        let _client = connect(&network.a, family);
        eventually("the server's side", || {
            durations(&probe.handshakes, &network.b, family, ROLE_SERVER).count() == 1
        });
        network.router.allow();
        let least = Duration::from_millis(900);
        let server = durations(&probe.handshakes, &network.b, family, ROLE_SERVER);
        check_one(&server, Range::LATENCY, least, began.elapsed());
    }
}

#[test]
fn a_connection_lives_as_long_as_it_was_held() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let probe = Probe::open(&network);
    for family in FAMILIES {
        let listener = network.b.inside(|| TcpListener::bind(server(family)).unwrap());
        let began = Instant::now();
        let client = connect(&network.a, family);
        let accepted = listener.accept().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        drop(client);
        drop(accepted);
        for (side, role) in [(&network.a, ROLE_CLIENT), (&network.b, ROLE_SERVER)] {
            eventually("it has ended", || durations(&probe.lifetimes, side, family, role).count() == 1);
            let lived = durations(&probe.lifetimes, side, family, role);
            check_one(&lived, Range::LIFETIME, Duration::from_millis(290), began.elapsed());
        }
    }
}

#[test]
fn failed_attempts_are_counted_by_cause_and_told() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let mut probe = Probe::open(&network);
    for family in FAMILIES {
        let attempt = |patience| {
            network.a.inside(|| TcpStream::connect_timeout(&server(family), patience).unwrap_err());
        };
        (0..7).for_each(|_| attempt(Duration::from_secs(10)));
        assert_eq!(probe.failures(&network.a, family, libc::ECONNREFUSED), 7);
        network.router.refuse("forward", &format!("tcp dport {PORT}"));
        attempt(Duration::from_millis(1500));
        network.router.allow();
        assert_eq!(probe.failures(&network.a, family, 0), 1);
        assert_eq!(probe.successes(&network.a, family, ROLE_CLIENT), 0);
        let inode = network.a.inode();
        let records = std::iter::from_fn(|| probe.ring.take::<connect_event>()).map(Result::unwrap);
        let told: Vec<connect_event> = records.filter(|event| event.head.entity.netns == inode).collect();
        assert_eq!(told.len(), 8);
        assert!(told.iter().all(|event| event.head.connection.local_port != 0), "{told:?}");
        let last = told.last().unwrap();
        assert_eq!((last.error, last.attempts, last.head.connection.peer_port), (0, 2, PORT));
        assert!((1_400_000_000..3_000_000_000).contains(&last.duration), "{last:?}");
        assert!(
            told[..7].iter().all(|event| event.error == libc::ECONNREFUSED as u32 && event.attempts == 1)
        );
    }
}
