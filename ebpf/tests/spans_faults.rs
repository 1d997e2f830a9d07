//! One request on a connection, then another: what happens to the second is never told of the first, and what happens to
//! none is told of none.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use common::http::{Ids, get};
use common::refuse::refuse_all;
use common::{Network, can_load, eventually, note};
use jitterscope_ebpf::abi::{
    DIRECTION_RECEIVE, SPAN_ROLE_CLIENT, SPAN_ROLE_SERVER, SPAN_SOURCE_WIRE, reset_event, span_link,
};
use jitterscope_ebpf::packetloss::Event;
use jitterscope_ebpf::spans::Wire;
use jitterscope_ebpf::{Constant, Kernel, Object, Observer, ObserverOptions, Ring, Telling};

const FAMILIES: [u8; 2] = [4, 6];
const AGE: Duration = Duration::from_secs(30);
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn telling(span_age: Duration) -> Telling {
    Telling { rate: 10_000, burst: 10_000, span_age, ..Telling::default() }
}

/// A connection of two containers.
struct Connection {
    client: TcpStream,
    server: TcpStream,
}

impl Connection {
    fn new(network: &Network, family: u8) -> Self {
        let address = SocketAddr::from((Network::address(2, family), 0));
        let listener = network.b.inside(|| TcpListener::bind(address).unwrap());
        let to = listener.local_addr().unwrap();
        let client = network.a.inside(|| TcpStream::connect(to).unwrap());
        client.set_nodelay(true).unwrap();
        Self { client, server: listener.accept().unwrap().0 }
    }

    fn ask(&mut self, text: &str) {
        self.client.write_all(text.as_bytes()).unwrap();
        self.server.read_exact(&mut vec![0; text.len()]).unwrap();
    }

    fn answer(&mut self) {
        self.server.write_all(ANSWER).unwrap();
        self.client.read_exact(&mut [0; 40][..ANSWER.len()]).unwrap();
    }

    /// A request and its answer.
    fn exchange(&mut self) -> Ids {
        let ids = Ids::new();
        self.ask(&get(&ids, 50));
        self.answer();
        ids
    }

    /// Ports of client and server.
    fn ports(&self) -> (u16, u16) {
        (self.client.local_addr().unwrap().port(), self.client.peer_addr().unwrap().port())
    }
}

/// A program that knows the spans, and its ring.
fn open(
    network: &Network,
    kernel: &Kernel,
    wire: &Wire,
    object: &Object,
    arguments: u32,
) -> (Observer, Ring) {
    let constants = [Constant { name: "arguments", value: &arguments.to_ne_bytes() }];
    let options = ObserverOptions {
        constants: &constants,
        spans: Some(&wire.spans),
        ..ObserverOptions::new(network.router.inode())
    };
    let mut observer = Observer::open(object, kernel, &options).unwrap();
    observer.configure(&telling(AGE)).unwrap();
    let ring = observer.events().unwrap();
    (observer, ring)
}

struct Losses {
    wire: Wire,
    observer: Observer,
    ring: Ring,
    /// Whether the kernel tells whom a packet was for.
    tells_receiver: bool,
}

impl Losses {
    fn open(network: &Network, age: Duration) -> Self {
        let kernel = Kernel::read(None).unwrap();
        let wire = Wire::open(&kernel).unwrap();
        let arguments = kernel.btf().tracepoint_arguments("kfree_skb").unwrap_or(2) as u32;
        // Nothing is harmless, what a socket refuses neither: faults of sockets are easiest made like that.
        let observer = open(network, &kernel, &wire, &Object::PACKETLOSS, arguments);
        let losses = Self { wire, ring: observer.1, observer: observer.0, tells_receiver: arguments >= 4 };
        losses.observer.configure(&telling(age)).unwrap();
        losses
    }

    /// Links of dropped packets with data from one port to another, once there is one.
    fn links(&mut self, from: u16, to: u16) -> Vec<span_link> {
        let mut found = Vec::new();
        eventually("a dropped packet", || {
            let events = std::iter::from_fn(|| self.ring.take::<Event>()).map(Result::unwrap);
            let wanted =
                events.filter(|e| (e.source_port, e.destination_port) == (from, to) && e.length > 60);
            found.extend(wanted.map(|event| event.span));
            !found.is_empty()
        });
        assert_eq!(self.observer.account().unwrap().lost, 0);
        found
    }

    /// All links are of this request and role, on kernels that tell the receiver; on others there are none.
    fn expect(&mut self, (from, to): (u16, u16), ids: Ids, role: u32) {
        let links = self.links(from, to);
        for link in &links {
            let expected = self.tells_receiver.then_some((ids, role));
            assert_eq!(Ids::of(link).map(|ids| (ids, u32::from(link.role))), expected, "of {links:?}");
        }
    }
}

#[test]
fn a_request_that_its_receiver_drops_is_not_told_as_the_one_before() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let mut losses = Losses::open(&network, AGE);
    if !losses.tells_receiver {
        note("this kernel does not tell whom a packet was for: no link is expected");
    }
    for family in FAMILIES {
        for _ in 0..5 {
            let mut connection = Connection::new(&network, family);
            let (client, server) = connection.ports();
            connection.exchange();
            let ids = Ids::new();
            refuse_all(&connection.server, true);
            connection.client.write_all(get(&ids, 60).as_bytes()).unwrap();
            losses.expect((client, server), ids, SPAN_ROLE_SERVER);
            refuse_all(&connection.server, false);
            connection.server.read_exact(&mut vec![0; get(&ids, 60).len()]).unwrap();

            // And its answer, by the one who asked.
            refuse_all(&connection.client, true);
            connection.server.write_all(ANSWER).unwrap();
            losses.expect((server, client), ids, SPAN_ROLE_CLIENT);
            refuse_all(&connection.client, false);
            connection.client.read_exact(&mut [0; 40][..ANSWER.len()]).unwrap();
        }
    }
}

#[test]
fn a_request_that_is_dropped_before_its_socket_has_seen_it_is_not_told_as_the_one_before() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let mut losses = Losses::open(&network, AGE);
    for family in FAMILIES {
        for (at, hook) in [(&network.a, "output"), (&network.b, "input")] {
            let mut connection = Connection::new(&network, family);
            let (client, server) = connection.ports();
            let before = connection.exchange();
            let ids = Ids::new();
            at.refuse(hook, &format!("tcp dport {server}"));
            connection.client.write_all(get(&ids, 60).as_bytes()).unwrap();
            for link in losses.links(client, server) {
                assert_ne!(Ids::of(&link), Some(before), "at {hook}");
            }
            at.allow();
            connection.server.read_exact(&mut vec![0; get(&ids, 60).len()]).unwrap();
        }
    }
}

#[test]
fn a_context_is_not_believed_past_its_age() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let mut losses = Losses::open(&network, Duration::from_nanos(1));
    let expired = |losses: &Losses| losses.wire.counts(SPAN_SOURCE_WIRE).unwrap().expired;
    for family in FAMILIES {
        let mut connection = Connection::new(&network, family);
        let (client, server) = connection.ports();
        let before = expired(&losses);
        connection.ask(&get(&Ids::new(), 0));
        refuse_all(&connection.client, true);
        connection.server.write_all(ANSWER).unwrap();
        let links = losses.links(server, client);
        assert!(links.iter().all(|link| link.source == 0), "{links:?}");
        assert_eq!(expired(&losses) > before, losses.tells_receiver);
    }
}

struct Resets {
    _wire: Wire,
    observer: Observer,
    ring: Ring,
}

impl Resets {
    fn open(network: &Network) -> Self {
        let kernel = Kernel::read(None).unwrap();
        let wire = Wire::open(&kernel).unwrap();
        let arguments = kernel.btf().tracepoint_arguments("tcp_send_reset").unwrap_or(2) as u32;
        let (observer, ring) = open(network, &kernel, &wire, &Object::TCPRESET, arguments);
        Self { _wire: wire, observer, ring }
    }

    /// What both sides of the connection were told of: the sender's link and the receiver's.
    fn links(&mut self, server: u16) -> [Option<Ids>; 2] {
        let mut found = [None, None];
        eventually("both sides are told", || {
            for event in std::iter::from_fn(|| self.ring.take::<reset_event>()).map(Result::unwrap) {
                let ends = &event.head.connection;
                if [ends.local_port, ends.peer_port].contains(&server) {
                    let side = usize::from(u32::from(event.key.direction) == DIRECTION_RECEIVE);
                    found[side] = Some(Ids::of(&event.head.span));
                }
            }
            found.iter().all(Option::is_some)
        });
        assert_eq!(self.observer.account().unwrap().lost, 0);
        found.map(Option::unwrap)
    }
}

/// The server resets a connection on which a request was answered, and on which `meanwhile` leaves something unread: both sides
/// are linked to what that returns.
fn resets_are_of(meanwhile: impl Fn(&mut Connection) -> Option<Ids>) {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let mut resets = Resets::open(&network);
    for family in FAMILIES {
        let mut connection = Connection::new(&network, family);
        connection.exchange();
        let (_, port) = connection.ports();
        let expected = meanwhile(&mut connection);
        drop(connection.server);
        assert_eq!(resets.links(port), [expected; 2]);
    }
}

#[test]
fn a_reset_is_of_the_request_that_has_no_answer_yet() {
    resets_are_of(|connection| {
        let ids = Ids::new();
        connection.client.write_all(get(&ids, 60).as_bytes()).unwrap();
        // A part of it stays unread.
        connection.server.read_exact(&mut [0; 20]).unwrap();
        Some(ids)
    });
}

#[test]
fn a_reset_of_an_idle_connection_is_of_no_request() {
    resets_are_of(|connection| {
        // Nobody asked for this, and it is not read.
        connection.client.write_all(b"x").unwrap();
        connection.server.peek(&mut [0]).unwrap();
        None
    });
}
