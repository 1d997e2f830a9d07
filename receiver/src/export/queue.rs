//! The queue of one destination in memory: bounded in bytes for each signal, the oldest goes when it is full.
//!
//! Metrics may go, for cumulative points supersede each other; logs and spans are kept to the bound and what goes is
//! counted.

use std::{collections::VecDeque, sync::Arc};

use super::{Signal, split::Encoded};
use crate::account::Account;

/// An encoded request that waits.
#[derive(Clone)]
pub(super) struct Item {
    /// Which signal.
    pub(super) signal: Signal,
    /// The request.
    pub(super) request: Encoded,
    /// Whose records they are.
    pub(super) account: Option<Arc<Account>>,
    /// Its place in the order of its signal.
    pub(super) number: i64,
    /// Whether it is on disk too.
    pub(super) on_disk: bool,
}

impl Item {
    /// A request that is new in line.
    pub(super) fn new(signal: Signal, request: Encoded, account: Option<Arc<Account>>) -> Self {
        Self { signal, request, account, number: 0, on_disk: false }
    }
}

/// Requests that wait, in order of arrival within a signal.
pub(super) struct Queue {
    /// By signal, in the order of `Signal::ALL`.
    lanes: [Lane; Signal::ALL.len()],
}

#[derive(Default)]
struct Lane {
    items: VecDeque<Item>,
    bytes: usize,
    limit: usize,
}

impl Queue {
    /// A queue of at most `limit` bytes for each signal.
    pub(super) fn new(limit: usize) -> Self {
        Self { lanes: Signal::ALL.map(|_| Lane { limit, ..Lane::default() }) }
    }

    /// Puts a request in line; returns those that had to go, the oldest first. A request larger than the whole
    /// queue goes itself.
    pub(super) fn push(&mut self, item: Item) -> Vec<Item> {
        self.lane(item.signal).push(item)
    }

    /// The next request of a signal.
    pub(super) fn pop(&mut self, signal: Signal) -> Option<Item> {
        self.lane(signal).pop()
    }

    /// Its number.
    pub(super) fn first(&mut self, signal: Signal) -> Option<i64> {
        self.lane(signal).items.front().map(|item| item.number)
    }

    fn lane(&mut self, signal: Signal) -> &mut Lane {
        &mut self.lanes[signal as usize]
    }
}

impl Lane {
    fn push(&mut self, item: Item) -> Vec<Item> {
        let size = item.request.bytes.len();
        if size > self.limit {
            return vec![item];
        }
        let mut evicted = Vec::new();
        while self.bytes + size > self.limit {
            evicted.extend(self.pop());
        }
        self.bytes += size;
        self.items.push_back(item);
        evicted
    }

    fn pop(&mut self) -> Option<Item> {
        let item = self.items.pop_front()?;
        self.bytes -= item.request.bytes.len();
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(signal: Signal, size: usize, items: u64) -> Item {
        Item::new(signal, Encoded { bytes: vec![0; size].into(), items }, None)
    }

    #[test]
    fn a_full_queue_gives_up_the_oldest_of_the_same_signal() {
        let mut queue = Queue::new(100);
        assert!(queue.push(item(Signal::Logs, 60, 1)).is_empty());
        assert!(queue.push(item(Signal::Metrics, 60, 2)).is_empty());
        assert!(queue.push(item(Signal::Metrics, 40, 3)).is_empty());
        let evicted: Vec<u64> =
            queue.push(item(Signal::Metrics, 80, 4)).iter().map(|item| item.request.items).collect();
        assert_eq!(evicted, [2, 3]);
        let order: Vec<u64> = [Signal::Logs, Signal::Metrics]
            .into_iter()
            .flat_map(|signal| std::iter::from_fn(|| queue.pop(signal)).collect::<Vec<_>>())
            .map(|item| item.request.items)
            .collect();
        assert_eq!(order, [1, 4]);
        assert!(queue.lanes.iter().all(|lane| lane.bytes == 0));
    }

    #[test]
    fn a_request_larger_than_the_queue_goes_itself() {
        let mut queue = Queue::new(100);
        queue.push(item(Signal::Logs, 50, 1));
        assert_eq!(queue.push(item(Signal::Logs, 101, 2))[0].request.items, 2);
        assert_eq!(queue.lane(Signal::Logs).bytes, 50);
    }
}
