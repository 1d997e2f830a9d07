//! The tasks of the destinations: started, changed by a reload, drained at the end.

use std::{io::Write, sync::Arc, time::Duration};

use jitterscope_semconv::value::ExporterDropCause;
use tokio::{
    sync::{
        mpsc::{Receiver, channel},
        watch,
    },
    task::JoinHandle,
    time::{Instant, timeout_at},
};
use tracing::{debug, warn};

use super::{
    Client, DestinationAccount, Outbox, Signal,
    outbox::{Address, CHANNEL, Parcel},
    owners::Owners,
    queue::Item,
    sender::Sender,
    text::Text,
};
use crate::{
    account::Account,
    config::{self, Protocol, Signals},
};

/// What a destination does with requests.
pub enum Sink {
    /// Sends them to a Collector, by these settings.
    Otlp(Box<Client>, Box<config::Destination>),
    /// Writes them for people.
    Text(Box<Text>),
    /// Writes them as OTLP/JSON, one request a line.
    Json(Box<dyn Write + Send>),
}

/// A destination before it runs.
pub struct Destination {
    /// Where to, without secrets; no two of a receiver have the same.
    pub name: String,
    /// What it does.
    pub sink: Sink,
}

/// A destination that runs.
struct Running {
    /// What it was made of, for a Collector.
    settings: Option<Box<config::Destination>>,
    address: Address,
    /// None when another destination waits for it, to go on with its queue on disk.
    task: Option<JoinHandle<Owners>>,
    end: watch::Sender<Option<End>>,
}

/// When a destination's task is to end although not everything is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    /// At this time in any case.
    pub(super) at: Instant,
    /// As soon as nothing more can come: another goes on with its queue on disk.
    pub(super) handed_over: bool,
}

/// The running destinations.
#[derive(Default)]
pub struct Exporters {
    running: Vec<Running>,
    owners: Owners,
}

impl Exporters {
    /// Starts a task for each destination; requests put into the outbox reach all of them.
    pub fn start(destinations: Vec<Destination>) -> (Self, Outbox) {
        let mut exporters = Self::default();
        let (_, outbox) = exporters.change(destinations);
        (exporters, outbox)
    }

    /// Runs these destinations from now on: those whose settings did not change go on as they are, with all that waits
    /// in them; new ones are started. Returns those that are no longer wanted, to be drained, and the outbox that
    /// reaches the others.
    pub fn change(&mut self, destinations: Vec<Destination>) -> (Self, Outbox) {
        let mut former = std::mem::take(&mut self.running);
        for destination in destinations {
            let same = former.iter().position(|running| running.is(&destination));
            self.running.push(match same {
                Some(at) => former.swap_remove(at),
                None => Running::start(destination, &mut former, self.owners.clone()),
            });
        }
        let addresses = self.running.iter().map(|running| running.address.clone());
        (Self { running: former, owners: self.owners.clone() }, Outbox::new(addresses.collect()))
    }

    /// Their accounts.
    pub fn accounts(&self) -> Vec<Arc<DestinationAccount>> {
        self.running.iter().map(|running| Arc::clone(&running.address.account)).collect()
    }

    /// Waits until everything is sent or the grace period is over. The outbox must be gone before.
    pub async fn drain(self, grace: Duration) {
        let tasks: Vec<_> = self.running.into_iter().filter_map(|running| running.end(grace)).collect();
        for task in tasks {
            if let Err(error) = task.await {
                warn!(%error, "a destination's task broke");
            }
        }
    }
}

impl Running {
    /// Starts a task. One of the same name that ends has its account continued, one with the same queue on disk has that
    /// continued.
    fn start(destination: Destination, former: &mut [Self], owners: Owners) -> Self {
        let (settings, signals) = match &destination.sink {
            Sink::Otlp(_, settings) => (Some(settings.clone()), settings.signals),
            Sink::Text(_) | Sink::Json(_) => (None, Signals::ALL),
        };
        let disk = settings.as_ref().and_then(|settings| settings.queue_disk.as_ref());
        let mut same_disk = former.iter_mut().filter(|running| disk.is_some_and(|disk| running.keeps(disk)));
        let predecessor = same_disk.next().and_then(|running| {
            let task = running.task.take()?;
            Some(Predecessor { task, account: Arc::clone(&running.address.account) })
        });
        let mut former = former.iter().map(|running| &running.address.account);
        let account = former.find(|account| account.name == destination.name).map(Arc::clone);
        let account = account.unwrap_or_else(|| Arc::new(DestinationAccount::new(destination.name)));
        let capacity = settings.as_ref().map_or(0, |settings| settings.queue_memory);
        let over_http = settings.as_ref().is_some_and(|of| of.protocol == Protocol::HttpProtobuf);
        account.set(capacity, over_http);
        let (sender, receiver) = channel(CHANNEL);
        let (end, until) = watch::channel(None);
        let inbox = Inbox { receiver, account: Arc::clone(&account) };
        let task = tokio::spawn(run(destination.sink, inbox, until, (predecessor, owners)));
        Self { settings, address: Address { signals, account, sender }, task: Some(task), end }
    }

    /// Whether its queue is in the same place on disk.
    fn keeps(&self, disk: &config::DiskQueue) -> bool {
        let own = self.settings.as_ref().and_then(|settings| settings.queue_disk.as_ref());
        own.is_some_and(|own| own.path == disk.path)
    }

    /// Whether this is what is wanted. Standard output is made anew: it holds nothing back.
    fn is(&self, wanted: &Destination) -> bool {
        match &wanted.sink {
            Sink::Otlp(_, settings) => {
                self.settings.as_ref() == Some(settings) && self.address.account.name == wanted.name
            }
            Sink::Text(_) | Sink::Json(_) => false,
        }
    }

    /// Takes nothing more; the task ends with what it has or with the grace period.
    fn end(self, grace: Duration) -> Option<JoinHandle<Owners>> {
        let end = End { at: Instant::now() + grace, handed_over: self.task.is_none() };
        self.end.send_replace(Some(end));
        self.task
    }
}

/// Where a destination's task takes requests from, and counts what becomes of them.
pub(super) struct Inbox {
    pub(super) receiver: Receiver<Parcel>,
    pub(super) account: Arc<DestinationAccount>,
}

/// The task that had the queue on disk before.
struct Predecessor {
    task: JoinHandle<Owners>,
    account: Arc<DestinationAccount>,
}

impl Predecessor {
    /// Waits until it has left the queue, and where it was another destination, it has no part in it any more.
    async fn end(self, account: &Arc<DestinationAccount>) -> Option<Owners> {
        let owners = self.task.await;
        if !Arc::ptr_eq(&self.account, account) {
            self.account.hand_over();
        }
        owners.ok()
    }
}

async fn run(
    sink: Sink,
    inbox: Inbox,
    end: watch::Receiver<Option<End>>,
    (predecessor, owners): (Option<Predecessor>, Owners),
) -> Owners {
    let owners = match predecessor {
        Some(predecessor) => predecessor.end(&inbox.account).await.unwrap_or(owners),
        None => owners,
    };
    match sink {
        Sink::Otlp(client, settings) => {
            return Sender::new(*client, &settings, inbox, end, owners).run().await;
        }
        Sink::Text(text) => write_text(inbox, *text).await,
        Sink::Json(out) => write_json(inbox, out).await,
    }
    owners
}

async fn write_json(mut inbox: Inbox, mut out: Box<dyn Write + Send>) {
    while let Some(parcel) = inbox.receiver.recv().await {
        if !inbox.written(&parcel, &super::text::json_line(&mut out, &parcel.payload)) {
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
            Ok(Some(parcel)) => inbox.written(parcel, &text.write(&parcel.payload)),
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
    fn written(&self, parcel: &Parcel, result: &std::io::Result<()>) -> bool {
        match result {
            Ok(()) => {
                self.delivered(parcel.payload.signal(), parcel.account.as_deref(), parcel.payload.items());
            }
            Err(_) => self.unwritten(parcel),
        }
        is_read(result)
    }

    fn unwritten(&self, parcel: &Parcel) {
        let (signal, items) = (parcel.payload.signal(), parcel.payload.items());
        self.dropped(signal, parcel.account.as_deref(), ExporterDropCause::Rejected, items);
    }

    /// Takes nothing more; what waits is counted.
    fn refuse(mut self) {
        self.receiver.close();
        while let Ok(parcel) = self.receiver.try_recv() {
            self.unwritten(&parcel);
        }
    }

    /// Counts items that were taken, for the destination and for whose they are.
    pub(super) fn delivered(&self, signal: Signal, account: Option<&Account>, items: u64) {
        self.account.delivered(signal, items);
        if let Some(account) = account {
            account.add_exported(items);
        }
    }

    /// Counts items that were given up, for the destination and for whose they are.
    pub(super) fn dropped(
        &self,
        signal: Signal,
        account: Option<&Account>,
        cause: ExporterDropCause,
        items: u64,
    ) {
        self.account.give_up(signal, account, cause, items);
    }

    /// The same for a request of the queue.
    pub(super) fn given_up(&self, item: &Item, cause: ExporterDropCause) {
        self.dropped(item.signal, item.account.as_deref(), cause, item.request.items);
    }
}
