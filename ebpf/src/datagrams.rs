//! The program that counts UDP by peer from user space: what it is loaded with, and its results.

use std::time::Duration;

use zerocopy::FromZeros as _;

use crate::abi::{datagrams, entity, flow_key};
use crate::{Kernel, LoadError, LoadOptions, Loaded, Object, Table, TableError};

/// Room for the peers of a node of 250 pods; kernel memory is used as entries are made. The rest is told in
/// [`Datagrams::rest`].
pub const PEERS: u32 = 16_384;

/// The program, attached. Dropping it detaches it.
#[derive(Debug)]
pub struct Datagrams {
    loaded: Loaded,
    peers: Table<flow_key, datagrams>,
    rest: Table<u32, datagrams>,
}

impl Datagrams {
    /// Loads and attaches the program, with room for so many peers ([`PEERS`]).
    ///
    /// # Errors
    /// The kernel refuses it, or there is no cgroup v2 hierarchy.
    pub fn open(kernel: &Kernel, peers: u32) -> Result<Self, LoadError> {
        let loaded = Object::DATAGRAMS
            .load(&LoadOptions { entries: &[("peers", peers)], ..LoadOptions::new(kernel) })?;
        Ok(Self { peers: loaded.table("peers")?, rest: loaded.table("rest")?, loaded })
    }

    /// Calls `visit` with the traffic with each peer; returns how many there are.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn peers(&self, visit: impl FnMut(&flow_key, &datagrams)) -> Result<usize, TableError> {
        self.peers.for_each(visit)
    }

    /// The traffic with peers for which there was no room.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn rest(&self) -> Result<datagrams, TableError> {
        Ok(self.rest.get(&0)?.unwrap_or(datagrams::new_zeroed()))
    }

    /// Removes the peers of those for which `is_gone`, and those that were silent for so long at `now`, the time since boot
    /// without suspend.
    ///
    /// # Errors
    /// The map cannot be read or written.
    pub fn forget(
        &self,
        now: Duration,
        silence: Duration,
        is_gone: impl Fn(&entity) -> bool,
    ) -> Result<(), TableError> {
        let is_silent = |traffic: &datagrams| Duration::from_nanos(traffic.last) + silence < now;
        self.peers.retain(|key, traffic| !is_silent(traffic) && !is_gone(&key.entity)).map(drop)
    }

    /// Attached hooks, programs, maps.
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }
}
