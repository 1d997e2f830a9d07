//! What becomes of a queue on a disk that does not answer: everything goes on in memory, and nobody waits for it.

use std::time::Duration;

use jitterscope_integration::disk::Disk;
use jitterscope_integration::otlp::Signal;
use jitterscope_integration::otlp::deliver::{Bed, given_up, until};
use jitterscope_integration::otlp::place::{Place, store, unique};
use jitterscope_integration::requirements;
use jitterscope_semconv::value::ExporterDropCause;

const PROGRAMS: &[&str] = &["mount", "umount", "mkfs.ext4", "fsfreeze"];

/// Far more than an end takes.
const LONG: Duration = Duration::from_secs(60);

async fn hangs(bed: &Bed) {
    let error = until("it is told", || bed.account(0).disk_error()).await;
    assert!(error.ends_with("the disk does not answer; going on in memory"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_disk_does_not_answer_everything_is_delivered_once_without_it() {
    if !requirements::met(PROGRAMS) {
        return;
    }
    let disk = Disk::new(64 << 20).unwrap();
    let place = Place::new(&disk.path().join("queue"), "");
    let server = place.server().await;
    let bed = place.bed();
    store(&bed, Signal::Logs, 0..10).await;
    bed.settled(Signal::Logs).await;
    disk.answers(false).unwrap();
    bed.send(Signal::Logs, 10..20);
    hangs(&bed).await;
    bed.send(Signal::Logs, 20..30);
    bed.send(Signal::Metrics, 0..5);
    until("delivery without the disk", || (bed.terms(Signal::Logs).delivered == 30).then_some(())).await;
    until("metrics too", || (bed.terms(Signal::Metrics).delivered == 5).then_some(())).await;
    disk.answers(true).unwrap();
    let mut next = 30;
    until("the disk is used", || {
        bed.send(Signal::Logs, [next]);
        next += 1;
        bed.account(0).disk_error().is_none().then_some(())
    })
    .await;
    store(&bed, Signal::Logs, next..next + 10).await;
    let terms = bed.end(LONG, Signal::Logs).await;
    // What was on its way to the disk went elsewhere, and no more came of it when the disk answered.
    assert_eq!((terms.delivered, terms.recovered, given_up(&terms)), (next + 10, 0, 0), "{terms:?}");
    assert!(server.numbers(Signal::Logs).into_iter().eq(0..next + 10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_does_not_wait_for_a_disk_and_what_was_on_it_is_the_next_ones() {
    if !requirements::met(PROGRAMS) {
        return;
    }
    let disk = Disk::new(64 << 20).unwrap();
    let place = Place::new(&disk.path().join("queue"), "");
    let bed = place.bed();
    store(&bed, Signal::Logs, 0..10).await;
    disk.answers(false).unwrap();
    bed.send(Signal::Logs, 10..20);
    hangs(&bed).await;
    bed.send(Signal::Logs, 20..25);
    let ended = tokio::time::timeout(LONG, bed.end(Duration::from_millis(500), Signal::Logs)).await;
    let terms = ended.expect("the end waits for the disk");
    assert_eq!((terms.produced, terms.queued, terms.on_disk), (25, 10, 10), "{terms:?}");
    assert_eq!(terms.dropped(ExporterDropCause::Shutdown), 15, "{terms:?}");
    disk.answers(true).unwrap();
    let server = place.server().await;
    let bed = place.bed();
    let terms = until("what was on it", || {
        // While the thread that waited closes the file, it cannot be opened; it is tried again when something comes.
        bed.send(Signal::Metrics, 0..1);
        let terms = bed.terms(Signal::Logs);
        (terms.recovered > 0 && terms.queued == 0).then_some(terms)
    })
    .await;
    assert_eq!(given_up(&terms), 0, "{terms:?}");
    // The thread that waited may have put its request there since.
    let numbers = unique(&server, Signal::Logs);
    assert!(numbers.iter().copied().eq(0..10) || numbers.into_iter().eq(0..20));
    bed.end(LONG, Signal::Logs).await;
}
