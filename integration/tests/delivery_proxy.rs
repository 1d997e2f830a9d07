//! Delivery to the real Collector over lines that cut, delay, swallow, cut short and swap, while the Collector is killed
//! and started again and again. Behind it a server of the test counts: what the Collector said that it took is there.
#![expect(clippy::print_stdout, reason = "what the lines did belongs to the outcome")]
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use jitterscope_integration::collector::Collector;
use jitterscope_integration::kernel::counter;
use jitterscope_integration::netns::Netns;
use jitterscope_integration::network::Family;
use jitterscope_integration::otlp::deliver::{Bed, given_up};
use jitterscope_integration::otlp::proxy::Proxy;
use jitterscope_integration::otlp::server::Server;
use jitterscope_integration::otlp::{Protocol, Signal};
use jitterscope_integration::random::Random;
use jitterscope_integration::receiver::{Delivered, Receiver};
use jitterscope_integration::requirements;
use jitterscope_integration::telemetry::{Point, has};
use jitterscope_integration::traffic::{CLOSED_PORT, flood};
use jitterscope_semconv::{attribute as key, metric};
use tokio::task::block_in_place;

/// Points or records of one request.
const ITEMS: u64 = 40;

/// A Collector, the server behind it, and a bad line to it for each protocol.
struct Chain {
    sink: Server,
    collector: Collector,
    proxies: Vec<(Protocol, Proxy)>,
}

impl Chain {
    async fn start(random: &Random) -> Option<Self> {
        let sink = Server::start(Protocol::Grpc, []).await;
        let collector = Collector::forward(&sink.address.to_string(), &[]).unwrap()?;
        let mut proxies = Vec::new();
        for (protocol, endpoint) in
            [(Protocol::Grpc, collector.endpoint()), (Protocol::Http, collector.http_endpoint())]
        {
            let to = endpoint.trim_start_matches("http://").to_owned();
            proxies.push((protocol, Proxy::start(to, random.part(proxies.len() as u64)).await));
        }
        Some(Self { sink, collector, proxies })
    }

    fn destination(&self, at: usize) -> String {
        let (protocol, proxy) = &self.proxies[at];
        format!("endpoint: 'http://{}', protocol: {}, timeout: 1s", proxy.address, protocol.name())
    }

    /// Kills the Collector and starts it again after a while, with `meanwhile` in between.
    async fn restart(&mut self, meanwhile: impl AsyncFnOnce()) {
        self.collector.kill().unwrap();
        meanwhile().await;
        block_in_place(|| self.collector.resume()).unwrap();
    }

    /// The lines become good ones; they had been bad enough.
    fn calm(&self) {
        for (protocol, proxy) in &self.proxies {
            proxy.calm();
            let fates = proxy.fates();
            println!("{protocol:?} {fates:?}");
            let harm: usize = fates.iter().map(|(_, times)| times).sum();
            assert!(harm >= 10, "{protocol:?} {fates:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_bad_lines_every_number_arrives_and_the_account_says_so() {
    let mut random = Random::new("bad lines");
    let Some(mut chain) = Chain::start(&random).await else { return };
    let directory = tempfile::tempdir().unwrap();
    // In memory and on disk, each over both protocols.
    let beds: Vec<Bed> = (0..4)
        .map(|at| {
            let disk = format!(", queue: {{disk: {{path: '{}/{at}'}}}}", directory.path().display());
            let disk = if at < 2 { "" } else { &disk };
            Bed::start(&[&format!("{}{disk}", chain.destination(at % 2))])
        })
        .collect();
    let first = |at: usize| at as u64 * 1_000_000_000;
    let mut sent = 0;
    let load = async |sent: &mut u64, time: Duration| {
        let end = Instant::now() + time;
        while Instant::now() < end {
            for (at, bed) in beds.iter().enumerate() {
                let from = first(at) + *sent;
                Signal::ALL.into_iter().for_each(|signal| bed.send(signal, from..from + ITEMS));
            }
            *sent += ITEMS;
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
    };
    for _ in 0..4 {
        load(&mut sent, Duration::from_millis(random.within(500..3000))).await;
        let away = Duration::from_millis(random.within(0..800));
        chain.restart(async || load(&mut sent, away).await).await;
    }
    load(&mut sent, Duration::from_secs(2)).await;
    chain.calm();
    let mut all = 0;
    for (at, bed) in beds.iter().enumerate() {
        let mut retries = 0;
        for signal in Signal::ALL {
            let terms = bed.settled(signal).await;
            retries += terms.retries;
            assert_eq!(
                (terms.produced, terms.delivered, given_up(&terms)),
                (sent, sent, 0),
                "{at} {terms:?}"
            );
            let arrived: BTreeSet<u64> = chain.sink.numbers(signal).into_iter().collect();
            let missing = (first(at)..first(at) + sent).filter(|number| !arrived.contains(number)).count();
            assert_eq!(missing, 0, "{at} {signal:?} of {sent}");
        }
        // How many is the seed's matter.
        assert!(retries > 0, "{at}");
        all += retries;
    }
    assert!(all > 20, "{all}");
}

fn of(netns: &Netns) -> impl Fn(&Point) -> bool {
    move |point| has(&point.resource, key::NETNS_NAME.key, netns.name())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_bad_lines_the_collectors_values_are_the_kernels_and_no_event_is_missing() {
    if !requirements::met(&["ip", "nstat"]) {
        return;
    }
    let mut random = Random::new("bad lines of a receiver");
    let (Some(mut grpc), Some(mut http)) = (Chain::start(&random).await, Chain::start(&random.part(9)).await)
    else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let disk = format!("queue: {{disk: {{path: '{}'}}}}", directory.path().display());
    let set = format!("export.otlp=[{{{}}}, {{{}, {disk}}}]", grpc.destination(0), http.destination(1));
    let limits = "probes.packetloss.events={rate: 10000, burst: 10000}";
    let settings = ["--set", &set, "--set", limits, "--set", "interval=300ms", "--set", "shutdown.grace=60s"];
    let mut receiver = block_in_place(|| Receiver::start(&settings)).unwrap();
    let netns = Netns::new("proxy").unwrap();
    let mut packets = 0;
    let mut drop_some = || {
        for family in Family::BOTH {
            flood(&netns, (family.loopback(), CLOSED_PORT).into(), 5).unwrap();
        }
        packets += 10;
    };
    for round in 0..4 {
        let end = Instant::now() + Duration::from_millis(random.within(1000..3000));
        while Instant::now() < end {
            block_in_place(&mut drop_some);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let chain = if round % 2 == 0 { &mut grpc } else { &mut http };
        chain.restart(async || block_in_place(&mut drop_some)).await;
    }
    for (chain, at) in [(&grpc, 0), (&http, 1)] {
        let (protocol, proxy) = &chain.proxies[at];
        proxy.calm();
        println!("{protocol:?} {:?}", proxy.fates());
    }
    block_in_place(|| receiver.stop()).unwrap();

    let kernel = counter(&netns, "UdpNoPorts").unwrap() + counter(&netns, "Udp6NoPorts").unwrap();
    assert_eq!(kernel, packets);
    let account = receiver.account("packetloss").unwrap();
    assert_eq!((account.seen, account.lost, account.suppressed), (account.sum(), 0, 0), "{account:?}");
    for chain in [&grpc, &http] {
        let told = chain.sink.telemetry();
        assert_eq!(told.total(metric::PACKET_DROPS.name, of(&netns)), kernel);
        let udp: u64 = told.total(metric::UDP_ERRORS.name, |point| {
            of(&netns)(point) && point.attributes.values().any(|value| value == "no_port")
        });
        assert_eq!(udp, kernel);
        let events = told.records().filter(|record| has(&record.resource, key::NETNS_NAME.key, netns.name()));
        assert_eq!(events.collect::<BTreeSet<_>>().len() as u64, kernel);
    }
    let accounts = receiver.deliveries().unwrap();
    assert_eq!(accounts.len(), 6);
    for Delivered { destination, signal, produced, recovered, delivered, queued, dropped } in accounts {
        let told = format!("{destination} {signal}");
        assert_eq!(produced + recovered, delivered + queued + dropped, "{told}");
        let complaints = receiver.complaints();
        // No anomaly is shown as a span.
        assert_eq!(produced > 0, signal != "traces", "{told}");
        assert_eq!(produced, delivered, "{told} {complaints:#?}");
    }
}
