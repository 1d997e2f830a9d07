//! A receiver whose destinations are changed again and again while it sends: what was under way arrives where it was to go,
//! or is on disk, and no event and no count is lost.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use jitterscope_integration::collector::Collector;
use jitterscope_integration::kernel::counter;
use jitterscope_integration::netns::Netns;
use jitterscope_integration::network::Family;
use jitterscope_integration::otlp::Protocol;
use jitterscope_integration::otlp::server::Server;
use jitterscope_integration::random::Random;
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::telemetry::{Record, has};
use jitterscope_integration::traffic::{CLOSED_PORT, flood};
use jitterscope_integration::{poll, requirements};
use jitterscope_semconv::{attribute as key, metric};
use tokio::task::block_in_place;

/// Datagrams of each step, over each version of IP.
const PACKETS: usize = 5;

struct Load {
    netns: Netns,
    packets: u64,
}

impl Load {
    fn run(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            for family in Family::BOTH {
                flood(&self.netns, (family.loopback(), CLOSED_PORT).into(), PACKETS).unwrap();
                self.packets += PACKETS as u64;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The events of a namespace that arrived at any of these servers.
fn events(sinks: &[&Server], netns: &Netns) -> BTreeSet<Record> {
    let told = sinks.iter().map(|sink| sink.telemetry());
    told.flat_map(|told| {
        let of = |record: &Record| has(&record.resource, key::NETNS_NAME.key, netns.name());
        told.records().filter(of).collect::<Vec<_>>()
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn destinations_are_changed_under_load_and_every_event_arrives() {
    if !requirements::met(&["ip", "nstat"]) {
        return;
    }
    let mut random = Random::new("reloads");
    let (one, other) = (Server::start(Protocol::Grpc, []).await, Server::start(Protocol::Grpc, []).await);
    let forward = |sink: &Server| Collector::forward(&sink.address.to_string(), &[]).unwrap();
    let (Some(first), Some(second)) = (forward(&one), forward(&other)) else { return };
    let directory = tempfile::tempdir().unwrap();
    let disk = format!("queue: {{disk: {{path: '{}/queue'}}}}", directory.path().display());
    let choices = [
        format!("{{endpoint: '{}'}}", first.endpoint()),
        format!("{{endpoint: '{}', {disk}}}", first.endpoint()),
        format!("{{endpoint: '{}', protocol: http/protobuf, {disk}}}", second.http_endpoint()),
        format!(
            "{{endpoint: '{}', compression: zstd}}, {{endpoint: '{}'}}",
            second.endpoint(),
            first.endpoint()
        ),
        format!("{{endpoint: '{}', timeout: 5s, {disk}}}", first.endpoint()),
    ];
    let file = directory.path().join("jitterscope.yaml");
    let write = |choice: &str| fs::write(&file, format!("export: {{otlp: [{choice}]}}\n")).unwrap();
    write(&choices[0]);
    let limits = "probes.packetloss.events={rate: 10000, burst: 10000}";
    let path = file.display().to_string();
    let settings = ["-c", &path, "--set", limits, "--set", "interval=250ms", "--set", "shutdown.grace=60s"];
    let mut receiver = block_in_place(|| Receiver::start(&settings)).unwrap();
    let mut load = Load { netns: Netns::new("reload").unwrap(), packets: 0 };
    let (mut current, mut applied) = (0, 0);
    for _ in 0..25 {
        let next = (current + random.within(1..choices.len() as u64) as usize) % choices.len();
        current = next;
        block_in_place(|| load.run(Duration::from_millis(random.within(50..500))));
        write(&choices[current]);
        applied += 1;
        block_in_place(|| {
            let is_applied =
                || (receiver.log().matches("the configuration was applied").count() >= applied).then_some(());
            poll::until("it is applied", is_applied).unwrap();
        });
    }
    write(&format!("{{endpoint: '{}', {disk}}}", first.endpoint()));
    block_in_place(|| load.run(Duration::from_secs(1)));
    block_in_place(|| receiver.stop()).unwrap();

    let kernel = counter(&load.netns, "UdpNoPorts").unwrap() + counter(&load.netns, "Udp6NoPorts").unwrap();
    assert_eq!(kernel, load.packets);
    let account = receiver.account("packetloss").unwrap();
    assert_eq!(
        (account.seen, account.dropped),
        (account.sum(), 0),
        "{account:?} {:#?}",
        receiver.complaints()
    );
    assert_eq!(events(&[&one, &other], &load.netns).len() as u64, kernel);
    let of = |point: &jitterscope_integration::telemetry::Point| {
        has(&point.resource, key::NETNS_NAME.key, load.netns.name())
    };
    assert_eq!(one.telemetry().total(metric::PACKET_DROPS.name, of), kernel);
    // What one gave to the next with the file counts as given up by the one and as recovered by the other.
    for account in receiver.deliveries().unwrap() {
        let given = account.produced + account.recovered;
        assert_eq!((given, account.queued), (account.delivered + account.dropped, 0), "{account:?}");
    }
}
