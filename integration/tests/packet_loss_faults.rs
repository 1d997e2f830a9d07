//! Each way of losing a packet, injected: what is counted, and what the event says, against what the test knows. IPv4 and
//! IPv6 alike.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::net::UdpSocket;

use jitterscope_integration::faults::{Bed, Fault, Place, bed};
use jitterscope_integration::kernel::{counter, qdisc};
use jitterscope_integration::network::Family;
use jitterscope_integration::traffic::CLOSED_PORT;
use jitterscope_integration::{packet, poll};

/// Datagrams of each fault: few enough that none of their events is held back.
const DATAGRAMS: u64 = 20;

/// Sends datagrams from container a to a port of container b, or elsewhere.
fn send(bed: &Bed, fault: &Fault) {
    let from = std::net::SocketAddr::new(fault.source, fault.source_port);
    let to = std::net::SocketAddr::new(fault.destination, fault.destination_port);
    let sent = bed.network.a.inside(|| {
        let socket = UdpSocket::bind(from)?;
        for _ in 0..DATAGRAMS {
            // A refusal of an earlier one, or what netfilter says to a local sender, is no surprise here.
            let _ = socket.send_to(b"lost", to);
        }
        Ok(())
    });
    sent.unwrap();
}

/// From a to b over UDP: what all these faults have in common.
fn datagrams(family: Family, port: u16, place: Place) -> Fault {
    Fault {
        family,
        transport: "udp",
        source: family.address(1, 2),
        source_port: 40_000 + port,
        destination: family.address(2, 2),
        destination_port: port,
        place,
        reasons: &[],
    }
}

#[test]
fn a_datagram_without_a_listening_port_is_the_receivers_loss() {
    let Some(mut bed) = bed() else { return };
    let faults = Family::BOTH.map(|family| Fault {
        reasons: &["NO_SOCKET"],
        ..datagrams(family, CLOSED_PORT, Place::receive(&bed.network.b))
    });
    faults.iter().for_each(|fault| send(&bed, fault));
    let expected = faults.map(|fault| (fault, DATAGRAMS));
    bed.check(&expected);
}

#[test]
fn a_datagram_that_netfilter_refuses_on_input_is_the_receivers_loss() {
    let Some(mut bed) = bed() else { return };
    bed.network.b.refuse("input", "udp dport 1001").unwrap();
    let faults = Family::BOTH.map(|family| Fault {
        reasons: &["NETFILTER_DROP"],
        ..datagrams(family, 1001, Place::receive(&bed.network.b))
    });
    faults.iter().for_each(|fault| send(&bed, fault));
    bed.check(&faults.map(|fault| (fault, DATAGRAMS)));
}

#[test]
fn a_datagram_that_netfilter_refuses_on_output_is_the_senders_loss() {
    let Some(mut bed) = bed() else { return };
    bed.network.a.refuse("output", "udp dport 1002").unwrap();
    let faults = Family::BOTH.map(|family| Fault {
        reasons: &["NETFILTER_DROP"],
        ..datagrams(family, 1002, Place::transmit(&bed.network.a))
    });
    faults.iter().for_each(|fault| send(&bed, fault));
    bed.check(&faults.map(|fault| (fault, DATAGRAMS)));
}

#[test]
fn what_the_node_refuses_to_forward_is_the_loss_of_the_container_that_it_came_from() {
    let Some(mut bed) = bed() else { return };
    bed.network.router.refuse("forward", "udp dport 1003").unwrap();
    let faults = Family::BOTH.map(|family| Fault {
        reasons: &["NETFILTER_DROP"],
        ..datagrams(family, 1003, Place::host(&bed.network, "port-a", &bed.network.a))
    });
    faults.iter().for_each(|fault| send(&bed, fault));
    bed.check(&faults.map(|fault| (fault, DATAGRAMS)));
}

#[test]
fn what_the_node_has_no_route_for_is_the_loss_of_the_container_that_it_came_from() {
    let Some(mut bed) = bed() else { return };
    let faults = Family::BOTH.map(|family| {
        let destination = family.address(77, 7);
        bed.network.router.ip(&format!("route add unreachable {destination}")).unwrap();
        let place = Place::host(&bed.network, "port-a", &bed.network.a);
        // The kernel gives no reason for IPv4 (net/ipv4/route.c, ip_error).
        let reasons: &[&str] = if family == Family::V4 { &[] } else { &["IP_INNOROUTES"] };
        Fault { destination, reasons, ..datagrams(family, 1004, place) }
    });
    faults.iter().for_each(|fault| send(&bed, fault));
    bed.check(&faults.map(|fault| (fault, DATAGRAMS)));
}

#[test]
fn a_datagram_for_a_full_receive_buffer_is_the_receivers_loss() {
    let Some(mut bed) = bed() else { return };
    let mut expected = Vec::new();
    for family in Family::BOTH {
        let fault =
            Fault { reasons: &["SOCKET_RCVBUFF"], ..datagrams(family, 1005, Place::receive(&bed.network.b)) };
        let slow = bed.network.b.inside(|| packet::slow_reader((fault.destination, 1005).into())).unwrap();
        send(&bed, &fault);
        let name = if family == Family::V4 { "UdpRcvbufErrors" } else { "Udp6RcvbufErrors" };
        let lost = counter(&bed.network.b, name).unwrap();
        assert!(lost > 0 && lost < DATAGRAMS, "{lost}");
        expected.push((fault, lost));
        drop(slow);
    }
    bed.check(&expected);
}

#[test]
fn a_datagram_with_a_wrong_checksum_is_the_receivers_loss() {
    let Some(mut bed) = bed() else { return };
    let mut expected = Vec::new();
    for family in Family::BOTH {
        let fault =
            Fault { reasons: &["UDP_CSUM"], ..datagrams(family, 1006, Place::receive(&bed.network.b)) };
        let listening = bed.network.b.inside(|| Ok(UdpSocket::bind((fault.destination, 1006))?)).unwrap();
        let damaged = || packet::damaged_datagrams(fault.destination, (fault.source_port, 1006), DATAGRAMS);
        bed.network.a.inside(damaged).unwrap();
        let name = if family == Family::V4 { "UdpInCsumErrors" } else { "Udp6InCsumErrors" };
        assert_eq!(counter(&bed.network.b, name).unwrap(), DATAGRAMS);
        expected.push((fault, DATAGRAMS));
        drop(listening);
    }
    bed.check(&expected);
}

/// Packets in the queue of container a, and those that it turned away, as the kernel counted them.
fn waits_and_drops(bed: &Bed) -> (u64, u64) {
    let queue = qdisc(&bed.network.a, "eth0").unwrap();
    (queue["qlen"].as_u64().unwrap(), queue["drops"].as_u64().unwrap())
}

#[test]
fn a_datagram_for_a_full_device_queue_is_the_senders_loss() {
    let Some(mut bed) = bed() else { return };
    // A byte a second, and room for a few packets.
    let narrow = "root tbf rate 8bit burst 100b limit 200b";
    bed.network.a.sh(&format!("tc qdisc add dev eth0 {narrow}")).unwrap();
    let listening = Family::BOTH
        .map(|family| bed.network.b.inside(|| Ok(UdpSocket::bind((family.address(2, 2), 1007))?)).unwrap());
    let mut expected = Vec::new();
    let mut before = 0;
    for family in Family::BOTH {
        let reasons = &["QDISC_DROP"];
        let fault = Fault { reasons, ..datagrams(family, 1007, Place::transmit(&bed.network.a)) };
        send(&bed, &fault);
        let dropped = waits_and_drops(&bed).1;
        assert!(dropped > before, "{dropped}");
        expected.push((fault, dropped - before));
        before = dropped;
        // What waits goes out, so that the other family finds an empty queue and nothing else is lost in it.
        bed.network.a.sh("tc qdisc change dev eth0 root tbf rate 1gbit burst 100kb limit 1mb").unwrap();
        poll::until("the queue is empty", || (waits_and_drops(&bed).0 == 0).then_some(())).unwrap();
        if family == Family::V4 {
            bed.network.a.sh(&format!("tc qdisc change dev eth0 {narrow}")).unwrap();
        }
    }
    bed.check(&expected);
    drop(listening);
}
