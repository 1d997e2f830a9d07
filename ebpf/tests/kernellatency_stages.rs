//! A packet that is held for a known time is as late as that, in the stage in which it was held, and is told with its ends;
//! and packets that are gone are not remembered.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use common::held::{Held, PORT, Verdict, receiver, sender, server};
use common::passages::{Functions, Passages, SLOW, THRESHOLD, more, soon, undisturbed};
use common::{Namespace, Network, can_load, octets};
use jitterscope_ebpf::abi::{
    DIRECTION_RECEIVE, DIRECTION_TRANSMIT, PASSAGE_UNKNOWN, RECEIVE_LOCAL_IN, RECEIVE_PREROUTING,
    SEND_LOCAL_OUT, SEND_NEIGHBOUR, SEND_POSTROUTING, histogram, passage_event, passage_times,
};

const FAMILIES: [u8; 2] = [4, 6];
/// Above the threshold, and below the time after which TCP sends again (`TCP_RTO_MIN`).
const HOLD: Duration = Duration::from_millis(150);
/// Datagrams held at once.
const SENT: usize = 3;

/// Where packets are held, and what that delays.
struct Fault {
    chain: &'static str,
    direction: u32,
    stage: u32,
}

const FAULTS: [Fault; 4] = [
    Fault { chain: "PREROUTING", direction: DIRECTION_RECEIVE, stage: RECEIVE_PREROUTING },
    Fault { chain: "INPUT", direction: DIRECTION_RECEIVE, stage: RECEIVE_LOCAL_IN },
    Fault { chain: "OUTPUT", direction: DIRECTION_TRANSMIT, stage: SEND_LOCAL_OUT },
    Fault { chain: "POSTROUTING", direction: DIRECTION_TRANSMIT, stage: SEND_POSTROUTING },
];

impl Fault {
    /// The namespace that it is in: the sender's or the receiver's.
    fn place<'a>(&self, network: &'a Network) -> &'a Namespace {
        if self.direction == DIRECTION_RECEIVE { &network.b } else { &network.a }
    }

    fn times(&self, probe: &Passages, network: &Network, family: u8) -> passage_times {
        times(probe, self.place(network), self.direction, family)
    }
}

fn times(probe: &Passages, of: &Namespace, direction: u32, family: u8) -> passage_times {
    probe.times(of, |key| (u32::from(key.direction), key.family) == (direction, family))
}

/// The event is of a packet of `protocol` from a to b, `length` bytes with headers.
fn check(event: &passage_event, direction: u32, protocol: u8, from: SocketAddr, length: usize) {
    let to = server(if from.is_ipv4() { 4 } else { 6 });
    let ends = &event.ends;
    assert_eq!(u32::from(event.key.direction), direction);
    assert_eq!((ends.protocol, ends.source_port, ends.destination_port), (protocol, from.port(), PORT));
    assert_eq!(ends.source_address, octets(from.ip()));
    assert_eq!(ends.destination_address, octets(to.ip()));
    assert_eq!(event.length as usize, length + if from.is_ipv4() { 20 } else { 40 });
    assert_eq!(&event.interface[..5], b"eth0\0");
}

/// `count` packets are above the threshold, as late as `least` and `most` say, all the others below.
fn check_late(late: &histogram, count: u64, least: Duration, most: Duration) {
    let slow: u64 = late.buckets[SLOW..].iter().sum();
    assert_eq!(slow, count, "{late:?}");
    let sum = Duration::from_nanos(late.sum);
    assert!(least <= sum && sum <= most, "{least:?} {sum:?} {most:?}");
}

#[test]
fn datagrams_that_netfilter_holds_are_late_in_the_stage_in_which_they_were_held() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    for functions in Functions::accepted() {
        let mut probe = Passages::open(&network, functions);
        for fault in &FAULTS {
            for family in FAMILIES {
                let what = format!("{functions:?}, {}, IPv{family}: all datagrams", fault.chain);
                undisturbed(&what, || hold_datagrams(&network, &mut probe, fault, family));
            }
        }
        assert!(soon(|| probe.under_way() == 0), "{functions:?}");
    }
}

fn hold_datagrams(network: &Network, probe: &mut Passages, fault: &Fault, family: u8) -> bool {
    let (receiver, sender) = (receiver(network, family), sender(network, family));
    drop(probe.events(fault.place(network)));
    let before = fault.times(probe, network, family);
    let held = Held::new(fault.place(network), fault.chain, "udp", PORT, family);
    let began = Instant::now();
    (0..SENT).for_each(|_| assert_eq!(sender.send(&[1; 100]).unwrap(), 100));
    let least: Duration = held.decide(SENT, HOLD, Verdict::Accept).into_iter().sum();
    (0..SENT).for_each(|_| assert_eq!(receiver.recv(&mut [0; 100]).unwrap(), 100));
    let most = began.elapsed() * SENT as u32;
    let now = more(&fault.times(probe, network, family), &before);
    let (events, view) = (probe.events(fault.place(network)), probe.probe.view);
    let (whole, apart) = if fault.direction == DIRECTION_RECEIVE {
        (true, view.local_in)
    } else {
        (view.departures, view.postrouting)
    };
    let counted = now.total.count().max(now.stages[SEND_NEIGHBOUR as usize].count());
    if counted < SENT as u64 || (whole && events.len() < SENT) {
        return false;
    }
    let count = if whole { SENT as u64 } else { 0 };
    assert_eq!(events.len() as u64, count, "{events:?}");
    if whole {
        check_late(&now.total, count, least, most);
    }
    for (stage, late) in now.stages.iter().enumerate() {
        if apart && stage as u32 == fault.stage {
            check_late(late, count, least, most);
        } else {
            assert_eq!(late.buckets[SLOW..].iter().sum::<u64>(), 0, "{stage}: {late:?}");
        }
    }
    let from = sender.local_addr().unwrap();
    events.iter().for_each(|event| {
        check(event, fault.direction, 17, from, 108);
        check_stages(event, apart.then_some(fault.stage));
    });
    true
}

/// The stages are the whole, and the time went by in `late`.
fn check_stages(event: &passage_event, late: Option<u32>) {
    let Some(late) = late else {
        let [first, second, _] = event.stages;
        return assert_eq!([first, second], [PASSAGE_UNKNOWN; 2], "{event:?}");
    };
    let known: Vec<(usize, u64)> =
        event.stages.into_iter().enumerate().filter(|(_, time)| *time != PASSAGE_UNKNOWN).collect();
    assert_eq!(known.iter().map(|(_, time)| time).sum::<u64>(), event.duration, "{event:?}");
    let slow = known.iter().filter(|(_, time)| *time >= THRESHOLD.as_nanos() as u64);
    assert_eq!(slow.map(|(stage, _)| *stage as u32).collect::<Vec<_>>(), [late], "{event:?}");
}

#[test]
fn a_segment_that_netfilter_holds_is_late_as_a_whole_on_every_kernel() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    for functions in Functions::accepted() {
        let mut probe = Passages::open(&network, functions);
        for fault in &FAULTS {
            for family in FAMILIES {
                let what = format!("{functions:?}, {}, IPv{family}: the segment", fault.chain);
                undisturbed(&what, || hold_segment(&network, &mut probe, fault, family));
            }
        }
    }
}

fn hold_segment(network: &Network, probe: &mut Passages, fault: &Fault, family: u8) -> bool {
    let listener = network.b.inside(|| TcpListener::bind(server(family)).unwrap());
    let mut client = network.a.inside(|| TcpStream::connect(server(family)).unwrap());
    let mut accepted = listener.accept().unwrap().0;
    drop(probe.events(fault.place(network)));
    let held = Held::new(fault.place(network), fault.chain, "tcp", PORT, family);
    let before = fault.times(probe, network, family);
    let began = Instant::now();
    client.write_all(&[1; 100]).unwrap();
    let least = held.decide(1, HOLD, Verdict::Accept)[0];
    accepted.read_exact(&mut [0; 100]).unwrap();
    let most = began.elapsed();
    let from = client.local_addr().unwrap();
    let mut events = probe.events(fault.place(network));
    let now = more(&fault.times(probe, network, family), &before);
    drop(held);
    // On a slow machine TCP has sent it again.
    events.retain(|event| event.ends.source_port == from.port());
    let apart = match fault.direction {
        DIRECTION_RECEIVE => probe.probe.view.local_in,
        _ => probe.probe.view.postrouting,
    };
    let [event] = &events[..] else { return false };
    check_late(&now.total, 1, least, most + most);
    check(event, fault.direction, 6, from, 132);
    check_stages(event, apart.then_some(fault.stage));
    let whole = Duration::from_nanos(event.duration);
    assert!(least <= whole && whole <= most, "{least:?} {whole:?} {most:?}");
    true
}

#[test]
fn a_datagram_waits_for_the_link_address_of_its_neighbour() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    for functions in Functions::accepted() {
        let mut probe = Passages::open(&network, functions);
        for family in FAMILIES {
            let what = format!("{functions:?}, IPv{family}: the datagram");
            undisturbed(&what, || wait_for_neighbour(&network, &mut probe, family));
        }
    }
}

fn wait_for_neighbour(network: &Network, probe: &mut Passages, family: u8) -> bool {
    let to: IpAddr = if family == 4 { "10.99.1.77" } else { "fd99:1::77" }.parse().unwrap();
    let sender = network.a.inside(|| UdpSocket::bind((Network::address(1, family), 0)).unwrap());
    drop(probe.events(&network.a));
    let before = times(probe, &network.a, DIRECTION_TRANSMIT, family);
    let began = Instant::now();
    sender.send_to(&[1; 100], (to, PORT)).unwrap();
    let sent = Instant::now();
    std::thread::sleep(HOLD);
    let least = sent.elapsed();
    network.a.sh(&format!("ip neigh replace {to} lladdr 02:00:00:00:00:77 dev eth0"));
    let mut events = Vec::new();
    let told = soon(|| {
        events.extend(probe.events(&network.a));
        !events.is_empty()
    });
    let most = began.elapsed();
    network.a.sh(&format!("ip neigh del {to} dev eth0"));
    let now = more(&times(probe, &network.a, DIRECTION_TRANSMIT, family), &before);
    if !told {
        return false;
    }
    check_late(&now.stages[SEND_NEIGHBOUR as usize], 1, least, most);
    let [event] = &events[..] else { panic!("{events:?}") };
    assert_eq!(event.ends.destination_address, octets(to));
    let waited = Duration::from_nanos(event.stages[SEND_NEIGHBOUR as usize]);
    assert!(least <= waited && waited <= most, "{least:?} {waited:?} {most:?}");
    true
}
