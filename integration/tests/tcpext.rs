//! The counters of `tcpext` are those that nstat(8) reads inside each namespace, after every kind of trouble that a test can
//! make: each with a known count, IPv4 and IPv6.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::{scope, spawn};
use std::time::Duration;

use jitterscope_integration::counters::{Wanted, check_all, last_collection, told, told_of_host};
use jitterscope_integration::kernel::counter;
use jitterscope_integration::netns::Netns;
use jitterscope_integration::network::{Family, Network};
use jitterscope_integration::packet::{Listener, begin};
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::tcp::{ACK, SYN, mptcp_connect, mptcp_listener, segment, without_fin_wait};
use jitterscope_integration::telemetry::Telemetry;
use jitterscope_integration::traffic::flood;
use jitterscope_integration::{poll, requirements};
use jitterscope_semconv::{Attribute, Metric, attribute as key, metric};
use rustix::net::sockopt;

const ARGUMENTS: &[&str] = &["--format", "json"];
const TOOLS: &[&str] = &["ip", "nft", "nstat", "ping", "tc"];

/// A network with a receiver that watches it, and what its namespaces are to have counted.
struct Bed {
    network: Network,
    expected: Vec<(&'static str, &'static Metric, Option<Label>, u64)>,
}

/// The attribute that tells a series from the others of its metric.
type Label = (&'static Attribute, &'static str);

impl Bed {
    fn new() -> Option<Self> {
        requirements::met(TOOLS).then(|| Self { network: Network::new().unwrap(), expected: Vec::new() })
    }

    /// `count` more of a series of the namespace `a`, `b` or `router`.
    fn expect(&mut self, netns: &'static str, metric: &'static Metric, of: Option<Label>, count: u64) {
        let known = self.expected.iter_mut().find(|row| (row.0, row.1, row.2) == (netns, metric, of));
        match known {
            Some(row) => row.3 += count,
            None => self.expected.push((netns, metric, of, count)),
        }
    }

    fn netns(&self, name: &str) -> &Netns {
        match name {
            "a" => &self.network.a,
            "b" => &self.network.b,
            _ => &self.network.router,
        }
    }

    /// Holds what the receiver tells against nstat(8) and against what is expected.
    fn check(&self) -> Telemetry {
        let receiver = Receiver::start(ARGUMENTS).unwrap();
        let Network { router, a, b } = &self.network;
        let telemetry = last_collection(receiver, &[a, b, router], ARGUMENTS);
        for netns in [a, b, router] {
            check_all(&telemetry, netns, "tcpext", false);
        }
        for (name, metric, of, count) in &self.expected {
            let told = told(&telemetry, self.netns(name), metric.name, of.as_slice());
            assert_eq!(told, Some(*count as f64), "{name} {metric} {of:?}");
        }
        telemetry
    }

    fn count(&self, netns: &str, name: &str) -> u64 {
        counter(self.netns(netns), name).unwrap()
    }

    fn wait(&self, netns: &str, name: &str, least: u64) {
        poll::until(name, || (self.count(netns, name) >= least).then_some(())).unwrap();
    }

    /// A listener of `b` and a connection to it from `a`: the listener, `a`'s end and `b`'s.
    fn connection(&self, family: Family) -> (TcpListener, TcpStream, TcpStream) {
        let address = SocketAddr::new(family.address(2, 2), 0);
        let listener = self.network.b.inside(|| Ok(TcpListener::bind(address)?)).unwrap();
        let server = listener.local_addr().unwrap();
        let client = self.network.a.inside(|| Ok(TcpStream::connect(server)?)).unwrap();
        let accepted = listener.accept().unwrap().0;
        (listener, client, accepted)
    }
}

#[test]
fn connections_that_are_aborted_are_counted_by_the_reason() {
    let Some(mut bed) = Bed::new() else { return };
    for family in Family::BOTH {
        // A linger time of zero.
        for _ in 0..3 {
            let (_listener, client, _server) = bed.connection(family);
            sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
        }
        bed.expect("a", &metric::TCP_ABORTS, Some((&key::TCP_ABORT_REASON, "data")), 3);
        // Data that is never read.
        for _ in 0..2 {
            let (_listener, client, mut server) = bed.connection(family);
            server.write_all(b"unread").unwrap();
            poll::until("the data", || (client.peek(&mut [0; 6]).unwrap() == 6).then_some(())).unwrap();
        }
        bed.expect("a", &metric::TCP_ABORTS, Some((&key::TCP_ABORT_REASON, "close")), 2);
        // No wait for the other side's end.
        let (_listener, client, server) = bed.connection(family);
        without_fin_wait(&client).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let waits = || bed.network.a.sh("ss --no-header --tcp --numeric state fin-wait-2").unwrap();
        poll::until("FIN-WAIT-2", || (!waits().is_empty()).then_some(())).unwrap();
        drop(client);
        drop(server);
        bed.expect("a", &metric::TCP_ABORTS, Some((&key::TCP_ABORT_REASON, "linger")), 1);
        // Nobody answers any more.
        let (_listener, mut client, _server) = bed.connection(family);
        sockopt::set_tcp_user_timeout(&client, 500).unwrap();
        bed.network.router.refuse("forward", "meta l4proto tcp").unwrap();
        client.write_all(b"lost").unwrap();
        assert!(client.read(&mut [0]).is_err());
        bed.network.router.allow().unwrap();
        bed.expect("a", &metric::TCP_ABORTS, Some((&key::TCP_ABORT_REASON, "timeout")), 1);
    }
    bed.check();
}

#[test]
fn connections_that_are_refused_are_counted_by_what_was_full() {
    let Some(mut bed) = Bed::new() else { return };
    for family in Family::BOTH {
        bed.network.b.sh("sysctl -qw net.ipv4.tcp_syncookies=0").unwrap();
        let address = SocketAddr::new(family.address(2, 2), 1008);
        let _listener = bed.network.b.inside(|| Listener::bind(address, 4)).unwrap();
        // The answers to what no socket sent are not to end the half-open connections.
        bed.network.a.refuse("output", "tcp flags rst").unwrap();
        let own = family.address(1, 2);
        let syn = |port| bed.network.a.inside(|| segment(SocketAddr::new(own, port), address, SYN, 7));
        let before = bed.count("b", "TcpExtListenDrops");
        (0..20).for_each(|number| syn(20_000 + number).unwrap());
        bed.wait("b", "TcpExtListenDrops", before + 1);
        bed.network.b.sh("sysctl -qw net.ipv4.tcp_syncookies=1").unwrap();
        (0..5).for_each(|number| syn(21_000 + number).unwrap());
        bed.network.a.allow().unwrap();
        bed.expect("b", &metric::TCP_SYNCOOKIES, Some((&key::TCP_SYNCOOKIE_KIND, "sent")), 5);
        let cookie = Some((&key::TCP_REQUEST_QUEUE_OVERFLOW_ACTION, "cookie"));
        bed.expect("b", &metric::TCP_REQUEST_QUEUE_OVERFLOWS, cookie, 5);
    }
    let dropped = bed.count("b", "TcpExtTCPReqQFullDrop");
    assert!(dropped >= 20, "{dropped}");
    let action = &key::TCP_REQUEST_QUEUE_OVERFLOW_ACTION;
    bed.expect("b", &metric::TCP_REQUEST_QUEUE_OVERFLOWS, Some((action, "drop")), dropped);
    bed.expect("b", &metric::TCP_LISTEN_DROPS, Some((&key::TCP_LISTEN_DROP_REASON, "other")), dropped);
    bed.expect("b", &metric::TCP_LISTEN_DROPS, Some((&key::TCP_LISTEN_DROP_REASON, "overflow")), 0);
    bed.check();
}

#[test]
fn cookies_that_are_sent_come_back_or_fail() {
    let Some(mut bed) = Bed::new() else { return };
    bed.network.b.sh("sysctl -qw net.ipv4.tcp_syncookies=2").unwrap();
    for family in Family::BOTH {
        for _ in 0..4 {
            bed.connection(family);
        }
        let (listener, _client, _server) = bed.connection(family);
        let to = listener.local_addr().unwrap();
        let own = SocketAddr::new(family.address(1, 2), 22_000);
        bed.network.a.inside(|| segment(own, to, ACK, 7)).unwrap();
        for (kind, count) in [("sent", 5), ("received", 5), ("failed", 1)] {
            bed.expect("b", &metric::TCP_SYNCOOKIES, Some((&key::TCP_SYNCOOKIE_KIND, kind)), count);
        }
    }
    bed.check();
}

#[test]
fn half_open_connections_that_are_reset_and_challenges_are_counted() {
    let Some(mut bed) = Bed::new() else { return };
    for family in Family::BOTH {
        // The kernel of `a` has no socket for the answer and resets the connection.
        let (listener, client, _server) = bed.connection(family);
        let to = listener.local_addr().unwrap();
        let own = family.address(1, 2);
        for number in 0..6 {
            bed.network.a.inside(|| segment(SocketAddr::new(own, 23_000 + number), to, SYN, 7)).unwrap();
        }
        bed.expect("b", &metric::TCP_EMBRYONIC_RESETS, None, 6);
        // A SYN on a connection is answered with a challenge; two more at once are not answered.
        let from = client.local_addr().unwrap();
        for _ in 0..3 {
            bed.network.a.inside(|| segment(from, to, SYN, 7)).unwrap();
        }
        bed.expect("b", &metric::TCP_SYN_CHALLENGES, None, 3);
        bed.expect("b", &metric::TCP_ACKS_SKIPPED, Some((&key::TCP_ACK_SKIP_REASON, "challenge")), 2);
        bed.expect("b", &metric::TCP_CHALLENGE_ACKS, None, 1);
    }
    bed.check();
}

#[test]
fn what_a_lossy_link_does_is_counted_at_both_ends() {
    let Some(bed) = Bed::new() else { return };
    // A queue of ten packets, shorter than the window.
    let queue = "tc qdisc replace dev port-b root tbf rate 50mbit burst 20k limit 15k";
    bed.network.router.sh(queue).unwrap();
    for family in Family::BOTH {
        let (_listener, mut client, mut server) = bed.connection(family);
        let body = vec![7; 8_000_000];
        let received = scope(|scope| {
            scope.spawn(|| {
                client.write_all(&body).unwrap();
                client.shutdown(Shutdown::Write).unwrap();
            });
            std::io::copy(&mut server, &mut std::io::sink()).unwrap()
        });
        assert_eq!(received as usize, body.len());
    }
    let telemetry = bed.check();
    let sender = [
        (&metric::TCP_FAST_RETRANSMITS, &[] as Wanted<'_>),
        (&metric::TCP_RECOVERIES, &[(&key::TCP_RECOVERY_ALGORITHM, "sack")]),
        (&metric::TCP_DELIVERED_SEGMENTS, &[]),
        (&metric::TCP_ORIGINAL_SEGMENTS, &[]),
    ];
    for (metric, attributes) in sender {
        let told = told(&telemetry, &bed.network.a, metric.name, attributes);
        assert!(told.is_some_and(|count| count > 0.0), "{metric} {told:?}");
    }
    let told = told(&telemetry, &bed.network.b, metric::TCP_OUT_OF_ORDER_SEGMENTS.name, &[]);
    assert!(told.is_some_and(|count| count > 0.0), "{told:?}");
}

#[test]
fn silence_is_counted_as_timeouts_keepalives_and_probes() {
    let Some(mut bed) = Bed::new() else { return };
    for family in Family::BOTH {
        let before = |name| bed.count("a", name);
        let (syns, keepalives, probes) =
            (before("TcpExtTCPSynRetrans"), before("TcpExtTCPKeepAlive"), before("TcpExtTCPWinProbe"));
        // A SYN that is lost.
        bed.network.router.refuse("forward", "tcp dport 9").unwrap();
        let waiting = bed.network.a.inside(|| begin(SocketAddr::new(family.address(2, 2), 9))).unwrap();
        bed.wait("a", "TcpExtTCPSynRetrans", syns + 1);
        drop(waiting);
        bed.network.router.allow().unwrap();
        // A connection without data.
        let (_idle_listener, idle, _idle_server) = bed.connection(family);
        sockopt::set_tcp_keepidle(&idle, Duration::from_secs(1)).unwrap();
        sockopt::set_tcp_keepintvl(&idle, Duration::from_secs(1)).unwrap();
        sockopt::set_socket_keepalive(&idle, true).unwrap();
        bed.wait("a", "TcpExtTCPKeepAlive", keepalives + 1);
        drop(idle);
        // A reader that does not read: the window closes.
        let (_listener, mut client, server) = bed.connection(family);
        client.set_nonblocking(true).unwrap();
        let body = vec![7; 1 << 20];
        poll::until("a full window", || client.write(&body).is_err().then_some(())).unwrap();
        bed.wait("a", "TcpExtTCPWinProbe", probes + 1);
        sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
        drop((client, server));
        bed.expect("a", &metric::TCP_ABORTS, Some((&key::TCP_ABORT_REASON, "data")), 1);
    }
    let telemetry = bed.check();
    let counted = |netns, metric: &Metric, attributes: Wanted<'_>| {
        let told = told(&telemetry, bed.netns(netns), metric.name, attributes);
        assert!(told.is_some_and(|count| count >= 2.0), "{metric} {told:?}");
    };
    counted("a", &metric::TCP_TIMEOUTS, &[]);
    counted("a", &metric::TCP_SYN_RETRANSMITS, &[]);
    counted("a", &metric::TCP_KEEPALIVES, &[]);
    counted("a", &metric::TCP_WINDOW_PROBES, &[]);
    counted("b", &metric::TCP_ZERO_WINDOW_ADVERTISEMENTS, &[(&key::TCP_ZERO_WINDOW_CHANGE, "to")]);
}

#[test]
fn a_receive_queue_without_memory_is_counted() {
    let Some(bed) = Bed::new() else { return };
    for family in Family::BOTH {
        let pruned = || bed.count("b", "TcpExtPruneCalled") + bed.count("b", "TcpExtTCPRcvQDrop");
        let before = pruned();
        let (_listener, mut client, server) = bed.connection(family);
        sockopt::set_socket_recv_buffer_size(&server, 1).unwrap();
        client.set_nodelay(true).unwrap();
        client.set_nonblocking(true).unwrap();
        // One byte a segment takes far more memory than window.
        poll::until("a pruned queue", || {
            let _ = client.write(b"x");
            (pruned() > before).then_some(())
        })
        .unwrap();
        drop((client, server));
    }
    bed.check();
}

#[test]
fn multipath_connections_are_counted_where_there_are_any() {
    let Some(bed) = Bed::new() else { return };
    for family in Family::BOTH {
        let address = SocketAddr::new(family.address(2, 2), 0);
        let listener = bed.network.b.inside(|| mptcp_listener(address)).unwrap();
        let server = listener.local_addr().unwrap();
        let served = spawn(move || {
            for _ in 0..3 {
                std::io::copy(&mut listener.accept().unwrap().0, &mut std::io::sink()).unwrap();
            }
        });
        for _ in 0..3 {
            let mut client = bed.network.a.inside(|| mptcp_connect(server)).unwrap();
            client.write_all(b"over several paths").unwrap();
        }
        served.join().unwrap();
    }
    let of = |way, message| [(&key::NETWORK_IO_DIRECTION, way), (&key::MPTCP_HANDSHAKE_MESSAGE, message)];
    let messages = [
        ("a", of("transmit", "syn")),
        ("a", of("receive", "syn_ack")),
        ("b", of("receive", "syn")),
        ("b", of("receive", "ack")),
    ];
    let telemetry = bed.check();
    for (netns, attributes) in messages {
        let told = told(&telemetry, bed.netns(netns), metric::MPTCP_CAPABLE_MESSAGES.name, &attributes);
        assert_eq!(told, Some(6.0), "{netns} {attributes:?}");
    }
    // The router has none, and so no series.
    let idle = told(&telemetry, &bed.network.router, metric::MPTCP_CAPABLE_MESSAGES.name, &messages[0].1);
    assert_eq!(idle, None);
    let node = told_of_host(&telemetry, metric::MPTCP_CAPABLE_MESSAGES.name, &messages[0].1);
    assert!(node.is_some(), "the node has every series");
}

#[test]
fn packets_from_where_no_route_leads_back_are_counted_on_the_router() {
    let Some(mut bed) = Bed::new() else { return };
    bed.network
        .router
        .sh("sysctl -qw net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.port-a.rp_filter=1")
        .unwrap();
    bed.network.a.ip("addr add 10.77.0.1/32 dev lo").unwrap();
    bed.network.a.ip("route replace default via 10.99.1.1 src 10.77.0.1").unwrap();
    flood(&bed.network.a, "10.99.2.2:9".parse().unwrap(), 25).unwrap();
    bed.expect("router", &metric::IP_REVERSE_PATH_DROPS, None, 25);
    bed.check();
}
