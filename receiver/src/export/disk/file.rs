//! The file of a queue: opened for one process alone, made where there is none, put aside where it is something else.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use super::error::StoreError;

/// The name of the file in its directory.
pub(super) const FILE: &str = "queue.db";
/// Says of a database that it is a queue: "jsqu".
const APPLICATION: i64 = 0x6a73_7175;
/// Of the tables below. A file of another one is not touched.
const VERSION: i64 = 2;
/// Bytes of the smallest database.
const LEAST: u64 = 512;
/// A signal's requests.
const LANE: &str = "(number INTEGER PRIMARY KEY, time INTEGER NOT NULL, run INTEGER NOT NULL,
    items INTEGER NOT NULL, probe TEXT NOT NULL, body BLOB NOT NULL) STRICT;";

/// How the file is used. A commit is in the page cache and survives the process; after a loss of power the file is whole,
/// and what came after the last checkpoint, at most `WAL_PAGES`, may be missing. No memory map: what cannot be read is an
/// error then and not a signal.
const PRAGMAS: &str = "
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA wal_autocheckpoint = 256;
PRAGMA journal_size_limit = 1048576;
PRAGMA cache_size = -256;
PRAGMA temp_store = MEMORY;
PRAGMA mmap_size = 0;
PRAGMA cell_size_check = ON;
PRAGMA trusted_schema = OFF;";

/// Opens a file or makes it; one that is no queue of this version is put aside.
pub(super) fn connect(path: &Path, aside: &mut Vec<(PathBuf, String)>) -> Result<Connection, StoreError> {
    // SQLite would take it for an empty one.
    if let Some(bytes) =
        path.metadata().map(|file| file.len()).ok().filter(|bytes| (1..LEAST).contains(bytes))
    {
        return Err(StoreError::Damaged(format!("{bytes} bytes are no database")));
    }
    let mut db = exclusive(path)?;
    let (application, version, tables) = kind(&db)?;
    if tables == 0 && application == APPLICATION {
        return Err(StoreError::Damaged("its tables are not there".to_owned()));
    }
    if tables > 0 && (application, version) != (APPLICATION, VERSION) {
        drop(db);
        let why = format!("is no queue of version {VERSION}: application {application}, version {version}");
        aside.push((put_aside(path, &format!("version{version}"))?, why));
        db = exclusive(path)?;
    }
    db.execute_batch(PRAGMAS)?;
    let change = Transaction::new(&mut db, TransactionBehavior::Immediate)?;
    if kind(&change)?.2 == 0 {
        change.execute_batch(&all_tables())?;
        change.pragma_update(None, "application_id", APPLICATION)?;
        change.pragma_update(None, "user_version", VERSION)?;
    }
    change.commit()?;
    Ok(db)
}

/// `held` says how much there is, so that what is missing after damage can be counted.
fn all_tables() -> String {
    format!(
        "CREATE TABLE metrics{LANE} CREATE TABLE logs{LANE} CREATE TABLE traces{LANE}
        CREATE TABLE held(signal TEXT PRIMARY KEY, items INTEGER NOT NULL) STRICT;
        INSERT INTO held VALUES ('metrics', 0), ('logs', 0), ('traces', 0);"
    )
}

/// A connection that no other process can have beside it.
fn exclusive(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(Duration::ZERO)?;
    db.execute_batch("PRAGMA locking_mode = EXCLUSIVE")?;
    Ok(db)
}

/// What a database says that it is, and how many tables it has.
fn kind(db: &Connection) -> Result<(i64, i64, i64), StoreError> {
    let tables = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok((pragma(db, "application_id")?, pragma(db, "user_version")?, tables))
}

/// What is set, or counted, under a name.
pub(super) fn pragma(db: &Connection, name: &str) -> rusqlite::Result<i64> {
    db.pragma_query_value(None, name, |row| row.get(0))
}

/// Renames a file, and its log with it, to a name that no other has.
fn put_aside(path: &Path, suffix: &str) -> Result<PathBuf, StoreError> {
    let names = std::iter::once(format!(".{suffix}")).chain((2..).map(|n| format!(".{suffix}.{n}")));
    let free = names.map(|name| with_suffix(path, &name)).find(|name| !name.exists()).unwrap_or_default();
    fs::rename(path, &free)?;
    let log = log_of(path);
    if log.exists() {
        fs::rename(log, log_of(&free))?;
    }
    Ok(free)
}

/// The write-ahead log of a file.
pub(super) fn log_of(file: &Path) -> PathBuf {
    with_suffix(file, "-wal")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
