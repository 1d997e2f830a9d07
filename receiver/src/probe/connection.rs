//! The ends of a socket in events: attributes from its owner's view, and both in a sentence.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jitterscope_ebpf::abi::connection;
use jitterscope_semconv::{
    attribute as key,
    value::{NetworkConnectionState as State, NetworkType},
};
use opentelemetry_proto::tonic::common::v1::KeyValue;

use super::packetloss::transport_name;
use crate::batch::attributes::key_value;

/// An address as the kernel holds it: IPv4 in the first four bytes. `None` for anything but IP.
pub(crate) fn address(family: u8, bytes: [u8; 16]) -> Option<IpAddr> {
    let [a, b, c, d, ..] = bytes;
    match family {
        4 => Some(Ipv4Addr::new(a, b, c, d).into()),
        6 => Some(Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

/// The version of IP. `None` for anything else.
pub(super) fn family_name(family: u8) -> Option<NetworkType> {
    match family {
        4 => Some(NetworkType::Ipv4),
        6 => Some(NetworkType::Ipv6),
        _ => None,
    }
}

/// An address with its port, if it has one.
pub(super) fn end(address: IpAddr, port: Option<u16>) -> String {
    match (address, port) {
        (IpAddr::V6(address), Some(port)) => format!("[{address}]:{port}"),
        (address, Some(port)) => format!("{address}:{port}"),
        (address, None) => address.to_string(),
    }
}

/// Addresses, ports, protocol and state of a socket's connection. One that is not connected has no peer.
pub(super) fn attributes(of: &connection) -> Vec<KeyValue> {
    let mut attributes = vec![key_value(&key::NETWORK_TRANSPORT, transport_name(of.protocol).as_str())];
    let text = |key, address: IpAddr| key_value(key, address.to_string().as_str());
    attributes.extend(family_name(of.family).map(|family| key_value(&key::NETWORK_TYPE, family.as_str())));
    attributes.extend(address(of.family, of.local_address).map(|ip| text(&key::NETWORK_LOCAL_ADDRESS, ip)));
    attributes.push(key_value(&key::NETWORK_LOCAL_PORT, i64::from(of.local_port)));
    if of.peer_port != 0 {
        attributes.extend(address(of.family, of.peer_address).map(|ip| text(&key::NETWORK_PEER_ADDRESS, ip)));
        attributes.push(key_value(&key::NETWORK_PEER_PORT, i64::from(of.peer_port)));
    }
    attributes.extend(state(of.state).map(|state| key_value(&key::NETWORK_CONNECTION_STATE, state.as_str())));
    attributes
}

/// `10.0.0.1:51324 ↔ 10.0.0.2:443`, the owner's end first, and alone where there is no peer.
pub(super) fn ends(of: &connection) -> String {
    let one = |bytes, port| address(of.family, bytes).map_or_else(String::new, |ip| end(ip, Some(port)));
    let local = one(of.local_address, of.local_port);
    if of.peer_port == 0 { local } else { format!("{local} ↔ {}", one(of.peer_address, of.peer_port)) }
}

/// States of TCP by the kernel's number (`include/net/tcp_states.h`). A request that is no socket yet has its own.
pub(super) fn state(number: u8) -> Option<State> {
    let states = [
        State::Established,
        State::SynSent,
        State::SynReceived,
        State::FinWait1,
        State::FinWait2,
        State::TimeWait,
        State::Closed,
        State::CloseWait,
        State::LastAck,
        State::Listen,
        State::Closing,
        State::SynReceived,
    ];
    states.get(usize::from(number).checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_end_has_brackets_only_with_a_port() {
        let address: IpAddr = "fd00::1".parse().expect("an address");
        assert_eq!(end(address, Some(53)), "[fd00::1]:53");
        assert_eq!(end(address, None), "fd00::1");
    }

    #[test]
    fn states_have_the_kernels_numbers() {
        assert_eq!(state(1), Some(State::Established));
        assert_eq!(state(10), Some(State::Listen));
        assert_eq!(state(12), Some(State::SynReceived));
        assert_eq!((state(0), state(13)), (None, None));
    }
}
