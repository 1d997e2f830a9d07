//! The requests in the file, and what changes them within a transaction.

use jitterscope_semconv::value::ExporterDropCause;
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{
    body::{self, Mark},
    error::StoreError,
    file::pragma,
};
use crate::export::Signal;

/// More than a request of the largest size can hold.
pub(super) const ITEMS_LIMIT: i64 = 1 << 24;

/// Numbers are above 0 and below this, far beyond all times in microseconds.
const NUMBER_LIMIT: i64 = 1 << 62;
/// More than any disk holds.
const HELD_LIMIT: i64 = 1 << 48;

/// A request in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) signal: Signal,
    /// Its place in the order.
    pub(super) number: i64,
    /// When it came, in seconds since the epoch.
    pub(super) time: i64,
    /// Which process put it there.
    pub(super) run: i64,
    /// Points, records or spans in it.
    pub(super) items: i64,
    /// Whose records they are; empty for nobody's.
    pub(super) probe: String,
    /// The request, compressed and with a checksum.
    pub(super) body: Vec<u8>,
}

/// A request that is no longer in the file, without having been delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gone {
    pub(super) cause: ExporterDropCause,
    pub(super) signal: Signal,
    pub(super) run: i64,
    pub(super) items: i64,
    pub(super) probe: String,
}

/// What was found of a signal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lane {
    /// The highest number.
    pub(super) last: i64,
    /// Points, records or spans that are there.
    pub(super) items: i64,
    /// Points, records or spans that should be there too.
    pub(super) missing: i64,
}

/// Requests that are done with, and leave the file before anything is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    /// All up to these numbers, by signal.
    pub(super) up_to: [i64; Signal::ALL.len()],
    /// One more, that went elsewhere although it may have come here.
    pub(super) besides: Option<(Signal, i64)>,
}

/// What a look or a change spares: requests that are being sent or done with.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Limits {
    /// The highest number that was taken, by signal.
    pub(super) taken: [i64; Signal::ALL.len()],
    /// What came before this time is given up, in seconds since the epoch.
    pub(super) oldest: i64,
}

impl Gone {
    pub(super) fn of(row: &Row, cause: ExporterDropCause) -> Self {
        Self { cause, signal: row.signal, run: row.run, items: row.items, probe: row.probe.clone() }
    }
}

impl Row {
    /// The same with this request as its body.
    pub(super) fn with(self, request: &[u8]) -> std::io::Result<Self> {
        Ok(Self { body: body::close(self.mark(), request)?, ..self })
    }

    /// The request as it was given; none where it is not what it was.
    pub(super) fn request(&self) -> Option<Vec<u8>> {
        body::open(self.mark(), &self.body)
    }

    fn mark(&self) -> Mark {
        let mut mark = Mark::default();
        mark[0] = self.signal as u8;
        mark[1..9].copy_from_slice(&self.number.to_le_bytes());
        mark[9..].copy_from_slice(&self.items.to_le_bytes());
        mark
    }

    /// What it is when it cannot be read.
    pub(super) fn broken(&self) -> Gone {
        Gone::of(self, ExporterDropCause::Corrupted)
    }
}

/// Pages that are in use.
pub(super) fn used(db: &Connection) -> Result<i64, StoreError> {
    Ok(pragma(db, "page_count")? - pragma(db, "freelist_count")?)
}

pub(super) fn count(db: &Connection, signal: Signal) -> Result<Lane, StoreError> {
    let text = format!(
        "SELECT coalesce(max(number), 0), coalesce(sum(items), 0), coalesce(min(items), 1), \
         coalesce(max(items), 1), coalesce(min(number), 1) FROM {}",
        signal.name()
    );
    let [last, items, least, most, first]: [i64; 5] =
        db.query_row(&text, [], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?]))?;
    if least < 1 || most > ITEMS_LIMIT {
        return Err(StoreError::Damaged(format!("a request of {least} or {most} items")));
    }
    if first < 1 || last >= NUMBER_LIMIT {
        return Err(StoreError::Damaged(format!("requests with the numbers {first} to {last}")));
    }
    Ok(Lane { last, items, missing: (held(db, signal)? - items).max(0) })
}

/// How much the file says that there is of a signal.
pub(super) fn held(db: &Connection, signal: Signal) -> Result<i64, StoreError> {
    let text = "SELECT items FROM held WHERE signal = ?";
    let items = db.query_row(text, [signal.name()], |row| row.get(0))?;
    if !(0..HELD_LIMIT).contains(&items) {
        return Err(StoreError::Damaged(format!("it says that it holds {items} items")));
    }
    Ok(items)
}

pub(super) fn insert(change: &Transaction<'_>, row: &Row) -> Result<(), StoreError> {
    let text = format!("INSERT INTO {} VALUES (?, ?, ?, ?, ?, ?)", row.signal.name());
    change.execute(&text, params![row.number, row.time, row.run, row.items, row.probe, row.body])?;
    hold(change, row.signal, row.items)
}

pub(super) fn hold(change: &Transaction<'_>, signal: Signal, items: i64) -> Result<(), StoreError> {
    let text = "UPDATE held SET items = items + ? WHERE signal = ?";
    change.execute(text, params![items, signal.name()])?;
    Ok(())
}

/// Takes out the oldest request of what is worth least. Nothing pushes out what is worth more than itself.
pub(super) fn evict(
    change: &Transaction<'_>,
    signal: Signal,
    limits: Limits,
) -> Result<Option<Gone>, StoreError> {
    for other in Signal::BY_WORTH {
        let gone = take_oldest(change, other, limits, i64::MAX, ExporterDropCause::QueueFull)?;
        if gone.is_some() || other == signal {
            return Ok(gone);
        }
    }
    Ok(None)
}

pub(super) fn any_expired(db: &Connection, limits: Limits) -> Result<bool, StoreError> {
    for signal in Signal::ALL {
        if oldest(db, signal, limits)?.is_some_and(|(_, time)| time < limits.oldest) {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) fn expire(change: &Transaction<'_>, limits: Limits) -> Result<Vec<Gone>, StoreError> {
    let mut gone = Vec::new();
    for signal in Signal::ALL {
        while let Some(one) = take_oldest(change, signal, limits, limits.oldest, ExporterDropCause::Expired)?
        {
            gone.push(one);
        }
    }
    Ok(gone)
}

/// Number and time of the oldest request that nobody has taken.
fn oldest(db: &Connection, signal: Signal, limits: Limits) -> Result<Option<(i64, i64)>, StoreError> {
    let text = format!("SELECT number, time FROM {} WHERE number > ? ORDER BY number LIMIT 1", signal.name());
    let taken = limits.taken[signal as usize];
    Ok(db.query_row(&text, [taken], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
}

/// Removes the oldest request if it came before a time.
fn take_oldest(
    change: &Transaction<'_>,
    signal: Signal,
    limits: Limits,
    before: i64,
    cause: ExporterDropCause,
) -> Result<Option<Gone>, StoreError> {
    let Some((number, _)) = oldest(change, signal, limits)?.filter(|(_, time)| *time < before) else {
        return Ok(None);
    };
    let text = format!("DELETE FROM {} WHERE number = ? RETURNING run, items, probe", signal.name());
    let gone = change.query_row(&text, [number], |row| {
        Ok(Gone { cause, signal, run: row.get(0)?, items: row.get(1)?, probe: row.get(2)? })
    })?;
    hold(change, signal, -gone.items)?;
    Ok(Some(gone))
}
