//! UDP by peer is what applications sent and received, in number and bytes, whoever else uses the machine.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use common::segments::send_in_segments_of;
use common::{Namespace, Network, can_load, octets};
use jitterscope_ebpf::datagrams::{Datagrams, PEERS};
use jitterscope_ebpf::{Form, Kernel};
use rustix::time::{ClockId, clock_gettime};

const FAMILIES: [u8; 2] = [4, 6];

fn open(peers: u32) -> Datagrams {
    Datagrams::open(&Kernel::read(None).unwrap(), peers).unwrap()
}

/// What sockets of `namespace` exchanged with `peer`: bytes and datagrams received, bytes and datagrams sent.
fn with(program: &Datagrams, namespace: &Namespace, peer: IpAddr) -> [u64; 4] {
    let mut found = [0; 4];
    let family = if peer.is_ipv4() { 4 } else { 6 };
    program
        .peers(|key, traffic| {
            if (key.entity.netns, key.family, key.address) == (namespace.inode(), family, octets(peer)) {
                found[0] += traffic.received;
                found[1] += traffic.datagrams_in;
                found[2] += traffic.sent;
                found[3] += traffic.datagrams_out;
            }
        })
        .unwrap();
    found
}

fn bind(namespace: &Namespace, address: IpAddr) -> UdpSocket {
    namespace.inside(|| UdpSocket::bind((address, 0)).unwrap())
}

/// Every request is answered, so that none is lost for want of room.
fn exchange(client: &UdpSocket, server: &UdpSocket, requests: usize, size: usize) {
    let to = server.local_addr().unwrap();
    let mut buffer = vec![0; 65_536];
    for _ in 0..requests {
        client.send_to(&vec![1; size], to).unwrap();
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(length, size);
        server.send_to(b"answer", from).unwrap();
        client.recv_from(&mut buffer).unwrap();
    }
}

#[test]
fn both_ends_count_datagrams_and_payload_by_peer() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let program = open(PEERS);
    for family in FAMILIES {
        let (here, there) = (Network::address(1, family), Network::address(2, family));
        let (client, server) = (bind(&network.a, here), bind(&network.b, there));
        exchange(&client, &server, 300, 700);
        // Larger than a packet: fragments are one datagram. And one without payload.
        exchange(&client, &server, 5, 20_000);
        exchange(&client, &server, 1, 0);
        let (requests, bytes) = (306, 300 * 700 + 5 * 20_000);
        assert_eq!(with(&program, &network.a, there), [306 * 6, 306, bytes, requests], "{family}");
        assert_eq!(with(&program, &network.b, here), [bytes, requests, 306 * 6, 306], "{family}");
    }
    let forms: Vec<Form> = program.loaded().attachments().iter().map(|hook| hook.form).collect();
    assert_eq!(forms, [Form::CgroupSkb; 2]);
}

#[test]
fn an_ipv6_socket_that_speaks_ipv4_has_ipv4_peers() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let program = open(PEERS);
    let there = Network::address(2, 4);
    let client = bind(&network.a, Network::address(1, 4));
    let server = network.b.inside(|| UdpSocket::bind(("::", 0)).unwrap());
    client.send_to(b"request", SocketAddr::from((there, server.local_addr().unwrap().port()))).unwrap();
    server.recv_from(&mut [0; 100]).unwrap();
    assert_eq!(with(&program, &network.b, Network::address(1, 4)), [7, 1, 0, 0]);
}

#[test]
fn several_datagrams_that_are_sent_as_one_are_counted_each() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let program = open(PEERS);
    for family in FAMILIES {
        let (here, there) = (Network::address(1, family), Network::address(2, family));
        let (client, server) = (bind(&network.a, here), bind(&network.b, there));
        send_in_segments_of(&client, 1000);
        client.send_to(&[1; 4500], server.local_addr().unwrap()).unwrap();
        let mut buffer = [0; 2000];
        let received: Vec<usize> = (0..5).map(|_| server.recv_from(&mut buffer).unwrap().0).collect();
        assert_eq!(received, [1000, 1000, 1000, 1000, 500]);
        assert_eq!(with(&program, &network.a, there), [0, 0, 4500, 5], "{family}");
        assert_eq!(with(&program, &network.b, here), [4500, 5, 0, 0], "{family}");
    }
}

#[test]
fn peers_beyond_the_limit_are_counted_together_and_silent_ones_make_room() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    // What others send on this machine may take the rest of the room.
    let program = open(1);
    let here = Network::address(1, 4);
    let (client, server) = (bind(&network.a, here), bind(&network.b, Network::address(2, 4)));
    exchange(&client, &server, 50, 10);
    let mut kept = 0;
    program.peers(|_, traffic| kept += traffic.datagrams_in + traffic.datagrams_out).unwrap();
    let rest = program.rest().unwrap();
    assert!(kept + rest.datagrams_in + rest.datagrams_out >= 200 && rest.datagrams_in > 0, "{kept} {rest:?}");
    let now = clock_gettime(ClockId::Monotonic);
    let now = Duration::new(now.tv_sec.cast_unsigned(), now.tv_nsec as u32);
    program.forget(now, Duration::from_secs(60), |_| false).unwrap();
    assert_eq!(program.peers(|_, _| {}).unwrap(), 1);
    program.forget(now + Duration::from_secs(120), Duration::from_secs(60), |_| false).unwrap();
    assert_eq!(program.peers(|_, _| {}).unwrap(), 0);
}
