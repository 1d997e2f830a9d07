//! Each packet of TCP and UDP is measured once, in each stage that the kernel lets be told apart, and none is told when none
//! is slow.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use common::passages::{Functions, Passages, more, undisturbed};
use common::{Namespace, Network, can_load, is_at_least, note, settled};
use jitterscope_ebpf::abi::{
    DIRECTION_RECEIVE, DIRECTION_TRANSMIT, RECEIVE_LOCAL_IN, RECEIVE_PREROUTING, RECEIVE_ROUTING,
    SEND_LOCAL_OUT, SEND_NEIGHBOUR, SEND_POSTROUTING, passage_times,
};

const FAMILIES: [u8; 2] = [4, 6];
const REQUESTS: usize = 100;

/// Packets of a namespace, as the kernel counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packets {
    segments_in: u64,
    segments_out: u64,
    datagrams_in: u64,
    datagrams_out: u64,
}

fn packets(of: &Namespace) -> Packets {
    let udp = |name: &str| of.counter("Udp", name) + of.counter("", &format!("Udp6{name}"));
    Packets {
        segments_in: of.counter("Tcp", "InSegs"),
        segments_out: of.counter("Tcp", "OutSegs") + of.counter("Tcp", "RetransSegs"),
        datagrams_in: udp("InDatagrams"),
        datagrams_out: udp("OutDatagrams"),
    }
}

/// The counts once they have stood still.
fn settled_packets(of: &Namespace) -> Packets {
    settled(|| packets(of).segments_in + packets(of).segments_out);
    packets(of)
}

fn since(now: Packets, then: Packets) -> Packets {
    Packets {
        segments_in: now.segments_in - then.segments_in,
        segments_out: now.segments_out - then.segments_out,
        datagrams_in: now.datagrams_in - then.datagrams_in,
        datagrams_out: now.datagrams_out - then.datagrams_out,
    }
}

/// Before 6.6 programs of cgroups do not see SYN-ACKs over IPv6: they are sent for another socket than their own.
fn sees_syn_acks() -> bool {
    is_at_least((6, 6))
}

/// Requests with answers, over UDP and over a connection that is opened and closed.
fn exchange(from: &Namespace, to: &Namespace, address: IpAddr) {
    let server = to.inside(|| UdpSocket::bind((address, 0)).unwrap());
    let any: IpAddr = if address.is_ipv4() { "0.0.0.0".parse() } else { "::".parse() }.unwrap();
    let client = from.inside(|| UdpSocket::bind((any, 0)).unwrap());
    client.connect(server.local_addr().unwrap()).unwrap();
    let mut buffer = [0; 100];
    for _ in 0..REQUESTS {
        client.send(&[1; 100]).unwrap();
        let (length, peer) = server.recv_from(&mut buffer).unwrap();
        server.send_to(&buffer[..length], peer).unwrap();
        client.recv(&mut buffer).unwrap();
    }
    let listener = to.inside(|| TcpListener::bind((address, 0)).unwrap());
    let at: SocketAddr = listener.local_addr().unwrap();
    let mut client = from.inside(|| TcpStream::connect(at).unwrap());
    let mut server = listener.accept().unwrap().0;
    for _ in 0..REQUESTS {
        client.write_all(&[1; 100]).unwrap();
        server.read_exact(&mut buffer).unwrap();
        server.write_all(&buffer).unwrap();
        client.read_exact(&mut buffer).unwrap();
    }
}

fn times(probe: &Passages, of: &Namespace, direction: u32, family: u8) -> passage_times {
    probe.times(of, |key| (u32::from(key.direction), key.family) == (direction, family))
}

/// The whole and its stages: each no more than there were; whether all are as many.
fn as_many(got: &passage_times, expected: [u64; 4]) -> bool {
    let counts = [&got.total, &got.stages[0], &got.stages[1], &got.stages[2]].map(|h| h.count());
    assert!(counts.iter().zip(expected).all(|(count, most)| *count <= most), "{counts:?} {expected:?}");
    if counts != expected {
        note(&format!("{counts:?} of {expected:?}"));
    }
    counts == expected
}

#[test]
fn each_packet_is_measured_once_in_each_stage_and_none_is_told() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    for functions in Functions::accepted() {
        let mut probe = Passages::open(&network, functions);
        for family in FAMILIES {
            let what = format!("{functions:?}, IPv{family}: as many as the kernel counts");
            undisturbed(&what, || count(&network, &probe, family));
        }
        assert_eq!(probe.events(&network.a), []);
        assert_eq!(probe.events(&network.b), []);
        assert_eq!(probe.probe.observer.account().unwrap().overflow, 0);
        undisturbed("none is left", || probe.under_way() == 0);
    }
}

fn count(network: &Network, probe: &Passages, family: u8) -> bool {
    probe.forget();
    let sides = [&network.a, &network.b];
    let before = sides.map(settled_packets);
    let received = sides.map(|side| times(probe, side, DIRECTION_RECEIVE, family));
    let sent = sides.map(|side| times(probe, side, DIRECTION_TRANSMIT, family));
    exchange(&network.a, &network.b, Network::address(2, family));
    let mut exact = true;
    for (i, side) in sides.into_iter().enumerate() {
        let packets = since(settled_packets(side), before[i]);
        let now = more(&times(probe, side, DIRECTION_RECEIVE, family), &received[i]);
        let (all, view) = (packets.segments_in + packets.datagrams_in, probe.probe.view);
        assert!(packets.datagrams_in == REQUESTS as u64 && all > 2 * REQUESTS as u64, "{packets:?}");
        let apart = if view.local_in { all } else { 0 };
        // Where not every beginning of routing is seen, as many as that are a part of prerouting.
        let seen = now.stages[RECEIVE_ROUTING as usize].count().min(apart);
        let routed = if view.routing { apart } else { seen };
        exact &= as_many(&now, [all, apart, routed, apart]);
        let now = more(&times(probe, side, DIRECTION_TRANSMIT, family), &sent[i]);
        let (segments, all) = (packets.segments_out, packets.segments_out + packets.datagrams_out);
        // The one connection's SYN-ACK.
        let last = if family == 6 && i == 1 && !sees_syn_acks() { 1 } else { 0 };
        exact &= if view.departures {
            as_many(&now, [all, all, all - last, all - last])
        } else {
            // When UDP began is not known then.
            as_many(&now, [segments - last, 0, 0, all - last])
        };
    }
    exact
}

#[test]
fn what_a_machine_sends_to_itself_is_not_routed_twice() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    for functions in Functions::accepted() {
        let probe = Passages::open(&network, functions);
        for address in ["127.0.0.1", "::1"] {
            let family = if address == "::1" { 6 } else { 4 };
            undisturbed("as many as the kernel counts", || {
                let before = settled_packets(&network.a);
                let then = times(&probe, &network.a, DIRECTION_RECEIVE, family);
                exchange(&network.a, &network.a, address.parse().unwrap());
                let packets = since(settled_packets(&network.a), before);
                let now = more(&times(&probe, &network.a, DIRECTION_RECEIVE, family), &then);
                let all = packets.segments_in + packets.datagrams_in;
                let apart = if probe.probe.view.local_in { all } else { 0 };
                as_many(&now, [all, apart, 0, apart])
            });
        }
    }
}

/// The order in which the program has the stages is that of the names.
#[test]
fn stages_follow_each_other() {
    assert_eq!([RECEIVE_PREROUTING, RECEIVE_ROUTING, RECEIVE_LOCAL_IN], [0, 1, 2]);
    assert_eq!([SEND_LOCAL_OUT, SEND_POSTROUTING, SEND_NEIGHBOUR], [0, 1, 2]);
}
