//! One dropped packet as an event.

use std::{net::IpAddr, time::Duration};

use jitterscope_ebpf::{
    Symbols,
    packetloss::{Event, Reasons},
};
use jitterscope_semconv::{attribute as key, event};
use opentelemetry_proto::tonic::common::v1::KeyValue;

use super::{Attributes as _, What, address, end, explain, origin};
use crate::{
    batch::{
        Occurrence,
        attributes::{key_strings, key_value, key_values},
    },
    clock::Clock,
};

/// Flags of the TCP header, lowest bit first (RFC 9293, section 3.1).
const TCP_FLAGS: [&str; 8] = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];

/// Tells events; keeps the kernel symbols that it has resolved.
pub(super) struct Teller {
    symbols: Symbols,
}

impl Teller {
    pub(super) fn new(symbols: Symbols) -> Self {
        Self { symbols }
    }

    pub(super) fn occurrence(&mut self, record: &Event, reasons: &Reasons, clock: &Clock) -> Occurrence {
        let what = What::of(&record.into(), reasons);
        let packet = Packet::of(record);
        let mut attributes = key_values(&what.attributes());
        attributes.extend(packet.attributes(record));
        attributes.extend(self.place(record));
        Occurrence {
            event: &event::PACKET_DROPPED,
            time_unix_nano: clock.at_boot(record.time),
            origin: origin(record.netns, record.netns_cookie, record.cgroup),
            body: packet.sentence(&what),
            attributes,
            link: None,
            lasted: Duration::ZERO,
        }
    }

    /// Function and offset, and the stack where it was asked for.
    fn place(&mut self, record: &Event) -> Vec<KeyValue> {
        let mut attributes = Vec::new();
        if let Some(symbol) = self.symbols.name(record.location) {
            attributes.push(key_value(&key::PACKET_DROP_LOCATION, symbol));
        }
        let frames = record.stack.iter().take(record.frames as usize);
        let stack: Vec<String> = frames.map(|frame| self.symbol(*frame)).collect();
        if !stack.is_empty() {
            attributes.push(key_strings(&key::PACKET_DROP_STACK, stack));
        }
        attributes
    }

    fn symbol(&mut self, address: u64) -> String {
        self.symbols.name(address).map_or_else(|| format!("{address:#x}"), str::to_owned)
    }
}

/// The packet of an event.
struct Packet {
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
    ports: Option<(u16, u16)>,
    interface: String,
}

impl Packet {
    fn of(record: &Event) -> Self {
        let name = record.interface.split(|byte| *byte == 0).next().unwrap_or_default();
        Self {
            source: address(record.family, record.source_address),
            destination: address(record.family, record.destination_address),
            ports: (record.source_port != 0 || record.destination_port != 0)
                .then_some((record.source_port, record.destination_port)),
            interface: String::from_utf8_lossy(name).into_owned(),
        }
    }

    fn attributes(&self, record: &Event) -> Vec<KeyValue> {
        let text = |key, address: Option<IpAddr>| {
            address.map(|address| key_value(key, address.to_string().as_str()))
        };
        let mut attributes = Vec::new();
        attributes.extend(text(&key::SOURCE_ADDRESS, self.source));
        attributes.extend(text(&key::DESTINATION_ADDRESS, self.destination));
        if let Some((source, destination)) = self.ports {
            attributes.push(key_value(&key::SOURCE_PORT, i64::from(source)));
            attributes.push(key_value(&key::DESTINATION_PORT, i64::from(destination)));
        }
        if !self.interface.is_empty() {
            attributes.push(key_value(&key::NETWORK_INTERFACE_NAME, self.interface.as_str()));
        }
        if record.length != 0 {
            attributes.push(key_value(&key::PACKET_SIZE, i64::from(record.length)));
        }
        if record.tcp_flags != 0 {
            attributes.push(key_value(&key::TCP_FLAGS, flags(record.tcp_flags).as_str()));
        }
        if record.happened_in != 0 {
            attributes.push(key_value(&key::NETNS_INODE, i64::from(record.happened_in)));
        }
        attributes
    }

    /// `TCP packet A → B dropped on receive at eth0: why`.
    fn sentence(&self, what: &What) -> String {
        let transport = what.transport.as_deref().unwrap_or("non-IP").to_ascii_uppercase();
        let ends = match (self.source, self.destination) {
            (Some(source), Some(destination)) => {
                let (from, to) = self.ports.map_or((None, None), |(from, to)| (Some(from), Some(to)));
                format!(" {} → {}", end(source, from), end(destination, to))
            }
            _ => String::new(),
        };
        let direction =
            what.direction.map(|direction| format!(" on {}", direction.as_str())).unwrap_or_default();
        let place = if self.interface.is_empty() { String::new() } else { format!(" at {}", self.interface) };
        let host = if what.host { " by the node" } else { "" };
        format!("{transport} packet{ends} dropped{direction}{place}{host}: {}", explain::reason(&what.reason))
    }
}

fn flags(bits: u8) -> String {
    let set = TCP_FLAGS.iter().enumerate().filter(|(bit, _)| bits & 1 << bit != 0);
    set.map(|(_, name)| *name).collect::<Vec<_>>().join("|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_flags_are_named_lowest_bit_first() {
        assert_eq!(flags(0x12), "SYN|ACK");
        assert_eq!(flags(0), "");
    }
}
