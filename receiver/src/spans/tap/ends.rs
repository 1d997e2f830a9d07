//! The two ends of a TCP connection, as attributes name them.

use std::net::{IpAddr, SocketAddr};

use jitterscope_semconv::{attribute as key, value::NetworkTransport};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};

/// The ends of an event's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    /// That of the socket, or who sent the packet.
    pub(super) local: SocketAddr,
    /// The other.
    pub(super) peer: SocketAddr,
    /// Whether `local` is known to be the socket's: a packet's sender may be either.
    pub(super) is_directed: bool,
}

impl Ends {
    /// Those of an event of a TCP connection: of its socket, or of a packet.
    pub(super) fn of_event(attributes: &[KeyValue]) -> Option<Self> {
        let tcp = NetworkTransport::Tcp.as_str();
        if text(attributes, key::NETWORK_TRANSPORT.key) != Some(tcp) {
            return None;
        }
        let end = |address, port| end(attributes, &[address], &[port]);
        let socket = end(key::NETWORK_LOCAL_ADDRESS.key, key::NETWORK_LOCAL_PORT.key)
            .zip(end(key::NETWORK_PEER_ADDRESS.key, key::NETWORK_PEER_PORT.key));
        let packet = || {
            end(key::SOURCE_ADDRESS.key, key::SOURCE_PORT.key)
                .zip(end(key::DESTINATION_ADDRESS.key, key::DESTINATION_PORT.key))
        };
        let (local, peer) = socket.or_else(packet)?;
        Some(Self { local, peer, is_directed: socket.is_some() })
    }

    /// The same seen from the other end.
    pub(super) fn turned(self) -> Self {
        Self { local: self.peer, peer: self.local, ..self }
    }
}

/// An end under the first of the names that there is for its address and for its port. IPv4 within IPv6 is IPv4.
pub(super) fn end(attributes: &[KeyValue], addresses: &[&str], ports: &[&str]) -> Option<SocketAddr> {
    let address: IpAddr = addresses.iter().find_map(|name| text(attributes, name))?.parse().ok()?;
    Some(SocketAddr::new(address.to_canonical(), port(attributes, ports)?))
}

/// A port under the first of the names that there is. Some instrumentations tell it as a text.
pub(super) fn port(attributes: &[KeyValue], names: &[&str]) -> Option<u16> {
    let number = |value: &Value| match value {
        Value::IntValue(number) => u16::try_from(*number).ok(),
        Value::StringValue(text) => text.parse().ok(),
        _ => None,
    };
    names.iter().find_map(|name| value(attributes, name)).and_then(number).filter(|port| *port != 0)
}

/// An attribute that is a text.
pub(super) fn text<'a>(attributes: &'a [KeyValue], name: &str) -> Option<&'a str> {
    match value(attributes, name)? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

fn value<'a>(attributes: &'a [KeyValue], name: &str) -> Option<&'a Value> {
    attributes.iter().find(|one| one.key == name)?.value.as_ref()?.value.as_ref()
}
