//! A queue on disk, an `SQLite` database: a table for each signal, a row for each request, in the order of their numbers. A
//! change is whole or not there at all, whenever the process is killed and whatever the disk does.

use std::{fs::DirBuilder, io, os::unix::fs::DirBuilderExt, path::PathBuf};

use jitterscope_semconv::value::ExporterDropCause;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::{
    error::StoreError,
    file::{self, FILE, pragma},
    mend,
    rows::{self, Done, Gone, Lane, Limits, Row},
};
use crate::{config::DiskQueue, export::Signal};

/// Bytes of a page, as in a new database.
const PAGE: u64 = 4096;
/// What the write-ahead log may take: what waits for a checkpoint, and one change with the largest request.
pub(crate) const WAL_BYTES: u64 = 8 << 20;
/// Pages beyond which an empty file is made small again.
const SHRINK_PAGES: i64 = 1024;

/// What was found in a file.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// By signal, in the order of `Signal::ALL`.
    pub(super) lanes: [Lane; Signal::ALL.len()],
    /// Where a file was put that could not be used as it was, and why.
    pub(super) aside: Vec<(PathBuf, String)>,
}

/// An open file.
pub(super) struct Store {
    db: Connection,
    path: PathBuf,
    pages: i64,
}

impl Store {
    /// Opens the file of a directory, or makes both. What is `done` with is removed first.
    pub(super) fn open(settings: &DiskQueue, done: Done) -> Result<(Self, Found), StoreError> {
        DirBuilder::new().recursive(true).mode(0o700).create(&settings.path)?;
        // SQLite's own word for it would be an I/O error.
        rustix::fs::access(&settings.path, rustix::fs::Access::WRITE_OK).map_err(io::Error::from)?;
        let mut aside = Vec::new();
        let opened = Self::connect(settings, FILE, &mut aside).and_then(|mut store| {
            let lanes = store.survey(done)?;
            Ok((store, lanes))
        });
        match opened {
            Ok((store, lanes)) => Ok((store, Found { lanes, aside })),
            Err(StoreError::Damaged(why)) => Self::mend(settings, done, &why),
            Err(error) => Err(error),
        }
    }

    /// Puts what can be read of a damaged file into a new one, which takes its place.
    pub(super) fn mend(settings: &DiskQueue, done: Done, why: &str) -> Result<(Self, Found), StoreError> {
        let (aside, expected) = mend::mend(settings)?;
        let mut store = Self::connect(settings, FILE, &mut Vec::new())?;
        let mut lanes = store.survey(done)?;
        for (lane, expected) in lanes.iter_mut().zip(expected) {
            lane.missing = (expected - lane.items).max(0);
        }
        Ok((store, Found { lanes, aside: vec![(aside, format!("damaged: {why}"))] }))
    }

    /// Opens a file of the directory; one that is no queue of this version is put aside.
    pub(super) fn connect(
        settings: &DiskQueue,
        name: &str,
        aside: &mut Vec<(PathBuf, String)>,
    ) -> Result<Self, StoreError> {
        let path = settings.path.join(name);
        let db = file::connect(&path, aside)?;
        let pages = (settings.size - WAL_BYTES) / PAGE;
        Ok(Self { db, path, pages: i64::try_from(pages).unwrap_or(i64::MAX) })
    }

    /// Counts what is there. Nothing is written where nothing is to be put right: a full disk can be read.
    fn survey(&mut self, done: Done) -> Result<[Lane; Signal::ALL.len()], StoreError> {
        let mut lanes = [Lane::default(); Signal::ALL.len()];
        let besides = done.besides.map(|(signal, number)| (signal, number, number));
        let up_to = Signal::ALL.into_iter().zip(done.up_to).map(|(signal, number)| (signal, 1, number));
        for (signal, from, to) in up_to.chain(besides) {
            if self.neighbour(signal, (from - 1, to.saturating_add(1)), false)?.is_some() {
                self.remove_between(signal, from, to)?;
            }
        }
        for (lane, signal) in lanes.iter_mut().zip(Signal::ALL) {
            *lane = rows::count(&self.db, signal)?;
            if lane.items != self.held(signal)? {
                let text = "UPDATE held SET items = ? WHERE signal = ?";
                self.db.execute(text, params![lane.items, signal.name()])?;
            }
        }
        Ok(lanes)
    }

    /// Puts a request in line; returns what had to go for it, which may be itself.
    pub(super) fn append(&mut self, row: &Row, limits: Limits) -> Result<Vec<Gone>, StoreError> {
        let room = self.pages;
        // Its pages, and one each of the two trees that may be split.
        let need = i64::try_from(row.body.len() as u64 / PAGE).unwrap_or(i64::MAX).saturating_add(3);
        let change = Transaction::new(&mut self.db, TransactionBehavior::Immediate)?;
        let mut gone = rows::expire(&change, limits)?;
        while need < room && rows::used(&change)? + need > room {
            let Some(oldest) = rows::evict(&change, row.signal, limits)? else { break };
            gone.push(oldest);
        }
        if rows::used(&change)? + need > room {
            gone.push(Gone::of(row, ExporterDropCause::QueueFull));
        } else {
            rows::insert(&change, row)?;
        }
        change.commit()?;
        Ok(gone)
    }

    /// Puts a request back in its place.
    pub(super) fn insert(&mut self, row: &Row) -> Result<(), StoreError> {
        let change = Transaction::new(&mut self.db, TransactionBehavior::Immediate)?;
        rows::insert(&change, row)?;
        Ok(change.commit()?)
    }

    /// The next request of a signal after those that were taken and before this number. It stays in the file.
    pub(super) fn next(&self, signal: Signal, after: i64, before: i64) -> Result<Option<Row>, StoreError> {
        let text = format!(
            "SELECT number, time, run, items, probe, body FROM {} WHERE number > ? AND number < ? \
             ORDER BY number LIMIT 1",
            signal.name()
        );
        let row = self.db.query_row(&text, [after, before], |row| {
            Ok(Row {
                signal,
                number: row.get(0)?,
                time: row.get(1)?,
                run: row.get(2)?,
                items: row.get(3)?,
                probe: row.get(4)?,
                body: row.get(5)?,
            })
        });
        Ok(row.optional()?)
    }

    /// The number of the next or, from the other end, the last request between two numbers, and how many items it has.
    /// Its body is not read.
    pub(super) fn neighbour(
        &self,
        signal: Signal,
        between: (i64, i64),
        last: bool,
    ) -> Result<Option<(i64, i64)>, StoreError> {
        let order = if last { "DESC" } else { "ASC" };
        let text = format!(
            "SELECT number, items FROM {} WHERE number > ? AND number < ? ORDER BY number {order} LIMIT 1",
            signal.name()
        );
        let found = self.db.query_row(&text, [between.0, between.1], |row| Ok((row.get(0)?, row.get(1)?)));
        Ok(found.optional()?)
    }

    /// How much the file says that there is of a signal.
    pub(super) fn held(&self, signal: Signal) -> Result<i64, StoreError> {
        rows::held(&self.db, signal)
    }

    /// Gives up what has waited too long.
    pub(super) fn expire(&mut self, limits: Limits) -> Result<Vec<Gone>, StoreError> {
        if !rows::any_expired(&self.db, limits)? {
            return Ok(Vec::new());
        }
        let change = Transaction::new(&mut self.db, TransactionBehavior::Immediate)?;
        let gone = rows::expire(&change, limits)?;
        change.commit()?;
        Ok(gone)
    }

    /// Removes requests of a signal up to a number.
    pub(super) fn remove(&mut self, signal: Signal, number: i64) -> Result<(), StoreError> {
        self.remove_between(signal, 1, number)
    }

    fn remove_between(&mut self, signal: Signal, from: i64, to: i64) -> Result<(), StoreError> {
        let change = Transaction::new(&mut self.db, TransactionBehavior::Immediate)?;
        let which = format!("FROM {} WHERE number BETWEEN ? AND ?", signal.name());
        let sum = format!("SELECT coalesce(sum(items), 0) {which}");
        let items: i64 = change.query_row(&sum, [from, to], |row| row.get(0))?;
        change.execute(&format!("DELETE {which}"), [from, to])?;
        rows::hold(&change, signal, -items)?;
        change.commit()?;
        self.shrink();
        Ok(())
    }

    /// Gives the disk back what an outage took, once nothing waits.
    fn shrink(&self) {
        let (Ok(all), Ok(used)) = (pragma(&self.db, "page_count"), rows::used(&self.db)) else { return };
        if all > SHRINK_PAGES && used <= 16 {
            // Where it fails, the pages are used again.
            let _ = self.db.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE);");
        }
    }

    /// Bytes that are in use.
    pub(super) fn bytes(&self) -> u64 {
        u64::try_from(rows::used(&self.db).unwrap_or_default()).unwrap_or_default() * PAGE
    }

    #[cfg(test)]
    pub(super) fn database(&self) -> &Connection {
        &self.db
    }

    /// Whether the file is still where it was opened.
    pub(super) fn is_there(&self) -> bool {
        self.path.exists()
    }
}

#[cfg(test)]
mod tests;
