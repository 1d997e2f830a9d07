//! The task of a Collector: takes requests into its queue and sends them one at a time.

use std::{collections::BTreeMap, sync::Arc};

use jitterscope_semconv::value::ExporterDropCause;
use tokio::{
    sync::watch,
    time::{Duration, Instant, sleep, timeout_at},
};
use tracing::{info, warn};

use super::{
    Client, Signal,
    answer::Accepted,
    line::Line,
    outbox::Parcel,
    owners::Owners,
    queue::Item,
    retry::{Backoff, Refusal, Verdict},
    shape::Shape,
    split::{REQUEST_BYTES, encode},
    task::{End, Inbox},
};
use crate::{clock::Clock, config::Destination};

/// Time between two log lines about the same destination's failures of the same cause.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// The task of a Collector.
pub(super) struct Sender {
    client: Client,
    shape: Shape,
    line: Line,
    inbox: Inbox,
    end: watch::Receiver<Option<End>>,
    open: bool,
    backoff: Backoff,
    /// When a failure was last logged, by cause.
    told: BTreeMap<Cause, Instant>,
}

/// What a log line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cause {
    Certificates,
    Partial,
    Unheard,
    Grpc(i32),
    Http(u16),
}

impl Cause {
    fn of(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::Unheard(_) => Self::Unheard,
            Refusal::Grpc(status) => Self::Grpc(status.code().into()),
            Refusal::Http { status, .. } => Self::Http(status.as_u16()),
        }
    }
}

impl Sender {
    /// A task by a destination's settings.
    pub(super) fn new(
        client: Client,
        settings: &Destination,
        inbox: Inbox,
        end: watch::Receiver<Option<End>>,
        owners: Owners,
    ) -> Self {
        Self {
            client,
            shape: Shape::of(settings, Clock::read().now()),
            line: Line::new(settings, Arc::clone(&inbox.account), owners, end.clone()),
            inbox,
            end,
            open: true,
            backoff: Backoff::default(),
            told: BTreeMap::new(),
        }
    }

    /// Runs until its inbox is closed and everything is sent, or the time to end is over.
    pub(super) async fn run(mut self) -> Owners {
        self.line.open().await;
        loop {
            match self.line.pop().await {
                Some(item) => {
                    if !self.deliver(item).await {
                        break;
                    }
                }
                None if !self.open => break,
                None => self.receive().await,
            }
        }
        self.report_left();
        self.line.close().await
    }

    /// Takes the next request from the channel into the queue.
    async fn receive(&mut self) {
        match self.inbox.receiver.recv().await {
            Some(parcel) => self.enqueue(&parcel).await,
            None => self.open = false,
        }
    }

    async fn enqueue(&mut self, parcel: &Parcel) {
        let signal = parcel.payload.signal();
        let shaped = self.shape.apply(&parcel.payload);
        let (payload, absorbed) =
            shaped.as_ref().map_or((&*parcel.payload, 0), |(payload, absorbed)| (payload, *absorbed));
        self.inbox.dropped(signal, None, ExporterDropCause::Baseline, absorbed);
        let (requests, too_large) =
            if payload.items() == 0 { (Vec::new(), 0) } else { encode(payload, REQUEST_BYTES) };
        self.inbox.dropped(signal, parcel.account.as_deref(), ExporterDropCause::TooLarge, too_large);
        for request in requests {
            self.line.push(Item::new(signal, request, parcel.account.clone())).await;
        }
    }

    /// Sends one request until the server takes it or refuses it for good, while further requests go into the
    /// queue. False when the time to end is over.
    async fn deliver(&mut self, item: Item) -> bool {
        loop {
            if let Err(reason) = self.client.follow_certificates() {
                self.tell(Cause::Certificates, &format!("changed certificates cannot be used: {reason}"));
            }
            let sent = self.client.export(item.signal, item.request.bytes.clone());
            let Some(answer) = self.meanwhile(sent).await else {
                return self.give_up(item).await;
            };
            match answer.map_err(|refusal| (refusal.verdict(), refusal)) {
                Ok(accepted) => {
                    self.line.done(&item).await;
                    self.accepted(&item, &accepted);
                    return true;
                }
                Err((Verdict::Never, refusal)) => {
                    self.line.done(&item).await;
                    self.refused(&item, &refusal);
                    return true;
                }
                Err((Verdict::Again(delay), refusal)) => {
                    let wait = self.again(item.signal, &refusal, delay);
                    if self.meanwhile(sleep(wait)).await.is_none() {
                        return self.give_up(item).await;
                    }
                }
            }
        }
    }

    /// Notes a failure that may pass; how long to wait.
    fn again(&mut self, signal: Signal, refusal: &Refusal, delay: Option<Duration>) -> Duration {
        self.inbox.account.retried(signal);
        self.inbox.account.failed(refusal.to_string());
        if matches!(refusal, Refusal::Unheard(_)) {
            self.client.reconnect();
        }
        self.tell(Cause::of(refusal), &format!("{refusal}; trying again"));
        self.backoff.next(delay)
    }

    /// Waits for `work`, taking requests into the queue meanwhile; `None` when the time to end is over.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        loop {
            let end = *self.end.borrow_and_update();
            if end.is_some_and(|end| end.handed_over && !self.open) {
                return None;
            }
            let over = async {
                match end {
                    Some(end) => timeout_at(end.at, std::future::pending::<()>()).await.is_err(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                done = &mut work => return Some(done),
                received = self.inbox.receiver.recv(), if self.open => match received {
                    Some(parcel) => self.enqueue(&parcel).await,
                    None => self.open = false,
                },
                _ = over => return None,
                Ok(()) = self.end.changed() => {}
            }
        }
    }

    fn accepted(&mut self, item: &Item, accepted: &Accepted) {
        self.backoff.reset();
        self.inbox.account.succeeded();
        let rejected = accepted.rejected.min(item.request.items);
        let account = item.account.as_deref();
        self.inbox.delivered(item.signal, account, item.request.items - rejected);
        self.inbox.dropped(item.signal, account, ExporterDropCause::Rejected, rejected);
        if rejected > 0 || !accepted.message.is_empty() {
            let what = format!("refused {rejected} of {}: {}", item.request.items, accepted.message);
            self.tell(Cause::Partial, &what);
        }
    }

    fn refused(&mut self, item: &Item, refusal: &Refusal) {
        self.backoff.reset();
        self.inbox.account.failed(refusal.to_string());
        self.inbox.given_up(item, ExporterDropCause::Rejected);
        self.tell(Cause::of(refusal), &format!("refused {} for good: {refusal}", item.request.items));
    }

    /// Everything that is left at the end is on disk or counted. Always false: there is nothing to go on with.
    async fn give_up(&mut self, item: Item) -> bool {
        self.inbox.receiver.close();
        while let Ok(parcel) = self.inbox.receiver.try_recv() {
            self.enqueue(&parcel).await;
        }
        let items = self.line.leave(item).await;
        if items > 0 {
            warn!(destination = self.inbox.account.name, items, "not delivered within the grace period");
        }
        false
    }

    fn report_left(&self) {
        let left = Signal::ALL.map(|signal| self.inbox.account.terms(signal).on_disk);
        if left.iter().any(|items| *items > 0) {
            let [metrics, logs, traces] = left;
            info!(destination = self.inbox.account.name, metrics, logs, traces, "left in the queue on disk");
        }
    }

    fn tell(&mut self, cause: Cause, what: &str) {
        let now = Instant::now();
        if self.told.get(&cause).is_none_or(|told| now - *told >= LOG_EVERY) {
            self.told.insert(cause, now);
            warn!(destination = self.inbox.account.name, "{what}");
        } else {
            info!(destination = self.inbox.account.name, "{what}");
        }
    }
}
