//! Datagrams that a container's own slow queue holds back are measured as its, in number, and told with their ends once the
//! threshold, changed while the probe runs, is below what they waited; what was measured before goes on.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant};

use jitterscope_integration::netns::Netns;
use jitterscope_integration::network::{Family, Network};
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::telemetry::{Distribution, Record, Telemetry, has};
use jitterscope_integration::{poll, requirements};
use jitterscope_semconv::{attribute as key, event, metric};
use opentelemetry_proto::tonic::metrics::v1::ExponentialHistogramDataPoint;
use tempfile::TempDir;

/// At once; a receive buffer of the default size holds some ninety.
const DATAGRAMS: usize = 80;
const PAYLOAD: usize = 1000;
/// A bound of the buckets, 2^-3 s.
const THRESHOLD: Duration = Duration::from_millis(125);
/// Two datagrams in the queue, 1 Mbit/s.
const APART: Duration = Duration::from_millis(20);

fn write(file: &Path, threshold: &str) {
    let events = "events: {rate: 1000, burst: 1000}";
    let probe = format!("netiftxlatency: {{enabled: true, threshold: {threshold}, {events}}}");
    fs::write(file, format!("profile: none\ninterval: 200ms\nprobes: {{{probe}}}\n")).unwrap();
}

/// Datagrams through the slow queue at once: how long each was on its way.
fn send(network: &Network, family: Family) -> Vec<Duration> {
    let socket = |of: &Netns, address| of.inside(|| Ok(UdpSocket::bind((address, 0))?)).unwrap();
    let server = socket(&network.b, family.address(2, 2));
    let client = socket(&network.a, family.any());
    server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    client.connect(server.local_addr().unwrap()).unwrap();
    let depart = |_| {
        let departed = Instant::now();
        client.send(&[0; PAYLOAD]).unwrap();
        departed
    };
    let departures: Vec<Instant> = (0..DATAGRAMS).map(depart).collect();
    let arrive = |departed: Instant| {
        assert_eq!(server.recv(&mut [0; PAYLOAD]).unwrap(), PAYLOAD);
        departed.elapsed()
    };
    departures.into_iter().map(arrive).collect()
}

/// The waits of the container's packets of a family, so far.
fn waits(telemetry: &Telemetry, of: &Netns, family: Family) -> Option<ExponentialHistogramDataPoint> {
    let is_wanted = |one: &Distribution| {
        has(&one.resource, key::NETNS_NAME.key, of.name())
            && has(&one.attributes, key::NETWORK_INTERFACE_NAME.key, "eth0")
            && has(&one.attributes, key::NETWORK_TYPE.key, family.name())
    };
    telemetry.distributions(metric::QDISC_WAIT.name).filter(is_wanted).last().map(|one| one.point)
}

/// How many of them were longer than the threshold.
fn slow(waits: &ExponentialHistogramDataPoint) -> u64 {
    let buckets = waits.positive.as_ref().unwrap();
    let lower = |index: usize| {
        let exponent = f64::from(buckets.offset + i32::try_from(index).unwrap());
        (exponent / f64::from(1 << waits.scale)).exp2()
    };
    let counts = buckets.bucket_counts.iter().enumerate();
    counts.filter(|(index, _)| lower(*index) > THRESHOLD.as_secs_f64() * 0.999).map(|(_, count)| count).sum()
}

fn told(telemetry: &Telemetry, of: &Netns, family: Family) -> Vec<Record> {
    let is_wanted = |record: &Record| {
        record.event == event::QDISC_SLOW.name
            && has(&record.resource, key::NETNS_NAME.key, of.name())
            && has(&record.attributes, key::NETWORK_TYPE.key, family.name())
    };
    telemetry.records().filter(is_wanted).collect()
}

/// What is printed once so many more collections have ended that all that has happened is in it.
fn settled(receiver: &Receiver) -> Telemetry {
    receiver.prints("resourceMetrics", 3).unwrap();
    receiver.printed().unwrap()
}

/// Changes the threshold, and waits until it holds.
fn change(receiver: &Receiver, file: &Path, threshold: &str) {
    let applied = || receiver.log().matches("the configuration was applied").count();
    let before = applied();
    write(file, threshold);
    receiver.reload().unwrap();
    poll::until("the change", || (applied() > before).then_some(())).unwrap();
    settled(receiver);
}

/// One go of datagrams, with what was printed until it began and until all of it was measured.
struct Run {
    before: Telemetry,
    after: Telemetry,
    ways: Vec<Duration>,
}

/// Some hosts run no tracing program for some packets: then fewer are measured, and that run counts for nothing.
fn undisturbed(receiver: &Receiver, network: &Network, family: Family) -> Run {
    let runs = (0..10).find_map(|_| {
        let before = settled(receiver);
        let ways = send(network, family);
        let after = settled(receiver);
        let count = |told| waits(told, &network.a, family).map_or(0, |waits| waits.count);
        let more = count(&after) - count(&before);
        assert!(more <= DATAGRAMS as u64, "{more}");
        (more == DATAGRAMS as u64).then_some(Run { before, after, ways })
    });
    runs.unwrap()
}

/// The events of a run are as many as were long on their way and as the histogram has, and each says how long and between whom.
fn check(run: &Run, of: &Netns, family: Family) {
    let all = told(&run.after, of, family);
    let events = &all[told(&run.before, of, family).len()..];
    let later = |than: Duration| run.ways.iter().filter(|way| **way > than).count();
    let expected = later(THRESHOLD + APART)..=later(THRESHOLD - APART);
    assert!(expected.contains(&events.len()), "{} of {expected:?}", events.len());
    let slow = |telemetry| slow(&waits(telemetry, of, family).unwrap());
    assert_eq!(slow(&run.after) - slow(&run.before), events.len() as u64);
    let waited = events.iter().map(|event| event.attributes[key::PACKET_DELAY.key].parse::<f64>().unwrap());
    let (least, most) = waited.fold((f64::MAX, 0.0), |(least, most), one| (one.min(least), one.max(most)));
    let longest = run.ways.iter().max().unwrap().as_secs_f64();
    assert!(
        least > THRESHOLD.as_secs_f64() && (most - longest).abs() < APART.as_secs_f64(),
        "{least} {most} {longest}"
    );
    let ends = [
        (key::SOURCE_ADDRESS.key, family.address(1, 2)),
        (key::DESTINATION_ADDRESS.key, family.address(2, 2)),
    ];
    let is_between =
        |event: &Record| ends.iter().all(|(key, end)| has(&event.attributes, key, &end.to_string()));
    assert!(events.iter().all(is_between), "{events:?}");
}

#[test]
fn a_threshold_that_changes_makes_slow_packets_told_and_forgets_none_that_was_measured() {
    if !requirements::met(&["ip", "tc"]) {
        return;
    }
    let network = Network::new().unwrap();
    network.a.sh("tc qdisc replace dev eth0 root tbf rate 1mbit burst 2000 limit 1000000").unwrap();
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("jitterscope.yaml");
    write(&file, "10s");
    let receiver =
        Receiver::start_without_probes(&["--format", "json", "--config", file.to_str().unwrap()]).unwrap();
    poll::until("the probe", || receiver.log().contains("\"probe\":\"netiftxlatency\"").then_some(()))
        .unwrap();
    let start = |run: &Run, family| waits(&run.after, &network.a, family).unwrap().start_time_unix_nano;
    for family in Family::BOTH {
        let quiet = undisturbed(&receiver, &network, family);
        assert_eq!(told(&quiet.after, &network.a, family), []);
        change(&receiver, &file, "125ms");
        let run = undisturbed(&receiver, &network, family);
        check(&run, &network.a, family);
        assert_eq!(start(&quiet, family), start(&run, family));
        change(&receiver, &file, "10s");
    }
}
