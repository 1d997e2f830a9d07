//! What becomes of what waits: at the end, when the queue is full, and over a reload.

use std::time::Duration;

use jitterscope_integration::otlp::deliver::{Bed, given_up, until};
use jitterscope_integration::otlp::server::{Reply, Server};
use jitterscope_integration::otlp::{Protocol, Signal};
use jitterscope_semconv::value::ExporterDropCause;

#[tokio::test]
async fn what_is_left_at_the_end_of_the_grace_period_is_in_the_account() {
    for protocol in Protocol::BOTH {
        let server = Server::start(protocol, [Reply::ok(), Reply::Silent]).await;
        let bed = Bed::start(&[&server.destination()]);
        bed.send(Signal::Logs, 0..3);
        bed.settled(Signal::Logs).await;
        bed.send(Signal::Logs, 3..7);
        bed.send(Signal::Logs, 7..12);
        until("the second request", || (server.received().len() == 2).then_some(())).await;
        let terms = bed.end(Duration::from_millis(300), Signal::Logs).await;
        assert_eq!((terms.delivered, terms.dropped(ExporterDropCause::Shutdown)), (3, 9), "{protocol:?}");
    }
}

#[tokio::test]
async fn a_full_queue_gives_up_the_oldest_and_counts_them() {
    let server = Server::start(Protocol::Grpc, vec![Reply::Status(14, "away", Vec::new()); 1]).await;
    let bed = Bed::start(&[&format!("{}, compression: none, queue: {{memory: 1MiB}}", server.destination())]);
    bed.send(Signal::Logs, 0..1);
    until("the refusal", || (bed.terms(Signal::Logs).retries == 1).then_some(())).await;
    let (requests, records) = (100_u64, 2000_u64);
    for request in 0..requests {
        bed.send(Signal::Logs, 1 + request * records..1 + (request + 1) * records);
        // The destination's task is on this thread too and takes it now.
        tokio::task::yield_now().await;
        let terms = bed.terms(Signal::Logs);
        assert!(terms.bytes <= 1 << 20, "{terms:?}");
    }
    let terms = bed.settled(Signal::Logs).await;
    let dropped = terms.dropped(ExporterDropCause::QueueFull);
    assert!(dropped > 0 && dropped % records == 0 && dropped == given_up(&terms), "{terms:?}");
    let mut unique = server.numbers(Signal::Logs);
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len() as u64, terms.delivered, "{terms:?}");
    assert_eq!(terms.delivered + dropped, 1 + requests * records, "{terms:?}");
    // The newest stay.
    assert!(unique.ends_with(&(1 + (requests - 1) * records..1 + requests * records).collect::<Vec<_>>()));
}

#[tokio::test]
async fn a_reload_leaves_what_waits_in_a_destination_that_did_not_change() {
    let away = Server::start(Protocol::Grpc, vec![Reply::Status(14, "away", Vec::new()); 2]).await;
    let other = Server::start(Protocol::Http, []).await;
    let mut bed = Bed::start(&[&away.destination()]);
    bed.send(Signal::Logs, 0..5);
    bed.send(Signal::Metrics, 0..7);
    until("the refusal", || (bed.terms(Signal::Logs).retries == 1).then_some(())).await;
    bed.change(&[&away.destination(), &other.destination()]);
    bed.send(Signal::Logs, 5..9);
    let terms = bed.settled(Signal::Logs).await;
    assert_eq!((terms.produced, terms.delivered), (9, 9));
    assert_eq!(bed.settled(Signal::Metrics).await.delivered, 7);
    until("the new one has what came after", || (other.numbers(Signal::Logs) == [5, 6, 7, 8]).then_some(()))
        .await;
    // Changed settings of the same destination: what waited goes by the old ones, and the account goes on.
    bed.change(&[&format!("{}, timeout: 7s", away.destination())]);
    bed.send(Signal::Logs, 9..10);
    let terms = bed.settled(Signal::Logs).await;
    assert_eq!((terms.produced, terms.delivered), (10, 10));
}
