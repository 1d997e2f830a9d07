//! The socket pass counts every socket that has a descriptor once, as `ss` lists them inside each namespace.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

mod common;
mod holding;

use std::io::{IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use common::{Namespace, Network, can_load, eventually};
use holding::{Holder, Killed, Sums, listed, open, sums};
use jitterscope_ebpf::Merge as _;
use jitterscope_ebpf::abi::{histogram, socket_sums};
use jitterscope_ebpf::sockets::{Options, Sockets};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

const TCP: u16 = 6;
const UDP: u16 = 17;
const MPTCP: u16 = 262;
const UNIX: u16 = 1;
const ESTABLISHED: u8 = 1;
const SYN_SENT: u8 = 2;
const LISTEN: u8 = 10;

#[test]
#[ignore = "a process of the other tests"]
fn hold() {
    holding::hold(|name, number| match name {
        // Connections that nobody accepts, with data that nobody reads.
        "waiting" => {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let to = listener.local_addr().unwrap();
            let connect = |_| {
                let mut stream = TcpStream::connect(to).unwrap();
                stream.write_all(b"hello").unwrap();
                stream
            };
            Box::new((listener, (0..number).map(connect).collect::<Vec<_>>()))
        }
        "mptcp" => Box::new(mptcp(number)),
        "copies" => {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let copies: Vec<UdpSocket> = (0..number).map(|_| socket.try_clone().unwrap()).collect();
            Box::new((socket, copies))
        }
        "passed" => Box::new(passed()),
        "children" => Box::new(children(number)),
        _ => panic!("nobody knows how to hold {name}"),
    });
}

/// A socket that came to a second descriptor through a Unix socket.
fn passed() -> (UdpSocket, OwnedFd) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (from, to) = UnixStream::pair().unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [socket.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
    rustix::net::sendmsg(&from, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    rustix::net::recvmsg(&to, &mut [IoSliceMut::new(&mut [0])], &mut control, RecvFlags::empty()).unwrap();
    let received = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    (socket, received.unwrap())
}

/// Processes whose standard input is one and the same socket.
fn children(number: usize) -> (UdpSocket, Vec<Killed>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let child = |_| {
        let input: OwnedFd = socket.try_clone().unwrap().into();
        Killed(Command::new("sleep").arg("60").stdin(input).stdout(Stdio::null()).spawn().unwrap())
    };
    let children = (0..number).map(child).collect();
    (socket, children)
}

/// A listener and accepted connections of Multipath TCP.
fn mptcp(number: usize) -> Vec<OwnedFd> {
    let protocol = rustix::net::RawProtocol::new(262).map(rustix::net::Protocol::from_raw);
    let socket = || rustix::net::socket(AddressFamily::INET, SocketType::STREAM, protocol).unwrap();
    let listener = socket();
    rustix::net::bind(&listener, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    rustix::net::listen(&listener, 128).unwrap();
    let to: SocketAddr = rustix::net::getsockname(&listener).unwrap().try_into().unwrap();
    let mut all = Vec::new();
    for _ in 0..number {
        let client = socket();
        rustix::net::connect(&client, &to).unwrap();
        let server = rustix::net::accept(&listener).unwrap();
        // The connection is Multipath TCP for sure when data has been acknowledged.
        assert_eq!(rustix::io::write(&client, b"x").unwrap(), 1);
        all.extend([client, server]);
    }
    all.push(listener);
    all
}

fn tcp(all: &Sums) -> Sums {
    all.iter().filter(|((protocol, ..), _)| *protocol == TCP).map(|(key, sums)| (*key, *sums)).collect()
}

fn number(all: &Sums, protocol: u16, family: u8, state: u8) -> u64 {
    all.get(&(protocol, family, state)).map_or(0, |sums| sums.sockets)
}

/// Both ways to get from a file to its socket, once where the kernel has but one.
fn both() -> [Sockets; 2] {
    [true, false].map(|typed| open(&Options { typed, ..Options::default() }))
}

/// Compares all TCP sums of a namespace with `ss`, once nothing moves any more.
fn compare(pass: &mut Sockets, namespace: &Namespace) -> Sums {
    eventually("the pass and ss say the same", || {
        let told = listed(namespace);
        let account = pass.pass().unwrap();
        assert_eq!((account.unmarked, account.uncounted, account.unmeasured), (0, 0, 0));
        let found = tcp(&sums(pass, namespace.inode()));
        let same = found.iter().map(viewed).eq(told.iter().map(viewed));
        if !same {
            println!("the pass: {found:#?}\nss: {told:#?}");
        }
        same
    });
    sums(pass, namespace.inode())
}

/// What `ss` can tell of a kind: it counts a subflow like any other socket.
fn viewed((kind, sums): (&(u16, u8, u8), &socket_sums)) -> ((u16, u8, u8), [u64; 7]) {
    let sockets = sums.sockets + sums.subflows;
    let queues = [sums.receive_queue, sums.transmit_queue, sums.window, sums.unacked];
    let [receive, transmit, window, unacked] = queues;
    (*kind, [sockets, receive, transmit, window, unacked, sums.backlog, sums.backlog_limit])
}

#[test]
fn sockets_of_each_namespace_are_those_that_ss_lists_at_0_1000_and_20000() {
    if !can_load() {
        return;
    }
    let [empty, some, many] = [(); 3].map(|()| Namespace::new());
    let _some = Holder::new(&some, "tcp4=125 tcp6=125 mapped=125 udp4=60 udp6=60 unix=65");
    let _many: Vec<Holder> =
        ["tcp4=3333", "tcp6=3333", "mapped=3334"].map(|what| Holder::new(&many, what)).into();
    for mut pass in both() {
        assert!(compare(&mut pass, &empty).is_empty());
        let found = compare(&mut pass, &some);
        // Three connections of two sockets each; of the mapped ones both ends speak IPv4, and their listener is IPv6.
        assert_eq!((number(&found, TCP, 4, ESTABLISHED), number(&found, TCP, 6, ESTABLISHED)), (500, 250));
        assert_eq!((number(&found, TCP, 4, LISTEN), number(&found, TCP, 6, LISTEN)), (1, 2));
        assert_eq!((number(&found, UDP, 4, 0), number(&found, UDP, 6, 0)), (60, 60));
        assert_eq!(number(&found, UNIX, 0, 0), 130);
        let found = compare(&mut pass, &many);
        assert_eq!(number(&found, TCP, 4, ESTABLISHED) + number(&found, TCP, 6, ESTABLISHED), 20_000);
    }
}

#[test]
fn connections_that_nobody_accepts_are_in_the_accept_queue_and_nowhere_else() {
    if !can_load() {
        return;
    }
    let namespace = Namespace::new();
    let _holder = Holder::new(&namespace, "waiting=7");
    for mut pass in both() {
        let found = compare(&mut pass, &namespace);
        let listener = found[&(TCP, 4, LISTEN)];
        assert_eq!((listener.sockets, listener.backlog, listener.backlog_limit), (1, 7, 128));
        // Their bytes wait in sockets that are nobody's yet.
        let clients = found[&(TCP, 4, ESTABLISHED)];
        assert_eq!((clients.sockets, clients.receive_queue), (7, 0));
    }
}

#[test]
fn bytes_that_nobody_reads_or_acknowledges_are_in_the_queues() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let (a, b) = (&network.a, &network.b);
    let listener = b.inside(|| TcpListener::bind((Network::address(2, 4), 0)).unwrap());
    let mut client = a.inside(|| TcpStream::connect(listener.local_addr().unwrap()).unwrap());
    let _server = listener.accept().unwrap().0;
    client.write_all(&[1; 3000]).unwrap();
    let mut pass = open(&Options::default());
    let found = compare(&mut pass, b);
    assert_eq!(found[&(TCP, 4, ESTABLISHED)].receive_queue, 3000);
    b.refuse("input", "meta l4proto tcp");
    client.write_all(&[1; 500]).unwrap();
    let found = compare(&mut pass, a);
    let sender = found[&(TCP, 4, ESTABLISHED)];
    assert!((sender.transmit_queue, sender.unacked) == (500, 1), "{sender:?}");
    b.allow();
}

#[test]
fn handshakes_that_the_peer_does_not_complete_are_counted_by_their_listener() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let (a, b) = (&network.a, &network.b);
    // What answers the first segment gets lost.
    a.refuse("input", "meta l4proto tcp");
    for (family, domain) in [(4, AddressFamily::INET), (6, AddressFamily::INET6)] {
        let listener = b.inside(|| TcpListener::bind((Network::address(2, family), 0)).unwrap());
        let to = listener.local_addr().unwrap();
        let connect = || {
            let socket =
                rustix::net::socket_with(domain, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
            assert_eq!(rustix::net::connect(&socket, &to).unwrap_err(), rustix::io::Errno::INPROGRESS);
            socket
        };
        let clients: Vec<OwnedFd> = a.inside(|| (0..5).map(|_| connect()).collect());
        let mut pass = open(&Options::default());
        eventually("the pass and ss see five requests", || {
            pass.pass().unwrap();
            let listed = b.sh("ss --no-header --tcp --numeric state syn-recv").lines().count() as u64;
            let found = sums(&pass, b.inode());
            (found.get(&(TCP, family, LISTEN)).map(|listener| listener.requests), listed) == (Some(5), 5)
        });
        assert_eq!(number(&sums(&pass, a.inode()), TCP, family, SYN_SENT), clients.len() as u64);
        drop((clients, listener));
    }
}

#[test]
fn a_socket_is_counted_once_however_many_descriptors_it_has() {
    if !can_load() {
        return;
    }
    let namespace = Namespace::new();
    // The shell has copies of what it leaves to its child; both have the socket that ip opened for them: none.
    let _holder = Holder::new(&namespace, "udp4=10 copies=300 passed=1 children=3");
    for mut pass in both() {
        pass.pass().unwrap();
        let found = sums(&pass, namespace.inode());
        // Ten, the one with three hundred copies, the one that was passed, and the one that three children have, too.
        assert_eq!(number(&found, UDP, 4, 0), 13, "{found:?}");
        assert_eq!(pass.account().unwrap().unmarked, 0);
    }
}

#[test]
fn shared_sockets_without_room_for_a_mark_are_counted_each_time_and_that_is_told() {
    if !can_load() {
        return;
    }
    let namespace = Namespace::new();
    let _holder = Holder::new(&namespace, "copies=300 copies=200");
    let mut pass = open(&Options { shared: 1, ..Options::default() });
    let account = pass.pass().unwrap();
    let counted = number(&sums(&pass, namespace.inode()), UDP, 4, 0);
    // One of the two has the only place, or a socket of somebody else.
    assert!([1 + 201, 301 + 1, 301 + 201].contains(&counted), "{counted}");
    assert!(account.unmarked >= counted - 1, "{account:?}");
}

#[test]
fn a_kind_without_sockets_is_zero_and_then_gone() {
    if !can_load() {
        return;
    }
    let namespace = Namespace::new();
    let mut pass = open(&Options::default());
    let holder = Holder::new(&namespace, "tcp6=5");
    pass.pass().unwrap();
    drop(holder);
    let rows = |pass: &Sockets| {
        let mut rows = Vec::new();
        let mut visit = |sockets| rows.push(sockets);
        pass.sockets(|key, sums| {
            if key.entity.netns == namespace.inode() {
                visit(sums.sockets);
            }
        })
        .unwrap();
        rows
    };
    assert_eq!(rows(&pass).iter().sum::<u64>(), 11);
    pass.pass().unwrap();
    let after = rows(&pass);
    assert!(after.len() >= 2 && after.iter().all(|sockets| *sockets == 0), "{after:?}");
    for _ in 0..20 {
        pass.pass().unwrap();
    }
    assert_eq!(rows(&pass), [] as [u64; 0]);
}

#[test]
fn each_pass_takes_one_round_trip_time_of_each_connection() {
    if !can_load() {
        return;
    }
    let namespace = Namespace::new();
    let _holder = Holder::new(&namespace, "tcp4=40 tcp6=40");
    let mut pass = open(&Options::default());
    let text = namespace.sh("ss --no-header --oneline --tcp --numeric --info");
    let times =
        text.split_whitespace().filter_map(|word| word.strip_prefix("rtt:")?.split('/').next()?.parse().ok());
    let (count, sum) = times.fold((0, 0.0), |(count, sum), time: f64| (count + 1, sum + time));
    assert_eq!(count, 160);
    for passes in 1..=3 {
        pass.pass().unwrap();
        let mut total = histogram::default();
        pass.round_trips(|holder, times| {
            if holder.netns == namespace.inode() {
                total.merge(times);
            }
        })
        .unwrap();
        assert_eq!(total.count(), 160 * passes);
        let told = sum * passes as f64;
        // ss prints whole microseconds and rounds.
        assert!(
            (total.sum as f64 / 1e6 - told).abs() < 0.001 * count as f64 * passes as f64,
            "{} {told}",
            total.sum
        );
    }
}

#[test]
fn multipath_connections_are_sockets_and_their_subflows_tcp_connections() {
    if !can_load() {
        return;
    }
    let namespace = Namespace::new();
    let enabled = namespace.sh("cat /proc/sys/net/mptcp/enabled 2>/dev/null || echo 0");
    if enabled.trim() != "1" {
        return println!("skipped: needs a kernel with Multipath TCP");
    }
    let _holder = Holder::new(&namespace, "mptcp=6");
    for mut pass in both() {
        pass.pass().unwrap();
        let found = sums(&pass, namespace.inode());
        assert_eq!(number(&found, MPTCP, 4, 0), 13, "{found:?}");
        let listening = found[&(TCP, 4, LISTEN)];
        assert_eq!((listening.sockets, listening.subflows), (0, 1));
        let established = found[&(TCP, 4, ESTABLISHED)];
        assert_eq!((established.sockets, established.subflows), (0, 12));
        compare(&mut pass, &namespace);
    }
}
