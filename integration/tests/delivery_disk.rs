//! The queue on disk: what outlives its process and a reload, and how much it may take for how long. The account's equation
//! holds at every look.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::fs;
use std::path::Path;

use jitterscope_integration::otlp::deliver::{self, Bed, given_up, until};
use jitterscope_integration::otlp::place::{NO_TIME, Place, scattered, store, unique};
use jitterscope_integration::otlp::server::{Reply, Server};
use jitterscope_integration::otlp::{Protocol, Signal};
use jitterscope_semconv::value::ExporterDropCause;

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
        for signal in Signal::ALL {
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
    for signal in Signal::ALL {
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

/// Overwrites pages of the file as a failing disk would.
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
    let block = 30_000;
    while given_up(&bed.terms(Signal::Logs)) < 5 * block {
        for signal in Signal::ALL {
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
