//! Where probe tasks put finished requests: one bounded channel for each destination.

use std::sync::Arc;

use arc_swap::ArcSwap;
use jitterscope_semconv::value::{ExporterDropCause, ProbeDropStage};
use tokio::sync::mpsc::Sender;

use super::{Delivery, DestinationAccount, Payload};
use crate::{account::Account, config::Signals};

/// Requests on their way to one destination's task. It takes them at once into its own queue, so this fills only
/// while that task is kept from running.
pub(super) const CHANNEL: usize = 64;

/// The destinations of the moment; shared by all probe tasks, replaced whole by a reload.
pub type OutboxHandle = Arc<ArcSwap<Outbox>>;

/// A request on its way to one destination.
pub(super) struct Parcel {
    pub(super) payload: Arc<Payload>,
    /// Whose records they are. Of several destinations that get the same records, the first one's outcome is the one in
    /// the account: only its parcels have it.
    pub(super) account: Option<Arc<Account>>,
}

/// The way to one destination.
#[derive(Clone)]
pub(super) struct Address {
    pub(super) signals: Signals,
    pub(super) account: Arc<DestinationAccount>,
    pub(super) sender: Sender<Parcel>,
}

/// The sending ends, one for each destination.
#[derive(Default)]
pub struct Outbox {
    destinations: Vec<Address>,
}

impl Outbox {
    pub(super) fn new(destinations: Vec<Address>) -> Self {
        Self { destinations }
    }

    /// Returns when no destination takes anything any more: standard output was the only one and its reader has
    /// gone.
    pub async fn closed(&self) {
        if self.destinations.is_empty() {
            std::future::pending::<()>().await;
        }
        for destination in &self.destinations {
            destination.sender.closed().await;
        }
    }

    /// Sends to every destination that takes its signal, without waiting. Where the channel is full the request is
    /// given up: points come again, events are counted.
    pub fn send(&self, delivery: Delivery) {
        let signal = delivery.payload.signal();
        let items = delivery.payload.items();
        let takes = |destination: &&Address| destination.signals.have(signal);
        let payload = Arc::new(delivery.payload);
        let mut account = delivery.account;
        for destination in self.destinations.iter().filter(takes) {
            let parcel = Parcel { payload: Arc::clone(&payload), account: account.take() };
            destination.account.produced(signal, items);
            if let Err(refused) = destination.sender.try_send(parcel) {
                destination.account.dropped(signal, ExporterDropCause::Channel, items);
                if let Some(account) = refused.into_inner().account {
                    account.add_dropped(ProbeDropStage::Channel, items);
                }
            }
        }
        if let Some(account) = account {
            account.add_dropped(ProbeDropStage::Unwanted, items);
        }
    }
}
