//! Addresses of the containers behind bridges, for the program in the kernel: once a frame has gone up through its
//! bridge, nothing else tells which container it came from.
//!
//! An address that several namespaces have says nothing and is left out; so is everything while the host has no bridge.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    net::IpAddr,
};

use jitterscope_ebpf::{
    Table, TableError,
    abi::{NEIGHBOUR_IPV4, NEIGHBOUR_IPV6, neighbour, neighbour_key},
};

use crate::round::{InNamespace, Round};

/// Collections in which a new namespace's addresses are read again: a runtime assigns them after making it.
const SETTLING: u32 = 4;
/// After these they are read every so many collections, for addresses change rarely.
const EVERY: u32 = 20;
/// Addresses in the kernel's map; beyond it, drops are the node's.
const LIMIT: usize = 4096;

/// What was read of each namespace, and what the kernel's map holds.
#[derive(Default)]
pub(super) struct Neighbours {
    namespaces: HashMap<u64, Known>,
    written: HashMap<IpAddr, u32>,
}

#[derive(Default)]
struct Known {
    collections: u32,
    inode: u32,
    cookie: u64,
    addresses: Vec<IpAddr>,
}

impl Neighbours {
    /// Brings the kernel's map up to date.
    ///
    /// # Errors
    /// The map cannot be written.
    pub(super) fn update(
        &mut self,
        round: &Round<'_>,
        table: &Table<neighbour_key, neighbour>,
    ) -> Result<(), TableError> {
        if has_bridge() {
            self.read(round);
        } else {
            self.namespaces.clear();
        }
        let wanted = self.unambiguous();
        for address in self.written.keys().filter(|address| !wanted.contains_key(address)) {
            table.remove(&key(*address))?;
        }
        for (address, known) in &wanted {
            if self.written.get(address) != Some(&known.inode) {
                table.insert(
                    &key(*address),
                    &neighbour { netns_cookie: known.cookie, netns: known.inode, reserved: 0 },
                )?;
            }
        }
        self.written = wanted.into_iter().map(|(address, known)| (address, known.inode)).collect();
        Ok(())
    }

    fn read(&mut self, round: &Round<'_>) {
        let present: HashSet<u64> =
            round.namespaces().map(|namespace| namespace.namespace.instance).collect();
        self.namespaces.retain(|instance, _| present.contains(instance));
        for namespace in round.namespaces().filter(|namespace| !namespace.namespace.host) {
            self.namespaces.entry(namespace.namespace.instance).or_default().read(&namespace);
        }
    }

    /// Addresses that exactly one namespace has.
    fn unambiguous(&self) -> HashMap<IpAddr, &Known> {
        let mut owners: HashMap<IpAddr, Option<&Known>> = HashMap::new();
        for known in self.namespaces.values() {
            for address in &known.addresses {
                match owners.entry(*address) {
                    Entry::Vacant(free) => _ = free.insert(Some(known)),
                    Entry::Occupied(mut taken) => _ = taken.insert(None),
                }
            }
        }
        owners.into_iter().filter_map(|(address, owner)| Some((address, owner?))).take(LIMIT).collect()
    }
}

impl Known {
    fn read(&mut self, namespace: &InNamespace<'_>) {
        if self.collections < SETTLING || self.collections.is_multiple_of(EVERY) {
            self.addresses = namespace.addresses();
        }
        self.collections = self.collections.saturating_add(1);
        self.inode = namespace.namespace.id.inode;
        self.cookie = namespace.namespace.id.cookie;
    }
}

/// Whether the host has a bridge (`/sys/class/net/<name>/bridge`, net/bridge/br_sysfs_br.c).
fn has_bridge() -> bool {
    let Ok(interfaces) = std::fs::read_dir("/sys/class/net") else { return false };
    interfaces.flatten().any(|interface| interface.path().join("bridge").exists())
}

fn key(address: IpAddr) -> neighbour_key {
    match address {
        IpAddr::V4(address) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&address.octets());
            neighbour_key { address: bytes, kind: NEIGHBOUR_IPV4 }
        }
        IpAddr::V6(address) => neighbour_key { address: address.octets(), kind: NEIGHBOUR_IPV6 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(inode: u32, addresses: &[&str]) -> Known {
        let addresses = addresses.iter().map(|address| address.parse().expect("an address")).collect();
        Known { inode, addresses, ..Known::default() }
    }

    #[test]
    fn an_address_that_two_namespaces_have_belongs_to_neither() {
        let namespaces =
            [(1, known(11, &["10.0.0.1", "fd00::1"])), (2, known(12, &["10.0.0.1", "10.0.0.2"]))];
        let neighbours = Neighbours { namespaces: namespaces.into(), written: HashMap::new() };
        let mut owned: Vec<(String, u32)> = neighbours
            .unambiguous()
            .iter()
            .map(|(address, known)| (address.to_string(), known.inode))
            .collect();
        owned.sort();
        assert_eq!(owned, [("10.0.0.2".to_owned(), 12), ("fd00::1".to_owned(), 11)]);
    }
}
