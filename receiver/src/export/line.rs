//! What waits at one destination: on disk where it is set and works, else in memory. It comes out in the order in which it
//! went in, wherever it was, what is worth most first.

use std::sync::Arc;

use jitterscope_semconv::value::ExporterDropCause;
use tokio::sync::watch;

use super::{
    DestinationAccount, Signal,
    disk::Disk,
    owners::Owners,
    queue::{Item, Queue},
    task::End,
};
use crate::{clock::wall, config::Destination};

/// Requests that wait.
pub(super) struct Line {
    memory: Queue,
    disk: Option<Disk>,
    account: Arc<DestinationAccount>,
    owners: Owners,
    last: i64,
}

impl Line {
    /// An empty line, by a destination's settings.
    pub(super) fn new(
        settings: &Destination,
        account: Arc<DestinationAccount>,
        owners: Owners,
        end: watch::Receiver<Option<End>>,
    ) -> Self {
        let memory = Queue::new(usize::try_from(settings.queue_memory).unwrap_or(usize::MAX));
        let disk = settings.queue_disk.clone().map(|settings| Disk::new(settings, Arc::clone(&account), end));
        Self { memory, disk, account, owners, last: 0 }
    }

    /// Opens what is on disk.
    pub(super) async fn open(&mut self) {
        if let Some(disk) = &mut self.disk {
            self.last = self.last.max(disk.open().await - 1);
        }
    }

    /// Puts a request in line. What had to go for it is counted.
    pub(super) async fn push(&mut self, mut item: Item) {
        self.open().await;
        self.last = now().max(self.last + 1);
        item.number = self.last;
        if let Some(account) = &item.account {
            self.owners.add(account);
        }
        if let Some(disk) = &mut self.disk
            && disk.append(&item, &self.owners).await
        {
            return;
        }
        self.remember(item);
    }

    fn remember(&mut self, item: Item) {
        self.account.wait(item.signal, item.request.bytes.len());
        for gone in self.memory.push(item) {
            self.account.waited(gone.signal, gone.request.bytes.len());
            self.given_up(&gone, ExporterDropCause::QueueFull);
        }
    }

    /// The next request, of the signal that is worth most: events and spans are few.
    pub(super) async fn pop(&mut self) -> Option<Item> {
        for signal in Signal::BY_WORTH.into_iter().rev() {
            let before = self.memory.first(signal).unwrap_or(i64::MAX);
            if let Some(disk) = &mut self.disk
                && let Some(item) = disk.take(signal, before, &self.owners).await
            {
                return Some(item);
            }
            if let Some(item) = self.memory.pop(signal) {
                self.account.waited(signal, item.request.bytes.len());
                return Some(item);
            }
        }
        None
    }

    /// The server has taken a request, or refused it for good.
    pub(super) async fn done(&mut self, item: &Item) {
        if let Some(disk) = self.disk.as_mut().filter(|_| item.on_disk) {
            disk.done(item.signal, item.number).await;
        }
    }

    /// The end before everything was sent: what is on disk stays there, what is not goes there, and what cannot is given
    /// up. Returns the items that were given up.
    pub(super) async fn leave(&mut self, current: Item) -> u64 {
        let mut given_up = self.leave_one(current).await;
        for signal in Signal::BY_WORTH.into_iter().rev() {
            while let Some(item) = self.memory.pop(signal) {
                self.account.waited(signal, item.request.bytes.len());
                given_up += self.leave_one(item).await;
            }
        }
        given_up
    }

    async fn leave_one(&mut self, item: Item) -> u64 {
        if item.on_disk {
            return 0;
        }
        if let Some(disk) = &mut self.disk
            && disk.append(&item, &self.owners).await
        {
            return 0;
        }
        self.given_up(&item, ExporterDropCause::Shutdown);
        item.request.items
    }

    fn given_up(&self, item: &Item, cause: ExporterDropCause) {
        self.account.give_up(item.signal, item.account.as_deref(), cause, item.request.items);
    }

    /// Closes what is on disk; whose records are in it is for who opens it next in this process.
    pub(super) async fn close(mut self) -> Owners {
        if let Some(disk) = &mut self.disk {
            disk.close().await;
        }
        self.owners
    }
}

/// Microseconds since the epoch: above all that an earlier process had, unless the clock was put back.
fn now() -> i64 {
    i64::try_from(wall() / 1000).unwrap_or(i64::MAX)
}
