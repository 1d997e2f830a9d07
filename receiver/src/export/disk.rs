//! The queue of a destination on disk: what it is given is in a file before it is sent, and stays there until the server
//! has taken it, whatever becomes of this process. While the disk fails, the destination goes on in memory.

mod body;
mod error;
#[cfg(test)]
mod faulty;
mod file;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod mend;
mod rows;
mod store;
#[cfg(test)]
mod tests;
mod work;

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tracing::{error, info, warn};

pub(crate) use self::store::WAL_BYTES;
use self::{
    error::StoreError,
    rows::{Done, Gone, Limits, Row},
    store::{Found, Store},
    work::{Work, patience},
};
use super::{DestinationAccount, Signal, owners::Owners, queue::Item, split::Encoded, task::End};
use crate::{clock::wall, config::DiskQueue};

/// Time until a disk that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// A file that was opened, what is in it, and whether what is being sent is.
type Opened = Result<(Store, Found, bool), StoreError>;

/// A queue on disk, open or not.
pub(super) struct Disk {
    settings: DiskQueue,
    account: Arc<DestinationAccount>,
    end: watch::Receiver<Option<End>>,
    /// None while it cannot be used, and while a thread is at work with it.
    store: Option<Store>,
    /// It is being opened, without what was done with then.
    opening: Option<(Work<Opened>, Done)>,
    /// A thread that the disk keeps waiting; before it ends, nobody touches the file.
    late: Option<JoinHandle<()>>,
    /// Nothing is written before.
    retry: Instant,
    /// The highest number that was taken to be sent, by signal.
    taken: [i64; Signal::ALL.len()],
    /// What is done with; it may still be in the file.
    done: Done,
    /// What was taken and is not done with, if it is in the file: signal, number, items.
    sending: Option<(Signal, i64, u64)>,
    /// The highest number in the file when it was opened.
    last: i64,
}

impl Disk {
    pub(super) fn new(
        settings: DiskQueue,
        account: Arc<DestinationAccount>,
        end: watch::Receiver<Option<End>>,
    ) -> Self {
        account.set_disk(settings.size - WAL_BYTES);
        Self {
            settings,
            account,
            end,
            store: None,
            opening: None,
            late: None,
            retry: Instant::now(),
            taken: [0; Signal::ALL.len()],
            done: Done::default(),
            sending: None,
            last: 0,
        }
    }

    /// Opens it if it can be opened; a number above all that are in it.
    pub(super) async fn open(&mut self) -> i64 {
        self.late.take_if(|thread| thread.is_finished());
        if self.store.as_ref().is_some_and(|store| !store.is_there()) {
            self.close().await;
            self.account.disk_failed(None);
            error!(
                destination = self.account.name,
                "the file of the queue on disk has gone; it is made anew"
            );
        }
        self.opened(Instant::now()).await;
        let idle = self.store.is_none() && self.opening.is_none() && self.late.is_none();
        if idle && Instant::now() >= self.retry {
            let (settings, done) = (self.settings.clone(), self.done);
            self.reopen(move || Store::open(&settings, done)).await;
        }
        self.last + 1
    }

    /// Puts an item into the file. False when it could not be, and is to be kept elsewhere.
    pub(super) async fn append(&mut self, item: &Item, owners: &Owners) -> bool {
        self.open().await;
        if self.store.is_none() || Instant::now() < self.retry {
            return false;
        }
        let (request, row) = (item.request.bytes.clone(), row_of(item, owners.run));
        let (limits, signal, items) = (self.limits(), item.signal, item.request.items);
        let write = move |store: &mut Store| store.append(&row.with(&request)?, limits);
        let Some(gone) = self.with(write).await else {
            // The thread may still put it there, and it is kept elsewhere.
            self.done.besides = self.late.as_ref().map(|_| (signal, item.number)).or(self.done.besides);
            return false;
        };
        self.works();
        self.account.stored(signal, items);
        self.lost(&gone, owners);
        true
    }

    /// The next item of a signal, if its number is below this one. It stays in the file until it is done with.
    pub(super) async fn take(&mut self, signal: Signal, before: i64, owners: &Owners) -> Option<Item> {
        self.open().await;
        while self.account.terms(signal).on_disk > 0 {
            let (limits, after) = (self.limits(), self.taken[signal as usize]);
            let read = move |store: &mut Store| {
                // A full disk may have no room for a removal either.
                let gone = match store.expire(limits) {
                    Err(StoreError::Damaged(why)) => return Err(StoreError::Damaged(why)),
                    expired => expired.unwrap_or_default(),
                };
                let row = store.next(signal, after, before)?;
                if row.is_none() && before == i64::MAX {
                    return Err(StoreError::Damaged("there are requests that cannot be found".to_owned()));
                }
                let request = row.as_ref().and_then(Row::request);
                Ok((gone, row, request))
            };
            let (gone, row, request) = self.with(read).await?;
            self.lost(&gone, owners);
            let row = row?;
            self.taken[signal as usize] = row.number;
            match request {
                Some(request) => {
                    let item = item_of(&row, request, owners);
                    self.sending = Some((signal, item.number, item.request.items));
                    return Some(item);
                }
                None => self.broken(&row, owners).await,
            }
        }
        None
    }

    /// The item was delivered or given up: it may leave the file.
    pub(super) async fn done(&mut self, signal: Signal, number: i64) {
        self.done.up_to[signal as usize] = number;
        if let Some((signal, _, items)) = self.sending.take() {
            self.account.unstored(signal, items);
        }
        self.with(move |store| store.remove(signal, number)).await;
    }

    /// Closes the file in order.
    pub(super) async fn close(&mut self) {
        if let Some(store) = self.store.take() {
            let mut work = Work::start(move || drop(store));
            if work.until(self.patience()).await.is_none() {
                self.keeps_waiting(work);
            }
        }
    }

    async fn broken(&mut self, row: &Row, owners: &Owners) {
        self.lost(&[row.broken()], owners);
        let (signal, number) = (row.signal, row.number);
        error!(
            destination = self.account.name,
            items = row.items,
            "a request in the queue on disk is damaged"
        );
        self.done.up_to[signal as usize] = number;
        self.with(move |store| store.remove(signal, number)).await;
    }

    /// Runs `work` on a thread that may wait for the disk. None when it failed or took too long, which is noted.
    async fn with<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Option<T> {
        let mut store = self.store.take()?;
        let mut work = Work::start(move || {
            let result = work(&mut store);
            let bytes = store.bytes();
            // A file that cannot be used is closed here, for that may wait for the disk too.
            let usable = matches!(result, Ok(_) | Err(StoreError::Full(_)));
            (usable.then_some(store), result, bytes)
        });
        let Some(ended) = work.until(self.patience()).await else {
            self.keeps_waiting(work);
            return None;
        };
        let result = ended.and_then(|(store, result, bytes)| {
            self.store = store;
            result.inspect(|_| self.account.disk_holds(bytes))
        });
        match result {
            Ok(value) => return Some(value),
            Err(StoreError::Damaged(why)) => {
                let (settings, done) = (self.settings.clone(), self.done);
                self.reopen(move || Store::mend(&settings, done, &why)).await;
            }
            Err(error) => self.failed(&error.to_string()),
        }
        None
    }

    fn patience(&self) -> Instant {
        patience(self.end.borrow().is_some())
    }

    fn keeps_waiting<T: Send + 'static>(&mut self, work: Work<T>) {
        self.late = Some(work.leave());
        self.failed("the disk does not answer");
    }

    /// Takes over a file and counts what is in it.
    async fn reopen(&mut self, open: impl FnOnce() -> Result<(Store, Found), StoreError> + Send + 'static) {
        let sending = self.sending;
        let work = Work::start(move || {
            let (store, found) = open()?;
            let is_there = |(signal, number, _)| store.neighbour(signal, (number - 1, number + 1), false);
            let kept = sending.map(is_there).transpose()?.is_none_or(|row| row.is_some());
            Ok((store, found, kept))
        });
        self.opening = Some((work, self.done));
        self.opened(self.patience()).await;
        if self.opening.is_some() {
            self.failed("the disk does not answer");
        }
    }

    /// Takes over the file that is being opened, if it is open by that time.
    async fn opened(&mut self, time: Instant) {
        let Some((work, done)) = &mut self.opening else { return };
        let Some(opened) = work.until(time).await else { return };
        let is_done_with = *done == self.done;
        self.opening = None;
        match opened.flatten() {
            // What was counted may have been delivered since: it is opened again.
            Ok((store, ..)) if !is_done_with => {
                self.store = Some(store);
                self.close().await;
            }
            Ok((store, found, kept)) => {
                self.done.besides = None;
                if let Some((signal, _, items)) = self.sending.take_if(|_| !kept) {
                    // It is in memory, and goes on as if it had been nowhere else.
                    self.account.unstored(signal, items);
                }
                self.count(&found);
                self.account.disk_holds(store.bytes());
                self.store = Some(store);
            }
            Err(error) => self.failed(&error.to_string()),
        }
    }

    fn count(&mut self, found: &Found) {
        let destination = &self.account.name;
        for (file, why) in &found.aside {
            self.account.disk_failed(None);
            error!(destination, file = %file.display(), "a queue on disk was put aside: {why}");
        }
        for (signal, lane) in Signal::ALL.into_iter().zip(found.lanes) {
            self.last = self.last.max(lane.last);
            let items = |items: i64| u64::try_from(items).unwrap_or_default();
            let lost = self.account.found(signal, items(lane.items), items(lane.missing));
            if lost > 0 {
                let signal = signal.name();
                error!(destination, signal, items = lost, "missing in the queue on disk");
            }
        }
        let [metrics, logs, traces] = Signal::ALL.map(|signal| self.account.terms(signal).on_disk);
        info!(destination, path = %self.settings.path.display(), metrics, logs, traces, "queue on disk");
    }

    /// Goes on in memory for a while.
    fn failed(&mut self, why: &str) {
        self.retry = Instant::now() + RETRY;
        let what = format!("queue on disk: {}: {why}; going on in memory", self.settings.path.display());
        if self.account.disk_failed(Some(what.clone())) {
            warn!(destination = self.account.name, "{what}");
        }
    }

    fn works(&mut self) {
        self.retry = Instant::now();
        if self.account.disk_works() {
            info!(destination = self.account.name, "the queue on disk works again");
        }
    }

    fn lost(&self, gone: &[Gone], owners: &Owners) {
        for gone in gone {
            let items = u64::try_from(gone.items).unwrap_or_default();
            self.account.unstored(gone.signal, items);
            let owner = owners.of(gone.run, &gone.probe);
            self.account.give_up(gone.signal, owner.as_deref(), gone.cause, items);
        }
    }

    fn limits(&self) -> Limits {
        let age = i64::try_from(self.settings.max_age.as_secs()).unwrap_or(i64::MAX);
        Limits { taken: self.taken, oldest: now().saturating_sub(age) }
    }
}

/// Seconds since the epoch.
fn now() -> i64 {
    i64::try_from(wall() / 1_000_000_000).unwrap_or(i64::MAX)
}

/// An item as a row, still without its body.
fn row_of(item: &Item, run: i64) -> Row {
    let account = item.account.as_ref();
    Row {
        signal: item.signal,
        number: item.number,
        time: now(),
        run,
        items: i64::try_from(item.request.items).unwrap_or(i64::MAX),
        probe: account.map(|account| account.definition.name.to_owned()).unwrap_or_default(),
        body: Vec::new(),
    }
}

fn item_of(row: &Row, request: Vec<u8>, owners: &Owners) -> Item {
    let items = u64::try_from(row.items).unwrap_or_default();
    let account = owners.of(row.run, &row.probe);
    let request = Encoded { bytes: request.into(), items };
    Item { signal: row.signal, request, account, number: row.number, on_disk: true }
}
