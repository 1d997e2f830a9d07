//! What becomes of a queue on disk when the disk is full or read-only, and when its file is damaged, gone or another version's.
//! The account's equation holds at every look.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use jitterscope_integration::otlp::Signal;
use jitterscope_integration::otlp::deliver::{Bed, given_up, until};
use jitterscope_integration::otlp::place::{NO_TIME, Place, store, unique};
use jitterscope_integration::requirements;
use jitterscope_integration::tmpfs::Tmpfs;
use jitterscope_semconv::value::ExporterDropCause;

/// Sends the next numbers until the disk is used again.
async fn disk_is_used(bed: &Bed, next: &mut u64) {
    until("the disk is used", || {
        bed.send(Signal::Logs, [*next]);
        *next += 1;
        bed.account(0).disk_error().is_none().then_some(())
    })
    .await;
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
    let error = until("the disk is full", || {
        bed.send(Signal::Logs, next..next + block);
        bed.send(Signal::Metrics, next..next + block);
        next += block;
        bed.account(0).disk_error()
    })
    .await;
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
    disk_is_used(&bed, &mut next).await;
    let terms = bed.end(Duration::from_secs(30), Signal::Logs).await;
    assert_eq!((terms.delivered, given_up(&terms)), (next, 0), "{terms:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_on_a_full_disk_is_delivered_by_the_next_process() {
    if !requirements::met(&["mount", "umount"]) {
        return;
    }
    let disk = Tmpfs::new("12m").unwrap();
    let place = Place::new(&disk.path().join("queue"), "");
    let bed = place.bed();
    for start in (0..500).step_by(10) {
        store(&bed, Signal::Logs, start..start + 10).await;
    }
    bed.end(NO_TIME, Signal::Logs).await;
    let ballast = disk.fill().unwrap();
    let server = place.server().await;
    let bed = place.bed();
    let terms = until("what was on the disk", || {
        let terms = bed.terms(Signal::Logs);
        (terms.delivered == 500).then_some(terms)
    })
    .await;
    assert_eq!((terms.recovered, terms.queued), (500, 0), "{terms:?}");
    assert!(server.numbers(Signal::Logs).into_iter().eq(0..500));
    // Nothing could be removed, and yet nothing is sent twice by this process; nor by the next, once there is room.
    assert!(bed.account(0).disk_error().is_some_and(|error| error.contains("full")));
    fs::remove_file(ballast).unwrap();
    let mut next = 500;
    disk_is_used(&bed, &mut next).await;
    let terms = bed.end(Duration::from_secs(30), Signal::Logs).await;
    assert_eq!((terms.delivered, terms.queued), (next, 0), "{terms:?}");
    let bed = place.bed();
    store(&bed, Signal::Metrics, 0..1).await;
    assert_eq!(bed.terms(Signal::Logs).recovered, 0);
    assert!(server.numbers(Signal::Logs).into_iter().eq(0..next));
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
    assert_eq!((terms.delivered, given_up(&terms)), (next, 0));
    assert!(unique(&server, Signal::Logs).into_iter().eq(0..next));
    until("it works again", || bed.account(0).disk_error().is_none().then_some(())).await;
}

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
