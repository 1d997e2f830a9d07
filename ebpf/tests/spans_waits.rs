//! Data that waits in sockets is linked to the request that it is a part of, and to no other: many connections at once, each
//! with requests one after the other, of which some are read late or cannot leave.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;
mod waits;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use common::http::{Ids, get};
use common::score::Score;
use common::{Network, can_load, note, octets};
use jitterscope_ebpf::Kernel;
use jitterscope_ebpf::abi::{
    SOCKET_READ, SOCKET_WRITE, SPAN_ROLE_CLIENT, SPAN_ROLE_SERVER, socket_wait_event,
};
use jitterscope_ebpf::histogram::Range;
use jitterscope_ebpf::socketlatency::Half;
use jitterscope_ebpf::spans::Wire;
use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::time::{ClockId, clock_gettime};
use waits::{FAMILIES, Probe, hold, readable, server, undisturbed};

const CONNECTIONS: usize = 16;
const REQUESTS: usize = 12;
/// One in so many requests is hit.
const HIT: usize = 4;
/// More than a window of receivers that do not read: twice what their buffers are told to hold, which is doubled.
const LONG: usize = 400_000;
const WINDOW: usize = 20_000;
/// An answer that is not hit.
const SHORT: usize = 300;

/// What waits: what one side reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fault {
    operation: u32,
    role: u32,
}

impl Fault {
    const ALL: [Self; 4] = [
        Self { operation: SOCKET_READ, role: SPAN_ROLE_SERVER },
        Self { operation: SOCKET_READ, role: SPAN_ROLE_CLIENT },
        Self { operation: SOCKET_WRITE, role: SPAN_ROLE_SERVER },
        Self { operation: SOCKET_WRITE, role: SPAN_ROLE_CLIENT },
    ];

    fn half(self) -> Half {
        if self.operation == SOCKET_READ { Half::Reads } else { Half::Writes }
    }

    fn hits(port: u16, request: usize) -> bool {
        (request + usize::from(port)).is_multiple_of(HIT)
    }

    /// Whether this side reads a message that is hit late: its own read waits, or what the other side writes.
    fn is_late_at(self, role: u32) -> bool {
        (self.operation == SOCKET_READ) == (self.role == role)
    }

    /// Bytes of what this side sends, beyond its head.
    fn body(self, by: u32, hit: bool) -> usize {
        if hit && self == (Self { operation: SOCKET_WRITE, role: by }) { LONG } else { 0 }
    }
}

/// One request.
#[derive(Clone, Copy, Debug)]
struct Asked {
    ids: Ids,
    /// `CLOCK_BOOTTIME`, ns.
    made: u64,
    hit: bool,
}

fn now() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Reads so many bytes, the first of them a while after they have come if they are to be `late`.
fn read(from: &mut TcpStream, length: usize, late: bool) {
    if late {
        readable(&*from, 1);
        hold();
    }
    from.read_exact(&mut vec![0; length]).unwrap();
}

/// Length of a request's head: that of all is the same, so that its reader knows it.
fn request(ids: &Ids) -> String {
    get(ids, 50)
}

fn serve(mut socket: TcpStream, fault: Fault) {
    let (port, head) = (socket.peer_addr().unwrap().port(), request(&Ids::new()).len());
    for request in 0..REQUESTS {
        let hit = Fault::hits(port, request);
        let length = head + fault.body(SPAN_ROLE_CLIENT, hit);
        read(&mut socket, length, hit && fault.is_late_at(SPAN_ROLE_SERVER));
        let length = SHORT + fault.body(SPAN_ROLE_SERVER, hit);
        let answer = format!("HTTP/1.1 200 OK\r\n\r\n{}", "G".repeat(length - 19));
        socket.write_all(answer.as_bytes()).unwrap();
    }
}

fn ask(mut socket: TcpStream, fault: Fault) -> Vec<Asked> {
    let port = socket.local_addr().unwrap().port();
    let one = |number: usize| {
        let hit = Fault::hits(port, number);
        let asked = Asked { ids: Ids::new(), made: now(), hit };
        let text = request(&asked.ids) + &"B".repeat(fault.body(SPAN_ROLE_CLIENT, hit));
        socket.write_all(text.as_bytes()).unwrap();
        let length = SHORT + fault.body(SPAN_ROLE_SERVER, hit);
        read(&mut socket, length, hit && fault.is_late_at(SPAN_ROLE_CLIENT));
        asked
    };
    (0..REQUESTS).map(one).collect()
}

/// The requests of all connections, by the client's port.
fn run(network: &Network, family: u8, fault: Fault) -> BTreeMap<u16, Vec<Asked>> {
    let listener = network.b.inside(|| TcpListener::bind(server(family)).unwrap());
    set_socket_recv_buffer_size(&listener, WINDOW).unwrap();
    thread::scope(|scope| {
        let connections: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                let client = network.a.inside(|| connect(server(family)));
                let port = client.local_addr().unwrap().port();
                let accepted = listener.accept().unwrap().0;
                accepted.set_nodelay(true).unwrap();
                scope.spawn(move || serve(accepted, fault));
                (port, scope.spawn(move || ask(client, fault)))
            })
            .collect();
        connections.into_iter().map(|(port, client)| (port, client.join().unwrap())).collect()
    })
}

/// With a receive buffer that is as small from the beginning on.
fn connect(to: SocketAddr) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, ipproto, socket};
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let client = socket(family, SocketType::STREAM, Some(ipproto::TCP)).unwrap();
    set_socket_recv_buffer_size(&client, WINDOW).unwrap();
    rustix::net::connect(&client, &to).unwrap();
    let client = TcpStream::from(client);
    client.set_nodelay(true).unwrap();
    client
}

/// Compares each event with the request that was under way on its connection: each is over before the next is made, and
/// nothing of it waits any more then. Also how many of the hit were told of at all.
fn score(requests: &BTreeMap<u16, Vec<Asked>>, events: &[socket_wait_event], fault: Fault) -> (Score, usize) {
    let mut score = Score::default();
    let (mut told, mut found) = (BTreeSet::new(), BTreeSet::new());
    for event in events {
        let ends = &event.head.connection;
        let role = if ends.peer_port == waits::PORT { SPAN_ROLE_CLIENT } else { SPAN_ROLE_SERVER };
        let port = if role == SPAN_ROLE_CLIENT { ends.local_port } else { ends.peer_port };
        let Some(asked) = requests.get(&port) else { continue };
        let asked = asked.iter().rfind(|one| one.made <= event.head.time).unwrap();
        let is_fault = (event.operation, role) == (fault.operation, fault.role);
        told.extend(is_fault.then_some(asked.ids));
        match Ids::of(&event.head.span) {
            None => score.unlinked += 1,
            Some(ids) if ids == asked.ids && u32::from(event.head.span.role) == role => {
                score.right += 1;
                found.extend(is_fault.then_some(ids));
            }
            Some(_) => {
                note(&format!("wrong: {event:?} in {asked:?}"));
                score.wrong += 1;
            }
        }
    }
    let hit: BTreeSet<Ids> = requests.values().flatten().filter(|one| one.hit).map(|one| one.ids).collect();
    score.hit = hit.len();
    score.found = hit.intersection(&found).count();
    (score, hit.intersection(&told).count())
}

/// Each is in its bucket, which has counted it, and of a request that was under way then; and whoever waited is told.
fn check_shown(probe: &Probe, network: &Network, requests: &BTreeMap<u16, Vec<Asked>>) {
    let shown = probe.shown_of(&[&network.a, &network.b]);
    assert!(!shown.is_empty());
    for (place, one) in &shown {
        let table = if place.operation == SOCKET_READ { &probe.probe.reads } else { &probe.probe.writes };
        let counted = table.get(&place.key).unwrap().unwrap();
        assert!(counted.buckets[place.bucket as usize] > 0, "{place:?} {one:?}");
        assert!(Range::LATENCY.holds(place.bucket, one.value), "{place:?} {one:?}");
        let ids = Ids::of(&one.link).unwrap();
        let of = |asked: &&Vec<Asked>| asked.iter().any(|asked| asked.ids == ids);
        let asked = requests.values().find(of).unwrap_or_else(|| panic!("{place:?} {one:?}"));
        let last = asked.iter().rfind(|asked| asked.made <= one.time).unwrap();
        assert_eq!(last.ids, ids, "{place:?} {one:?}");
        let (facts, is_client) = (&one.facts, u32::from(one.link.role) == SPAN_ROLE_CLIENT);
        assert_eq!(facts.peer_port == waits::PORT, is_client, "{one:?}");
        assert_eq!((facts.family, facts.pid), (place.key.family, std::process::id()), "{one:?}");
        let peer = Network::address(if is_client { 2 } else { 1 }, facts.family);
        assert_eq!(facts.peer_address, octets(peer), "{one:?}");
    }
}

#[test]
fn data_that_waits_is_linked_to_the_request_that_it_is_a_part_of() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    for fault in Fault::ALL {
        for family in FAMILIES {
            let wire = Wire::open(&Kernel::read(None).unwrap()).unwrap();
            let Some(mut probe) = Probe::open_linked(fault.half(), &wire.spans) else { continue };
            undisturbed("waits of all that were hit", || {
                let requests = run(&network, family, fault);
                let (score, told) = score(&requests, &probe.told_of(&[&network.a, &network.b]), fault);
                note(&format!(
                    "waits, IPv{family}, {fault:?}: {score:?}, precision {:.1} %, recall {:.1} %",
                    100.0 * score.precision(),
                    100.0 * score.recall()
                ));
                assert!(score.hit >= CONNECTIONS * REQUESTS / HIT / 2, "{score:?}");
                assert_eq!(score.wrong, 0, "{score:?}");
                check_shown(&probe, &network, &requests);
                // What is told must be linked, whether all was or not.
                assert!(score.found as f64 >= 0.95 * told as f64, "{score:?} of {told} told");
                score.recall() >= 0.95
            });
            assert_eq!(probe.probe.observer.account().unwrap().lost, 0);
        }
    }
}
