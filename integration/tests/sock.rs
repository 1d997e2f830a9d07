//! The numbers of `sock` are those of the sockets that a test has open, and what the kernel's files say inside each namespace.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::fs;
use std::net::{TcpListener, TcpStream, UdpSocket};

use jitterscope_integration::counters::{Wanted, told, told_of_host};
use jitterscope_integration::netns::{Netns, run};
use jitterscope_integration::network::Family;
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::telemetry::Telemetry;
use jitterscope_integration::{poll, requirements};
use jitterscope_semconv::{attribute as key, metric};

/// A number of `sockstat` or `sockstat6`, as `cat` shows it inside.
fn number(netns: &Netns, file: &str, line: &str, name: &str) -> Option<f64> {
    let text = netns.sh(&format!("cat /proc/net/{file}")).unwrap();
    let line = text.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(": "))?.to_owned();
    let mut words = line.split_whitespace().skip_while(|word| *word != name);
    words.nth(1)?.parse().ok()
}

fn count(
    telemetry: &Telemetry,
    netns: &Netns,
    protocol: &str,
    state: &str,
    family: Option<&str>,
) -> Option<f64> {
    let family = family.map(|family| (&key::NETWORK_TYPE, family));
    let wanted: Vec<_> =
        [(&key::SOCKET_PROTOCOL, protocol), (&key::SOCKET_STATE, state)].into_iter().chain(family).collect();
    told(telemetry, netns, metric::SOCKET_COUNT.name, &wanted)
}

/// Everything that a namespace has of its own against its files; `open` sockets of TCP and UDP of each family.
fn check(telemetry: &Telemetry, netns: &Netns, tcp: f64, udp: f64) {
    for (protocol, line, open) in
        [("tcp", "TCP", Some(tcp)), ("udp", "UDP", Some(udp)), ("raw", "RAW", Some(0.0))]
    {
        for (family, file, line) in
            [("ipv4", "sockstat", line.to_owned()), ("ipv6", "sockstat6", format!("{line}6"))]
        {
            let told = count(telemetry, netns, protocol, "in_use", Some(family));
            assert_eq!(told, open, "{} {line}", netns.name());
            assert_eq!(told, number(netns, file, &line, "inuse"));
        }
    }
    assert_eq!(count(telemetry, netns, "tcp", "time_wait", None), number(netns, "sockstat", "TCP", "tw"));
    for (family, file, line) in [("ipv4", "sockstat", "FRAG"), ("ipv6", "sockstat6", "FRAG6")] {
        let told = |name| told(telemetry, netns, name, &[(&key::NETWORK_TYPE, family)]);
        assert_eq!(told(metric::IP_REASSEMBLY_QUEUE_LENGTH.name), number(netns, file, line, "inuse"));
        assert_eq!(told(metric::IP_REASSEMBLY_QUEUE_SIZE.name), number(netns, file, line, "memory"));
    }
    // What the kernel prints here of the whole node is not the namespace's.
    for state in ["orphan", "allocated"] {
        assert_eq!(count(telemetry, netns, "tcp", state, None), None);
    }
    assert_eq!(
        told(telemetry, netns, metric::SOCKET_MEMORY_SIZE.name, &[(&key::SOCKET_PROTOCOL, "tcp")]),
        None
    );
}

/// Three listeners of TCP and two sockets of UDP for each family.
fn open(netns: &Netns) -> (Vec<TcpListener>, Vec<UdpSocket>) {
    netns
        .inside(|| {
            let (mut listeners, mut sockets) = (Vec::new(), Vec::new());
            for family in Family::BOTH {
                for _ in 0..3 {
                    listeners.push(TcpListener::bind((family.loopback(), 0))?);
                }
                for _ in 0..2 {
                    sockets.push(UdpSocket::bind((family.loopback(), 0))?);
                }
            }
            Ok((listeners, sockets))
        })
        .unwrap()
}

#[test]
fn sockets_are_counted_where_they_are_and_what_is_the_nodes_there_alone() {
    if !requirements::met(&["ip", "getconf"]) {
        return;
    }
    let (full, empty) = (Netns::new("full").unwrap(), Netns::new("empty").unwrap());
    let (listeners, _sockets) = open(&full);
    // Five connections that wait in TIME-WAIT, on the side that closed first.
    for listener in [&listeners[0], &listeners[3]] {
        for _ in 0..5 {
            let address = listener.local_addr().unwrap();
            drop(full.inside(|| Ok(TcpStream::connect(address)?)).unwrap());
            drop(listener.accept().unwrap());
        }
    }
    let receiver = Receiver::start(&["--format", "json"]).unwrap();
    let telemetry = poll::until("the connections that were closed", || {
        let telemetry = receiver.printed().unwrap();
        (count(&telemetry, &full, "tcp", "time_wait", None) == Some(10.0)).then_some(telemetry)
    })
    .unwrap();
    check(&telemetry, &full, 3.0, 2.0);
    check(&telemetry, &empty, 0.0, 0.0);
    check_node(&telemetry);
    // A look inside, of any receiver, is a socket too, until the kernel frees it some milliseconds later.
    for (netns, open) in [(&full, 10.0), (&empty, 0.0)] {
        poll::until("the open sockets", || {
            let telemetry = receiver.printed().unwrap();
            let told = told(&telemetry, netns, metric::SOCKET_OPEN_COUNT.name, &[]);
            (told == Some(open)).then_some(())
        })
        .unwrap();
    }
}

/// The node's memory: whole pages, and the limits as the files say, in bytes.
fn check_node(telemetry: &Telemetry) {
    let page: f64 =
        run(std::process::Command::new("getconf").arg("PAGESIZE")).unwrap().trim().parse().unwrap();
    for (protocol, file) in [("tcp", "tcp_mem"), ("udp", "udp_mem")] {
        let protocol = (&key::SOCKET_PROTOCOL, protocol);
        let size = told_of_host(telemetry, metric::SOCKET_MEMORY_SIZE.name, &[protocol]).unwrap();
        assert!(size >= 0.0 && size % page == 0.0, "{size}");
        let limits = fs::read_to_string(format!("/proc/sys/net/ipv4/{file}")).unwrap();
        for (pages, threshold) in limits.split_whitespace().zip(["low", "pressure", "high"]) {
            let wanted: Wanted<'_> = &[protocol, (&key::SOCKET_MEMORY_THRESHOLD, threshold)];
            let told = told_of_host(telemetry, metric::SOCKET_MEMORY_LIMIT.name, wanted);
            assert_eq!(told, Some(pages.parse::<f64>().unwrap() * page), "{file} {threshold}");
        }
    }
    for state in ["orphan", "allocated"] {
        let wanted: Wanted<'_> = &[(&key::SOCKET_PROTOCOL, "tcp"), (&key::SOCKET_STATE, state)];
        assert!(told_of_host(telemetry, metric::SOCKET_COUNT.name, wanted).is_some(), "{state}");
    }
}
