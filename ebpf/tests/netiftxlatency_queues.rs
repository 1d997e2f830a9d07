//! Packets wait in a queue as long as its rate makes them, each is counted once, and none is remembered after it is gone.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::{Namespace, Network, can_load, is_at_least, settled, skip};
use jitterscope_ebpf::abi::{TRANSMIT_DRIVER, TRANSMIT_QUEUED, histogram, transmit_event, transmit_key};
use jitterscope_ebpf::histogram::Range;
use jitterscope_ebpf::{Kernel, Merge as _, Object, Observer, ObserverOptions, Ring, Table, Telling};

const FAMILIES: [u8; 2] = [4, 6];
const PORT: u16 = 7777;
/// A bound of the histogram, 2^-3 s: what is above it is in buckets of its own.
const THRESHOLD: Duration = Duration::from_millis(125);
/// The first bucket above the threshold.
const SLOW: usize = (-12 - Range::LATENCY.lowest) as usize;
/// Bytes of each datagram's payload.
const PAYLOAD: usize = 1000;
/// Datagrams at once; a receive buffer of the default size holds some ninety.
const SENT: usize = 80;
/// Far longer than any of them takes.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes per second of the slow queue: 1 Mbit/s.
const RATE: f64 = 125_000.0;
/// Bytes that it lets through at once.
const BURST: f64 = 2000.0;

/// The queue of all interfaces is looked at: the tests of this file run one after the other.
static ALONE: Mutex<()> = Mutex::new(());

struct Probe {
    _alone: MutexGuard<'static, ()>,
    waits: Table<transmit_key, histogram>,
    durations: Table<transmit_key, histogram>,
    queue: Table<u64, [u64; 3]>,
    ring: Ring,
    observer: Observer,
}

impl Probe {
    fn open(network: &Network) -> Self {
        Self::open_with(network, THRESHOLD)
    }

    fn open_with(network: &Network, threshold: Duration) -> Self {
        // A test that failed leaves nothing that matters.
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let kernel = Kernel::read(None).unwrap();
        let latency = Range::LATENCY.bounds();
        let constants = [latency.constant()];
        let options =
            ObserverOptions { constants: &constants, ..ObserverOptions::new(network.router.inode()) };
        let mut observer = Observer::open(&Object::NETIFTXLATENCY, &kernel, &options).unwrap();
        observer.configure(&Telling { rate: 1000, burst: 1000, threshold, ..Telling::default() }).unwrap();
        Self {
            _alone: alone,
            waits: observer.loaded().table("waits").unwrap(),
            durations: observer.loaded().table("durations").unwrap(),
            queue: observer.loaded().table("queue").unwrap(),
            ring: observer.events().unwrap(),
            observer,
        }
    }

    /// Packets in all queues.
    fn queued(&self) -> usize {
        self.queue.for_each(|_, _| {}).unwrap()
    }

    /// Forgets those that were left behind by a run that was disturbed.
    fn forget(&self) {
        self.queue.retain(|_, _| false).unwrap();
    }

    fn events(&mut self, of: &Namespace) -> Vec<transmit_event> {
        let inode = of.inode();
        let records = std::iter::from_fn(|| self.ring.take::<transmit_event>()).map(Result::unwrap);
        records.filter(|event| event.key.entity.netns == inode).collect()
    }
}

/// Some hosts run no tracing program while a task of their own is current, and whose task a softirq interrupts is chance:
/// a run that is short of packets is repeated. That there are too many is a failure in any run, and checked by `body`.
fn undisturbed(what: &str, mut body: impl FnMut() -> bool) {
    assert!((0..10).any(|_| body()), "{what}: in none of 10 runs");
}

/// Polls until `condition` is true; false when it stays false for two seconds.
fn soon(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(2);
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// The packets of `of` that left by `interface`; `family` 0xff stands for all.
fn times(table: &Table<transmit_key, histogram>, of: &Namespace, interface: &str, family: u8) -> histogram {
    let (mut sum, inode) = (histogram::default(), of.inode());
    table
        .for_each(|key, times| {
            let name = key.interface.split(|byte| *byte == 0).next().unwrap();
            if (key.entity.netns, name) == (inode, interface.as_bytes())
                && (family == 0xff || key.family == family)
            {
                sum.merge(times);
            }
        })
        .unwrap();
    sum
}

fn sent_packets(of: &Namespace, interface: &str) -> u64 {
    let link = of.sh(&format!("cat /sys/class/net/{interface}/statistics/tx_packets"));
    link.trim().parse().unwrap()
}

fn server(family: u8) -> SocketAddr {
    (Network::address(2, family), PORT).into()
}

fn any(family: u8) -> &'static str {
    if family == 4 { "0.0.0.0:0" } else { "[::]:0" }
}

fn slow_queue(of: &Namespace, limit: u32) {
    of.sh(&format!("tc qdisc replace dev eth0 root tbf rate 1mbit burst {BURST} limit {limit}"));
}

/// Sends `count` datagrams at once and returns after the last has arrived, or for `patience` none has: when each did.
fn send(network: &Network, family: u8, count: usize, patience: Duration) -> Vec<Duration> {
    let receiver = network.b.inside(|| UdpSocket::bind(server(family)).unwrap());
    receiver.set_read_timeout(Some(patience)).unwrap();
    let sender = network.a.inside(|| UdpSocket::bind(any(family)).unwrap());
    sender.connect(server(family)).unwrap();
    let began = Instant::now();
    (0..count).for_each(|_| assert_eq!(sender.send(&[0; PAYLOAD]).unwrap(), PAYLOAD));
    let mut arrivals = Vec::new();
    while arrivals.len() < count && receiver.recv(&mut [0; PAYLOAD]).is_ok() {
        arrivals.push(began.elapsed());
    }
    arrivals
}

#[test]
fn each_packet_is_counted_once_where_nothing_delays_it_and_none_is_told() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let mut probe = Probe::open(&network);
    for family in FAMILIES {
        undisturbed("as many as the interface says", || {
            let sent = settled(|| sent_packets(&network.a, "eth0"));
            let counted = || {
                [
                    times(&probe.waits, &network.a, "eth0", 0xff).count(),
                    times(&probe.durations, &network.a, "eth0", 0xff).count(),
                    // On their way through the router they are the sender's too, at the router's interface.
                    times(&probe.durations, &network.a, "portb", 0xff).count(),
                    times(&probe.durations, &network.a, "eth0", family).count(),
                ]
            };
            let before = counted();
            assert_eq!(send(&network, family, SENT, PATIENCE).len(), SENT);
            let sent = settled(|| sent_packets(&network.a, "eth0")) - sent;
            let now = counted();
            let more: [u64; 4] = std::array::from_fn(|i| now[i] - before[i]);
            assert!(sent >= SENT as u64 && more[0] <= sent && more[1] <= sent, "{more:?} of {sent}");
            assert!(more[2] <= SENT as u64, "{more:?} of {sent}");
            more[..2] == [sent, sent] && more[2] == SENT as u64 && more[3] >= SENT as u64
        });
    }
    assert_eq!(probe.events(&network.a), []);
}

/// What the slow queue makes packet `n` of the first ones wait, in seconds.
fn due(n: usize, frame: usize) -> f64 {
    (frame as f64).mul_add(n as f64, -BURST).max(0.0) / RATE
}

#[test]
fn packets_wait_as_long_as_the_rate_of_the_queue_makes_them() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let mut probe = Probe::open(&network);
    slow_queue(&network.a, 1_000_000);
    for family in FAMILIES {
        undisturbed("all waits", || wait_in_queue(&network, &mut probe, family));
    }
}

/// Fifty packets in the slow queue, each of which waits longer than the one before.
fn wait_in_queue(network: &Network, probe: &mut Probe, family: u8) -> bool {
    probe.forget();
    drop(probe.events(&network.a));
    let frame = PAYLOAD + 8 + 14 + if family == 4 { 20 } else { 40 };
    let before = times(&probe.waits, &network.a, "eth0", family);
    let arrivals = send(network, family, 50, PATIENCE);
    assert_eq!(arrivals.len(), 50);
    // The last one may arrive before its transmission ends; neighbour discovery may add packets.
    let came = soon(|| times(&probe.waits, &network.a, "eth0", family).count() >= before.count() + 50);
    let emptied = soon(|| probe.queued() == 0);
    let mut waits = times(&probe.waits, &network.a, "eth0", family);
    waits.buckets.iter_mut().zip(before.buckets).for_each(|(now, then)| *now -= then);
    let waited = (waits.sum - before.sum) as f64 / 1e9;
    // As many are told as are in the buckets above the threshold.
    let slow: u64 = waits.buckets[SLOW..].iter().sum();
    let mut told = probe.events(&network.a);
    told.retain(|event| event.key.family == family);
    assert_eq!(told.len() as u64, slow);
    let datagrams = told.iter().filter(|event| event.ends.protocol == 17);
    datagrams.for_each(|event| check(event, family, frame));
    let longest = told.iter().map(|event| event.duration).max().unwrap_or_default();
    assert!(longest as f64 / 1e9 <= arrivals.last().unwrap().as_secs_f64() * 1.05, "{longest} {arrivals:?}");
    let arrived: f64 = arrivals.iter().map(Duration::as_secs_f64).sum();
    // Each packet of neighbour discovery that was among them waited no longer than the longest.
    let others = waits.count().saturating_sub(50) as f64 * longest as f64 / 1e9;
    assert!(waited <= arrived * 1.05 + others, "{waited} {arrived} {others}");
    if !came || !emptied {
        return false;
    }
    assert!(waits.count() < 56, "{waits:?}");
    let expected: f64 = (1..=50).map(|n| due(n, frame)).sum();
    assert!(expected * 0.9 < waited, "{expected} {waited}");
    assert!(slow >= (1..=50).filter(|n| due(*n, frame) > 0.150).count() as u64, "{slow}");
    assert!(due(50, frame) * 0.9 < longest as f64 / 1e9, "{longest}");
    true
}

fn check(event: &transmit_event, family: u8, frame: usize) {
    assert_eq!((event.stage, event.key.host, event.key.family), (TRANSMIT_QUEUED, 0, family));
    assert_eq!((event.ends.protocol, event.ends.destination_port), (17, PORT));
    assert!(event.ends.source_port != 0 && event.duration >= THRESHOLD.as_nanos() as u64);
    assert_eq!(event.length as usize, frame - 14);
    let expected = match Network::address(2, family) {
        std::net::IpAddr::V4(ip) => [&ip.octets()[..], &[0; 12]].concat(),
        std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    assert_eq!(event.ends.destination_address.to_vec(), expected);
}

#[test]
fn packets_that_the_queue_drops_are_not_remembered() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let probe = Probe::open(&network);
    for family in FAMILIES {
        undisturbed("an empty queue", || {
            probe.forget();
            let before = times(&probe.waits, &network.a, "eth0", family).count();
            slow_queue(&network.a, 10_000);
            let arrived = send(&network, family, 200, Duration::from_millis(500)).len() as u64;
            assert!((1..50).contains(&arrived), "{arrived}");
            let waits = times(&probe.waits, &network.a, "eth0", family).count() - before;
            assert!(waits < arrived + 6, "{waits} of {arrived}");
            waits >= arrived && soon(|| probe.queued() == 0)
        });
        undisturbed("a queue that is gone", || {
            probe.forget();
            slow_queue(&network.a, 1_000_000);
            let sender = network.a.inside(|| UdpSocket::bind(any(family)).unwrap());
            (0..100).for_each(|_| drop(sender.send_to(&[0; PAYLOAD], server(family))));
            let waiting = probe.queued();
            network.a.sh("tc qdisc del dev eth0 root");
            waiting > 50 && soon(|| probe.queued() == 0)
        });
    }
    assert_eq!(probe.observer.account().unwrap().overflow, 0);
}

#[test]
fn packets_that_are_cut_into_segments_have_no_wait_and_are_not_remembered() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let probe = Probe::open(&network);
    // Packets of many segments do not fit into the burst.
    network.a.sh("tc qdisc replace dev eth0 root tbf rate 20mbit burst 5000 limit 1000000");
    for family in FAMILIES {
        undisturbed("as many as the interface says", || cut(&network, &probe, family));
    }
}

/// A megabyte through a queue that cuts it into segments.
fn cut(network: &Network, probe: &Probe, family: u8) -> bool {
    probe.forget();
    let listener = network.b.inside(|| TcpListener::bind(server(family)).unwrap());
    // Acknowledged data may still be on its way a second time.
    let sent = settled(|| sent_packets(&network.a, "eth0"));
    let before = times(&probe.durations, &network.a, "eth0", 0xff).count();
    let waits = times(&probe.waits, &network.a, "eth0", 0xff).count();
    let began = Instant::now();
    let mut client = network.a.inside(|| TcpStream::connect(server(family)).unwrap());
    let mut accepted = listener.accept().unwrap().0;
    let reader = std::thread::spawn(move || accepted.read_to_end(&mut Vec::new()).unwrap());
    client.write_all(&vec![0; 1_000_000]).unwrap();
    drop(client);
    assert_eq!(reader.join().unwrap(), 1_000_000);
    let took = began.elapsed();
    let sent = settled(|| sent_packets(&network.a, "eth0")) - sent;
    let counted = times(&probe.durations, &network.a, "eth0", 0xff).count() - before;
    let waits = times(&probe.waits, &network.a, "eth0", 0xff).count() - waits;
    assert!(counted <= sent && waits < counted / 2, "{waits}, {counted} of {sent}");
    // Those of runs before are among them, which took about as long.
    let all = times(&probe.waits, &network.a, "eth0", family);
    let longest = all.buckets.iter().rposition(|count| *count > 0).unwrap_or_default();
    let above = (f64::from(Range::LATENCY.lowest + longest as i32) / 4.0).exp2();
    assert!(above < took.as_secs_f64() + 1.0, "{above} s in {took:?}");
    counted == sent && soon(|| probe.queued() == 0)
}

/// Rules that each packet is held against; they take some two tenths of a millisecond.
const RULES: usize = 20_000;

/// An interface whose driver has much to do: it hands each packet to one with many rules.
fn slow_driver(of: &Namespace) {
    of.sh("ip link add link eth0 name slow type macvlan && ip link set slow up && \
           ip addr add 10.99.77.2/24 dev slow && ip addr add fd99:77::2/64 dev slow nodad && \
           ip neigh add 10.99.77.3 lladdr 02:00:00:00:00:03 dev slow && \
           ip neigh add fd99:77::3 lladdr 02:00:00:00:00:03 dev slow");
    of.sh(&format!(
        "(echo table netdev t \\{{ chain c \\{{ type filter hook egress device eth0 priority 0\\;; \
          for i in $(seq {RULES}); do echo meta mark $i counter; done; echo \\}}\\;\\}}) | nft -f -"
    ));
}

#[test]
fn a_driver_is_as_slow_as_the_call_that_sends_shows() {
    if !can_load() {
        return;
    }
    if !is_at_least((5, 16)) {
        return skip("needs rules for packets that leave an interface (5.16)");
    }
    let network = Network::new();
    slow_driver(&network.a);
    let threshold = Duration::from_micros(100);
    let mut probe = Probe::open_with(&network, threshold);
    for (family, to) in [(4, "10.99.77.3:7777"), (6, "[fd99:77::3]:7777")] {
        let sender = network.a.inside(|| UdpSocket::bind(any(family)).unwrap());
        let to: SocketAddr = to.parse().unwrap();
        undisturbed("all packets", || {
            drop(probe.events(&network.a));
            let before = times(&probe.durations, &network.a, "slow", family);
            let took = (0..SENT).map(|_| {
                let began = Instant::now();
                assert_eq!(sender.send_to(&[0; PAYLOAD], to).unwrap(), PAYLOAD);
                began.elapsed()
            });
            let took: Vec<Duration> = took.collect();
            let (all, fastest) = (took.iter().sum::<Duration>(), *took.iter().min().unwrap());
            let now = times(&probe.durations, &network.a, "slow", family);
            let driver = Duration::from_nanos(now.sum - before.sum);
            assert!(driver <= all, "{driver:?} of {took:?}");
            let told = probe.events(&network.a);
            let told: Vec<_> = told.iter().filter(|event| event.stage == TRANSMIT_DRIVER).collect();
            let told: Vec<_> =
                told.into_iter().filter(|event| &event.key.interface[..5] == b"slow\0").collect();
            assert!(told.iter().all(|event| u128::from(event.duration) >= threshold.as_nanos()));
            if now.count() - before.count() < SENT as u64 {
                return false;
            }
            // The rest of each call is the way down to the driver, and on a busy machine others.
            assert!(driver > fastest * SENT as u32 / 2, "{driver:?} of {took:?}");
            assert!(told.iter().all(|event| event.ends.destination_port == PORT));
            told.len() == SENT
        });
    }
}
