//! One destination's task: takes requests from its channel, queues them, sends them one at a time.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use jitterscope_semconv::value::ProbeDropStage;
use tokio::{
    sync::{mpsc::Receiver, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout_at},
};
use tracing::{debug, info, warn};

use super::{
    Delivery, Outbox, Signal,
    grpc::{Accepted, Client},
    queue::{Item, Queue},
    retry::{Backoff, Verdict, verdict},
    split::{REQUEST_BYTES, encode},
    text::Text,
};

/// Time between two log lines about the same destination's failures.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// What became of the requests of one destination, for the receiver's own telemetry.
#[derive(Debug, Default)]
pub struct DestinationAccount {
    /// Where to, without secrets.
    pub name: String,
    /// Items that were delivered, by signal.
    pub delivered: PerSignal,
    /// Items that the server refused for good.
    pub rejected: PerSignal,
    /// Items that went because the queue was full.
    pub queue_full: PerSignal,
    /// Items that were too large for any request.
    pub too_large: PerSignal,
    /// Items that were left at the end.
    pub shutdown: PerSignal,
    /// Tries that failed and were made again.
    pub retries: PerSignal,
    /// Bytes that wait.
    pub queued: PerSignal,
    /// Items that wait.
    pub waiting: PerSignal,
    /// Bytes that may wait, for each signal; 0: nothing waits here.
    pub capacity: u64,
    /// Whether the last try failed.
    failing: AtomicBool,
}

impl DestinationAccount {
    /// Whether the last try failed.
    pub fn failing(&self) -> bool {
        self.failing.load(Relaxed)
    }
}

/// One number for each signal.
#[derive(Debug, Default)]
pub struct PerSignal {
    metrics: AtomicU64,
    logs: AtomicU64,
}

impl PerSignal {
    /// The number of one signal.
    pub fn of(&self, signal: Signal) -> &AtomicU64 {
        match signal {
            Signal::Metrics => &self.metrics,
            Signal::Logs => &self.logs,
        }
    }

    /// The number of one signal now.
    pub fn get(&self, signal: Signal) -> u64 {
        self.of(signal).load(Relaxed)
    }

    fn add(&self, signal: Signal, items: u64) {
        self.of(signal).fetch_add(items, Relaxed);
    }
}

/// What a destination does with requests.
pub enum Sink {
    /// Sends them to a Collector; the bound of its queue in bytes for each signal.
    Otlp(Box<Client>, usize),
    /// Writes them for people.
    Text(Box<Text>),
    /// Writes them as OTLP/JSON, one request a line.
    Json(Box<dyn Write + Send>),
}

/// A destination before it runs.
pub struct Destination {
    /// Where to, without secrets.
    pub name: String,
    /// What it does.
    pub sink: Sink,
}

/// The running destinations.
pub struct Exporters {
    tasks: Vec<JoinHandle<()>>,
    deadline: watch::Sender<Option<Instant>>,
    /// Their accounts.
    pub accounts: Vec<Arc<DestinationAccount>>,
}

impl Exporters {
    /// Starts a task for each destination; requests put into the outbox reach all of them.
    pub fn start(destinations: Vec<Destination>) -> (Self, Outbox) {
        let mut outbox = Outbox::default();
        let (deadline, _) = watch::channel(None);
        let mut exporters = Self { tasks: Vec::new(), deadline, accounts: Vec::new() };
        for (at, destination) in destinations.into_iter().enumerate() {
            let capacity = match destination.sink {
                Sink::Otlp(_, limit) => limit as u64,
                Sink::Text(_) | Sink::Json(_) => 0,
            };
            let account =
                Arc::new(DestinationAccount { name: destination.name, capacity, ..Default::default() });
            exporters.accounts.push(Arc::clone(&account));
            let inbox = Inbox { receiver: outbox.open(), account, primary: at == 0 };
            exporters.tasks.push(tokio::spawn(run(destination.sink, inbox, exporters.deadline.subscribe())));
        }
        (exporters, outbox)
    }

    /// Waits until everything is sent or the grace period is over. The outbox must be gone before.
    pub async fn drain(self, grace: Duration) {
        self.deadline.send_replace(Some(Instant::now() + grace));
        for task in self.tasks {
            if let Err(error) = task.await {
                warn!(%error, "a destination's task broke");
            }
        }
    }
}

struct Inbox {
    receiver: Receiver<Arc<Delivery>>,
    account: Arc<DestinationAccount>,
    /// Whether what happens here is what the probes' accounts say.
    primary: bool,
}

async fn run(sink: Sink, inbox: Inbox, deadline: watch::Receiver<Option<Instant>>) {
    match sink {
        Sink::Otlp(client, limit) => Sender::new(*client, limit, inbox, deadline).run().await,
        Sink::Text(text) => write_text(inbox, *text).await,
        Sink::Json(out) => write_json(inbox, out).await,
    }
}

async fn write_json(mut inbox: Inbox, mut out: Box<dyn Write + Send>) {
    while let Some(delivery) = inbox.receiver.recv().await {
        if !inbox.written(&delivery, &super::text::json_line(&mut out, &delivery.payload)) {
            return inbox.refuse();
        }
    }
}

/// Points that come within this time of each other stand in one report: the probes collect one after the other.
const REPORT_SETTLES: Duration = Duration::from_millis(200);

async fn write_text(mut inbox: Inbox, mut text: Text) {
    let mut report_at = None;
    loop {
        let next = match report_at {
            Some(at) => timeout_at(at, inbox.receiver.recv()).await,
            None => Ok(inbox.receiver.recv().await),
        };
        let read = match &next {
            Ok(Some(delivery)) => inbox.written(delivery, &text.write(&delivery.payload)),
            _ => is_read(&text.flush()),
        };
        if !read {
            return inbox.refuse();
        }
        if matches!(next, Ok(None)) {
            return;
        }
        report_at = text.pending().then(|| report_at.unwrap_or_else(|| Instant::now() + REPORT_SETTLES));
    }
}

/// Whether an output still has a reader: a pipe's may have gone (EPIPE), as `head` does.
fn is_read(result: &std::io::Result<()>) -> bool {
    match result {
        Ok(()) => true,
        Err(error) => {
            debug!(%error, "output");
            error.kind() != std::io::ErrorKind::BrokenPipe
        }
    }
}

impl Inbox {
    /// Counts what was written or not. False when nobody reads any more.
    fn written(&self, delivery: &Delivery, result: &std::io::Result<()>) -> bool {
        match result {
            Ok(()) => {
                let (signal, items) = (delivery.payload.signal(), delivery.payload.items());
                self.delivered(signal, delivery.account.as_deref(), items);
            }
            Err(_) => self.unwritten(delivery),
        }
        is_read(result)
    }

    fn unwritten(&self, delivery: &Delivery) {
        let (signal, items) = (delivery.payload.signal(), delivery.payload.items());
        self.account.rejected.add(signal, items);
        self.dropped(delivery.account.as_deref(), ProbeDropStage::Rejected, items);
    }

    /// Takes nothing more; what waits is counted.
    fn refuse(mut self) {
        self.receiver.close();
        while let Ok(delivery) = self.receiver.try_recv() {
            self.unwritten(&delivery);
        }
    }

    fn delivered(&self, signal: Signal, account: Option<&crate::account::Account>, items: u64) {
        self.account.delivered.add(signal, items);
        if let Some(account) = account.filter(|_| self.primary) {
            account.add_exported(items);
        }
    }

    fn dropped(&self, account: Option<&crate::account::Account>, stage: ProbeDropStage, items: u64) {
        if let Some(account) = account.filter(|_| self.primary) {
            account.add_dropped(stage, items);
        }
    }
}

/// The task of a Collector.
struct Sender {
    client: Client,
    queue: Queue,
    inbox: Inbox,
    deadline: watch::Receiver<Option<Instant>>,
    open: bool,
    backoff: Backoff,
    /// When a failure was last logged.
    told: Option<Instant>,
}

impl Sender {
    fn new(client: Client, limit: usize, inbox: Inbox, deadline: watch::Receiver<Option<Instant>>) -> Self {
        Self {
            client,
            queue: Queue::new(limit),
            inbox,
            deadline,
            open: true,
            backoff: Backoff::default(),
            told: None,
        }
    }

    async fn run(mut self) {
        loop {
            match self.queue.pop() {
                Some(item) => {
                    self.note_queue();
                    if !self.deliver(item).await {
                        return;
                    }
                }
                None if !self.open => return,
                None => self.receive().await,
            }
        }
    }

    /// Takes the next request from the channel into the queue.
    async fn receive(&mut self) {
        match self.inbox.receiver.recv().await {
            Some(delivery) => self.enqueue(&delivery),
            None => self.open = false,
        }
    }

    fn enqueue(&mut self, delivery: &Delivery) {
        let signal = delivery.payload.signal();
        let (requests, too_large) = encode(&delivery.payload, REQUEST_BYTES);
        self.inbox.account.too_large.add(signal, too_large);
        self.inbox.dropped(delivery.account.as_deref(), ProbeDropStage::Rejected, too_large);
        for request in requests {
            let evicted = self.queue.push(Item { signal, request, account: delivery.account.clone() });
            for item in evicted {
                self.inbox.account.queue_full.add(signal, item.request.items);
                self.inbox.dropped(item.account.as_deref(), ProbeDropStage::Queue, item.request.items);
            }
        }
        self.note_queue();
    }

    fn note_queue(&self) {
        for signal in [Signal::Metrics, Signal::Logs] {
            self.inbox.account.queued.of(signal).store(self.queue.bytes(signal) as u64, Relaxed);
            self.inbox.account.waiting.of(signal).store(self.queue.items(signal), Relaxed);
        }
    }

    /// Sends one request until the server takes it or refuses it for good, while further requests go into the
    /// queue. False when the time to end is over.
    async fn deliver(&mut self, item: Item) -> bool {
        loop {
            let mut client = self.client.clone();
            let bytes = item.request.bytes.clone();
            let signal = item.signal;
            let Some(answer) = self.meanwhile(async move { client.export(signal, bytes).await }).await else {
                return self.give_up(item);
            };
            match answer.map_err(|status| (verdict(&status), status)) {
                Ok(accepted) => {
                    self.accepted(&item, &accepted);
                    return true;
                }
                Err((Verdict::Never, status)) => {
                    self.refused(&item, &status);
                    return true;
                }
                Err((Verdict::Again(delay), status)) => {
                    self.inbox.account.retries.add(signal, 1);
                    self.inbox.account.failing.store(true, Relaxed);
                    let wait = self.backoff.next(delay);
                    self.tell(&format!("{}; trying again", status.message()));
                    if self.meanwhile(sleep(wait)).await.is_none() {
                        return self.give_up(item);
                    }
                }
            }
        }
    }

    /// Waits for `work`, taking requests into the queue meanwhile; `None` when the time to end is over.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        loop {
            let until = *self.deadline.borrow_and_update();
            let over = async {
                match until {
                    Some(deadline) => timeout_at(deadline, std::future::pending::<()>()).await.is_err(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                done = &mut work => return Some(done),
                received = self.inbox.receiver.recv(), if self.open => match received {
                    Some(delivery) => self.enqueue(&delivery),
                    None => self.open = false,
                },
                _ = over => return None,
                Ok(()) = self.deadline.changed() => {}
            }
        }
    }

    fn accepted(&mut self, item: &Item, accepted: &Accepted) {
        self.backoff.reset();
        self.inbox.account.failing.store(false, Relaxed);
        let rejected = accepted.rejected.min(item.request.items);
        self.inbox.delivered(item.signal, item.account.as_deref(), item.request.items - rejected);
        self.inbox.account.rejected.add(item.signal, rejected);
        self.inbox.dropped(item.account.as_deref(), ProbeDropStage::Rejected, rejected);
        if rejected > 0 || !accepted.message.is_empty() {
            self.tell(&format!("refused {rejected} of {}: {}", item.request.items, accepted.message));
        }
    }

    fn refused(&mut self, item: &Item, status: &tonic::Status) {
        self.inbox.account.rejected.add(item.signal, item.request.items);
        self.inbox.dropped(item.account.as_deref(), ProbeDropStage::Rejected, item.request.items);
        self.tell(&format!("refused {} for good: {status}", item.request.items));
    }

    /// Everything that is left at the end is counted and reported. Always false: there is nothing to go on with.
    fn give_up(&mut self, item: Item) -> bool {
        self.inbox.receiver.close();
        while let Ok(delivery) = self.inbox.receiver.try_recv() {
            self.enqueue(&delivery);
        }
        let mut left = 0;
        let rest = std::iter::once(item).chain(std::iter::from_fn(|| self.queue.pop()));
        for item in rest {
            left += item.request.items;
            self.inbox.account.shutdown.add(item.signal, item.request.items);
            self.inbox.dropped(item.account.as_deref(), ProbeDropStage::Shutdown, item.request.items);
        }
        warn!(destination = self.inbox.account.name, items = left, "not delivered within the grace period");
        false
    }

    fn tell(&mut self, what: &str) {
        let now = Instant::now();
        if self.told.is_none_or(|told| now - told >= LOG_EVERY) {
            self.told = Some(now);
            warn!(destination = self.inbox.account.name, "{what}");
        } else {
            info!(destination = self.inbox.account.name, "{what}");
        }
    }
}
