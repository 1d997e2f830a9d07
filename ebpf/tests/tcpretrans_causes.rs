//! Segments that TCP sends again are counted by cause, as many as the kernel itself counts, in both families, and told with
//! the ends of their connection.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use common::passages::{soon, undisturbed};
use common::{Namespace, Network, can_load, eventually};
use jitterscope_ebpf::abi::{
    RETRANSMIT_FAST, RETRANSMIT_SYN, RETRANSMIT_SYN_ACK, RETRANSMIT_TAIL_LOSS_PROBE, RETRANSMIT_TIMEOUT,
    retransmit_event, retransmit_key,
};
use jitterscope_ebpf::{Kernel, Object, Observer, ObserverOptions, PerCpuTable, Ring, Telling};

const FAMILIES: [u8; 2] = [4, 6];
const PORT: u16 = 7777;

struct Probe {
    observer: Observer,
    retransmits: PerCpuTable<retransmit_key, u64>,
    ring: Ring,
}

impl Probe {
    fn open(network: &Network) -> Self {
        let kernel = Kernel::read(None).unwrap();
        let options = ObserverOptions::new(network.router.inode());
        let mut observer = Observer::open(&Object::TCPRETRANS, &kernel, &options).unwrap();
        observer.configure(&Telling { rate: 1000, burst: 1000, ..Telling::default() }).unwrap();
        let retransmits = observer.loaded().per_cpu_table("retransmits").unwrap();
        let ring = observer.events().unwrap();
        Self { observer, retransmits, ring }
    }

    /// Segments of a namespace and family, of one type or of all.
    fn count(&self, of: &Namespace, family: u8, wanted: Option<u32>) -> u64 {
        let mut count = 0;
        let inode = of.inode();
        let is_wanted = |key: &retransmit_key| {
            (key.entity.netns, key.family) == (inode, family.into())
                && wanted.is_none_or(|of| of == key.type_)
        };
        self.retransmits
            .for_each(|key, segments| count += if is_wanted(key) { *segments } else { 0 })
            .unwrap();
        count
    }

    /// The events of a namespace and family so far.
    fn events(&mut self, of: &Namespace, family: u8) -> Vec<retransmit_event> {
        let inode = of.inode();
        let records = std::iter::from_fn(|| self.ring.take::<retransmit_event>());
        records
            .map(Result::unwrap)
            .filter(|event| (event.head.entity.netns, event.head.connection.family) == (inode, family))
            .collect()
    }
}

fn segments_sent_again(of: &Namespace) -> u64 {
    of.counter("Tcp", "RetransSegs")
}

/// Waits until `at_least` segments of a type were counted in `of`, and as many of all types as the kernel counts there,
/// which it does for both families together.
fn agrees(probe: &Probe, of: &Namespace, family: u8, wanted: u32, at_least: u64) {
    eventually(
        &format!("family {family}: {at_least} of type {wanted}, and as many in all as the kernel counts"),
        || {
            let all: u64 = FAMILIES.iter().map(|family| probe.count(of, *family, None)).sum();
            probe.count(of, family, Some(wanted)) >= at_least && all == segments_sent_again(of)
        },
    );
}

fn listen(in_: &Namespace, family: u8) -> TcpListener {
    in_.inside(|| TcpListener::bind((Network::address(2, family), PORT)).unwrap())
}

fn connect(from: &Namespace, family: u8) -> TcpStream {
    let to = SocketAddr::from((Network::address(2, family), PORT));
    from.inside(|| TcpStream::connect_timeout(&to, Duration::from_secs(10)).unwrap())
}

/// The event's ends are those of a connection from `a` to the port in `b`, seen from the side that `local` is on.
fn check_ends(event: &retransmit_event, family: u8, local: u8, client_port: Option<u16>) {
    let ends = &event.head.connection;
    let address = |bytes: [u8; 16]| match family {
        4 => IpAddr::from(<[u8; 4]>::try_from(&bytes[..4]).unwrap()),
        _ => IpAddr::from(bytes),
    };
    let (here, there) = (Network::address(local, family), Network::address(3 - local, family));
    assert_eq!((address(ends.local_address), address(ends.peer_address)), (here, there), "{event:?}");
    let (client, server) =
        if local == 1 { (ends.local_port, ends.peer_port) } else { (ends.peer_port, ends.local_port) };
    assert_eq!((server, ends.family, ends.protocol), (PORT, family, 6), "{event:?}");
    assert!(client_port.is_none_or(|port| port == client), "{event:?}");
    assert!(event.head.time > 0 && event.head.entity.netns_cookie > 0, "{event:?}");
}

/// Asks for a connection that nobody answers. False when not all that was sent again was seen, whatever that was.
fn unanswered(family: u8) -> bool {
    let network = Network::new();
    let mut probe = Probe::open(&network);
    network.router.refuse("forward", &format!("tcp dport {PORT}"));
    let to = SocketAddr::from((Network::address(2, family), PORT));
    network.a.inside(|| TcpStream::connect_timeout(&to, Duration::from_millis(3500)).unwrap_err());
    let counted = || probe.count(&network.a, family, None);
    if !soon(|| counted() == segments_sent_again(&network.a)) {
        assert!(counted() < segments_sent_again(&network.a), "more than the kernel counts");
        return false;
    }
    let requests = probe.count(&network.a, family, Some(RETRANSMIT_SYN));
    assert_eq!(requests, counted());
    assert!(requests >= 2, "{requests}");
    let events = probe.events(&network.a, family);
    assert_eq!(events.len() as u64, requests);
    events.iter().for_each(|event| check_ends(event, family, 1, None));
    assert_eq!(events.iter().map(|event| event.attempts).take(2).collect::<Vec<_>>(), [1, 2]);
    true
}

#[test]
fn an_unanswered_connection_request_is_counted_on_the_one_who_asks() {
    if !can_load() {
        return;
    }
    for family in FAMILIES {
        undisturbed("all requests that were sent again", || unanswered(family));
    }
}

#[test]
fn a_lost_answer_to_a_connection_request_is_counted_on_the_one_who_listens() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let mut probe = Probe::open(&network);
    for family in FAMILIES {
        let _listener = listen(&network.b, family);
        network.router.refuse("forward", &format!("tcp sport {PORT}"));
        let to = SocketAddr::from((Network::address(2, family), PORT));
        network.a.inside(|| TcpStream::connect_timeout(&to, Duration::from_millis(2500)).unwrap_err());
        agrees(&probe, &network.b, family, RETRANSMIT_SYN_ACK, 1);
        network.router.allow();
        for event in probe.events(&network.b, family) {
            assert_eq!(event.type_, RETRANSMIT_SYN_ACK, "{event:?}");
            check_ends(&event, family, 2, None);
        }
    }
}

/// Sends something that is lost. False when not all that was sent again was seen.
fn lost_tail(family: u8) -> bool {
    let network = Network::new();
    let mut probe = Probe::open(&network);
    let listener = listen(&network.b, family);
    let mut client = connect(&network.a, family);
    let port = client.local_addr().unwrap().port();
    let _server = listener.accept().unwrap();
    network.router.refuse("forward", &format!("tcp dport {PORT}"));
    client.write_all(b"lost").unwrap();
    eventually("sent again by timeouts", || segments_sent_again(&network.a) >= 3);
    network.router.allow();
    let counted = |type_| probe.count(&network.a, family, type_);
    if !soon(|| counted(None) == segments_sent_again(&network.a)) {
        assert!(counted(None) < segments_sent_again(&network.a), "more than the kernel counts");
        return false;
    }
    assert_eq!(counted(Some(RETRANSMIT_TAIL_LOSS_PROBE)), 1);
    assert_eq!(counted(Some(RETRANSMIT_TIMEOUT)), counted(None) - 1);
    let events = probe.events(&network.a, family);
    assert_eq!(events[0].type_, RETRANSMIT_TAIL_LOSS_PROBE, "{events:?}");
    assert!(events[0].smoothed_rtt > 0 && events[0].congestion_window > 0, "{events:?}");
    events.iter().for_each(|event| check_ends(event, family, 1, Some(port)));
    true
}

#[test]
fn a_lost_tail_is_probed_and_then_sent_again_after_timeouts() {
    if !can_load() {
        return;
    }
    for family in FAMILIES {
        undisturbed("all that was sent again", || lost_tail(family));
    }
}

#[test]
fn a_segment_whose_followers_arrived_is_sent_again_at_once() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let probe = Probe::open(&network);
    for family in FAMILIES {
        let listener = listen(&network.b, family);
        let mut client = connect(&network.a, family);
        client.set_nodelay(true).unwrap();
        let _server = listener.accept().unwrap();
        // The first large packet and no other.
        network.router.refuse(
            "forward",
            &format!("tcp dport {PORT} meta length \\> 900 limit rate 1/day burst 1 packets"),
        );
        (0..20).for_each(|_| client.write_all(&[0; 1000]).unwrap());
        agrees(&probe, &network.a, family, RETRANSMIT_FAST, 1);
        // A slow machine may also have probed the tail, which `agrees` has compared with the kernel's own count.
        assert_eq!(probe.count(&network.a, family, Some(RETRANSMIT_FAST)), 1);
        network.router.allow();
    }
}

#[test]
fn ordinary_traffic_counts_nothing() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let probe = Probe::open(&network);
    for family in FAMILIES {
        let listener = listen(&network.b, family);
        for _ in 0..200 {
            let mut client = connect(&network.a, family);
            client.write_all(b"request").unwrap();
            drop(listener.accept().unwrap());
        }
        assert_eq!(probe.count(&network.a, family, None) + probe.count(&network.b, family, None), 0);
    }
    assert_eq!(probe.observer.account().unwrap().overflow, 0);
}
