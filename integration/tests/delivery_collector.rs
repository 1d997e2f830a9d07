//! Delivery to the real Collector, which passes everything on to a server of the test before it answers: what it said that
//! it took is counted there.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use jitterscope_integration::collector::Collector;
use jitterscope_integration::otlp::certificates::{Authority, Volume};
use jitterscope_integration::otlp::deliver::{Bed, until};
use jitterscope_integration::otlp::server::Server;
use jitterscope_integration::otlp::{Protocol, Signal};
use jitterscope_semconv::value::ExporterDropCause;
use tokio::time::timeout;

/// Points or records of one request.
const ITEMS: u64 = 40;
/// Time between two requests of the load.
const PACE: Duration = Duration::from_millis(25);

/// Far more than a backlog takes.
const PATIENCE: Duration = Duration::from_secs(45);

/// A destination under load, with numbers of its own.
struct Load {
    what: String,
    bed: Bed,
    first: u64,
    next: u64,
}

impl Load {
    fn new(index: usize, what: String) -> Self {
        let first = index as u64 * 1_000_000_000;
        Self { bed: Bed::start(&[&what]), what, first, next: first }
    }

    fn send(&mut self) {
        for signal in Signal::ALL {
            self.bed.send(signal, self.next..self.next + ITEMS);
        }
        self.next += ITEMS;
    }

    /// Every number has arrived at least once, and the account says so.
    async fn check(&self, sink: &Server) {
        for signal in Signal::ALL {
            let settled = timeout(PATIENCE, self.bed.settled(signal)).await;
            let terms = settled.unwrap_or_else(|_| panic!("{}: {:?}", self.what, self.bed.account(0)));
            let sent = self.next - self.first;
            assert_eq!((terms.produced, terms.delivered), (sent, sent), "{}: {terms:?}", self.what);
            let arrived: BTreeSet<u64> = sink.numbers(signal).into_iter().collect();
            let missing = (self.first..self.next).filter(|number| !arrived.contains(number)).count();
            assert_eq!(missing, 0, "{}: {signal:?} of {sent}", self.what);
        }
    }
}

/// A destination for each protocol and compression.
fn loads(collector: &Collector, more: &str) -> Vec<Load> {
    let endpoints = [(Protocol::Grpc, collector.endpoint()), (Protocol::Http, collector.http_endpoint())];
    let combined = endpoints
        .iter()
        .flat_map(|endpoint| ["none", "gzip", "zstd"].map(|compression| (endpoint, compression)));
    let what = combined.map(|((protocol, endpoint), compression)| {
        format!("endpoint: '{endpoint}', protocol: {}, compression: {compression}{more}", protocol.name())
    });
    what.enumerate().map(|(index, what)| Load::new(index, what)).collect()
}

async fn run(loads: &mut [Load], time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        loads.iter_mut().for_each(Load::send);
        tokio::time::sleep(PACE).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_the_collector_is_killed_again_and_again() {
    let sink = Server::start(Protocol::Grpc, []).await;
    let Some(mut collector) = Collector::forward(&sink.address.to_string(), &[]).unwrap() else { return };
    let mut loads = loads(&collector, ", timeout: 2s");
    for _ in 0..3 {
        run(&mut loads, Duration::from_secs(1)).await;
        // In the middle of requests, and away for a while.
        collector.kill().unwrap();
        run(&mut loads, Duration::from_millis(700)).await;
        tokio::task::block_in_place(|| collector.resume()).unwrap();
    }
    run(&mut loads, Duration::from_secs(1)).await;
    for load in &loads {
        load.check(&sink).await;
        let retries: u64 = Signal::ALL.iter().map(|signal| load.bed.terms(*signal).retries).sum();
        assert!(retries >= 3, "{}: {retries}", load.what);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_short_of_memory_refuses_and_nothing_is_lost() {
    let sink = Server::start(Protocol::Grpc, []).await;
    let Some(mut collector) = Collector::forward(&sink.address.to_string(), &[]).unwrap() else { return };
    collector.kill().unwrap();
    // Less than it needs for itself.
    collector.set("MEMORY_LIMIT_MIB", "1");
    collector.resume().unwrap();
    let mut loads = loads(&collector, "");
    // It looks at its memory for the first time after a moment.
    run(&mut loads, Duration::from_millis(500)).await;
    for load in &loads {
        let told = until("a refusal", || load.bed.account(0).error()).await;
        assert!(told.contains("memory"), "{told}");
    }
    let before = sink.received().len();
    run(&mut loads, Duration::from_millis(500)).await;
    assert_eq!(sink.received().len(), before);
    collector.kill().unwrap();
    collector.set("MEMORY_LIMIT_MIB", "512");
    collector.resume().unwrap();
    for load in &loads {
        load.check(&sink).await;
    }
}

/// Settings of the Collector's receivers, of a volume's certificates that it reads again each second.
fn encrypted(volume: &Volume) -> Vec<String> {
    let files = [("ca.pem", "client_ca_file"), ("cert.pem", "cert_file"), ("key.pem", "key_file")];
    let set = |protocol: &str, key: &str, value: &str| {
        format!("receivers::otlp::protocols::{protocol}::tls::{key}: {value}")
    };
    let of = |protocol: &'static str| {
        let files = files.map(|(file, key)| set(protocol, key, &volume.path(file).display().to_string()));
        let reload = ["reload_interval", "client_ca_file_reload"].map(|key| match key {
            "reload_interval" => set(protocol, key, "500ms"),
            key => set(protocol, key, "true"),
        });
        files.into_iter().chain(reload).collect::<Vec<_>>()
    };
    [of("grpc"), of("http")].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_of_both_sides_are_renewed_under_load_and_nothing_is_lost() {
    let sink = Server::start(Protocol::Grpc, []).await;
    let former = Authority::new("former");
    let mut theirs = Volume::new(&former.certificate(), &former.sign("localhost"));
    let mut ours = Volume::new(&former.certificate(), &former.sign("client"));
    let backend = sink.address.to_string();
    let Some(collector) = Collector::forward(&backend, &encrypted(&theirs)).unwrap() else { return };
    let endpoint = |endpoint: &str| endpoint.replace("http://127.0.0.1", "https://localhost");
    let destinations = [
        format!("endpoint: '{}', {}", endpoint(&collector.endpoint()), ours.tls(true)),
        format!(
            "endpoint: '{}', protocol: http/protobuf, {}",
            endpoint(&collector.http_endpoint()),
            ours.tls(true)
        ),
    ];
    let mut loads: Vec<Load> =
        destinations.into_iter().enumerate().map(|(index, what)| Load::new(index, what)).collect();
    run(&mut loads, Duration::from_secs(1)).await;
    for load in &loads {
        load.check(&sink).await;
        assert_eq!(load.bed.account(0).error(), None);
    }
    let next = Authority::new("next");
    theirs.renew(&next.certificate(), &next.sign("localhost"));
    ours.renew(&next.certificate(), &next.sign("client"));
    run(&mut loads, Duration::from_secs(3)).await;
    for load in &loads {
        load.check(&sink).await;
        let terms = load.bed.terms(Signal::Logs);
        assert_eq!(terms.dropped(ExporterDropCause::Rejected), 0, "{} {}", load.what, collector.log());
    }
    // The former certificates are worth nothing by now.
    let stale = Volume::new(&next.certificate(), &former.sign("client"));
    let bed = Bed::start(&[&format!("endpoint: '{}', {}", endpoint(&collector.endpoint()), stale.tls(true))]);
    bed.send(Signal::Logs, [0]);
    until("the refusal of a former certificate", || bed.account(0).error()).await;
}
