//! Resets are counted on the side that sent and on the side that got them, as often as the kernel counts, in both families.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use common::{Namespace, Network, can_load, eventually};
use jitterscope_ebpf::abi::{DIRECTION_RECEIVE, DIRECTION_TRANSMIT, reset_event, reset_key};
use jitterscope_ebpf::{Constant, Kernel, Object, Observer, ObserverOptions, PerCpuTable, Ring, Telling};

const FAMILIES: [u8; 2] = [4, 6];
const PORT: u16 = 7777;
/// `include/net/tcp_states.h`
const ESTABLISHED: u8 = 1;
const SYN_SENT: u8 = 2;

/// What is hooked before 6.10, for resets that the tracepoint does not see there.
const WITHOUT_SOCKET: [&str; 2] = ["tcp_v4_send_reset", "tcp_v6_send_reset"];

struct Probe {
    resets: PerCpuTable<reset_key, u64>,
    ring: Ring,
    /// Values of the running kernel's reasons; empty before 6.10.
    reasons: Vec<(String, u64)>,
    _observer: Observer,
}

impl Probe {
    fn open(network: &Network) -> Self {
        let kernel = Kernel::read(None).unwrap();
        let arguments = kernel.btf().tracepoint_arguments("tcp_send_reset").unwrap() as u32;
        let options = ObserverOptions {
            constants: &[Constant { name: "arguments", value: &arguments.to_ne_bytes() }],
            without: if arguments < 3 { &[] } else { &WITHOUT_SOCKET },
            ..ObserverOptions::new(network.router.inode())
        };
        let mut observer = Observer::open(&Object::TCPRESET, &kernel, &options).unwrap();
        observer.configure(&Telling { rate: 1000, burst: 1000, ..Telling::default() }).unwrap();
        Self {
            resets: observer.loaded().per_cpu_table("resets").unwrap(),
            ring: observer.events().unwrap(),
            reasons: kernel.btf().enumerators("sk_rst_reason").unwrap_or_default(),
            _observer: observer,
        }
    }

    fn count(&self, of: &Namespace, family: u8, direction: u32, wanted: impl Fn(&reset_key) -> bool) -> u64 {
        let (mut count, inode) = (0, of.inode());
        let is_of = |key: &reset_key| {
            (key.entity.netns, key.family, key.direction) == (inode, family, direction as u8)
        };
        self.resets.for_each(|key, n| count += if is_of(key) && wanted(key) { *n } else { 0 }).unwrap();
        count
    }

    /// Resets that a namespace sent for a reason, where the kernel gives reasons.
    fn sent(&self, of: &Namespace, family: u8, reason: &str) -> u64 {
        let name = format!("SK_RST_REASON_{reason}");
        let number =
            self.reasons.iter().find(|(known, _)| *known == name).map(|(_, value)| *value as u32 + 1);
        let is_wanted = |key: &reset_key| number.is_none_or(|number| key.reason == number);
        self.count(of, family, DIRECTION_TRANSMIT, is_wanted)
    }

    fn received(&self, of: &Namespace, family: u8, state: u8) -> u64 {
        self.count(of, family, DIRECTION_RECEIVE, |key| key.state == state)
    }

    fn events(&mut self, of: &Namespace, family: u8) -> Vec<reset_event> {
        let inode = of.inode();
        let records = std::iter::from_fn(|| self.ring.take::<reset_event>()).map(Result::unwrap);
        records.filter(|event| (event.key.entity.netns, event.key.family) == (inode, family)).collect()
    }
}

fn server(family: u8) -> SocketAddr {
    (Network::address(2, family), PORT).into()
}

fn connect(from: &Namespace, family: u8) -> TcpStream {
    from.inside(|| TcpStream::connect_timeout(&server(family), Duration::from_secs(10)).unwrap())
}

fn address(family: u8, bytes: [u8; 16]) -> IpAddr {
    match family {
        4 => IpAddr::from(<[u8; 4]>::try_from(&bytes[..4]).unwrap()),
        _ => IpAddr::from(bytes),
    }
}

/// Every reset that the kernel counts as sent has been counted.
fn agrees(probe: &Probe, of: &Namespace) {
    eventually("as many resets were sent as the kernel counts", || {
        let sent = |family: &u8| probe.count(of, *family, DIRECTION_TRANSMIT, |_| true);
        FAMILIES.iter().map(sent).sum::<u64>() == of.counter("Tcp", "OutRsts")
    });
}

#[test]
fn a_closed_port_resets_and_the_asker_gets_it() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let mut probe = Probe::open(&network);
    for family in FAMILIES {
        for _ in 0..20 {
            network
                .a
                .inside(|| TcpStream::connect_timeout(&server(family), Duration::from_secs(10)).unwrap_err());
        }
        assert_eq!(probe.received(&network.a, family, SYN_SENT), 20);
        assert_eq!(probe.sent(&network.b, family, "NO_SOCKET"), 20);
        agrees(&probe, &network.b);
        let event = probe.events(&network.b, family)[0];
        let ends = event.head.connection;
        assert_eq!(address(family, ends.local_address), Network::address(2, family), "{event:?}");
        assert_eq!(address(family, ends.peer_address), Network::address(1, family), "{event:?}");
        assert!(ends.local_port == PORT && ends.peer_port != 0, "{event:?}");
    }
}

#[test]
fn a_close_with_unread_data_resets_an_established_connection() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let mut probe = Probe::open(&network);
    for family in FAMILIES {
        let listener = network.b.inside(|| TcpListener::bind(server(family)).unwrap());
        // What the client closes before the reset is there would not be established any more.
        let mut clients = Vec::new();
        for _ in 0..10 {
            let mut client = connect(&network.a, family);
            let (accepted, _) = listener.accept().unwrap();
            client.write_all(b"unread").unwrap();
            eventually("the data has arrived", || accepted.peek(&mut [0; 8]).is_ok_and(|bytes| bytes == 6));
            drop(accepted);
            clients.push(client);
        }
        eventually("the client got them", || probe.received(&network.a, family, ESTABLISHED) == 10);
        assert_eq!(probe.sent(&network.b, family, "TCP_ABORT_ON_CLOSE"), 10);
        agrees(&probe, &network.b);
        let event = probe.events(&network.b, family)[0];
        let ends = event.head.connection;
        assert_eq!(address(family, ends.local_address), Network::address(2, family), "{event:?}");
        assert!(ends.local_port == PORT && ends.peer_port != 0, "{event:?}");
    }
}

#[test]
fn a_close_with_linger_0_resets_an_established_connection() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let probe = Probe::open(&network);
    for family in FAMILIES {
        let listener = network.b.inside(|| TcpListener::bind(server(family)).unwrap());
        // What the server closes before the reset is there would not be established any more.
        let mut accepted = Vec::new();
        for _ in 0..10 {
            let client = connect(&network.a, family);
            accepted.push(listener.accept().unwrap());
            rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
            drop(client);
        }
        eventually("the server got them", || probe.received(&network.b, family, ESTABLISHED) == 10);
        assert_eq!(probe.count(&network.a, family, DIRECTION_TRANSMIT, |_| true), 10);
        agrees(&probe, &network.a);
    }
}

#[test]
fn ordinary_connections_count_nothing() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let probe = Probe::open(&network);
    for family in FAMILIES {
        let listener = network.b.inside(|| TcpListener::bind(server(family)).unwrap());
        for _ in 0..200 {
            let client = connect(&network.a, family);
            drop(listener.accept().unwrap());
            drop(client);
        }
        for side in [&network.a, &network.b] {
            for direction in [DIRECTION_RECEIVE, DIRECTION_TRANSMIT] {
                assert_eq!(probe.count(side, family, direction, |_| true), 0);
            }
        }
    }
}
