//! What waits in a connection of requests but is of none, or of another one than the last, has no link.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;
mod waits;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use common::http::{Ids, get};
use common::{Network, can_load};
use jitterscope_ebpf::Kernel;
use jitterscope_ebpf::socketlatency::Half;
use jitterscope_ebpf::spans::Wire;
use waits::{FAMILIES, Probe, connection, hold, readable, undisturbed};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Both ends of a connection.
struct Ends {
    client: TcpStream,
    server: TcpStream,
}

impl Ends {
    /// A request that is read and answered at once.
    fn exchange(&mut self) {
        let text = get(&Ids::new(), 50);
        self.client.write_all(text.as_bytes()).unwrap();
        self.server.read_exact(&mut vec![0; text.len()]).unwrap();
        self.answer();
    }

    fn answer(&mut self) {
        self.server.write_all(ANSWER).unwrap();
        self.client.read_exact(&mut [0; ANSWER.len()]).unwrap();
    }

    /// The server reads so many of at least as many bytes, late.
    fn read_late(&mut self, bytes: usize) {
        readable(&self.server, bytes);
        hold();
        self.server.read_exact(&mut vec![0; bytes]).unwrap();
    }
}

/// Lets something wait in a connection on which a request was answered: all that is told of it has the expected link.
fn each(expected: impl Fn(&mut Ends) -> Vec<Option<Ids>>) {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let wire = Wire::open(&Kernel::read(None).unwrap()).unwrap();
    let Some(mut probe) = Probe::open_linked(Half::Reads, &wire.spans) else { return };
    for family in FAMILIES {
        undisturbed("reads that come late", || {
            let (client, server) = connection(&network, family);
            let mut ends = Ends { client, server };
            ends.exchange();
            drop(probe.told(&network.b));
            let expected = expected(&mut ends);
            let told = probe.told(&network.b);
            let links: Vec<Option<Ids>> = told.iter().map(|event| Ids::of(&event.head.span)).collect();
            // Some were not seen to arrive; none has another link.
            assert!(links.len() <= expected.len(), "{told:?}");
            if links.len() < expected.len() {
                return false;
            }
            assert_eq!(links, expected);
            true
        });
    }
}

#[test]
fn a_request_without_a_context_is_not_told_as_the_one_before() {
    each(|ends| {
        let text = "GET /cart HTTP/1.1\r\nHost: shop\r\n\r\n";
        ends.client.write_all(text.as_bytes()).unwrap();
        ends.read_late(text.len());
        vec![None]
    });
}

#[test]
fn what_is_no_request_is_not_told_as_the_one_before() {
    each(|ends| {
        ends.client.write_all(&[7; 100]).unwrap();
        ends.read_late(100);
        vec![None]
    });
}

#[test]
fn a_body_is_of_its_request_until_that_is_answered() {
    each(|ends| {
        let ids = Ids::new();
        let text = get(&ids, 50);
        ends.client.write_all(text.as_bytes()).unwrap();
        ends.server.read_exact(&mut vec![0; text.len()]).unwrap();
        ends.client.write_all(&[b'B'; 100]).unwrap();
        ends.read_late(50);
        ends.answer();
        ends.read_late(50);
        vec![Some(ids), None]
    });
}

#[test]
fn a_body_that_is_left_unread_is_not_told_as_the_next_request() {
    each(|ends| {
        let (first, next) = (Ids::new(), Ids::new());
        let text = get(&first, 50);
        ends.client.write_all(text.as_bytes()).unwrap();
        ends.server.read_exact(&mut vec![0; text.len()]).unwrap();
        ends.client.write_all(&[b'B'; 100]).unwrap();
        readable(&ends.server, 100);
        ends.answer();
        let text = get(&next, 50);
        ends.client.write_all(text.as_bytes()).unwrap();
        readable(&ends.server, 100 + text.len());
        ends.read_late(100);
        ends.read_late(text.len());
        vec![None, Some(next)]
    });
}

#[test]
fn requests_that_overlap_have_no_link() {
    each(|ends| {
        let text = get(&Ids::new(), 50);
        for _ in 0..2 {
            ends.client.write_all(text.as_bytes()).unwrap();
        }
        readable(&ends.server, 2 * text.len());
        ends.read_late(text.len());
        ends.read_late(text.len());
        vec![None, None]
    });
}
