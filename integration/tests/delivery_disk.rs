//! The queue on disk: what outlives its process, and what becomes of the rest when the disk is full, read-only, damaged or
//! another version's. The account's equation holds at every look.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use jitterscope_integration::network::free_addresses;
use jitterscope_integration::otlp::deliver::{self, Bed, given_up, until};
use jitterscope_integration::otlp::server::{Reply, Server};
use jitterscope_integration::otlp::{Protocol, Signal};
use jitterscope_integration::requirements;
use jitterscope_integration::tmpfs::Tmpfs;
use jitterscope_semconv::value::ExporterDropCause;

/// Grace for ends that are to leave everything.
const NO_TIME: Duration = Duration::from_millis(20);

/// A destination that is away, and can be started there later.
struct Place {
    address: String,
    settings: String,
}

impl Place {
    fn new(path: &Path, more: &str) -> Self {
        let [address] = free_addresses().unwrap();
        let disk = format!("queue: {{disk: {{path: '{}'{more}}}}}", path.display());
        let settings = format!("endpoint: 'http://{address}', compression: none, {disk}");
        Self { address, settings }
    }

    fn bed(&self) -> Bed {
        Bed::start(&[&self.settings])
    }

    async fn server(&self) -> Server {
        Server::start_at(self.address.parse().unwrap(), Protocol::Grpc, None, []).await
    }
}

/// Sends and waits until it is on disk.
async fn store(bed: &Bed, signal: Signal, numbers: std::ops::Range<u64>) {
    bed.send(signal, numbers);
    until("it is on disk", || {
        let terms = bed.terms(signal);
        (terms.queued == terms.on_disk).then_some(())
    })
    .await;
}

/// The numbers that came in, without repetitions.
fn unique(server: &Server, signal: Signal) -> Vec<u64> {
    let mut numbers = server.numbers(signal);
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_process_left_is_delivered_by_the_next_in_order_and_counted_as_recovered() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::new(directory.path(), "");
    for (first, recovered) in [(0, 0), (100, 100)] {
        let bed = place.bed();
        for start in (first..first + 100).step_by(5) {
            store(&bed, Signal::Logs, start..start + 5).await;
            store(&bed, Signal::Metrics, start..start + 5).await;
        }
        let terms = bed.terms(Signal::Metrics);
        assert_eq!((terms.produced, terms.recovered, terms.bytes), (100, recovered, 0));
        let terms = bed.end(NO_TIME, Signal::Logs).await;
        assert_eq!((terms.queued, terms.on_disk, given_up(&terms)), (100 + recovered, 100 + recovered, 0));
    }
    let server = place.server().await;
    let bed = place.bed();
    bed.send(Signal::Logs, 200..205);
    until("all have come", || (server.numbers(Signal::Logs).len() == 205).then_some(())).await;
    for (signal, produced) in [(Signal::Logs, 5), (Signal::Metrics, 0)] {
        let terms = bed.settled(signal).await;
        assert_eq!((terms.produced, terms.recovered, terms.delivered), (produced, 200, 200 + produced));
        assert!(server.numbers(signal).into_iter().eq(0..200 + produced), "{signal:?}");
    }
    let terms = bed.end(NO_TIME, Signal::Logs).await;
    assert_eq!((terms.queued, terms.on_disk), (0, 0));
    let bed = place.bed();
    store(&bed, Signal::Logs, 205..206).await;
    assert_eq!(bed.terms(Signal::Logs).recovered, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_hands_the_queue_over_and_nothing_is_lost_or_counted_twice() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::new(directory.path(), "");
    let mut bed = place.bed();
    let mut next = 0;
    let mut send = |bed: &Bed| {
        for signal in Signal::BOTH {
            bed.send(signal, next..next + 7);
        }
        next += 7;
        next
    };
    let mut server = None;
    for round in 0..20 {
        // While it is away, while it is there, and while requests are under way.
        if round == 7 {
            server = Some(place.server().await);
        }
        for _ in 0..5 {
            send(&bed);
        }
        bed.change(&[&format!("{}, timeout: {}s", place.settings, 3 + round % 2)]);
        send(&bed);
    }
    let server = server.unwrap();
    let sent = send(&bed);
    for signal in Signal::BOTH {
        let terms = bed.settled(signal).await;
        assert_eq!((terms.produced, terms.delivered, terms.recovered), (sent, sent, 0), "{terms:?}");
        assert!(unique(&server, signal).into_iter().eq(0..sent), "{signal:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_moved_to_another_endpoint_goes_there() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::new(directory.path(), "");
    let mut bed = place.bed();
    store(&bed, Signal::Logs, 0..10).await;
    let former = bed.account(0);
    let other = Server::start(Protocol::Http, []).await;
    let disk = format!("queue: {{disk: {{path: '{}'}}}}", directory.path().display());
    // A destination before it, so that it has another name than the former.
    bed.change(&[&other.destination(), &format!("{}, {disk}", other.destination())]);
    let account = bed.account(1);
    until("what waited", || (other.numbers(Signal::Logs).len() == 10).then_some(())).await;
    let terms = until("it is counted", || {
        let terms = deliver::terms(&account, Signal::Logs);
        (terms.delivered == 10).then_some(terms)
    })
    .await;
    assert_eq!((terms.produced, terms.recovered, terms.queued), (0, 10, 0));
    let terms = deliver::terms(&former, Signal::Logs);
    assert_eq!((terms.produced, terms.dropped(ExporterDropCause::HandedOver), terms.queued), (10, 10, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told_and_the_destination_goes_on_in_memory() {
    if !requirements::met(&["mount", "umount"]) {
        return;
    }
    let disk = Tmpfs::new("12m").unwrap();
    let place = Place::new(&disk.path().join("queue"), ", size: 64MiB");
    let bed = place.bed();
    store(&bed, Signal::Logs, 0..10).await;
    let ballast = disk.fill().unwrap();
    let (mut next, block) = (10, 20_000);
    let error = loop {
        bed.send(Signal::Logs, next..next + block);
        bed.send(Signal::Metrics, next..next + block);
        next += block;
        if let Some(error) = bed.account(0).disk_error() {
            break error;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(error.contains("full") && error.ends_with("going on in memory"), "{error}");
    assert!(bed.account(0).disk_failures() > 0);
    bed.send(Signal::Logs, next..next + 10);
    next += 10;
    let terms = until("all that fits nowhere else is in memory", || {
        let terms = bed.terms(Signal::Logs);
        (terms.bytes > 0 && terms.on_disk < terms.queued).then_some(terms)
    })
    .await;
    assert_eq!(given_up(&terms), 0, "{terms:?}");
    let server = place.server().await;
    let terms = bed.settled(Signal::Logs).await;
    assert_eq!((terms.delivered, terms.on_disk), (next, 0), "{terms:?}");
    assert!(unique(&server, Signal::Logs).into_iter().eq(0..next));
    // Room again, and the disk is used again.
    fs::remove_file(ballast).unwrap();
    until("the disk is used", || {
        bed.send(Signal::Logs, [next]);
        next += 1;
        bed.account(0).disk_error().is_none().then_some(())
    })
    .await;
    let terms = bed.end(Duration::from_secs(30), Signal::Logs).await;
    assert_eq!((terms.delivered, given_up(&terms)), (next, 0), "{terms:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_disk_is_told_and_what_is_on_it_goes_when_it_can_be_written() {
    if !requirements::met(&["mount", "umount"]) {
        return;
    }
    let disk = Tmpfs::new("12m").unwrap();
    let place = Place::new(&disk.path().join("queue"), "");
    let bed = place.bed();
    store(&bed, Signal::Logs, 0..10).await;
    bed.end(NO_TIME, Signal::Logs).await;
    disk.read_only(true).unwrap();
    let server = place.server().await;
    let bed = place.bed();
    bed.send(Signal::Logs, 10..20);
    until("it goes without the disk", || (bed.terms(Signal::Logs).delivered == 10).then_some(())).await;
    let error = bed.account(0).disk_error().unwrap();
    assert!(error.contains("Read-only file system"), "{error}");
    disk.read_only(false).unwrap();
    let mut next = 20;
    until("what was on the disk", || {
        bed.send(Signal::Logs, [next]);
        next += 1;
        (bed.terms(Signal::Logs).recovered == 10).then_some(())
    })
    .await;
    let terms = bed.settled(Signal::Logs).await;
    assert_eq!((terms.delivered, given_up(&terms)), (next + 10 - 10, 0));
    assert!(unique(&server, Signal::Logs).into_iter().eq(0..next));
    until("it works again", || bed.account(0).disk_error().is_none().then_some(())).await;
}

/// Overwrites pages of the file as a failing disk would.
fn damage(file: &Path, from: u64, to: u64) {
    let file = File::options().write(true).open(file).unwrap();
    for page in from..to {
        file.write_all_at(&[0xa5; 4096], page * 4096).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_damaged_file_the_rest_is_delivered_and_what_is_missing_is_counted_to_the_unit() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::new(directory.path(), "");
    let file = directory.path().join("queue.db");
    let bed = place.bed();
    for start in (0..100_000).step_by(1000) {
        store(&bed, Signal::Logs, start..start + 1000).await;
    }
    bed.end(NO_TIME, Signal::Logs).await;
    let pages = fs::metadata(&file).unwrap().len() / 4096;
    damage(&file, pages / 2, pages / 2 + 3);
    let server = place.server().await;
    let bed = place.bed();
    until("all that was left", || {
        let terms = bed.terms(Signal::Logs);
        (terms.recovered > 0 && terms.queued == 0).then_some(())
    })
    .await;
    let terms = bed.settled(Signal::Logs).await;
    let lost = terms.dropped(ExporterDropCause::Corrupted);
    assert_eq!((terms.recovered, terms.delivered + lost), (100_000, 100_000), "{terms:?}");
    assert!(lost > 0 && lost < 30_000, "{terms:?}");
    assert_eq!(unique(&server, Signal::Logs).len() as u64, terms.delivered);
    assert!(server.numbers(Signal::Logs).is_sorted(), "in order");
    assert!(directory.path().join("queue.db.damaged").exists());
    assert_eq!(bed.account(0).disk_error(), None);
    store(&bed, Signal::Logs, 100_000..100_001).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_breaks_or_goes_while_it_is_used_loses_what_was_in_it_and_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::new(directory.path(), "");
    let file = directory.path().join("queue.db");
    let bed = place.bed();
    store(&bed, Signal::Logs, 0..50).await;
    until("the first is being sent", || bed.account(0).error()).await;
    store(&bed, Signal::Logs, 50..90).await;
    fs::remove_file(&file).unwrap();
    fs::remove_file(directory.path().join("queue.db-wal")).unwrap();
    bed.send(Signal::Logs, 90..100);
    let terms = until("the loss is noted", || {
        let terms = bed.terms(Signal::Logs);
        (given_up(&terms) > 0).then_some(terms)
    })
    .await;
    // The first request is in memory, for it is being sent; what comes now is in a new file.
    assert_eq!(terms.dropped(ExporterDropCause::Corrupted), 40, "{terms:?}");
    let server = place.server().await;
    let terms = bed.settled(Signal::Logs).await;
    assert_eq!((terms.produced, terms.delivered), (100, 60), "{terms:?}");
    assert!(unique(&server, Signal::Logs).into_iter().eq((0..50).chain(90..100)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_another_version_is_put_aside_and_said_so() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::new(directory.path(), "");
    let file = directory.path().join("queue.db");
    let bed = place.bed();
    store(&bed, Signal::Logs, 0..10).await;
    bed.end(NO_TIME, Signal::Logs).await;
    // The version is the big-endian number at byte 60 (SQLite file format, `user_version`).
    File::options().write(true).open(&file).unwrap().write_all_at(&77_u32.to_be_bytes(), 60).unwrap();
    let before = fs::read(&file).unwrap();
    let server = place.server().await;
    let bed = place.bed();
    bed.send(Signal::Logs, 10..20);
    let terms = until("it goes on", || {
        let terms = bed.terms(Signal::Logs);
        (terms.delivered == 10).then_some(terms)
    })
    .await;
    assert_eq!((terms.produced, terms.recovered), (10, 0));
    assert_eq!(bed.account(0).disk_failures(), 1);
    assert_eq!(fs::read(directory.path().join("queue.db.version77")).unwrap(), before);
    assert!(server.numbers(Signal::Logs).into_iter().eq(10..20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_longer_than_it_may_is_dropped_and_counted() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::new(directory.path(), ", max_age: 2s");
    let bed = place.bed();
    // The first is being sent all the time, and stays.
    store(&bed, Signal::Logs, 0..10).await;
    until("the first is being sent", || bed.account(0).error()).await;
    store(&bed, Signal::Logs, 10..30).await;
    let mut next = 30;
    let terms = until("the second is too old", || {
        bed.send(Signal::Logs, [next]);
        next += 1;
        let terms = bed.terms(Signal::Logs);
        (terms.dropped(ExporterDropCause::Expired) >= 20).then_some(terms)
    })
    .await;
    assert_eq!(terms.delivered, 0);
    let server = place.server().await;
    let terms = bed.settled(Signal::Logs).await;
    let expired = terms.dropped(ExporterDropCause::Expired);
    assert_eq!((terms.delivered + expired, given_up(&terms)), (next, expired), "{terms:?}");
    let arrived = unique(&server, Signal::Logs);
    assert_eq!(arrived.len() as u64, terms.delivered);
    assert!(arrived.starts_with(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]) && !arrived.contains(&10), "{arrived:?}");
}

/// All that a directory takes on disk.
fn size_of(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).unwrap();
    entries.filter_map(|entry| entry.unwrap().metadata().ok()).map(|file| file.len()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_directory_never_takes_more_than_its_size_and_the_newest_stay() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::new(directory.path(), ", size: 16MiB");
    let bed = place.bed();
    let (mut next, mut largest) = (0, 0);
    // Scattered numbers, which compress badly.
    let scattered = |number: u64| number << 32 | (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40);
    let block = 30_000;
    while given_up(&bed.terms(Signal::Logs)) < 5 * block {
        for signal in Signal::BOTH {
            bed.send(signal, (next..next + block).map(scattered));
            until("it is on disk", || {
                largest = largest.max(size_of(directory.path()));
                let terms = bed.terms(signal);
                (terms.queued == terms.on_disk).then_some(())
            })
            .await;
        }
        next += block;
    }
    assert!(largest <= 16 << 20 && largest > 7 << 20, "{largest}");
    let terms = bed.terms(Signal::Logs);
    assert_eq!(terms.dropped(ExporterDropCause::QueueFull), given_up(&terms), "{terms:?}");
    let metrics = bed.terms(Signal::Metrics);
    assert!(metrics.queued < terms.queued / 3, "metrics make room for logs: {metrics:?}");
    let server = place.server().await;
    let terms = bed.settled(Signal::Logs).await;
    let arrived = unique(&server, Signal::Logs);
    assert_eq!(arrived.len() as u64, terms.delivered);
    assert_eq!(terms.delivered + given_up(&terms), next);
    assert!((next - 3 * block..next).all(|number| arrived.binary_search(&scattered(number)).is_ok()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_refuses_for_good_leaves_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(Protocol::Http, [Reply::status(400), Reply::ok()]).await;
    let disk = format!("queue: {{disk: {{path: '{}'}}}}", directory.path().display());
    let bed = Bed::start(&[&format!("{}, {disk}", server.destination())]);
    bed.send(Signal::Logs, 0..10);
    bed.send(Signal::Logs, 10..20);
    let terms = bed.settled(Signal::Logs).await;
    assert_eq!((terms.delivered, terms.dropped(ExporterDropCause::Rejected), terms.on_disk), (10, 10, 0));
}
