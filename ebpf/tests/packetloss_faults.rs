//! Every kind of loss that can be made on purpose is counted, in both families, on the container it hit.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod common;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use common::expected::{Expected, FAMILIES, RECEIVE, TRANSMIT, datagrams, udp};
use common::{Namespace, Network, Probe, can_load, eventually, settled, skip};
use jitterscope_ebpf::Form;
use jitterscope_ebpf::abi::DROP_SOURCE_LISTEN_OVERFLOW;
use jitterscope_ebpf::packetloss::Options;
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto};

#[test]
fn a_packet_that_netfilter_drops_is_charged_to_the_container_that_it_hit() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let probe = Probe::open(&network);
    for family in FAMILIES {
        let to = Network::address(2, family);
        let expected = |direction, host| Expected {
            family,
            protocol: 17,
            direction,
            host,
            reasons: &["NETFILTER_DROP"],
        };
        let cases = [
            (&network.b, "input", &network.b, expected(RECEIVE, false)),
            (&network.a, "output", &network.a, expected(TRANSMIT, false)),
            (&network.router, "forward", &network.a, expected(TRANSMIT, true)),
            (&network.router, "prerouting", &network.a, expected(TRANSMIT, true)),
        ];
        for (namespace, hook, charged, expected) in cases {
            namespace.refuse(hook, "udp dport 7777");
            expected.rises_by(&network, &probe, charged, 5, || datagrams(&network.a, to, 7777, 5));
            namespace.allow();
        }
    }
}

#[test]
fn a_full_receive_buffer_is_counted_as_often_as_the_kernel_counts_it() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let probe = Probe::open(&network);
    for (family, group, counter) in [(4, "Udp", "RcvbufErrors"), (6, "", "Udp6RcvbufErrors")] {
        let reader = network.b.inside(|| udp(family));
        let port = reader.local_addr().unwrap().port();
        let before = network.b.counter(group, counter);
        datagrams(&network.a, Network::address(2, family), port, 600);
        let errors = settled(|| network.b.counter(group, counter)) - before;
        assert!(errors > 0, "the buffer is not full");
        let expected =
            Expected { family, protocol: 17, direction: RECEIVE, host: false, reasons: &["SOCKET_RCVBUFF"] };
        assert_eq!(expected.count(&probe, &network.b), errors, "{}", probe.describe(&[&network.b]));
    }
}

#[test]
fn a_queue_that_is_full_is_charged_to_its_sender() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let probe = Probe::open(&network);
    network.a.sh("tc qdisc add dev eth0 root tbf rate 8kbit burst 2000 limit 4000");
    let dropped = || {
        let text = network.a.sh("tc -s qdisc show dev eth0");
        let after = text.split("dropped ").nth(1).unwrap();
        after.split(',').next().unwrap().parse::<u64>().unwrap()
    };
    for family in FAMILIES {
        let before = dropped();
        let reasons = &["QDISC_DROP", "QDISC_OVERLIMIT"];
        let expected = Expected { family, protocol: 17, direction: TRANSMIT, host: false, reasons };
        datagrams(&network.a, Network::address(2, family), 9, 100);
        let counted = expected.count(&probe, &network.a);
        assert!(counted > 50, "{counted}: {}", probe.describe(&[&network.a]));
        assert!(counted <= dropped() - before);
    }
}

#[test]
fn a_queue_of_the_host_is_charged_to_the_container_that_the_packet_came_from() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let probe = Probe::open(&network);
    network.router.sh("tc qdisc add dev portb root tbf rate 8kbit burst 2000 limit 4000");
    for family in FAMILIES {
        let reasons = &["QDISC_DROP", "QDISC_OVERLIMIT"];
        let expected = Expected { family, protocol: 17, direction: TRANSMIT, host: true, reasons };
        datagrams(&network.a, Network::address(2, family), 9, 100);
        eventually("the queue is full", || expected.count(&probe, &network.a) > 50);
        let on_b = probe.count(|k| k.netns == network.b.inode() && k.host != 0 && k.protocol == 17);
        assert_eq!(on_b, 0, "counted once: {}", probe.describe(&[&network.a, &network.b]));
    }
}

/// A UDP header whose checksum is wrong, port 9 to port 9.
fn bad_datagram(from: &Namespace, to: IpAddr) {
    from.inside(|| {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = rustix::net::socket(family, SocketType::RAW, Some(ipproto::UDP)).unwrap();
        let datagram = [0, 9, 0, 9, 0, 12, 0xde, 0xad, 1, 2, 3, 4];
        rustix::net::sendto(&socket, &datagram, SendFlags::empty(), &SocketAddr::new(to, 0)).unwrap();
    });
}

#[test]
fn a_bad_checksum_is_charged_to_the_receiver() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let probe = Probe::open(&network);
    for family in FAMILIES {
        let to = Network::address(2, family);
        let reasons = &["UDP_CSUM", "SKB_CSUM", "NOT_SPECIFIED"];
        let expected = Expected { family, protocol: 17, direction: RECEIVE, host: false, reasons };
        expected
            .rises_by(&network, &probe, &network.b, 3, || (0..3).for_each(|_| bad_datagram(&network.a, to)));
    }
}

#[test]
fn a_packet_without_a_route_is_charged_to_the_container_it_came_from() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let probe = Probe::open(&network);
    for (family, to) in [(4, "10.200.0.1"), (6, "fd98::1")] {
        let reasons = &["IP_INNOROUTES", "NOT_SPECIFIED"];
        let expected = Expected { family, protocol: 17, direction: TRANSMIT, host: true, reasons };
        let fault = || datagrams(&network.a, to.parse().unwrap(), 9, 4);
        expected.rises_by(&network, &probe, &network.a, 4, fault);
    }
}

/// A listener that accepts nothing; its queue takes `backlog` + 1 connections.
fn listener(namespace: &Namespace, address: IpAddr, backlog: i32) -> TcpListener {
    namespace.inside(|| {
        let listener = TcpListener::bind((address, 0)).unwrap();
        rustix::net::listen(&listener, backlog).unwrap();
        listener
    })
}

/// Connections that are opened side by side, each given three seconds.
fn connect_all(from: &Namespace, to: SocketAddr, count: usize) -> Vec<io::Result<TcpStream>> {
    from.inside(|| {
        std::thread::scope(|scope| {
            let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(4));
            let threads: Vec<_> = (0..count).map(|_| scope.spawn(connect)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        })
    })
}

/// Fills the accept queue of a listener, in both families, and compares what is refused with the kernel's counter. The form
/// in which the hook is watched, if it is.
fn refuse_syns(network: &Network, probe: &Probe) -> Option<Form> {
    let attachments = probe.probe.observer.loaded().attachments();
    let form = attachments.iter().find(|a| a.hook == "tcp_conn_request").map(|a| a.form);
    for family in FAMILIES {
        let inode = network.b.inode();
        let listener = listener(&network.b, Network::address(2, family), 1);
        let address = listener.local_addr().unwrap();
        let before = network.b.counter("TcpExt", "ListenOverflows");
        let _queued = connect_all(&network.a, address, 2);
        let late = connect_all(&network.a, address, 1);
        assert!(late[0].is_err());
        let refused = network.b.counter("TcpExt", "ListenOverflows") - before;
        assert!(refused > 0);
        let counted = probe
            .count(|k| k.source == DROP_SOURCE_LISTEN_OVERFLOW && k.netns == inode && k.family == family);
        assert_eq!(counted, if form.is_some() { refused } else { 0 });
    }
    let missing = probe.probe.observer.loaded().missing().iter().any(|m| m.hook == "tcp_conn_request");
    assert_ne!(form.is_some(), missing, "a hook is watched, or missing with its reason");
    form
}

#[test]
fn a_syn_that_a_full_accept_queue_refuses_is_counted_where_the_kernel_has_the_hook() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let probe = Probe::open(&network);
    println!("tcp_conn_request is watched by {:?}", refuse_syns(&network, &probe));
}

/// Without its trampoline, which every kernel that has both prefers.
#[test]
fn a_syn_that_a_full_accept_queue_refuses_is_counted_by_a_kprobe_too() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let without = vec!["fentry/tcp_conn_request".to_owned()];
    let probe = Probe::open_with(&Options { without, ..Options::new(network.router.inode()) });
    let form = refuse_syns(&network, &probe);
    if Path::new("/sys/bus/event_source/devices/kprobe").exists() {
        assert_eq!(form, Some(Form::Kprobe), "{:?}", probe.probe.observer.loaded().missing());
    } else {
        assert_eq!(form, None);
        skip("needs a kernel with kprobes; the virtual machines have them");
    }
}

#[test]
fn the_final_ack_that_a_full_accept_queue_refuses_is_counted() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let probe = Probe::open(&network);
    for family in FAMILIES {
        let listener = listener(&network.b, Network::address(2, family), 4);
        let address = listener.local_addr().unwrap();
        let reasons = &["TCP_LISTEN_OVERFLOW", "NOT_SPECIFIED"];
        let expected = Expected { family, protocol: 6, direction: RECEIVE, host: false, reasons };
        // Three handshakes are held half way while others fill the queue.
        network.a.refuse("input", &format!("tcp sport {}", address.port()));
        std::thread::scope(|scope| {
            let held = scope.spawn(|| connect_all(&network.a, address, 3));
            eventually("the handshakes are under way", || half_open(&network.b, address.port()) == 3);
            let _queued: Vec<_> = (0..5).map(|_| connect_all(&network.b, address, 1)).collect();
            network.a.allow();
            held.join().unwrap();
        });
        let counted = expected.count(&probe, &network.b);
        assert!(counted > 0, "family {family}: {}", probe.describe(&[&network.b]));
    }
}

fn half_open(namespace: &Namespace, port: u16) -> usize {
    namespace.sh(&format!("ss -Htan state syn-recv sport = :{port}")).lines().count()
}
