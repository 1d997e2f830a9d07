//! Where probe tasks put finished requests: one bounded channel for each destination.

use std::sync::Arc;

use arc_swap::ArcSwap;
use jitterscope_semconv::value::ProbeDropStage;
use tokio::sync::mpsc::{Receiver, Sender, channel, error::TrySendError};

use super::Delivery;

/// Requests on their way to one destination's task. It takes them at once into its own queue, so this fills only
/// while that task is kept from running.
const CHANNEL: usize = 64;

/// The destinations of the moment; shared by all probe tasks, replaced whole by a reload.
pub type OutboxHandle = Arc<ArcSwap<Outbox>>;

/// The sending ends, one for each destination. The first destination's outcome is the one in the account.
#[derive(Default)]
pub struct Outbox {
    destinations: Vec<Sender<Arc<Delivery>>>,
}

impl Outbox {
    /// One more destination; what it receives comes out of the returned end.
    pub fn open(&mut self) -> Receiver<Arc<Delivery>> {
        let (sender, receiver) = channel(CHANNEL);
        self.destinations.push(sender);
        receiver
    }

    /// Returns when no destination takes anything any more: standard output was the only one and its reader has
    /// gone.
    pub async fn closed(&self) {
        if self.destinations.is_empty() {
            std::future::pending::<()>().await;
        }
        for destination in &self.destinations {
            destination.closed().await;
        }
    }

    /// Sends to every destination without waiting. Where the channel is full the request is given up: points
    /// come again, events are counted.
    pub fn send(&self, delivery: Delivery) {
        let delivery = Arc::new(delivery);
        for (at, destination) in self.destinations.iter().enumerate() {
            let sent = destination.try_send(Arc::clone(&delivery));
            if at == 0
                && let Err(TrySendError::Full(refused) | TrySendError::Closed(refused)) = sent
            {
                refused.dropped(ProbeDropStage::Channel);
            }
        }
    }
}
