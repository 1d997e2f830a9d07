//! The queue on disk when its process is killed, again and again at random points: nothing that it had taken is missing
//! behind the Collector in the end, and it opens as quickly as ever.
#![expect(clippy::print_stdout, reason = "how much was put to the test belongs to the outcome")]
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use jitterscope_integration::collector::Collector;
use jitterscope_integration::otlp::deliver::Bed;
use jitterscope_integration::otlp::place::scattered;
use jitterscope_integration::otlp::server::Server;
use jitterscope_integration::otlp::{Protocol, Signal};
use jitterscope_integration::random::Random;

/// How often the process is killed.
const ROUNDS: u64 = 60;
/// Numbers of one process: more than it can use.
const NUMBERS: u64 = 1_000_000;
/// Far more than opening a queue takes that holds what a few processes left.
const OPENS_WITHIN: Duration = Duration::from_secs(2);

fn start(settings: &str, first: u64) -> Child {
    Command::new(env!("CARGO_BIN_EXE_queue_producer"))
        .args([settings, &first.to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Lets a process work for a while and kills it; the number after the last that its queue had taken, if any.
fn killed(settings: &str, first: u64, time: Duration) -> Option<u64> {
    let mut process = start(settings, first);
    std::thread::sleep(time);
    process.kill().unwrap();
    let lines = BufReader::new(process.stdout.take().unwrap()).lines();
    // The last line may be cut off.
    let last = lines.map_while(Result::ok).filter_map(|line| line.parse().ok()).max();
    process.wait().unwrap();
    last.filter(|last| *last > first)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_the_queue_has_taken_is_lost_when_its_process_is_killed() {
    let sink = Server::start(Protocol::Grpc, []).await;
    let Some(collector) = Collector::forward(&sink.address.to_string(), &[]).unwrap() else { return };
    let mut random = Random::new("kill -9");
    let directory = tempfile::tempdir().unwrap();
    let disk = format!("queue: {{disk: {{path: '{}'}}}}", directory.path().display());
    let here = [
        format!("endpoint: '{}', {disk}", collector.endpoint()),
        format!("endpoint: '{}', protocol: http/protobuf, {disk}", collector.http_endpoint()),
    ];
    let away = format!("endpoint: 'http://127.0.0.1:1', {disk}");
    let mut taken = Vec::new();
    for round in 0..ROUNDS {
        // Most of them cannot deliver, so that much waits.
        let settings = if random.percent(70) { &away } else { &here[random.within(0..2) as usize] };
        let first = round * NUMBERS;
        let time = Duration::from_millis(random.within(1..150));
        let settings = settings.clone();
        let last = tokio::task::spawn_blocking(move || killed(&settings, first, time)).await.unwrap();
        taken.extend(last.map(|last| first..last));
    }
    assert!(
        taken.len() > ROUNDS as usize / 3,
        "only {} of {ROUNDS} had time to put in anything",
        taken.len()
    );

    let begun = Instant::now();
    let bed = Bed::start(&[&here[0]]);
    let recovered = loop {
        let recovered = Signal::ALL.map(|signal| bed.terms(signal).recovered);
        if recovered.iter().all(|items| *items > 0) {
            break recovered;
        }
        assert!(begun.elapsed() < OPENS_WITHIN, "{recovered:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    let opened = begun.elapsed();
    for (signal, recovered) in Signal::ALL.into_iter().zip(recovered) {
        let terms = bed.settled(signal).await;
        assert_eq!((terms.recovered, terms.delivered), (recovered, recovered), "{terms:?}");
        let arrived: BTreeSet<u64> = sink.numbers(signal).into_iter().collect();
        let numbers = taken.iter().cloned().flatten();
        let missing: Vec<u64> = numbers.filter(|number| !arrived.contains(&scattered(*number))).collect();
        assert_eq!(missing, [0; 0], "{signal:?}");
    }
    let put: u64 = taken.iter().map(|range| range.end - range.start).sum();
    println!("{put} numbers in {} processes, {recovered:?} recovered, open after {opened:?}", taken.len());
}
