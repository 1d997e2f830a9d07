//! A queue on disk that something has happened to, taken over as a destination's task does.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use jitterscope_semconv::value::ExporterDropCause;
use rusqlite::Connection;
use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::{
    export::disk::file::{FILE, log_of},
    fuzz::Target,
};

/// What is done to it, a step each five bytes, after one that says to what.
pub(crate) const TARGETS: &[Target] = &[Target {
    name: "queue",
    read,
    samples: &[
        b"\x01\0\x20\x01\x07\0",
        b"\x02\x04\0\x03\0\0",
        b"\x03\0\x64\x02\x05\0",
        b"\x01\x0a\0\x04\x02\x03",
        // Each of these found a fault in a file that had no table of spans yet, whose pages lay elsewhere: rows that no
        // search finds, numbers that none has, and damage that is met when something is put in.
        b"\x01\x03\xf0\x01\x00\0",
        b"\x01\x03\xf5\x01\x00\0",
        b"\x01\x0a\x92\x02\x00\0",
        b"\x01\x0b\x56\x02\x00\0",
        b"\x01\x10\x93\x01\x00\0",
        b"\x01\x13\x5f\x02\x00\0",
        b"\x01\x21\x22\x02\x00\0",
        b"\x01\x31\x5e\x01\xff\0",
        b"\x01\x31\x60\x01\x00\0",
        b"\x01\x31\x64\x02\x00\0",
        b"\x01\x31\x61\x00\x00\0",
    ],
}];

/// Requests of each signal.
const REQUESTS: i64 = 8;
/// Bytes of a page: small, so that few bytes have many of them.
const PAGE: usize = 512;

/// The file and its log as a process leaves them that ends, and as one leaves them that is killed.
struct Sample {
    ended: Vec<u8>,
    killed: [Vec<u8>; 2],
}

/// A directory of its own, in memory where there is such a place; gone with the value.
struct Place(DiskQueue);

impl Place {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let memory = PathBuf::from("/dev/shm");
        let parent = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let name = format!("jitterscope-queue-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let (size, max_age) = (WAL_BYTES + (1 << 20), Duration::from_secs(1 << 40));
        Self(DiskQueue { path: parent.join(name), size, max_age })
    }

    fn file(&self) -> PathBuf {
        self.0.path.join(FILE)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // There may be none.
        let _ = fs::remove_dir_all(&self.0.path);
    }
}

fn request(signal: Signal, number: i64) -> Vec<u8> {
    // They compress badly, and every third needs pages of its own.
    let length = 20 + number.cast_unsigned() % 3 * 300;
    let mut state = number.cast_unsigned() << 2 | signal as u64;
    let mut next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn items(number: i64) -> i64 {
    number % 5 + 1
}

fn sample() -> &'static Sample {
    static SAMPLE: OnceLock<Sample> = OnceLock::new();
    SAMPLE.get_or_init(|| make_sample().unwrap_or_else(|error| panic!("a whole queue: {error}")))
}

fn make_sample() -> Result<Sample, StoreError> {
    let place = Place::new();
    fs::create_dir(&place.0.path)?;
    Connection::open(place.file())?.execute_batch(&format!("PRAGMA page_size = {PAGE}; VACUUM;"))?;
    let (mut store, _) = Store::open(&place.0, Done::default())?;
    for number in 1..=REQUESTS {
        for signal in Signal::ALL {
            let (probe, body) = (String::new(), Vec::new());
            let row = Row { signal, number, time: now(), run: 7, items: items(number), probe, body };
            store.append(&row.with(&request(signal, number))?, Limits::default())?;
        }
    }
    let killed = [fs::read(place.file())?, fs::read(log_of(&place.file()))?];
    drop(store);
    Ok(Sample { ended: fs::read(place.file())?, killed })
}

/// Damages a file step by step.
fn damage(mut file: Vec<u8>, steps: &[u8]) -> Vec<u8> {
    for step in steps.as_chunks::<5>().0 {
        let [high, low, how, a, b] = *step;
        let at = usize::from(u16::from_be_bytes([high, low])) % (file.len() + 1);
        let page = |at: usize| at / PAGE * PAGE;
        let end = |at: usize, length: usize, file: &[u8]| file.len().min(at + length);
        match how % 6 {
            0 => file.truncate(at),
            1 => file.iter_mut().skip(at).take(1).for_each(|byte| *byte = a),
            2 => file.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (a % 8)),
            3 => {
                let end = end(page(at), PAGE, &file);
                file[page(at).min(end)..end].fill(0);
            }
            4 => {
                let from = page(usize::from(a) * PAGE % (file.len() + 1));
                let copy = file[from..end(from, PAGE, &file)].to_vec();
                file.iter_mut().skip(page(at)).zip(copy).for_each(|(to, from)| *to = from);
            }
            _ => file.iter_mut().skip(at).take(usize::from(b)).for_each(|byte| *byte = a),
        }
    }
    file
}

/// The first byte says what is damaged; without damage there is a file that others wrote.
fn read(bytes: &[u8]) {
    let Some((what, steps)) = bytes.split_first() else { return };
    let Sample { ended, killed: [file, log] } = sample();
    match what % 4 {
        0 => _ = take_over(steps, None),
        1 => {
            let damaged = damage(ended.clone(), steps);
            let left = take_over(&damaged, None);
            assert!(
                left.is_told || damaged.is_empty(),
                "a loss that nobody is told of: {:?}",
                left.delivered
            );
        }
        2 => _ = take_over(&damage(file.clone(), steps), Some(log)),
        _ => _ = take_over(file, Some(&damage(log.clone(), steps))),
    }
}

/// What came of a queue.
struct Left {
    delivered: BTreeSet<(usize, i64)>,
    /// Whether all came out or it was said that something is wrong.
    is_told: bool,
}

fn take_over(file: &[u8], log: Option<&[u8]>) -> Left {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let build = || Builder::new_multi_thread().worker_threads(1).enable_time().build();
    let runtime = RUNTIME.get_or_init(|| build().unwrap_or_else(|error| panic!("{error}")));
    let place = Place::new();
    let put = |path: &Path, bytes: &[u8]| fs::write(path, bytes).unwrap_or_else(|error| panic!("{error}"));
    fs::create_dir(&place.0.path).unwrap_or_else(|error| panic!("{error}"));
    put(&place.file(), file);
    if let Some(log) = log {
        put(&log_of(&place.file()), log);
    }
    runtime.block_on(deliver(&place))
}

/// Delivers what is there and checks that it was put in, and then something new.
async fn deliver(place: &Place) -> Left {
    let account = Arc::new(DestinationAccount::new(String::new()));
    let (mut disk, owners) =
        (Disk::new(place.0.clone(), Arc::clone(&account), watch::channel(None).1), Owners::default());
    let last = disk.open().await;
    let mut delivered = BTreeSet::new();
    for signal in Signal::ALL {
        // It may have to be mended between two of them.
        for _ in 0..4 * REQUESTS {
            let Some(item) = disk.take(signal, i64::MAX, &owners).await else { continue };
            assert_eq!(*item.request.bytes, request(signal, item.number), "not what was put in");
            assert_eq!(item.request.items, items(item.number).cast_unsigned());
            assert!(delivered.insert((signal as usize, item.number)), "twice: {}", item.number);
            disk.done(signal, item.number).await;
            account.delivered(signal, item.request.items);
        }
    }
    let all_came = delivered.len() == Signal::ALL.len() * usize::try_from(REQUESTS).unwrap_or_default();
    let corrupted = Signal::ALL.map(|signal| check(&account, signal)).iter().any(|lost| *lost > 0);
    let is_told = all_came || corrupted || account.disk_failures() > 0;
    if account.disk_error().is_none() {
        goes_on(&mut disk, &account, &owners, last).await;
    }
    disk.close().await;
    Left { delivered, is_told }
}

/// The account's equation holds, and nothing waits unless the file cannot be used; what was given up.
fn check(account: &DestinationAccount, signal: Signal) -> u64 {
    let terms = account.terms(signal);
    let dropped: u64 = ExporterDropCause::ALL.iter().map(|cause| terms.dropped(*cause)).sum();
    assert_eq!(terms.produced + terms.recovered, terms.delivered + terms.queued + dropped, "{terms:?}");
    assert_eq!(terms.queued, terms.on_disk, "{terms:?}");
    assert!(terms.queued == 0 || account.disk_error().is_some(), "{terms:?}");
    dropped
}

/// A request goes in and comes out.
async fn goes_on(disk: &mut Disk, account: &DestinationAccount, owners: &Owners, number: i64) {
    let request = Encoded { bytes: vec![1, 2, 3].into(), items: 2 };
    let item = Item { number, ..Item::new(Signal::Logs, request, None) };
    account.produced(Signal::Logs, 2);
    let (mut stored, mut taken) = (false, None);
    // Damage that is met only now is mended first.
    for _ in 0..2 {
        stored = stored || disk.append(&item, owners).await;
    }
    for _ in 0..2 {
        taken = taken.or(disk.take(Signal::Logs, i64::MAX, owners).await);
    }
    let whole = taken.is_some_and(|taken| *taken.request.bytes == [1, 2, 3]);
    assert!(stored && whole, "{:?}", account.disk_error());
}
