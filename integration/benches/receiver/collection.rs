//! Processor time of a collection by the number of namespaces, against merely reading the same files.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use jitterscope_integration::{poll, telemetry};
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric::Data};

use crate::{
    process::{Receiver, UNCOMPRESSED, cpu},
    sink::Sink,
};

/// Time between collections: short, so that many are measured, and still far more than one takes.
const INTERVAL: Duration = Duration::from_millis(200);

/// How long each number of namespaces is measured.
const WINDOW: Duration = Duration::from_secs(5);

/// For so long after its start the receiver looks into every namespace with each scan, for addresses that come late;
/// that is not what a collection costs later.
const SETTLES: Duration = Duration::from_secs(11);

/// The tables of one namespace that a collection reads where it has nothing but procfs.
const TABLES: [&str; 4] = ["snmp", "netstat", "snmp6", "dev"];

/// Prints a row for each number of namespaces.
pub(crate) fn run() -> Result<()> {
    for count in [1, 10, 100, 300] {
        let pods = (0..count).map(|_| Pod::new()).collect::<Result<Vec<_>>>()?;
        row(&pods)?;
    }
    Ok(())
}

fn row(pods: &[Pod]) -> Result<()> {
    let interval = format!("interval={}ms", INTERVAL.as_millis());
    let counters = measure(&[&interval, "probes.packetloss.enabled=false"])?;
    let all = measure(&[&interval])?;
    let procfs = measure(&[&interval, "kernel.counters=procfs"])?;
    let plain = measure(&[&interval, UNCOMPRESSED])?;
    let idle = measure(&["interval=1h"])?;
    let reading = reading(pods)?;
    println!(
        "{:>3} namespaces: {all:.2} ms a collection, {counters:.2} without packetloss, {plain:.2} without compression, {idle:.2} also without any collection; {procfs:.2} with all counters from procfs, {:.1} times more; reading the files alone {reading:.2} ms",
        pods.len(),
        procfs / all
    );
    split(&interval)
}

/// Processor time in milliseconds for each interval, everything included: scan of the node, reading, building,
/// compressing and sending.
fn measure(settings: &[&str]) -> Result<f64> {
    let sink = Sink::start()?;
    let receiver = Receiver::start(Some(&sink), settings)?;
    receiver.running()?;
    sleep(SETTLES);
    let (began, before, bytes) = (Instant::now(), receiver.cpu()?, sink.bytes());
    sleep(WINDOW);
    let (spent, intervals) =
        (receiver.cpu()? - before, began.elapsed().as_secs_f64() / INTERVAL.as_secs_f64());
    ensure!(settings[0] == "interval=1h" || sink.bytes() > bytes, "nothing was sent");
    Ok(spent.as_secs_f64() * 1e3 / intervals)
}

/// Processor time in milliseconds to read all tables once without looking at them.
fn reading(pods: &[Pod]) -> Result<f64> {
    let mut buffer = Vec::new();
    let (before, began, mut rounds) = (cpu("self")?, Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(3) {
        for pod in pods {
            for table in TABLES {
                buffer.clear();
                File::open(format!("/proc/{}/net/{table}", pod.0.id()))?.read_to_end(&mut buffer)?;
            }
        }
        rounds += 1;
    }
    Ok((cpu("self")? - before).as_secs_f64() * 1e3 / f64::from(rounds))
}

/// The receiver's own figures: how long each probe's part of a collection took once it was under way, for the first ones
/// contain the loading of programs; and what memory all of it needed.
fn split(interval: &str) -> Result<()> {
    let mut receiver = Receiver::start(None, &[interval])?;
    receiver.running()?;
    sleep(Duration::from_secs(6));
    let resident = receiver.memory("VmRSS")?;
    receiver.end()?;
    let printed = receiver.printed()?;
    let sums: Vec<_> = printed
        .metrics()
        .filter(|(_, metric)| metric.name == DURATION)
        .map(|(_, metric)| sums(metric))
        .collect();
    ensure!(sums.len() > 2, "{} readings of {DURATION}", sums.len());
    let (early, late) = (&sums[sums.len() / 2], &sums[sums.len() - 1]);
    let parts: Vec<String> =
        late.iter().filter_map(|(name, now)| part(name, early.get(name)?, now)).collect();
    println!("      {}; {resident} KiB resident", parts.join(", "));
    Ok(())
}

/// The metric that tells how long collections take.
const DURATION: &str = jitterscope_semconv::metric::PROBE_COLLECT_DURATION.name;

/// Seconds and collections so far, by probe.
fn sums(metric: &Metric) -> BTreeMap<String, (f64, u64)> {
    let points: Vec<_> = match &metric.data {
        Some(Data::Histogram(histogram)) => {
            histogram.data_points.iter().map(|point| (&point.attributes, point.sum, point.count)).collect()
        }
        Some(Data::ExponentialHistogram(histogram)) => {
            histogram.data_points.iter().map(|point| (&point.attributes, point.sum, point.count)).collect()
        }
        _ => Vec::new(),
    };
    let named = points.into_iter().map(|(attributes, sum, count)| {
        let names: Vec<String> = telemetry::attributes(attributes).into_values().collect();
        (names.join(" "), (sum.unwrap_or(f64::NAN), count))
    });
    named.collect()
}

fn part(name: &str, early: &(f64, u64), late: &(f64, u64)) -> Option<String> {
    let collections = late.1.checked_sub(early.1).filter(|count| *count > 0)?;
    Some(format!("{name} {:.2} ms", (late.0 - early.0) * 1e3 / collections as f64))
}

/// A process in a network namespace of its own with two interfaces beside loopback, as a pod has; ends with the value.
struct Pod(Child);

impl Pod {
    fn new() -> Result<Self> {
        let script = "ip link set lo up && ip link add eth0 type veth peer name eth1 && ip link set eth0 up && ip link set eth1 up && exec sleep 3600";
        let child =
            Command::new("unshare").args(["--net", "sh", "-c", script]).stdin(Stdio::null()).spawn()?;
        let pod = Self(child);
        let name = || fs::read_to_string(format!("/proc/{}/comm", pod.0.id())).unwrap_or_default();
        poll::until("a namespace", || (name() == "sleep\n").then_some(()))?;
        Ok(pod)
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // Both fail only for a process that has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
