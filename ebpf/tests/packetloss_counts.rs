//! The packet-loss program counts every loss once, and nothing else: exactness, ordinary traffic, event contents.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::{Namespace, Network, Probe, can_load, eventually, settled};
use jitterscope_ebpf::abi::drop_key;
use jitterscope_ebpf::btf::VMLINUX;
use jitterscope_ebpf::packetloss::{Event, Options, PacketLoss};
use jitterscope_ebpf::{Form, Kernel, Telling};
use rustix::net::{AddressFamily, Protocol, RawProtocol, SendFlags, SocketType};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Sends `count` datagrams, or as many as go in thirty seconds, to a port where nobody listens.
fn flood(from: &Namespace, to: IpAddr, count: usize) -> usize {
    from.inside(|| {
        let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
        let end = Instant::now() + Duration::from_secs(30);
        (0..count)
            .take_while(|i| i % 64 != 0 || Instant::now() < end)
            .map(|_| socket.send_to(b"x", (to, 9)).unwrap())
            .sum()
    })
}

#[test]
fn two_hundred_thousand_datagrams_to_a_closed_port_are_counted_to_the_last_one() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    // Room for all events of the test, which reads them late.
    let options = Options { ring: 4 << 20, ..Options::new(network.router.inode()) };
    let mut probe = Probe::open_with(&options);
    let mut ring = probe.probe.observer.events().unwrap();
    probe
        .probe
        .observer
        .configure(&Telling { rate: 100, burst: 50, stack: false, ..Telling::default() })
        .unwrap();
    let b = network.b.inode();
    for (family, group, counter) in [(4, "Udp", "NoPorts"), (6, "", "Udp6NoPorts")] {
        let before = network.b.counter(group, counter);
        let start = Instant::now();
        let sent = flood(&network.b, Network::address(2, family), 200_000);
        let seconds = start.elapsed().as_secs_f64();
        let refused = settled(|| network.b.counter(group, counter)) - before;
        println!("IPv{family}: sent {sent} in {seconds:.1} s, {counter} {refused}");
        let counted = || probe.count(|k| k.netns == b && k.family == family && k.direction == 2);
        assert!(refused > 0);
        assert_eq!(counted(), refused, "{}", probe.describe(&[&network.b]));
        let records = std::iter::from_fn(|| ring.take::<Event>().and_then(Result::ok))
            .filter(|e| (e.netns, e.family) == (b, family))
            .count();
        let allowed = 50.0 + 100.0 * (start.elapsed().as_secs_f64() + 0.01);
        assert!(records >= 50 && records as f64 <= allowed, "{records} events, {allowed} allowed");
    }
    eventually("seen = submitted + suppressed + lost", || {
        let a = probe.probe.observer.account().unwrap();
        a.seen >= 2 && a.seen == a.submitted + a.suppressed + a.lost && a.lost == 0 && a.overflow == 0
    });
    assert_eq!(probe.probe.observer.loaded().programs().unwrap()[0].recursion_misses, 0);
}

#[test]
fn a_ring_that_nobody_reads_loses_events_but_no_counts() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let probe = Probe::open(&network);
    probe
        .probe
        .observer
        .configure(&Telling { rate: 100_000, burst: 100_000, stack: false, ..Telling::default() })
        .unwrap();
    let sent = flood(&network.b, Network::address(2, 4), 5_000) as u64;
    let account = probe.probe.observer.account().unwrap();
    assert!(account.lost > 0 && account.submitted > 0, "{account:?}");
    assert_eq!(probe.count(|k| k.netns == network.b.inode() && k.direction == 2), sent);
}

#[test]
fn the_untyped_form_of_the_tracepoint_counts_the_same() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let typed = Probe::open(&network);
    let foreign = Kernel::read(Some(Path::new(VMLINUX))).unwrap();
    let untyped = PacketLoss::open(&foreign, &Options::new(network.router.inode())).unwrap();
    assert_eq!(untyped.observer.loaded().attachments()[0].form, Form::RawTp);
    let inode = network.b.inode();
    for family in [4, 6] {
        flood(&network.a, Network::address(2, family), 100);
        let key =
            |k: &drop_key| k.netns == inode && k.family == family && k.direction == 2 && k.protocol == 17;
        eventually("both count all", || {
            let mut packets = 0;
            untyped.drops.for_each(|k, n| packets += if key(k) { *n } else { 0 }).unwrap();
            (typed.count(key), packets) == (100, 100)
        });
    }
}

#[test]
fn an_event_tells_addresses_ports_interface_and_place() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let mut probe = Probe::open(&network);
    probe
        .probe
        .observer
        .configure(&Telling { rate: 100, burst: 100, stack: true, ..Telling::default() })
        .unwrap();
    let mut ring = probe.probe.observer.events().unwrap();
    for family in [4, 6] {
        let (from, to) = (Network::address(1, family), Network::address(2, family));
        let port = network.a.inside(|| {
            let socket = UdpSocket::bind((from, 0)).unwrap();
            socket.send_to(b"hello", (to, 7)).unwrap();
            socket.local_addr().unwrap().port()
        });
        let mut found = None;
        eventually("the event arrives", || {
            let mut events = std::iter::from_fn(|| ring.take::<Event>().and_then(Result::ok));
            found = events.find(|e| e.netns == network.b.inode() && e.source_port == port);
            found.is_some()
        });
        let event = found.unwrap();
        assert_eq!((event.family, event.protocol, event.direction, event.host), (family, 17, 2, 0));
        assert_eq!((event.destination_port, event.happened_in), (7, network.b.inode()));
        assert_eq!(address(family, event.source_address), from);
        assert_eq!(address(family, event.destination_address), to);
        assert_eq!(&event.interface[..5], b"eth0\0".map(|c| c as _).as_slice());
        let mut symbols = jitterscope_ebpf::Symbols::default();
        let place = symbols.name(event.location).unwrap();
        assert!(place.contains("udp") && place.contains("+0x"), "{place}");
        assert!(event.frames > 3);
    }
}

#[test]
fn an_event_finds_the_ports_behind_an_ipv6_extension_header() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let mut probe = Probe::open(&network);
    let mut ring = probe.probe.observer.events().unwrap();
    // Destination options (60) with six bytes of padding, then UDP from port 1000 to 2000 with a bad checksum.
    let packet = [17, 0, 1, 4, 0, 0, 0, 0, 0x03, 0xe8, 0x07, 0xd0, 0, 12, 0xde, 0xad, 1, 2, 3, 4];
    network.a.inside(|| {
        let options = RawProtocol::new(60).map(Protocol::from_raw);
        let socket = rustix::net::socket(AddressFamily::INET6, SocketType::RAW, options).unwrap();
        let to = SocketAddr::new(Network::address(2, 6), 0);
        rustix::net::sendto(&socket, &packet, SendFlags::empty(), &to).unwrap();
    });
    let mut found = None;
    eventually("the event arrives", || {
        let mut events = std::iter::from_fn(|| ring.take::<Event>().and_then(Result::ok));
        found = events.find(|e| e.netns == network.b.inode() && e.protocol == 17);
        found.is_some()
    });
    let event = found.unwrap();
    assert_eq!((event.family, event.source_port, event.destination_port), (6, 1000, 2000));
}

#[test]
fn cpus_that_race_for_events_together_get_no_more_than_rate_and_burst() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let mut probe = Probe::open(&network);
    let mut ring = probe.probe.observer.events().unwrap();
    probe
        .probe
        .observer
        .configure(&Telling { rate: 20, burst: 10, stack: false, ..Telling::default() })
        .unwrap();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| flood(&network.b, Network::address(2, 4), 20_000));
        }
    });
    let allowed = 10.0 + 20.0 * (start.elapsed().as_secs_f64() + 0.01);
    let inode = network.b.inode();
    let records =
        std::iter::from_fn(|| ring.take::<Event>().and_then(Result::ok)).filter(|e| e.netns == inode).count();
    assert!(records >= 10 && records as f64 <= allowed, "{records} events, {allowed} allowed");
}

fn address(family: u8, bytes: [u8; 16]) -> IpAddr {
    if family == 4 { IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]) } else { IpAddr::from(bytes) }
}

/// Answers TCP and UDP on `address` until the process ends; returns the two ports.
fn serve(namespace: &Namespace, address: IpAddr) -> (u16, u16) {
    let (tcp, udp) = namespace
        .inside(|| (TcpListener::bind((address, 0)).unwrap(), UdpSocket::bind((address, 0)).unwrap()));
    let ports = (tcp.local_addr().unwrap().port(), udp.local_addr().unwrap().port());
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            let _ = std::io::copy(&mut stream.try_clone().unwrap(), &mut stream);
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, peer)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(&buffer[..length], peer);
        }
    });
    ports
}

/// One TCP connection and one datagram, both answered; every third connection is closed half by half, every
/// fiftieth carries 200 kB.
fn request(address: IpAddr, (tcp, udp): (u16, u16), socket: &UdpSocket, number: usize) {
    let mut stream = TcpStream::connect((address, tcp)).unwrap();
    let body = vec![7; if number.is_multiple_of(50) { 200_000 } else { 100 }];
    std::thread::scope(|scope| {
        if body.len() > 1000 {
            scope.spawn(|| (&stream).write_all(&body).unwrap());
        } else {
            (&stream).write_all(&body).unwrap();
        }
        (&stream).read_exact(&mut vec![0; body.len()]).unwrap();
    });
    if number.is_multiple_of(3) {
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
    socket.send_to(b"ping", (address, udp)).unwrap();
    socket.recv_from(&mut [0; 16]).unwrap();
}

#[test]
fn a_hundred_thousand_ordinary_requests_count_nothing() {
    if !can_load() {
        return;
    }
    // The probe is there first: coming up, configuring and neighbour discovery are ordinary too.
    let early = Network::new();
    let probe = Probe::open(&early);
    let network = Network::new();
    let (done, finished) = mpsc::channel();
    let end = Instant::now() + Duration::from_secs(40);
    std::thread::scope(|scope| {
        for (cpu, target) in ["10.99.2.2", "fd99:2::2", "127.0.0.1", "::1"].into_iter().enumerate() {
            let (network, done) = (&network, done.clone());
            scope.spawn(move || {
                stay_on(cpu % std::thread::available_parallelism().unwrap());
                let address: IpAddr = target.parse().unwrap();
                let ports = serve(&network.b, address);
                let client = if address.is_loopback() { &network.b } else { &network.a };
                done.send(client.inside(|| requests(address, ports, 25_000, end))).unwrap();
            });
        }
    });
    drop(done);
    println!("{} requests", finished.iter().sum::<usize>());
    let namespaces = [&network.a, &network.b, &network.router];
    // Namespaces that come up ask for routers and neighbours at ports where nobody listens: see `settle`.
    let router = network.router.inode();
    let counted = |k: &drop_key| namespaces.iter().any(|n| n.inode() == k.netns);
    let lost = probe.count(|k| counted(k) && !(k.netns == router && is_settling(k)));
    // What is sent again comes twice, and a kernel without a reason for that frees the copy as it frees losses. It happens
    // where timers are quicker than the machine: an emulated one under load.
    let again: u64 = [&network.a, &network.b].iter().map(|n| n.counter("Tcp", "RetransSegs")).sum();
    assert!(lost <= again, "{lost} lost, {again} sent again: {}", probe.describe(&namespaces));
    println!("{again} segments sent again, {lost} counted");
}

/// Keeps this thread and those that it starts on one CPU: the packets of a connection that moves between CPUs
/// overtake each other, and the kernel really drops some of those.
fn stay_on(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).unwrap();
}

/// The datagrams to the router's discard port by which the test waits for its links.
fn is_settling(key: &drop_key) -> bool {
    key.protocol == 17 && key.direction == 2
}

fn requests(address: IpAddr, ports: (u16, u16), count: usize, end: Instant) -> usize {
    let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
    (0..count).take_while(|_| Instant::now() < end).map(|n| request(address, ports, &socket, n)).count()
}
