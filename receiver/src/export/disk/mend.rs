//! What can be read of a damaged file, put into a new one that takes its place.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use super::{
    error::StoreError,
    file::{FILE, log_of},
    rows::ITEMS_LIMIT,
    store::Store,
};
use crate::{config::DiskQueue, export::Signal};

/// The new file while it is made.
const NEW: &str = "queue.db.new";
/// The damaged one afterwards; a later one replaces it, so that damage again and again fills no disk.
const ASIDE: &str = "queue.db.damaged";

/// Makes the new file; where the damaged one is now, and what it said that it held, by signal.
pub(super) fn mend(settings: &DiskQueue) -> Result<(PathBuf, [i64; Signal::ALL.len()]), StoreError> {
    let [file, new, aside] = [FILE, NEW, ASIDE].map(|name| settings.path.join(name));
    remove_with_log(&new)?;
    let mut expected = [0; Signal::ALL.len()];
    // A file whose very beginning is not what it was gives nothing.
    if let Ok(damaged) = Store::connect(settings, FILE, &mut Vec::new()) {
        let mut whole = Store::connect(settings, NEW, &mut Vec::new())?;
        for (signal, expected) in Signal::ALL.into_iter().zip(&mut expected) {
            *expected = damaged.held(signal).unwrap_or_default();
            copy(&damaged, &mut whole, signal)?;
        }
    } else {
        drop(Store::connect(settings, NEW, &mut Vec::new())?);
    }
    // The log of the damaged file is in it or was read; beside another file it would do harm.
    remove(&log_of(&file))?;
    remove(&aside)?;
    // Where the file system has no links, there is no file for an instant.
    fs::hard_link(&file, &aside).or_else(|_| fs::rename(&file, &aside))?;
    fs::rename(&new, &file)?;
    Ok((aside, expected))
}

/// Copies from the front up to the damage, and from the end back to it.
fn copy(damaged: &Store, whole: &mut Store, signal: Signal) -> Result<(), StoreError> {
    let (mut first, mut last) = (i64::MIN, i64::MAX);
    while let Some((number, items)) = neighbour(damaged, signal, (first, last), false) {
        copy_one(damaged, whole, signal, number, items)?;
        first = number;
    }
    while let Some((number, items)) = neighbour(damaged, signal, (first, last), true) {
        copy_one(damaged, whole, signal, number, items)?;
        last = number;
    }
    Ok(())
}

/// The next that can be read from one side. A damaged tree may lead anywhere, also back.
fn neighbour(damaged: &Store, signal: Signal, between: (i64, i64), last: bool) -> Option<(i64, i64)> {
    let found = damaged.neighbour(signal, between, last).ok().flatten();
    found.filter(|(number, _)| between.0 < *number && *number < between.1)
}

fn copy_one(
    damaged: &Store,
    whole: &mut Store,
    signal: Signal,
    number: i64,
    items: i64,
) -> Result<(), StoreError> {
    let row = damaged.next(signal, number.saturating_sub(1), number.saturating_add(1)).ok().flatten();
    match row.filter(|row| (1..=ITEMS_LIMIT).contains(&items) && row.request().is_some()) {
        Some(row) => whole.insert(&row),
        None => Ok(()),
    }
}

fn remove_with_log(file: &Path) -> Result<(), StoreError> {
    remove(file)?;
    remove(&log_of(file))
}

fn remove(file: &Path) -> Result<(), StoreError> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
