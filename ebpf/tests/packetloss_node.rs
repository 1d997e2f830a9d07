//! What the node drops on behalf of a container, behind whatever device the container is: counted on the container.

#![expect(clippy::unwrap_used, reason = "a test")]

mod common;

use std::net::{IpAddr, UdpSocket};

use common::expected::{Expected, FAMILIES, RECEIVE, TRANSMIT, datagrams};
use common::{Namespace, Network, Probe, can_load, eventually, netkit, sh, skip};
use jitterscope_ebpf::abi::{NEIGHBOUR_IPV4, NEIGHBOUR_IPV6, NEIGHBOUR_MAC, neighbour, neighbour_key};

/// A third container on a bridge of the router.
fn bridged(network: &Network) -> Namespace {
    let container = Namespace::new();
    let (router, name) = (&network.router.name, &container.name);
    sh(&format!(
        "ip -n {router} link add br0 type bridge forward_delay 0 && ip -n {router} link set br0 up && \
         ip link add name portc netns {router} type veth peer name eth0 netns {name} && \
         ip -n {router} link set portc master br0 up && ip -n {router} addr add 10.99.3.1/24 dev br0 && \
         ip -n {router} addr add fd99:3::1/64 dev br0 nodad && ip -n {name} addr add 10.99.3.2/24 dev eth0 && \
         ip -n {name} addr add fd99:3::2/64 dev eth0 nodad && ip -n {name} link set eth0 up && \
         ip -n {name} route add default via 10.99.3.1 && ip -n {name} -6 route add default via fd99:3::1"
    ));
    container
}

/// Tells the program that an address is the container's, as the receiver does once it has seen it there.
fn tell(probe: &Probe, container: &Namespace, kind: u32, address: &[u8]) {
    let mut key = neighbour_key { kind, ..neighbour_key::default() };
    key.address[..address.len()].copy_from_slice(address);
    let known = neighbour { netns: container.inode(), ..neighbour::default() };
    probe.probe.neighbours.insert(&key, &known).unwrap();
}

/// The addresses of the container of [`bridged`].
fn tell_ips(probe: &Probe, container: &Namespace) {
    for address in FAMILIES.map(|family| Network::address(3, family)) {
        match address {
            IpAddr::V4(address) => tell(probe, container, NEIGHBOUR_IPV4, &address.octets()),
            IpAddr::V6(address) => tell(probe, container, NEIGHBOUR_IPV6, &address.octets()),
        }
    }
}

fn refused(family: u8, direction: u8) -> Expected {
    Expected { family, protocol: 17, direction, host: true, reasons: &["NETFILTER_DROP"] }
}

/// Datagrams that the router refuses to forward are the container's that sent them.
fn assert_charged_to_sender(network: &Network, probe: &Probe, container: &Namespace) {
    for family in FAMILIES {
        let (expected, to) = (refused(family, TRANSMIT), Network::address(2, family));
        network.router.refuse("forward", "udp dport 7777");
        eventually("the router forwards", || {
            datagrams(container, to, 7777, 1);
            expected.count(probe, container) > 0
        });
        expected.rises_by(network, probe, container, 5, || datagrams(container, to, 7777, 5));
        network.router.allow();
    }
}

#[test]
fn a_packet_that_came_up_through_a_bridge_is_charged_by_the_hardware_address_of_its_sender() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let probe = Probe::open(&network);
    let container = bridged(&network);
    let text = container.sh("cat /sys/class/net/eth0/address");
    let mac: Vec<u8> = text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    tell(&probe, &container, NEIGHBOUR_MAC, &mac);
    assert_charged_to_sender(&network, &probe, &container);
}

#[test]
fn a_packet_that_came_up_through_a_bridge_is_charged_by_the_ip_address_of_its_sender() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let probe = Probe::open(&network);
    let container = bridged(&network);
    tell_ips(&probe, &container);
    assert_charged_to_sender(&network, &probe, &container);
}

/// A wire that ends in the router and comes from no container: what is sent from [`OUTSIDE`] goes out by one end and comes
/// in by the other.
fn connect_outside(network: &Network) {
    let router = &network.router;
    router.sh("ip link add upx type veth peer name upy && ip link set upx up && ip link set upy up");
    let mac = router.sh("cat /sys/class/net/upx/address");
    for (ip, source, net, gateway) in
        [("ip", "192.0.2.9", 24, "192.0.2.1"), ("ip -6", "fd99:9::9", 64, "fd99:9::1")]
    {
        let nodad = if net == 64 { "nodad" } else { "" };
        router.sh(&format!(
            "{ip} addr add {source}/{net} dev upy {nodad} && {ip} neigh add {gateway} lladdr {} dev upy && \
             {ip} route add default via {gateway} dev upy table 77 && {ip} rule add iif lo from {source} lookup 77",
            mac.trim()
        ));
    }
    router.sh("sysctl -qw net.ipv4.conf.upx.accept_local=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.upx.rp_filter=0");
}

/// Addresses from which packets come in over the wire of [`connect_outside`].
const OUTSIDE: [(u8, &str); 2] = [(4, "192.0.2.9"), (6, "fd99:9::9")];

#[test]
fn a_packet_for_a_container_behind_a_bridge_is_charged_by_the_ip_address_that_it_goes_to() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let probe = Probe::open(&network);
    let container = bridged(&network);
    connect_outside(&network);
    tell_ips(&probe, &container);
    network.router.refuse("forward", "udp dport 7777");
    for (family, source) in OUTSIDE {
        let source: IpAddr = source.parse().unwrap();
        let send = || {
            let socket = UdpSocket::bind((source, 0)).unwrap();
            for _ in 0..5 {
                socket.send_to(b"x", (Network::address(3, family), 7777)).unwrap();
            }
        };
        let expected = refused(family, RECEIVE);
        expected.rises_by(&network, &probe, &container, 5, || network.router.inside(send));
    }
}

#[test]
fn a_packet_of_a_container_behind_a_netkit_pair_is_charged_to_it() {
    if !can_load() {
        return;
    }
    let network = Network::new();
    let container = Namespace::new();
    if let Err(error) = netkit::connect((&network.router, "portk"), (&container, "eth0")) {
        assert!(!netkit::exists(), "the kernel has netkit: {error}");
        return skip(&format!("needs netkit (6.7 and newer); a virtual machine has it: {error}"));
    }
    network.address_pair(&container, "portk", 3);
    let probe = Probe::open(&network);
    assert_charged_to_sender(&network, &probe, &container);
}
