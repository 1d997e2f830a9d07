//! Sockets, descriptors and flows in the receiver's output are what other tools see in each namespace, by eBPF and over
//! netlink alike.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::ops::RangeInclusive;
use std::process::{Child, Command};

use jitterscope_integration::netns::Netns;
use jitterscope_integration::network::{Family, Network};
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::telemetry::{Point, Telemetry, has};
use jitterscope_integration::{poll, requirements};
use jitterscope_semconv::{attribute as key, metric};
use rustix::process::{Pid, Signal, kill_process};

/// BTF from a file: the kernel does not attach by its type ids, so that the pass cannot be loaded.
const WITHOUT_PASS: [&str; 2] = ["--set", "kernel.btf=/sys/kernel/btf/vmlinux"];

/// The last value of each series of a metric on a namespace, by its attributes in one text.
fn told(telemetry: &Telemetry, netns: &Netns, name: &str) -> BTreeMap<String, u64> {
    let mut points: Vec<Point> = telemetry.last(name);
    points.retain(|point| has(&point.resource, key::NETNS_NAME.key, netns.name()));
    let text = |point: &Point| {
        let values: BTreeMap<&String, &String> = point.attributes.iter().collect();
        values.into_values().map(String::as_str).collect::<Vec<_>>().join(" ")
    };
    points.iter().filter(|point| point.value > 0.0).map(|point| (text(point), point.value as u64)).collect()
}

/// What `told` should say, as its rows.
fn rows<const N: usize>(rows: [(&str, u64); N]) -> BTreeMap<String, u64> {
    rows.map(|(text, value)| (text.to_owned(), value)).into()
}

/// Sockets in a namespace: of connections, one that nobody accepts, one whose bytes nobody reads, and others.
struct Held {
    _sockets: Vec<UdpSocket>,
    _streams: Vec<TcpStream>,
    _listeners: Vec<TcpListener>,
}

fn hold(netns: &Netns) -> Held {
    netns
        .inside(|| {
            let (mut streams, mut listeners, mut sockets) = (Vec::new(), Vec::new(), Vec::new());
            for family in Family::BOTH {
                let listener = TcpListener::bind((family.loopback(), 0))?;
                for _ in 0..4 {
                    streams.push(TcpStream::connect(listener.local_addr()?)?);
                }
                for _ in 0..3 {
                    streams.push(listener.accept()?.0);
                }
                let mut server = streams.last().unwrap();
                server.write_all(&[1; 1234])?;
                listeners.push(listener);
                sockets.push(UdpSocket::bind((family.loopback(), 0))?);
            }
            // An IPv6 socket that speaks IPv4.
            let both = TcpListener::bind("[::]:0")?;
            let port = both.local_addr()?.port();
            streams.push(TcpStream::connect(("127.0.0.1", port))?);
            streams.push(both.accept()?.0);
            listeners.push(both);
            Ok(Held { _sockets: sockets, _streams: streams, _listeners: listeners })
        })
        .unwrap()
}

/// Checks what does not depend on whose process holds the sockets.
fn check(telemetry: &Telemetry, netns: &Netns) {
    let of = |name: &str| told(telemetry, netns, name);
    let connections =
        rows([("established ipv4", 9), ("established ipv6", 7), ("listen ipv4", 1), ("listen ipv6", 2)]);
    assert_eq!(of(metric::TCP_CONNECTION_COUNT.name), connections);
    assert_eq!(of(metric::TCP_ACCEPT_QUEUE_LENGTH.name), rows([("ipv4", 1), ("ipv6", 1)]));
    assert_eq!(of(metric::TCP_ACCEPT_QUEUE_LIMIT.name), rows([("ipv4", 128), ("ipv6", 256)]));
    let queued = rows([("receive ipv4", 1234), ("receive ipv6", 1234)]);
    assert_eq!(of(metric::TCP_QUEUE_SIZE.name), queued);
    let open = of(metric::SOCKET_HELD_COUNT.name);
    let expected = rows([("tcp ipv4", 10), ("tcp ipv6", 9), ("udp ipv4", 1), ("udp ipv6", 1)]);
    assert_eq!(open, expected);
    let times = telemetry.distributions(metric::TCP_RTT_DURATION.name);
    let times = times.filter(|one| has(&one.resource, key::NETNS_NAME.key, netns.name())).last().unwrap();
    assert!(times.point.count >= 16 && times.point.count % 16 == 0, "{times:?}");
}

/// Waits until a receiver has told of a namespace after the sockets were there, and ends it.
fn collected(mut receiver: Receiver, netns: &Netns) -> Telemetry {
    poll::until("a collection with the sockets", || {
        let telemetry = receiver.printed().unwrap();
        (!told(&telemetry, netns, metric::TCP_CONNECTION_COUNT.name).is_empty()).then_some(())
    })
    .unwrap();
    receiver.stop().unwrap();
    receiver.printed().unwrap()
}

#[test]
fn sockets_are_the_same_by_the_pass_and_over_netlink() {
    if !requirements::met(&["ip", "ss"]) {
        return;
    }
    let netns = Netns::new("sockets").unwrap();
    let _held = hold(&netns);
    let listed = netns.sh("ss --no-header --tcp --listening --numeric").unwrap();
    assert_eq!(listed.lines().count(), 3, "{listed}");
    for more in [&[][..], &WITHOUT_PASS] {
        let arguments = [&["--format", "json"], more].concat();
        let receiver = Receiver::start(&arguments).unwrap();
        check(&collected(receiver, &netns), &netns);
    }
}

#[test]
fn descriptors_of_a_process_in_a_namespace_are_those_that_proc_lists_either_way() {
    if !requirements::met(&["ip", "sleep"]) {
        return;
    }
    let netns = Netns::new("fds").unwrap();
    let sleepers = Sleepers::new(&netns);
    for more in [&[][..], &WITHOUT_PASS] {
        let arguments = [&["--format", "json"], more].concat();
        let mut receiver = Receiver::start(&arguments).unwrap();
        let telemetry = poll::until("the descriptors", || {
            let telemetry = receiver.printed().unwrap();
            let kinds = told(&telemetry, &netns, metric::FILE_DESCRIPTOR_COUNT.name);
            (kinds.get("pipe").is_some_and(|pipes| *pipes >= 2)).then_some(telemetry)
        });
        receiver.stop().unwrap();
        let telemetry = telemetry.unwrap();
        let kinds = told(&telemetry, &netns, metric::FILE_DESCRIPTOR_COUNT.name);
        let (mut all, mut most) = (0, 0);
        for pid in sleepers.pids() {
            let own = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64;
            all += own;
            most = most.max(own);
        }
        assert_eq!(kinds.values().sum::<u64>(), all, "{kinds:?}");
        let points = telemetry.last(metric::FILE_DESCRIPTOR_UTILIZATION.name);
        let own =
            points.iter().find(|point| has(&point.resource, key::NETNS_NAME.key, netns.name())).unwrap();
        assert!((own.value - most as f64 / 1000.0).abs() < 1e-9, "{own:?} {most}");
    }
}

/// Two processes with a limit of 1,000 descriptors, killed when dropped.
struct Sleepers<'n> {
    netns: &'n Netns,
    shell: Child,
}

impl<'n> Sleepers<'n> {
    fn new(netns: &'n Netns) -> Self {
        let script = "ulimit -n 1000; exec 3</dev/null 4</dev/null 5</dev/null; exec sleep 600 | sleep 600";
        Self { netns, shell: netns.command("sh").args(["-c", script]).spawn().unwrap() }
    }

    fn pids(&self) -> Vec<u32> {
        let output = Command::new("ip").args(["netns", "pids", self.netns.name()]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }
}

impl Drop for Sleepers<'_> {
    fn drop(&mut self) {
        for pid in self.pids().into_iter().filter_map(|pid| Pid::from_raw(pid.cast_signed())) {
            // It may have ended with the other.
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.shell.wait();
    }
}

#[test]
fn flows_name_local_peers_and_tell_closed_connections_too() {
    if !requirements::met(&["ip"]) {
        return;
    }
    let network = Network::new().unwrap();
    let receiver = Receiver::start(&["--format", "json", "--set", "probes.flow.enabled=true"]).unwrap();
    // The program must be there before the first connection, and the peers' addresses must have been read.
    poll::until("a first collection", || {
        let telemetry = receiver.printed().unwrap();
        telemetry.metrics().any(|(_, metric)| metric.name == metric::FILE_DESCRIPTOR_COUNT.name).then_some(())
    })
    .unwrap();
    for family in Family::BOTH {
        let listener = network.b.inside(|| Ok(TcpListener::bind((family.address(2, 2), 0))?)).unwrap();
        for _ in 0..50 {
            let mut client = network.a.inside(|| Ok(TcpStream::connect(listener.local_addr()?)?)).unwrap();
            let mut server = listener.accept().unwrap().0;
            client.write_all(&[1; 200]).unwrap();
            server.read_exact(&mut [0; 200]).unwrap();
        }
        let socket =
            |netns: &Netns, net| netns.inside(|| Ok(UdpSocket::bind((family.address(net, 2), 0))?)).unwrap();
        let (client, server) = (socket(&network.a, 1), socket(&network.b, 2));
        for _ in 0..50 {
            client.send_to(&[1; 70], server.local_addr().unwrap()).unwrap();
            assert_eq!(server.recv(&mut [0; 100]).unwrap(), 70);
        }
    }
    let peer = |netns: &Netns| format!("netns/{}", netns.name());
    let (a, b) = (&network.a, &network.b);
    let both = |telemetry: &Telemetry| {
        let from = told(telemetry, a, metric::FLOW_IO.name);
        let to = told(telemetry, b, metric::FLOW_IO.name);
        (from, to)
    };
    let expected = (
        rows([
            (&format!("{} transmit tcp", peer(b)), 20_000),
            (&format!("{} transmit udp", peer(b)), 2 * 50 * 70),
        ]),
        rows([
            (&format!("{} receive tcp", peer(a)), 20_000),
            (&format!("{} receive udp", peer(a)), 2 * 50 * 70),
        ]),
    );
    let mut receiver = receiver;
    let arrived = poll::until("all bytes", || {
        let found = both(&receiver.printed().unwrap());
        (found == expected).then_some(())
    });
    receiver.stop().unwrap();
    let telemetry = receiver.printed().unwrap();
    assert_eq!(both(&telemetry), expected);
    arrived.unwrap();
    assert_eq!(told(&telemetry, a, metric::FLOW_RETRANSMITS.name).values().sum::<u64>(), 0);
    let packets = told(&telemetry, a, metric::FLOW_PACKETS.name);
    // SYN, ACK, data, FIN and the ACK of the peer's FIN, of which an ACK may ride along.
    let has = |way: &str, wanted: RangeInclusive<u64>| {
        packets.iter().any(|(row, packets)| row.ends_with(way) && wanted.contains(packets))
    };
    assert!(has("transmit tcp", 300..=600) && has("transmit udp", 100..=100), "{packets:?}");
}
