//! Packets that are held between device and socket are linked to the request that they are a part of: one that was answered
//! before is on the same connection.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use common::held::{Held, PORT, Verdict, server};
use common::http::{Ids, get};
use common::passages::{Passages, THRESHOLD, undisturbed};
use common::{Namespace, Network, can_load, eventually, note, tcp};
use jitterscope_ebpf::Kernel;
use jitterscope_ebpf::abi::{
    DIRECTION_RECEIVE, DIRECTION_TRANSMIT, SPAN_ROLE_CLIENT, SPAN_ROLE_SERVER, passage_event,
};
use jitterscope_ebpf::spans::Wire;

const FAMILIES: [u8; 2] = [4, 6];
/// Above the threshold, and below the time after which TCP sends again (`TCP_RTO_MIN`).
const HOLD: Duration = Duration::from_millis(150);
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Where packets are held: by netfilter at one of the ends, which sends them or receives them.
#[derive(Clone, Copy, Debug)]
struct Fault {
    role: u32,
    direction: u32,
}

impl Fault {
    const ALL: [Self; 4] = [
        Self { role: SPAN_ROLE_CLIENT, direction: DIRECTION_TRANSMIT },
        Self { role: SPAN_ROLE_SERVER, direction: DIRECTION_RECEIVE },
        Self { role: SPAN_ROLE_SERVER, direction: DIRECTION_TRANSMIT },
        Self { role: SPAN_ROLE_CLIENT, direction: DIRECTION_RECEIVE },
    ];

    fn place(self, network: &Network) -> &Namespace {
        if self.role == SPAN_ROLE_CLIENT { &network.a } else { &network.b }
    }

    /// Whether it is the request that is held, else the answer.
    fn is_of_request(self) -> bool {
        (self.role == SPAN_ROLE_CLIENT) == (self.direction == DIRECTION_TRANSMIT)
    }

    fn hold(self, network: &Network, port: u16, family: u8) -> Held<'_> {
        let chain = if self.direction == DIRECTION_TRANSMIT { "OUTPUT" } else { "INPUT" };
        Held::new(self.place(network), chain, "tcp", port, family)
    }
}

/// A connection with requests one after the other.
struct Connection {
    client: TcpStream,
    server: TcpStream,
}

impl Connection {
    fn new(network: &Network, family: u8) -> Self {
        let listener = network.b.inside(|| TcpListener::bind(server(family)).unwrap());
        let client = network.a.inside(|| TcpStream::connect(server(family)).unwrap());
        client.set_nodelay(true).unwrap();
        Self { client, server: listener.accept().unwrap().0 }
    }

    /// A request, of which what the fault holds is late.
    fn exchange(&mut self, network: &Network, family: u8, fault: Option<Fault>) -> Ids {
        let ids = Ids::new();
        let text = get(&ids, 50);
        let port = self.client.local_addr().unwrap().port();
        let late = |wanted| fault.filter(|fault| fault.is_of_request() == wanted);
        send(&mut self.client, &mut self.server, text.as_bytes(), || {
            late(true).map(|fault| fault.hold(network, PORT, family))
        });
        send(&mut self.server, &mut self.client, ANSWER, || {
            late(false).map(|fault| fault.hold(network, port, family))
        });
        ids
    }
}

/// Sends something, which is held where `hold` says, until the other side has received it.
fn send<'a>(from: &mut TcpStream, to: &mut TcpStream, text: &[u8], hold: impl FnOnce() -> Option<Held<'a>>) {
    // No acknowledgement is on its way, to be held in place of the data.
    eventually("all is acknowledged", || tcp::info(to).tcpi_unacked == 0);
    let held = hold();
    from.write_all(text).unwrap();
    if let Some(held) = &held {
        held.decide(1, HOLD, Verdict::Accept);
    }
    to.read_exact(&mut vec![0; text.len()]).unwrap();
    drop(held);
}

/// Slow packets of a connection with data in a direction.
fn slow(probe: &mut Passages, network: &Network, fault: Fault, port: u16) -> Vec<passage_event> {
    let mut events = probe.events(fault.place(network));
    events.retain(|event| {
        let ends = [event.ends.source_port, event.ends.destination_port];
        ends.contains(&port) && u32::from(event.key.direction) == fault.direction && event.length > 80
    });
    events
}

#[test]
fn a_packet_that_is_held_is_linked_to_the_request_that_it_is_a_part_of() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let wire = Wire::open(&Kernel::read(None).unwrap()).unwrap();
    let mut probe = Passages::open_linked(&network, &wire.spans);
    for fault in Fault::ALL {
        for family in FAMILIES {
            undisturbed(&format!("{fault:?}, IPv{family}"), || {
                let mut connection = Connection::new(&network, family);
                let port = connection.client.local_addr().unwrap().port();
                let mut told = 0;
                for _ in 0..4 {
                    connection.exchange(&network, family, None);
                    drop(slow(&mut probe, &network, fault, port));
                    let ids = connection.exchange(&network, family, Some(fault));
                    let events = slow(&mut probe, &network, fault, port);
                    for event in &events {
                        let link = &event.span;
                        assert!(u128::from(event.duration) >= THRESHOLD.as_nanos());
                        assert_eq!(
                            (Ids::of(link), u32::from(link.role)),
                            (Some(ids), fault.role),
                            "{fault:?} {event:?}"
                        );
                    }
                    told += usize::from(!events.is_empty());
                }
                note(&format!("slow packets, IPv{family}, {fault:?}: {told} of 4 requests, all links right"));
                told == 4
            });
        }
    }
}

#[test]
fn packets_without_data_and_of_other_messages_have_no_link() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let wire = Wire::open(&Kernel::read(None).unwrap()).unwrap();
    let mut probe = Passages::open_linked(&network, &wire.spans);
    for fault in [Fault::ALL[0], Fault::ALL[1]] {
        for family in FAMILIES {
            undisturbed(&format!("{fault:?}, IPv{family}"), || {
                let mut connection = Connection::new(&network, family);
                let port = connection.client.local_addr().unwrap().port();
                connection.exchange(&network, family, None);
                drop(probe.events(fault.place(&network)));
                // No request, after one that was answered.
                let (client, server) = (&mut connection.client, &mut connection.server);
                send(client, server, &[0; 100], || Some(fault.hold(&network, PORT, family)));
                let other = slow(&mut probe, &network, fault, port);
                // The end of the connection, or what else comes without data.
                connection.exchange(&network, family, None);
                eventually("all is acknowledged", || tcp::info(&connection.server).tcpi_unacked == 0);
                let held = fault.hold(&network, PORT, family);
                connection.client.shutdown(std::net::Shutdown::Write).unwrap();
                held.decide(1, HOLD, Verdict::Accept);
                assert_eq!(connection.server.read(&mut [0]).unwrap(), 0);
                let mut all = probe.events(fault.place(&network));
                all.retain(|event| event.ends.source_port == port);
                let links = other.iter().chain(&all).filter(|event| event.span.source != 0);
                assert_eq!(links.count(), 0, "{other:?} {all:?}");
                !other.is_empty() && !all.is_empty()
            });
        }
    }
}
