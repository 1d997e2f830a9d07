//! A queue on disk before a server that is away, and can come later.
#![expect(clippy::unwrap_used, reason = "a part of tests, which end at the first surprise")]
#![expect(clippy::missing_panics_doc, reason = "what it panics at is a surprise")]

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use super::deliver::{Bed, until};
use super::server::Server;
use super::{Protocol, Signal};
use crate::network::free_addresses;

/// Grace for ends that are to leave everything.
pub const NO_TIME: Duration = Duration::from_millis(20);

/// A destination that is away, and can be started there later.
#[derive(Debug)]
pub struct Place {
    /// Where the server is to listen.
    pub address: String,
    /// The settings of the destination.
    pub settings: String,
}

impl Place {
    /// A queue in this directory, with more settings of it.
    #[must_use]
    pub fn new(path: &Path, more: &str) -> Self {
        let [address] = free_addresses().unwrap();
        let disk = format!("queue: {{disk: {{path: '{}'{more}}}}}", path.display());
        let settings = format!("endpoint: 'http://{address}', compression: none, {disk}");
        Self { address, settings }
    }

    /// Starts the destination.
    #[must_use]
    pub fn bed(&self) -> Bed {
        Bed::start(&[&self.settings])
    }

    /// Starts the server.
    pub async fn server(&self) -> Server {
        Server::start_at(self.address.parse().unwrap(), Protocol::Grpc, None, []).await
    }
}

/// Sends and waits until it is on disk.
pub async fn store(bed: &Bed, signal: Signal, numbers: Range<u64>) {
    bed.send(signal, numbers);
    until("it is on disk", || {
        let terms = bed.terms(signal);
        (terms.queued == terms.on_disk).then_some(())
    })
    .await;
}

/// The numbers that came in, without repetitions.
#[must_use]
pub fn unique(server: &Server, signal: Signal) -> Vec<u64> {
    let mut numbers = server.numbers(signal);
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// A number that compresses badly and stands for one below 2³² alone, in the same order.
#[must_use]
pub fn scattered(number: u64) -> u64 {
    number << 32 | (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32)
}
