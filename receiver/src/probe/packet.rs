//! A packet in events, as it says itself where it comes from and goes to: attributes, and both ends in a sentence.

use jitterscope_ebpf::abi::{INTERFACE_NAME, packet_ends};
use jitterscope_semconv::attribute as key;
use opentelemetry_proto::tonic::common::v1::KeyValue;

use super::{
    connection::{address, end, family_name},
    packetloss::transport_name,
};
use crate::batch::attributes::key_value;

/// Addresses, ports, protocol; what it does not have is left out.
pub(super) fn attributes(of: &packet_ends) -> Vec<KeyValue> {
    let Some(family) = family_name(of.family) else { return Vec::new() };
    let mut attributes = vec![
        key_value(&key::NETWORK_TYPE, family.as_str()),
        key_value(&key::NETWORK_TRANSPORT, transport_name(of.protocol).as_str()),
    ];
    let ends = [
        (&key::SOURCE_ADDRESS, of.source_address, &key::SOURCE_PORT, of.source_port),
        (&key::DESTINATION_ADDRESS, of.destination_address, &key::DESTINATION_PORT, of.destination_port),
    ];
    for (place, bytes, number, port) in ends {
        let address = address(of.family, bytes);
        attributes.extend(address.map(|address| key_value(place, address.to_string().as_str())));
        attributes.extend(has_ports(of).then(|| key_value(number, i64::from(port))));
    }
    attributes
}

/// `UDP packet 10.0.0.1:51324 → 10.0.0.2:53`, or `non-IP packet`.
pub(super) fn sentence(of: &packet_ends) -> String {
    let one =
        |bytes, port| address(of.family, bytes).map(|address| end(address, has_ports(of).then_some(port)));
    let ends = (one(of.source_address, of.source_port), one(of.destination_address, of.destination_port));
    match ends {
        (Some(source), Some(destination)) => {
            let transport = transport_name(of.protocol).to_ascii_uppercase();
            format!("{transport} packet {source} → {destination}")
        }
        _ => "non-IP packet".to_owned(),
    }
}

/// The name of the interface that it is at.
pub(super) fn interface(bytes: &[u8; INTERFACE_NAME as usize]) -> String {
    let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

fn has_ports(of: &packet_ends) -> bool {
    of.source_port != 0 || of.destination_port != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_without_ports_shows_none() {
        let mut address = [0; 16];
        address[..4].copy_from_slice(&[10, 0, 0, 1]);
        let ping = packet_ends {
            family: 4,
            protocol: 1,
            source_address: address,
            destination_address: address,
            ..packet_ends::default()
        };
        assert_eq!(sentence(&ping), "ICMP packet 10.0.0.1 → 10.0.0.1");
        assert_eq!(attributes(&ping).len(), 4);
        let dns = packet_ends { protocol: 17, source_port: 4000, destination_port: 53, ..ping };
        assert_eq!(sentence(&dns), "UDP packet 10.0.0.1:4000 → 10.0.0.1:53");
        assert_eq!(attributes(&dns).len(), 6);
        assert_eq!(sentence(&packet_ends::default()), "non-IP packet");
    }
}
