//! The queue of one destination: bounded in bytes for each signal, the oldest goes when it is full.
//!
//! Metrics may go, for cumulative points supersede each other; logs are kept to the bound and what goes is
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
}

/// Requests that wait, in order of arrival within a signal.
pub(super) struct Queue {
    metrics: Lane,
    logs: Lane,
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
        Self { metrics: Lane { limit, ..Lane::default() }, logs: Lane { limit, ..Lane::default() } }
    }

    /// Puts a request in line; returns those that had to go, the oldest first. A request larger than the whole
    /// queue goes itself.
    pub(super) fn push(&mut self, item: Item) -> Vec<Item> {
        match item.signal {
            Signal::Metrics => self.metrics.push(item),
            Signal::Logs => self.logs.push(item),
        }
    }

    /// The next request. Events go first: they are few, and they are what an operator waits for.
    pub(super) fn pop(&mut self) -> Option<Item> {
        self.logs.pop().or_else(|| self.metrics.pop())
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
        Item { signal, request: Encoded { bytes: vec![0; size].into(), items }, account: None }
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
        let order: Vec<u64> = std::iter::from_fn(|| queue.pop()).map(|item| item.request.items).collect();
        assert_eq!(order, [1, 4]);
        assert_eq!(queue.metrics.bytes + queue.logs.bytes, 0);
    }

    #[test]
    fn a_request_larger_than_the_queue_goes_itself() {
        let mut queue = Queue::new(100);
        queue.push(item(Signal::Logs, 50, 1));
        assert_eq!(queue.push(item(Signal::Logs, 101, 2))[0].request.items, 2);
        assert_eq!(queue.logs.bytes, 50);
    }
}
