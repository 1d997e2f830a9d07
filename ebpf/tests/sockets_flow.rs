//! Traffic by peer adds up to what the interfaces and connections carried, whenever connections end.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod common;
mod holding;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Namespace, Network, can_load, eventually, is_at_least, octets};
use jitterscope_ebpf::Kernel;
use jitterscope_ebpf::abi::flow;
use jitterscope_ebpf::sockets::{Options, Sockets};

/// Connections of the storm.
const STORM: usize = 20_000;
/// Bytes of one request, and of its answer: each a single segment, for a device counts several that it is given at once
/// as one packet.
const REQUEST: usize = 100;
const ANSWER: usize = 1000;

/// The program with flows; `None`, with a line that says why, where the kernel has not what it takes.
fn open(options: &Options) -> Option<Sockets> {
    if !can_load() {
        return None;
    }
    let opened = Sockets::open(&Kernel::read(None).unwrap(), &Options { flow: true, ..options.clone() });
    match opened {
        Ok(sockets) => Some(sockets),
        Err(error) => {
            // Storage of sockets for tracing programs came with 5.11, atomic exchange with 5.12.
            assert!(!is_at_least((5, 12)), "{error}");
            println!("skipped: needs socket storage and atomic exchange: {error}");
            None
        }
    }
}

/// What sockets of `namespace` carried from and to `peer`.
fn with(pass: &Sockets, namespace: &Namespace, peer: IpAddr) -> flow {
    let mut sum = flow::default();
    let family = if peer.is_ipv4() { 4 } else { 6 };
    pass.flows(|key, flow| {
        if (key.entity.netns, key.family, key.address) == (namespace.inode(), family, octets(peer)) {
            sum.received += flow.received;
            sum.sent += flow.sent;
            sum.segments_in += flow.segments_in;
            sum.segments_out += flow.segments_out;
            sum.retransmits += flow.retransmits;
            sum.connections += flow.connections;
            sum.round_trip_times += flow.round_trip_times;
        }
    })
    .unwrap();
    sum
}

/// Answers each connection until told to end; the client closes first or not, in turn.
fn serve(listener: &TcpListener, ended: &AtomicBool) {
    let mut request = [0; REQUEST];
    for stream in listener.incoming() {
        if ended.load(Ordering::Relaxed) {
            return;
        }
        let mut stream = stream.unwrap();
        stream.read_exact(&mut request).unwrap();
        stream.write_all(&[b'a'; ANSWER]).unwrap();
        // Ends when the client has ended.
        let _ = stream.read(&mut request).unwrap();
    }
}

fn ask(to: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.write_all(&[b'q'; REQUEST]).unwrap();
    let mut answer = [0; ANSWER];
    stream.read_exact(&mut answer).unwrap();
    stream
}

/// A device's counters: bytes and packets, received and sent.
fn device(namespace: &Namespace) -> [u64; 4] {
    let text = namespace.inside(|| fs::read_to_string("/proc/thread-self/net/dev").unwrap());
    let line = text.lines().find(|line| line.trim_start().starts_with("eth0:")).unwrap();
    let numbers: Vec<u64> = line.split_whitespace().skip(1).map(|n| n.parse().unwrap()).collect();
    [numbers[0], numbers[1], numbers[8], numbers[9]]
}

#[test]
fn a_storm_of_short_connections_adds_up_to_what_the_interfaces_carried() {
    let Some(mut pass) = open(&Options::default()) else { return };
    let network = Network::new();
    let (a, b) = (&network.a, &network.b);
    for family in [4, 6] {
        let (from, to) = (Network::address(1, family), Network::address(2, family));
        let listener = b.inside(|| TcpListener::bind((to, 0)).unwrap());
        let address = listener.local_addr().unwrap();
        let ended = AtomicBool::new(false);
        // More connections than ports, none of which may rest.
        a.sh("sysctl -qw net.ipv4.ip_local_port_range=\"1024 65535\" net.ipv4.tcp_tw_reuse=1");
        let before = device(a);
        let segments = |namespace: &Namespace, name: &str| namespace.counter("Tcp", name);
        let counters = ["InSegs", "OutSegs", "RetransSegs"];
        let start: Vec<u64> = counters.iter().map(|name| segments(a, name)).collect();
        std::thread::scope(|scope| {
            scope.spawn(|| serve(&listener, &ended));
            for _ in 0..4 {
                a.inside(|| (0..STORM / 4).for_each(|_| drop(ask(address))));
                assert_eq!(pass.pass().unwrap().flow_overflow, 0);
            }
            ended.store(true, Ordering::Relaxed);
            a.inside(|| drop(TcpStream::connect(address).unwrap()));
        });
        let storm = STORM as u64;
        let all = |of: u64, each: usize| of + missed(&pass) * each as u64 >= storm * each as u64;
        eventually("all connections have ended", || {
            let (client, server) = (with(&pass, a, to), with(&pass, b, from));
            all(client.sent, REQUEST) && all(server.received, REQUEST)
        });
        pass.pass().unwrap();
        let (client, server) = (with(&pass, a, to), with(&pass, b, from));
        println!("IPv{family}: client {client:?}\nserver {server:?}");
        let missed = missed(&pass);
        for (found, each) in [
            (client.sent, REQUEST),
            (server.received, REQUEST),
            (client.received, ANSWER),
            (server.sent, ANSWER),
        ] {
            let all = storm * each as u64;
            assert!(found <= all && all <= found + missed * each as u64, "{found} of {all}, {missed} missed");
        }
        let now: Vec<u64> = counters.iter().map(|name| segments(a, name)).collect();
        let [incoming, outgoing, again] = [0, 1, 2].map(|i| now[i] - start[i]);
        println!("segments: in {incoming}, out {outgoing}, sent again {again}");
        assert!(client.retransmits <= again && again <= client.retransmits + missed * SEGMENTS);
        let unseen = storm + missed * SEGMENTS;
        within(client.segments_in, incoming, unseen);
        within(client.segments_out, outgoing + again, unseen);
        let after = device(a);
        let [bytes_in, packets_in, bytes_out, packets_out] = [0, 1, 2, 3].map(|i| after[i] - before[i]);
        println!("eth0: {packets_in} packets in, {bytes_in} bytes; {packets_out} out, {bytes_out}");
        within(client.segments_in, packets_in, unseen);
        within(client.segments_out, packets_out, unseen);
        if again + missed == 0 {
            same_bytes(client.received, packets_in, bytes_in, family);
            same_bytes(client.sent, packets_out, bytes_out, family);
        }
    }
}

/// Ends of connections that the program did not see, and that the kernel says so of: it skips a program for what an
/// interrupt does on top of it.
fn missed(pass: &Sockets) -> u64 {
    let programs = pass.loaded().programs().unwrap();
    programs.iter().find(|program| program.name == "flow_state").unwrap().recursion_misses
}

/// More than a connection of the storm sends or gets.
const SEGMENTS: u64 = 12;

/// What a connection in time-wait sends and gets is nobody's: at most a segment each. A few packets are neighbours'.
fn within(flow: u64, all: u64, unseen: u64) {
    assert!(flow <= all && all <= flow + unseen + OTHERS, "{flow} of {all}");
}

/// Packets of neighbour discovery, and of the connection that ends the server.
const OTHERS: u64 = 32;

/// A device's bytes are payload and headers: of Ethernet, of IP, of TCP with time stamps, and with eight bytes of options
/// more on the first segment of a connection.
fn same_bytes(payload: u64, packets: u64, bytes: u64, family: u8) {
    let ip = if family == 4 { 20 } else { 40 };
    let expected = payload + packets * (14 + ip + 32) + STORM as u64 * 8;
    assert!(bytes.abs_diff(expected) <= OTHERS * 100, "{bytes} of {expected}");
}

#[test]
fn a_living_connection_is_added_once_however_often_it_is_visited() {
    let Some(mut pass) = open(&Options::default()) else { return };
    let network = Network::new();
    for family in [4, 6] {
        let (from, to) = (Network::address(1, family), Network::address(2, family));
        let listener = network.b.inside(|| TcpListener::bind((to, 0)).unwrap());
        let mut client = network.a.inside(|| TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let mut server = listener.accept().unwrap().0;
        for round in 1..=5_u64 {
            client.write_all(&[1; 1000]).unwrap();
            server.read_exact(&mut [0; 1000]).unwrap();
            for _ in 0..3 {
                pass.pass().unwrap();
            }
            let (sent, received) = (with(&pass, &network.a, to), with(&pass, &network.b, from));
            assert_eq!((sent.sent, received.received), (1000 * round, 1000 * round));
            assert!(sent.connections == 1 && sent.round_trip_times > 0, "{sent:?}");
        }
        // Half closed: a FIN is no byte.
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(server.read(&mut [0; 1]).unwrap(), 0);
        pass.pass().unwrap();
        assert_eq!(with(&pass, &network.b, from).received, 5000);
        server.write_all(&[1; 70]).unwrap();
        client.read_exact(&mut [0; 70]).unwrap();
        drop((client, server));
        eventually("both ends are told to the last byte", || {
            pass.pass().unwrap();
            let (client, server) = (with(&pass, &network.a, to), with(&pass, &network.b, from));
            (client.sent, client.received, server.sent, server.received) == (5000, 70, 70, 5000)
        });
    }
}

#[test]
fn a_socket_that_is_connected_again_starts_from_nothing() {
    let Some(mut pass) = open(&Options::default()) else { return };
    let network = Network::new();
    let to = Network::address(2, 4);
    let listener = network.b.inside(|| TcpListener::bind((to, 0)).unwrap());
    let socket = network.a.inside(|| TcpStream::connect(listener.local_addr().unwrap()).unwrap());
    for round in 1..=3_u64 {
        let mut server = listener.accept().unwrap().0;
        (&socket).write_all(&[1; 500]).unwrap();
        server.read_exact(&mut [0; 500]).unwrap();
        pass.pass().unwrap();
        rustix::net::connect_unspec(&socket).unwrap();
        pass.pass().unwrap();
        assert_eq!(with(&pass, &network.a, to).sent, 500 * round);
        rustix::net::connect(&socket, &listener.local_addr().unwrap()).unwrap();
    }
}

#[test]
fn peers_without_room_add_up_in_the_rest() {
    let Some(mut pass) = open(&Options { flows: 1, ..Options::default() }) else { return };
    let namespace = Namespace::new();
    let sent = |address: &str| {
        namespace.inside(|| {
            let listener = TcpListener::bind((address, 0)).unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let mut server = listener.accept().unwrap().0;
            client.write_all(&[1; 300]).unwrap();
            server.read_exact(&mut [0; 300]).unwrap();
        });
    };
    let addresses = ["127.0.0.1", "127.0.0.2", "127.0.0.3", "::1"];
    addresses.iter().for_each(|address| sent(address));
    let mut kept = 0;
    eventually("nothing is lost", || {
        pass.pass().unwrap();
        kept = 0;
        pass.flows(|_, flow| kept += flow.sent).unwrap();
        // Others on this machine may have the one place.
        kept + pass.flow_rest().unwrap().sent >= 1200
    });
    assert!(pass.account().unwrap().flow_overflow >= 3);
    assert!(kept < 1200 || pass.flow_rest().unwrap().sent > 0);
}
