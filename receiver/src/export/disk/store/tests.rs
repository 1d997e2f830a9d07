//! What a file keeps, gives up and survives.

use std::{fs, time::Duration};

use super::*;

/// Small steps of a random walk that a seed repeats (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| u8::try_from(self.below(256)).unwrap()).collect()
    }
}

/// A directory for a queue.
struct Place {
    directory: tempfile::TempDir,
    settings: DiskQueue,
}

impl Place {
    fn new(size: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let settings = DiskQueue {
            path: directory.path().join("a/queue"),
            size: WAL_BYTES + size,
            max_age: Duration::from_secs(3600),
        };
        Self { directory, settings }
    }

    fn open(&self) -> (Store, Found) {
        Store::open(&self.settings, Done::default()).unwrap()
    }

    fn file(&self) -> PathBuf {
        self.settings.path.join(FILE)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.settings.path).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }
}

fn row(signal: Signal, number: i64, request: &[u8]) -> Row {
    let (items, probe, body) = (number % 5 + 1, "packetloss".to_owned(), Vec::new());
    Row { signal, number, time: number, run: 7, items, probe, body }.with(request).unwrap()
}

/// All rows of a signal, in order.
fn rows(store: &Store, signal: Signal) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    while let Some(row) = store.next(signal, rows.last().map_or(0, |row| row.number), i64::MAX).unwrap() {
        rows.push(row);
    }
    rows
}

fn items(rows: &[Row]) -> i64 {
    rows.iter().map(|row| row.items).sum()
}

fn numbers(rows: &[Row]) -> Vec<i64> {
    rows.iter().map(|row| row.number).collect()
}

#[test]
fn what_was_put_in_comes_out_in_order_also_after_the_file_was_closed() {
    let place = Place::new(16 << 20);
    let (mut store, found) = place.open();
    assert_eq!((found.lanes, found.aside.len()), ([Lane::default(); Signal::ALL.len()], 0));
    let logs: Vec<Row> = (1..=50).map(|number| row(Signal::Logs, number, &[1, 2, 3])).collect();
    let metrics = row(Signal::Metrics, 9, &Random(1).bytes(2_000_000));
    for row in logs.iter().chain([&metrics]) {
        assert_eq!(store.append(row, Limits::default()).unwrap(), []);
    }
    drop(store);
    assert_eq!(place.names(), [FILE]);
    let (mut store, found) = place.open();
    assert_eq!(found.lanes[Signal::Logs as usize], Lane { last: 50, items: items(&logs), missing: 0 });
    assert_eq!(rows(&store, Signal::Logs), logs);
    assert_eq!(rows(&store, Signal::Metrics), std::slice::from_ref(&metrics));
    assert_eq!(store.next(Signal::Logs, 3, 4).unwrap(), None);
    store.remove(Signal::Logs, 20).unwrap();
    assert_eq!(rows(&store, Signal::Logs), logs[20..]);
    assert_eq!(store.held(Signal::Logs).unwrap(), items(&logs[20..]));
    // What could not be removed in time is gone before anything is counted.
    drop(store);
    let (store, found) =
        Store::open(&place.settings, Done { up_to: [9, 30, 0], besides: Some((Signal::Logs, 40)) }).unwrap();
    assert_eq!(found.lanes[Signal::Metrics as usize], Lane::default());
    assert_eq!(rows(&store, Signal::Logs), [&logs[30..39], &logs[40..]].concat());
}

#[test]
fn what_is_worth_less_makes_room_oldest_first_and_logs_only_for_logs() {
    let place = Place::new(1 << 20);
    let (mut store, _) = place.open();
    let mut random = Random(2);
    let mut put = |store: &mut Store, signal, number, taken| {
        let limits = Limits { taken, oldest: 0 };
        let gone = store.append(&row(signal, number, &random.bytes(100_000)), limits).unwrap();
        assert!(store.bytes() <= 1 << 20, "{}", store.bytes());
        gone
    };
    let mut gone = Vec::new();
    for number in 1..=20 {
        gone.extend(put(&mut store, Signal::Metrics, number, [0; Signal::ALL.len()]));
    }
    let kept = numbers(&rows(&store, Signal::Metrics));
    assert!(kept.len() >= 8 && kept.iter().copied().eq(20 - kept.len() as i64 + 1..=20), "{kept:?}");
    assert_eq!(gone.len() + kept.len(), 20);
    assert!(gone.iter().all(|gone| gone.cause == ExporterDropCause::QueueFull && gone.run == 7));
    // The first of them is being sent and stays.
    let mut gone = Vec::new();
    for number in 1..=20 {
        gone.extend(put(&mut store, Signal::Logs, number, [kept[0], 0, 0]));
    }
    let metrics = gone.iter().filter(|gone| gone.signal == Signal::Metrics).count();
    assert_eq!(metrics, kept.len() - 1);
    assert_eq!(numbers(&rows(&store, Signal::Metrics)), [kept[0]]);
    // Spans make room for logs too, and take none of theirs.
    let gone = put(&mut store, Signal::Traces, 99, [kept[0], 0, 0]);
    assert_eq!((gone.len(), gone[0].signal), (1, Signal::Traces));
    let logs = numbers(&rows(&store, Signal::Logs));
    assert!(logs.iter().copied().eq(20 - logs.len() as i64 + 1..=20), "{logs:?}");
    // Metrics for which there is no room go themselves, as does what is larger than all.
    let gone = put(&mut store, Signal::Metrics, 99, [kept[0], 0, 0]);
    assert_eq!((gone.len(), gone[0].signal, gone[0].items), (1, Signal::Metrics, 5));
    let huge = row(Signal::Logs, 100, &random.bytes(2 << 20));
    assert_eq!(store.append(&huge, Limits::default()).unwrap()[0].items, huge.items);
    assert_eq!(numbers(&rows(&store, Signal::Logs)), logs);
    // Once it is empty, the disk has its room back.
    store.remove(Signal::Metrics, i64::MAX).unwrap();
    store.remove(Signal::Logs, i64::MAX).unwrap();
    assert!(store.bytes() < 100_000);
}

#[test]
fn an_emptied_file_is_made_small() {
    let place = Place::new(32 << 20);
    let (mut store, _) = place.open();
    for number in 1..=10 {
        store.append(&row(Signal::Logs, number, &Random(3).bytes(1 << 20)), Limits::default()).unwrap();
    }
    store.remove(Signal::Logs, 10).unwrap();
    let bytes: u64 =
        place.names().iter().map(|name| fs::metadata(place.settings.path.join(name)).unwrap().len()).sum();
    assert!(bytes < 2 << 20, "{bytes} of {:?}", place.names());
}

#[test]
fn what_has_waited_too_long_is_given_up_but_not_what_is_being_sent() {
    let place = Place::new(1 << 20);
    let (mut store, _) = place.open();
    for number in 1..=10 {
        for signal in Signal::ALL {
            store.append(&row(signal, number, &[0; 10]), Limits::default()).unwrap();
        }
    }
    let gone = store.expire(Limits { taken: [0, 2, 0], oldest: 6 }).unwrap();
    let of = |signal| gone.iter().filter(|gone| gone.signal == signal).count();
    assert_eq!((of(Signal::Metrics), of(Signal::Logs)), (5, 3));
    assert!(gone.iter().all(|gone| gone.cause == ExporterDropCause::Expired));
    assert_eq!(numbers(&rows(&store, Signal::Metrics)), [6, 7, 8, 9, 10]);
    assert_eq!(numbers(&rows(&store, Signal::Logs)), [1, 2, 6, 7, 8, 9, 10]);
    let gone = store.append(&row(Signal::Logs, 11, &[]), Limits { taken: [0, 2, 0], oldest: 8 }).unwrap();
    assert_eq!(gone.len(), 6);
}

#[test]
fn a_file_of_another_version_or_of_another_program_is_put_aside_as_it_is() {
    let place = Place::new(1 << 20);
    drop(place.open());
    let change = |statement: &str| Connection::open(place.file()).unwrap().execute_batch(statement).unwrap();
    for statement in ["PRAGMA user_version = 3", "PRAGMA user_version = 3", "PRAGMA application_id = 5"] {
        drop(place.open());
        change(statement);
        let before = fs::read(place.file()).unwrap();
        let (mut store, found) = place.open();
        assert_eq!(found.lanes, [Lane::default(); Signal::ALL.len()]);
        let (file, why) = &found.aside[0];
        assert!(why.starts_with("is no queue of version 2: "), "{why}");
        assert_eq!(fs::read(file).unwrap(), before);
        store.append(&row(Signal::Logs, 1, &[1]), Limits::default()).unwrap();
        store.remove(Signal::Logs, 1).unwrap();
    }
    let names = ["queue.db", "queue.db.version2", "queue.db.version3", "queue.db.version3.2"];
    assert_eq!(place.names(), names);
}

#[test]
fn only_one_at_a_time_has_the_file() {
    let place = Place::new(1 << 20);
    let (store, _) = place.open();
    assert!(matches!(Store::open(&place.settings, Done::default()), Err(StoreError::Unusable(_))));
    drop(store);
    place.open();
}

#[test]
fn a_file_that_was_never_one_is_put_aside() {
    let place = Place::new(1 << 20);
    drop(place.open());
    fs::write(place.file(), Random(4).bytes(50_000)).unwrap();
    let (mut store, found) = place.open();
    assert_eq!(found.lanes, [Lane::default(); Signal::ALL.len()]);
    assert!(found.aside[0].0.ends_with("queue.db.damaged"), "{found:?}");
    store.append(&row(Signal::Logs, 1, &[1]), Limits::default()).unwrap();
    assert_eq!(numbers(&rows(&store, Signal::Logs)), [1]);
    // A file of no length is what a process leaves that was killed at its very start.
    drop(store);
    fs::write(place.file(), []).unwrap();
    let (_, found) = place.open();
    assert_eq!((found.lanes, found.aside.len()), ([Lane::default(); Signal::ALL.len()], 0));
}

/// Counting them is all that takes time.
#[test]
fn a_full_file_of_small_requests_opens_in_seconds() {
    let place = Place::new(256 << 20);
    drop(place.open());
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400000) \
        INSERT INTO logs SELECT i, i, 7, 2, 'packetloss', randomblob(560) FROM n; \
        UPDATE held SET items = 800000 WHERE signal = 'logs';";
    let db = Connection::open(place.file()).unwrap();
    db.execute_batch(&format!("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; {fill}")).unwrap();
    drop(db);
    assert!(fs::metadata(place.file()).unwrap().len() > 220 << 20);
    let begun = std::time::Instant::now();
    let (_store, found) = place.open();
    let took = begun.elapsed();
    assert_eq!(found.lanes[Signal::Logs as usize], Lane { last: 400_000, items: 800_000, missing: 0 });
    assert!(took < Duration::from_secs(10), "{took:?}");
}

/// Reads all that is left as the task of a destination does: what cannot be read is mended, once at the most for each row.
fn salvage(place: &Place) -> (Vec<Row>, i64) {
    let (mut store, found) = place.open();
    let expected = |found: &Found| found.lanes.iter().map(|lane| lane.items + lane.missing).sum::<i64>();
    let mut known = expected(&found);
    let mut whole = Vec::new();
    for signal in Signal::ALL {
        let mut after = 0;
        loop {
            match store.next(signal, after, i64::MAX) {
                Ok(None) => break,
                Ok(Some(row)) => {
                    assert!(row.number > after, "{} after {after}", row.number);
                    after = row.number;
                    whole.extend(row.request().is_some().then_some(row));
                }
                Err(StoreError::Damaged(why)) => {
                    drop(store);
                    let mended = Store::mend(&place.settings, Done::default(), &why).unwrap();
                    store = mended.0;
                    known = known.max(expected(&mended.1));
                    assert!(place.settings.path.join("queue.db.damaged").exists());
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    // And it works again.
    store.append(&row(Signal::Logs, 1 << 40, &[5]), Limits::default()).unwrap();
    drop(store);
    let (store, _) = place.open();
    assert_eq!(store.next(Signal::Logs, (1 << 40) - 1, i64::MAX).unwrap().unwrap().request().unwrap(), [5]);
    (whole, known)
}

/// One of the ways in which disks damage files.
fn damage(content: &mut Vec<u8>, random: &mut Random) -> String {
    let at = random.below(content.len());
    match random.below(4) {
        0 => {
            let bit = 1 << random.below(8);
            content[at] ^= bit;
            format!("bit {bit} of byte {at}")
        }
        1 => {
            let page = at / 4096 * 4096;
            content[page..page + 4096].fill(0);
            format!("page at {page} of zeros")
        }
        2 => {
            let length = random.below(9000).min(content.len() - at);
            content[at..at + length].copy_from_slice(&random.bytes(length));
            format!("{length} bytes at {at}")
        }
        _ => {
            content.truncate(at);
            format!("{at} bytes are left")
        }
    }
}

#[test]
fn of_a_damaged_file_all_that_comes_out_is_whole_and_little_is_lost() {
    let place = Place::new(16 << 20);
    let (mut store, _) = place.open();
    let mut random = Random(0x5eed);
    let mut all = Vec::new();
    for number in 1..=400 {
        for signal in Signal::ALL {
            let length = if number % 20 == 0 { 30_000 } else { random.below(900) };
            all.push(row(signal, number, &random.bytes(length)));
            store.append(all.last().unwrap(), Limits::default()).unwrap();
        }
    }
    drop(store);
    let content = fs::read(place.file()).unwrap();
    let (mut kept, mut mended) = (0, 0);
    const ROUNDS: usize = 60;
    for round in 0..ROUNDS {
        place.names().iter().for_each(|name| fs::remove_file(place.settings.path.join(name)).unwrap());
        let mut damaged = content.clone();
        let how = damage(&mut damaged, &mut random);
        fs::write(place.file(), &damaged).unwrap();
        let (whole, known) = salvage(&place);
        for row in &whole {
            let original = all.iter().find(|one| one.signal == row.signal && one.number == row.number);
            // The body is checked; what stands beside it may differ where a bit of it did.
            assert!(
                original.is_some_and(|one| one.body == row.body) || how.starts_with("bit"),
                "{round} {how}"
            );
        }
        assert!(known == items(&all) || how.starts_with("bit") || whole.len() < all.len(), "{round} {how}");
        kept += whole.len();
        mended += usize::from(place.settings.path.join("queue.db.damaged").exists());
    }
    // Every second file or so has to be mended, and most rows are read.
    assert!(mended > 5 && kept > ROUNDS * all.len() / 2, "{kept} {mended}");
    drop(place.directory);
}
