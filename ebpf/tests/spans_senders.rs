//! Anomalies of connections on which nothing can be read, linked to the span of the thread that sent: to that one or to none,
//! and where a request says more, to what it says.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;
mod instrumented;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::scope;

use common::http::{Ids, get};
use common::refuse::refuse_all;
use common::{Namespace, Network};
use instrumented::watch::{Watch, each};
use instrumented::{enter, leave};
use jitterscope_ebpf::abi::{
    RETRANSMIT_SYN, SPAN_ROLE_CLIENT, SPAN_SOURCE_THREAD, SPAN_SOURCE_WIRE, span_link,
};

/// Nobody listens there.
const CLOSED: u16 = 9;
/// What TLS looks like.
const SECRET: [u8; 100] = [0x17; 100];

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
            watch.dropped(to.port(), port);
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
