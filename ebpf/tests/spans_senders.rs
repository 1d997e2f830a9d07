//! Anomalies of connections on which nothing can be read, linked to the span of the thread that sent: to that one or to none,
//! and where a request says more, to what it says.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;
mod instrumented;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::scope;
use std::time::Duration;

use common::contexts::FAMILIES;
use common::http::{Ids, get};
use common::refuse::refuse_all;
use common::{Namespace, Network, can_load, eventually};
use instrumented::kept::{alone, storages};
use instrumented::{become_known, enter, leave};
use jitterscope_ebpf::abi::{
    DIRECTION_RECEIVE, RETRANSMIT_SYN, SPAN_ROLE_CLIENT, SPAN_SOURCE_THREAD, SPAN_SOURCE_WIRE, reset_event,
    retransmit_event, span_link,
};
use jitterscope_ebpf::packetloss::Event;
use jitterscope_ebpf::spans::{Questions, Reads, Spans, Threads, Wire};
use jitterscope_ebpf::{Constant, Kernel, Object, Observer, ObserverOptions, Ring, Telling};

/// Nobody listens there.
const CLOSED: u16 = 9;
/// What TLS looks like.
const SECRET: [u8; 100] = [0x17; 100];

/// Tracepoints whose number of arguments programs are told.
const HOOKS: [(&Object, &str); 2] =
    [(&Object::TCPRESET, "tcp_send_reset"), (&Object::PACKETLOSS, "kfree_skb")];

/// The sources, and programs that see anomalies.
struct Watch {
    wire: Option<Wire>,
    _threads: Threads,
    questions: Questions,
    resets: (Observer, Ring),
    retransmits: (Observer, Ring),
    losses: (Observer, Ring),
    /// Whether the kernel tells whom a dropped packet was for (6.11).
    tells_receiver: bool,
}

fn observe(object: &Object, kernel: &Kernel, network: &Network, spans: &Spans) -> (Observer, Ring) {
    let hook = HOOKS.iter().find(|(of, _)| of.name == object.name).map(|(_, hook)| *hook);
    let arguments = hook.and_then(|hook| kernel.btf().tracepoint_arguments(hook)).unwrap_or(2) as u32;
    let constants = [Constant { name: "arguments", value: &arguments.to_ne_bytes() }];
    let options = ObserverOptions {
        constants: if hook.is_some() { &constants } else { &[] },
        spans: Some(spans),
        ..ObserverOptions::new(network.router.inode())
    };
    let mut observer = Observer::open(object, kernel, &options).unwrap();
    let telling = Telling { rate: 10_000, burst: 10_000, ..Telling::default() };
    observer.configure(&Telling { span_age: Duration::from_secs(30), ..telling }).unwrap();
    let ring = observer.events().unwrap();
    (observer, ring)
}

impl Watch {
    fn open(kernel: &Kernel, network: &Network, storage: u32, with_wire: bool) -> Self {
        let wire = with_wire.then(|| Wire::open_with(kernel, storage).unwrap());
        let beside = wire.as_ref().map(|wire| &wire.spans);
        let mut threads = Threads::open_with(kernel, beside, storage, Reads::THREADS).unwrap();
        let questions = become_known(&mut threads);
        let resets = observe(&Object::TCPRESET, kernel, network, &threads.spans);
        let retransmits = observe(&Object::TCPRETRANS, kernel, network, &threads.spans);
        let losses = observe(&Object::PACKETLOSS, kernel, network, &threads.spans);
        let tells_receiver = kernel.btf().tracepoint_arguments("kfree_skb").is_some_and(|n| n >= 4);
        Self { wire, _threads: threads, questions, resets, retransmits, losses, tells_receiver }
    }

    /// What was told of segments that were sent again to a port.
    fn told(&mut self, to: u16) -> Vec<retransmit_event> {
        let events = std::iter::from_fn(|| self.retransmits.1.take::<retransmit_event>());
        events.map(Result::unwrap).filter(|event| event.head.connection.peer_port == to).collect()
    }

    /// The same once there is one.
    fn sent_again(&mut self, to: u16) -> Vec<retransmit_event> {
        let mut found = Vec::new();
        eventually("a segment is sent again", || {
            found.extend(self.told(to));
            !found.is_empty()
        });
        found
    }

    /// Links of packets with data that were dropped on their way between two ports, once there is one.
    fn lost(&mut self, from: u16, to: u16) -> Vec<span_link> {
        let mut found = Vec::new();
        eventually("a dropped packet", || {
            let events = std::iter::from_fn(|| self.losses.1.take::<Event>()).map(Result::unwrap);
            let wanted =
                events.filter(|e| (e.source_port, e.destination_port) == (from, to) && e.length > 100);
            found.extend(wanted.map(|event| event.span));
            !found.is_empty()
        });
        found
    }

    /// What was told of a reset that came from a port.
    fn reset(&mut self, from: u16) -> span_link {
        let mut found = None;
        eventually("a reset comes", || {
            let events = std::iter::from_fn(|| self.resets.1.take::<reset_event>()).map(Result::unwrap);
            let is_ours = |e: &reset_event| {
                u32::from(e.key.direction) == DIRECTION_RECEIVE && e.head.connection.peer_port == from
            };
            found = events.filter(is_ours).last().or(found);
            found.is_some()
        });
        found.unwrap().head.span
    }
}

/// Runs a case for each storage, with one or both sources.
fn each(with_wire: bool, case: impl Fn(&mut Watch, &Network, u8)) {
    if !can_load() {
        return;
    }
    let _alone = alone();
    let kernel = Kernel::read(None).unwrap();
    let network = Network::new();
    for storage in storages(&kernel) {
        for family in FAMILIES {
            case(&mut Watch::open(&kernel, &network, storage, with_wire), &network, family);
        }
    }
}

fn assert_of(link: &span_link, source: u32, ids: Ids) {
    assert_eq!((u32::from(link.source), u32::from(link.role)), (source, SPAN_ROLE_CLIENT), "{link:?}");
    assert_eq!(Ids::of(link), Some(ids));
}

/// Runs `body` on a thread of a namespace, within a span or none.
fn within<T: Send>(namespace: &Namespace, ids: Option<Ids>, body: impl FnOnce() -> T + Send) -> T {
    namespace.inside(|| {
        ids.iter().for_each(enter);
        let result = body();
        leave();
        result
    })
}

/// Somebody who listens in `b`, and where.
fn listen(network: &Network, family: u8) -> (TcpListener, SocketAddr) {
    let address = SocketAddr::from((Network::address(2, family), 0));
    let listener = network.b.inside(|| TcpListener::bind(address).unwrap());
    let at = listener.local_addr().unwrap();
    (listener, at)
}

#[test]
fn a_refused_connection_is_of_the_span_that_wanted_it() {
    each(false, |watch, network, family| {
        let to = SocketAddr::from((Network::address(2, family), CLOSED));
        for ids in [Some(Ids::new()), None, Some(Ids::new())] {
            within(&network.a, ids, || TcpStream::connect(to).unwrap_err());
            let link = watch.reset(CLOSED);
            match ids {
                Some(ids) => assert_of(&link, SPAN_SOURCE_THREAD, ids),
                None => assert_eq!(Ids::of(&link), None),
            }
        }
    });
}

#[test]
fn the_wish_to_connect_is_linked_until_it_is_fulfilled() {
    each(false, |watch, network, family| {
        let (listener, to) = listen(network, family);
        let ids = Ids::new();
        network.router.refuse("forward", &format!("tcp dport {}", to.port()));
        let mut client = scope(|scope| {
            let connecting =
                scope.spawn(|| within(&network.a, Some(ids), || TcpStream::connect(to).unwrap()));
            let mut again = watch.sent_again(to.port());
            network.router.allow();
            let client = connecting.join().unwrap();
            again.extend(watch.told(to.port()));
            for event in again {
                assert_eq!(event.type_, RETRANSMIT_SYN);
                assert_of(&event.head.span, SPAN_SOURCE_THREAD, ids);
            }
            client
        });
        let mut server = listener.accept().unwrap().0;
        // What is sent on it by who is in no span belongs to none.
        network.router.refuse("forward", &format!("tcp dport {}", to.port()));
        client.write_all(&SECRET).unwrap();
        let again = watch.sent_again(to.port());
        network.router.allow();
        assert!(again.iter().all(|event| Ids::of(&event.head.span).is_none()), "{again:?}");
        server.read_exact(&mut [0; 100]).unwrap();
    });
}

#[test]
fn what_is_sent_again_is_never_told_as_of_who_sent_after_it() {
    each(false, |watch, network, family| {
        let (listener, to) = listen(network, family);
        let mut client = network.a.inside(|| TcpStream::connect(to).unwrap());
        client.set_nodelay(true).unwrap();
        let mut server = listener.accept().unwrap().0;
        let (first, second) = (Ids::new(), Ids::new());
        network.router.refuse("forward", &format!("tcp dport {}", to.port()));
        within(&network.a, Some(first), || client.write_all(&SECRET).unwrap());
        let alone = watch.sent_again(to.port());
        alone.iter().for_each(|event| assert_of(&event.head.span, SPAN_SOURCE_THREAD, first));
        within(&network.a, Some(second), || client.write_all(&SECRET).unwrap());
        // The first bytes are sent again before those: nothing is known of who sent them any more.
        let both = watch.sent_again(to.port());
        network.router.allow();
        assert!(both.iter().all(|event| Ids::of(&event.head.span) != Some(second)), "{both:?}");
        server.read_exact(&mut [0; 200]).unwrap();
    });
}

#[test]
fn what_comes_in_is_of_the_one_span_that_ever_sent() {
    each(false, |watch, network, family| {
        let (listener, to) = listen(network, family);
        let mut client = network.a.inside(|| TcpStream::connect(to).unwrap());
        client.set_nodelay(true).unwrap();
        let mut server = listener.accept().unwrap().0;
        let port = client.local_addr().unwrap().port();
        let ids = Ids::new();
        // The same span twice, another one, and the first again.
        for (sender, expected) in [(ids, Some(ids)), (ids, Some(ids)), (Ids::new(), None), (ids, None)] {
            within(&network.a, Some(sender), || client.write_all(&SECRET).unwrap());
            server.read_exact(&mut [0; 100]).unwrap();
            refuse_all(&client, true);
            server.write_all(&[0x17; 200]).unwrap();
            for link in watch.lost(to.port(), port) {
                match expected.filter(|_| watch.tells_receiver) {
                    Some(ids) => assert_of(&link, SPAN_SOURCE_THREAD, ids),
                    None => assert_eq!(Ids::of(&link), None),
                }
            }
            refuse_all(&client, false);
            client.read_exact(&mut [0; 200]).unwrap();
            // What was dropped again meanwhile.
            std::iter::from_fn(|| watch.losses.1.take::<Event>()).for_each(drop);
        }
    });
}

#[test]
fn what_a_request_says_goes_before_what_its_thread_says_and_ends_the_trust_in_that() {
    each(true, |watch, network, family| {
        let (listener, to) = listen(network, family);
        let wire = watch.wire.as_ref().unwrap().spans.share().unwrap();
        let conflicts = || wire.counts(SPAN_SOURCE_THREAD).unwrap().conflicting;
        // What is lost is told of; `expected` by whom and as what.
        let lose = |watch: &mut Watch, of: Ids, text: &[u8], expected: Option<(u32, Ids)>| {
            let mut client = network.a.inside(|| TcpStream::connect(to).unwrap());
            let mut server = listener.accept().unwrap().0;
            network.router.refuse("forward", &format!("tcp dport {}", to.port()));
            within(&network.a, Some(of), || client.write_all(text).unwrap());
            let mut again = watch.sent_again(to.port());
            network.router.allow();
            server.read_exact(&mut vec![0; text.len()]).unwrap();
            again.extend(watch.told(to.port()));
            for event in again {
                match expected {
                    Some((source, ids)) => assert_of(&event.head.span, source, ids),
                    None => assert_eq!(Ids::of(&event.head.span), None),
                }
            }
        };
        let (ids, other) = (Ids::new(), Ids::new());
        lose(watch, ids, &SECRET, Some((SPAN_SOURCE_THREAD, ids)));
        // The span of the request is a child of the thread's, as clients make them.
        let child = Ids { span: other.span, ..ids };
        lose(watch, ids, get(&child, 0).as_bytes(), Some((SPAN_SOURCE_WIRE, child)));
        assert_eq!(conflicts(), 0);
        lose(watch, ids, get(&other, 0).as_bytes(), Some((SPAN_SOURCE_WIRE, other)));
        assert_eq!(conflicts(), 1);
        lose(watch, ids, &SECRET, None);
        // User space does not come to trust it again.
        assert_eq!(watch.questions.answer().unwrap(), 0);
        lose(watch, ids, &SECRET, None);
    });
}
