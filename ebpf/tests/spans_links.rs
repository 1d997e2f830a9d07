//! Anomalies of known requests are linked to these and to no others: many connections at once, each with requests one after
//! the other, of which some are hit.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;
mod instrumented;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use common::http::{Ids, get};
use common::score::Score;
use common::{Network, can_load, note, tcp};
use instrumented::{become_known, enter, leave};
use jitterscope_ebpf::abi::{
    EXEMPLARS_SAMPLED, SPAN_ROLE_CLIENT, SPAN_ROLE_SERVER, SPAN_SOURCE_THREAD, SPAN_SOURCE_WIRE, exemplar,
    retransmit_event, retransmit_key,
};
use jitterscope_ebpf::spans::{Spans, Threads, Wire};
use jitterscope_ebpf::{Kernel, Object, Observer, ObserverOptions, Ring, Table, Telling};
use rustix::time::{ClockId, clock_gettime};

const FAMILIES: [u8; 2] = [4, 6];
const PORT: u16 = 8080;
const CONNECTIONS: usize = 16;
const REQUESTS: usize = 12;
/// One in so many requests is hit.
const HIT: usize = 4;

fn telling() -> Telling {
    Telling {
        rate: 100_000,
        burst: 100_000,
        span_age: Duration::from_secs(30),
        exemplars: EXEMPLARS_SAMPLED,
        ..Telling::default()
    }
}

/// How spans are known.
enum Source {
    Wire(Box<Wire>),
    Thread(Box<Threads>),
}

impl Source {
    fn open(kernel: &Kernel, source: u32) -> Self {
        if source == SPAN_SOURCE_WIRE {
            return Self::Wire(Box::new(Wire::open(kernel).unwrap()));
        }
        let mut threads = Threads::open(kernel, None).unwrap();
        become_known(&mut threads);
        Self::Thread(Box::new(threads))
    }

    fn spans(&self) -> &Spans {
        match self {
            Self::Wire(wire) => &wire.spans,
            Self::Thread(threads) => &threads.spans,
        }
    }
}

struct Probe {
    observer: Observer,
    ring: Ring,
    exemplars: Table<retransmit_key, exemplar>,
    _source: Source,
}

impl Probe {
    fn open(network: &Network, source: u32) -> Self {
        let kernel = Kernel::read(None).unwrap();
        let source = Source::open(&kernel, source);
        let options =
            ObserverOptions { spans: Some(source.spans()), ..ObserverOptions::new(network.router.inode()) };
        let mut observer = Observer::open(&Object::TCPRETRANS, &kernel, &options).unwrap();
        observer.configure(&telling()).unwrap();
        let exemplars = observer.loaded().table("exemplars").unwrap();
        let ring = observer.events().unwrap();
        Self { observer, ring, exemplars, _source: source }
    }

    /// Events of connections to the port.
    fn events(&mut self) -> Vec<retransmit_event> {
        let records = std::iter::from_fn(|| self.ring.take::<retransmit_event>()).map(Result::unwrap);
        records
            .filter(|e| [e.head.connection.local_port, e.head.connection.peer_port].contains(&PORT))
            .collect()
    }
}

/// One request as both ends know it.
#[derive(Debug)]
struct Asked {
    ids: Ids,
    /// When it was made and when it had come to the server, in ns of `CLOCK_BOOTTIME`.
    made: u64,
    received: u64,
    /// Segments that the socket of the side in question sent again for it, by the kernel's own account.
    sent_again: u32,
}

fn now() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn sent_again(socket: &TcpStream) -> u32 {
    tcp::info(socket).tcpi_total_retrans
}

/// Packets of one side that the router drops: long ones, of connections whose client's port is in a set.
struct Faults<'a> {
    network: &'a Network,
    role: u32,
    lock: Mutex<()>,
}

impl<'a> Faults<'a> {
    fn new(network: &'a Network, role: u32) -> Self {
        let end = if role == SPAN_ROLE_CLIENT { "sport" } else { "dport" };
        network.router.sh(&format!(
            "nft add table inet t && nft \"add set inet t hit {{ type inet_service; }}\" && \
             nft \"add chain inet t c {{ type filter hook forward priority 0; }}\" && \
             nft add rule inet t c tcp {end} @hit meta length \\> 150 drop"
        ));
        Self { network, role, lock: Mutex::new(()) }
    }

    /// Sends something that is dropped if this request of the connection is to be hit.
    fn send(&self, by: u32, socket: &mut TcpStream, port: u16, request: usize, text: &[u8]) {
        let hit = by == self.role && (request + usize::from(port)).is_multiple_of(HIT);
        if hit {
            self.switch("add", port);
        }
        socket.write_all(text).unwrap();
        if hit {
            self.switch("delete", port);
        }
    }

    fn switch(&self, verb: &str, port: u16) {
        let _one = self.lock.lock().unwrap();
        self.network.router.sh(&format!("nft {verb} element inet t hit \"{{ {port} }}\""));
    }
}

impl Drop for Faults<'_> {
    fn drop(&mut self) {
        self.network.router.allow();
    }
}

const ANSWER: usize = 300;

/// Answers each request of a connection. When each had come, and how many segments were sent again for it.
fn serve(mut socket: TcpStream, faults: &Faults<'_>) -> Vec<(u64, u32)> {
    socket.set_nodelay(true).unwrap();
    let port = socket.peer_addr().unwrap().port();
    let answer = format!("HTTP/1.1 200 OK\r\n\r\n{}", "G".repeat(ANSWER - 19));
    let (mut buffer, mut text, mut totals) = ([0; 8192], Vec::new(), Vec::new());
    while let Ok(length @ 1..) = socket.read(&mut buffer) {
        text.extend_from_slice(&buffer[..length]);
        if text.ends_with(b"\r\n\r\n") {
            totals.push((now(), sent_again(&socket)));
            enter(&Ids::asked(&text));
            text.clear();
            faults.send(SPAN_ROLE_SERVER, &mut socket, port, totals.len() - 1, answer.as_bytes());
            leave();
        }
    }
    totals.push((now(), sent_again(&socket)));
    totals.windows(2).map(|two| (two[0].0, two[1].1 - two[0].1)).collect()
}

/// Makes requests and waits for the answer to each.
fn ask(mut socket: TcpStream, faults: &Faults<'_>) -> Vec<Asked> {
    socket.set_nodelay(true).unwrap();
    let port = socket.local_addr().unwrap().port();
    let one = |request: usize| {
        let ids = Ids::new();
        let (made, before) = (now(), sent_again(&socket));
        let text = get(&ids, 20 + request * 40);
        enter(&ids);
        faults.send(SPAN_ROLE_CLIENT, &mut socket, port, request, text.as_bytes());
        leave();
        socket.read_exact(&mut [0; ANSWER]).unwrap();
        Asked { ids, made, received: 0, sent_again: sent_again(&socket) - before }
    };
    (0..REQUESTS).map(one).collect()
}

/// The requests of all connections, by the client's port.
fn run(network: &Network, family: u8, faults: &Faults<'_>) -> BTreeMap<u16, Vec<Asked>> {
    let address = SocketAddr::from((Network::address(2, family), PORT));
    let listener = network.b.inside(|| TcpListener::bind(address).unwrap());
    let (mut asked, answered) = thread::scope(|scope| {
        let connect = || network.a.inside(|| TcpStream::connect(address).unwrap());
        let connections: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                let client = connect();
                let port = client.local_addr().unwrap().port();
                let server = listener.accept().unwrap().0;
                (port, scope.spawn(move || ask(client, faults)), scope.spawn(move || serve(server, faults)))
            })
            .collect();
        let mut all = (BTreeMap::new(), BTreeMap::new());
        for (port, client, server) in connections {
            all.0.insert(port, client.join().unwrap());
            all.1.insert(port, server.join().unwrap());
        }
        all
    });
    for (port, asked) in &mut asked {
        for (one, (received, again)) in asked.iter_mut().zip(&answered[port]) {
            one.received = *received;
            if faults.role == SPAN_ROLE_SERVER {
                one.sent_again = *again;
            }
        }
    }
    asked
}

/// The last request that a side knew of at a time: what is sent again may be of one that seems to be over.
fn at(asked: &[Asked], side: u32, time: u64) -> Option<&Asked> {
    let known = |one: &&Asked| if side == SPAN_ROLE_CLIENT { one.made } else { one.received } <= time;
    asked.iter().rfind(known)
}

/// One after the other: programs see the connections of all tests.
#[test]
fn segments_that_are_sent_again_are_linked_to_the_request_that_was_hit() {
    if can_load() {
        links_of(SPAN_SOURCE_WIRE, "wire");
        links_of(SPAN_SOURCE_THREAD, "thread");
    }
}

fn links_of(source: u32, name: &str) {
    let network = Network::new();
    for family in FAMILIES {
        for role in [SPAN_ROLE_CLIENT, SPAN_ROLE_SERVER] {
            let mut probe = Probe::open(&network, source);
            let faults = Faults::new(&network, role);
            let requests = run(&network, family, &faults);
            drop(faults);
            let events = probe.events();
            let score = score(&requests, &events, role, source);
            note(&format!(
                "retransmits, {name}, IPv{family}, role {role}: {score:?}, precision {:.1} %, recall {:.1} %",
                100.0 * score.precision(),
                100.0 * score.recall()
            ));
            assert!(score.hit >= CONNECTIONS * REQUESTS / HIT / 2, "{score:?}");
            assert_eq!(score.wrong, 0, "{score:?}");
            assert!(score.recall() >= 0.95, "{score:?}");
            check_exemplars(&probe, &requests);
            assert_eq!(probe.observer.account().unwrap().lost, 0);
        }
    }
}

/// Compares each event with the request that was under way on its connection.
fn score(requests: &BTreeMap<u16, Vec<Asked>>, events: &[retransmit_event], role: u32, source: u32) -> Score {
    let mut score = Score::default();
    let mut found = BTreeSet::new();
    for event in events {
        let ends = &event.head.connection;
        let of = if ends.peer_port == PORT { SPAN_ROLE_CLIENT } else { SPAN_ROLE_SERVER };
        let port = if of == SPAN_ROLE_CLIENT { ends.local_port } else { ends.peer_port };
        let asked = requests.get(&port).and_then(|asked| at(asked, of, event.head.time));
        let told = (u32::from(event.head.span.source), u32::from(event.head.span.role));
        match (Ids::of(&event.head.span), asked) {
            (None, _) => score.unlinked += 1,
            (Some(ids), Some(asked)) if (ids, told) == (asked.ids, (source, of)) => {
                score.right += 1;
                if of == role {
                    found.insert(ids);
                }
            }
            (Some(_), asked) => {
                note(&format!("wrong: {event:?} in {asked:?}"));
                score.wrong += 1;
            }
        }
    }
    let hit: Vec<Ids> =
        requests.values().flatten().filter(|one| one.sent_again > 0).map(|one| one.ids).collect();
    score.hit = hit.len();
    score.found = hit.iter().filter(|ids| found.contains(*ids)).count();
    score
}

/// Each is of a request that was made, and stands for as many segments as one event.
fn check_exemplars(probe: &Probe, requests: &BTreeMap<u16, Vec<Asked>>) {
    let mut count = 0;
    probe
        .exemplars
        .for_each(|key, exemplar| {
            let ids = Ids::of(&exemplar.link).unwrap();
            let asked = requests.values().flatten().find(|asked| asked.ids == ids);
            let asked = asked.unwrap_or_else(|| panic!("{key:?} {exemplar:?}"));
            assert!(exemplar.time >= asked.made, "{asked:?} {exemplar:?}");
            assert!((1..10).contains(&exemplar.value), "{exemplar:?}");
            count += 1;
        })
        .unwrap();
    assert!(count > 0);
}
