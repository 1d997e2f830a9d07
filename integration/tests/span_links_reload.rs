//! A receiver whose source of spans is switched on and off while it runs: what happens meanwhile is linked, what happens
//! before and after is not, and nothing is counted twice or forgotten.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use jitterscope_integration::collector::Collector;
use jitterscope_integration::kernel::counter;
use jitterscope_integration::network::{Family, Network};
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::request::Request;
use jitterscope_integration::telemetry::{Attributes, Point, Record, Telemetry, attributes, has, numbers};
use jitterscope_integration::{poll, requirements};
use jitterscope_semconv::{attribute as key, event, metric};

/// A connection on which requests are lost one after the other, each until it is sent again.
struct Connection {
    client: TcpStream,
    server: TcpStream,
}

impl Connection {
    fn new(network: &Network, family: Family) -> Self {
        let address = (family.address(2, 2), 0);
        let listener = network.b.inside(|| Ok(TcpListener::bind(address)?)).unwrap();
        let to = listener.local_addr().unwrap();
        let client = network.a.inside(|| Ok(TcpStream::connect(to)?)).unwrap();
        Self { client, server: listener.accept().unwrap().0 }
    }

    /// Loses a request; what is told of that, the newest record.
    fn hit(&mut self, network: &Network, collector: &Collector, request: &Request) -> Record {
        let port = self.client.local_addr().unwrap().port().to_string();
        let told = || {
            let is_wanted = |record: &Record| {
                record.event == event::TCP_RETRANSMITTED.name
                    && has(&record.attributes, key::NETWORK_LOCAL_PORT.key, &port)
            };
            collector.received().unwrap().records().filter(is_wanted).collect::<BTreeSet<Record>>()
        };
        let sent_again = || counter(&network.a, "TcpRetransSegs").unwrap();
        let before = (told(), sent_again());
        network.router.refuse("forward", &format!("tcp sport {port} meta length > 200")).unwrap();
        self.client.write_all(request.text().as_bytes()).unwrap();
        // Not longer than that: each time more goes by until it is sent again.
        poll::until("it is sent again", || (sent_again() > before.1).then_some(())).unwrap();
        network.router.allow().unwrap();
        self.server.read_exact(&mut vec![0; request.text().len()]).unwrap();
        let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
        self.server.write_all(answer).unwrap();
        self.client.read_exact(&mut vec![0; answer.len()]).unwrap();
        poll::until("a record", || told().difference(&before.0).next().cloned()).unwrap()
    }
}

fn is_of<'a>(network: &'a Network) -> impl Fn(&Point) -> bool + 'a {
    |point| has(&point.resource, key::NETNS_NAME.key, network.a.name())
}

/// What a counter had counted at the end of each of its runs: by series the start, the last time and the last value.
fn runs(told: &Telemetry, name: &str, network: &Network) -> BTreeMap<Attributes, Vec<(u64, u64, u64)>> {
    let mut runs: BTreeMap<Attributes, BTreeMap<u64, (u64, u64)>> = BTreeMap::new();
    for point in told.points(name).filter(is_of(network)) {
        let last = runs.entry(point.attributes).or_default().entry(point.start).or_default();
        *last = (*last).max((point.time, point.value as u64));
    }
    let flat = |of: BTreeMap<u64, (u64, u64)>| of.into_iter().map(|(start, (time, n))| (start, time, n));
    runs.into_iter().map(|(series, of)| (series, flat(of).collect())).collect()
}

fn sum(told: &Telemetry, network: &Network) -> u64 {
    let runs = runs(told, metric::TCP_RETRANSMITS.name, network);
    runs.values().flatten().map(|(_, _, value)| value).sum()
}

/// Traces of the exemplars of what was sent again.
fn shown(told: &Telemetry) -> BTreeSet<Vec<u8>> {
    let metrics = told.metrics().filter(|(_, of)| of.name == metric::TCP_RETRANSMITS.name);
    let points = metrics.flat_map(|(_, of)| numbers(of));
    points.flat_map(|point| &point.exemplars).map(|one| one.trace_id.clone()).collect()
}

fn is_linked(told: &Telemetry, record: &Record) -> bool {
    let resources = told.logs.iter().flat_map(|request| &request.resource_logs);
    let mut records = resources.flat_map(|of| &of.scope_logs).flat_map(|scope| &scope.log_records);
    let found = records
        .find(|one| one.time_unix_nano == record.time && attributes(&one.attributes) == record.attributes);
    !found.unwrap().trace_id.is_empty()
}

#[test]
fn links_come_and_go_with_their_source_and_every_count_stays_told() {
    if !requirements::met(&["ip", "nft", "nstat"]) {
        return;
    }
    let Some(collector) = Collector::start().unwrap() else { return };
    let network = Network::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("jitterscope.yaml");
    let write = |wire: bool| fs::write(&file, format!("spans: {{sources: {{wire: {wire}}}}}\n")).unwrap();
    write(false);
    let (path, endpoint) = (file.display().to_string(), collector.endpoint());
    let arguments = ["-c", &path, "--endpoint", &endpoint, "--set", "interval=200ms"];
    let mut receiver = Receiver::start(&arguments).unwrap();
    let mut connections = Family::BOTH.map(|family| Connection::new(&network, family));
    let mut sampled = BTreeSet::new();
    let mut number = 0;
    for (round, wire) in [false, true, false, true].into_iter().enumerate() {
        if round > 0 {
            write(wire);
            let applied = || receiver.log().matches("the configuration was applied").count() >= round;
            poll::until("it is applied", || applied().then_some(())).unwrap();
        }
        for connection in &mut connections {
            number += 1;
            let request = Request::new(number, true);
            let record = connection.hit(&network, &collector, &request);
            assert_eq!(is_linked(&collector.received().unwrap(), &record), wire, "{round}: {record:?}");
            if wire {
                sampled.insert(request.trace.to_vec());
            }
        }
        let kernel = || counter(&network.a, "TcpRetransSegs").unwrap();
        let all_told = || (sum(&collector.received().unwrap(), &network) == kernel()).then_some(());
        poll::until("what the kernel counted", all_told).unwrap();
    }
    receiver.stop().unwrap();
    let told = poll::until("the exemplars", || {
        let told = collector.received().unwrap();
        (shown(&told) == sampled).then_some(told)
    })
    .unwrap();
    assert_eq!(receiver.complaints(), Vec::<String>::new());

    for runs in runs(&told, metric::TCP_RETRANSMITS.name, &network).values() {
        for two in runs.windows(2) {
            assert!(two[0].1 <= two[1].0, "a run begins before the one before it has ended: {runs:?}");
        }
    }
    // Probes that do not link run on.
    let others = runs(&told, metric::TCP_SEGMENTS.name, &network);
    assert!(!others.is_empty() && others.values().all(|runs| runs.len() == 1), "{others:?}");
    let account = receiver.account("tcpretrans").unwrap();
    assert_eq!((account.seen, account.dropped), (account.sum(), 0), "{account:?}");
}
