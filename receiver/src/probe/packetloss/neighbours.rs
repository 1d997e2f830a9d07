//! Addresses of the containers behind bridges, for the program in the kernel: once a frame has gone up through its
//! bridge, nothing else tells which container it came from.

use std::{collections::HashMap, net::IpAddr};

use jitterscope_ebpf::{
    Table, TableError,
    abi::{NEIGHBOUR_IPV4, NEIGHBOUR_IPV6, NEIGHBOUR_MAC, neighbour, neighbour_key},
};

use crate::pods::{Address, Netns, Snapshot};

/// Addresses in the kernel's map. What is dropped for further ones is the node's.
const LIMIT: usize = 4096;

/// What the kernel's map holds.
#[derive(Default)]
pub(super) struct Neighbours {
    written: HashMap<Address, Netns>,
}

impl Neighbours {
    /// Entries of the kernel's map.
    pub(super) fn len(&self) -> usize {
        self.written.len()
    }

    /// Brings the kernel's map up to date with the addresses that exactly one namespace has.
    ///
    /// # Errors
    /// The map cannot be written.
    pub(super) fn update(
        &mut self,
        pods: &Snapshot,
        table: &Table<neighbour_key, neighbour>,
    ) -> Result<(), TableError> {
        let wanted: HashMap<Address, Netns> = pods.addresses().into_iter().take(LIMIT).collect();
        for address in self.written.keys().filter(|address| !wanted.contains_key(address)) {
            table.remove(&key(*address))?;
        }
        for (address, netns) in &wanted {
            if self.written.get(address) != Some(netns) {
                table.insert(
                    &key(*address),
                    &neighbour { netns_cookie: netns.cookie, netns: netns.inode, reserved: 0 },
                )?;
            }
        }
        self.written = wanted;
        Ok(())
    }
}

fn key(address: Address) -> neighbour_key {
    match address {
        Address::Mac(address) => filled(&address, NEIGHBOUR_MAC),
        Address::Ip(IpAddr::V4(address)) => filled(&address.octets(), NEIGHBOUR_IPV4),
        Address::Ip(IpAddr::V6(address)) => filled(&address.octets(), NEIGHBOUR_IPV6),
    }
}

/// The address at the beginning, the rest zero.
fn filled(address: &[u8], kind: u32) -> neighbour_key {
    let mut bytes = [0; 16];
    bytes[..address.len()].copy_from_slice(address);
    neighbour_key { address: bytes, kind }
}
