//! A process that sends in one way, turn by turn as it is told. What it takes to make the points and records is on its first
//! thread, and taken off.

use std::{
    env,
    io::{BufRead as _, BufReader, Write as _},
    process::{self, ChildStdin, ChildStdout, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use jitterscope_integration::poll;
use opentelemetry_sdk::{logs::SdkLogRecord, metrics::data::ResourceMetrics};
use rustix::time::ClockId;

use super::{
    WAYS,
    load::{BATCHES, Load, POINTS, Producer, RECORDS},
    ours::Ours,
    sdk::Sdk,
};
use crate::process::{memory, spent};

/// Set for such a process: the number of its way and the endpoint.
const SEND: &str = "JITTERSCOPE_BENCH_DELIVERY";

/// What sends.
pub(super) trait Exporter {
    /// Sends the points of a collection.
    fn points(&self, metrics: ResourceMetrics) -> Result<()>;
    /// Sends records.
    fn records(&self, records: Vec<SdkLogRecord>) -> Result<()>;
    /// Points and records that the server has taken so far.
    fn delivered(&self) -> [u64; 2];
}

/// What a turn took and sent.
pub(super) struct Turn {
    pub(super) cpu: Duration,
    pub(super) points: u64,
    pub(super) records: u64,
}

/// Sends if this process was started for that; true if so.
pub(crate) fn sent() -> Result<bool> {
    let Ok(told) = env::var(SEND) else { return Ok(false) };
    let (way, endpoint) = told.split_once(' ').context("a way and an endpoint")?;
    let way = WAYS[way.parse::<usize>()?];
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let _inside = runtime.enter();
    let exporter: Box<dyn Exporter> =
        if way.ours { Box::new(Ours::start(way, endpoint)?) } else { Box::new(Sdk::start(way, endpoint)?) };
    let mut producer = Producer::new();
    for line in std::io::stdin().lines() {
        let line = line?;
        let (load, seconds) = line.split_once(' ').context("a load and seconds")?;
        let load = Load::ALL[load.parse::<usize>()?];
        let Turn { cpu, points, records } = turn(&*exporter, &mut producer, load, seconds.parse()?)?;
        println!("{} {points} {records}", cpu.as_nanos());
        std::io::stdout().flush()?;
    }
    Ok(true)
}

/// Sends at the rate for some seconds, and waits until all of it is delivered.
fn turn(exporter: &dyn Exporter, producer: &mut Producer, load: Load, seconds: u64) -> Result<Turn> {
    let cpu = || spent(ClockId::ProcessCPUTime).saturating_sub(spent(ClockId::ThreadCPUTime));
    let (before, earlier, begun) = (cpu(), exporter.delivered(), Instant::now());
    let mut sent = [0, 0];
    for tick in 0..seconds * BATCHES {
        let due = begun + Duration::from_secs(1) * u32::try_from(tick)? / u32::try_from(BATCHES)?;
        sleep(due.saturating_duration_since(Instant::now()));
        if load.has_records() {
            exporter.records(producer.records())?;
            sent[1] += RECORDS / BATCHES;
        }
        if load.has_points() && tick % BATCHES == 0 {
            exporter.points(producer.points()?)?;
            sent[0] += POINTS;
        }
    }
    let wanted = [earlier[0] + sent[0], earlier[1] + sent[1]];
    poll::until("all is delivered", || (exporter.delivered() == wanted).then_some(()))?;
    Ok(Turn { cpu: cpu() - before, points: sent[0], records: sent[1] })
}

/// Such a process as its parent sees it; ends with the value.
pub(super) struct Child {
    process: process::Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Child {
    pub(super) fn start(way: usize, endpoint: &str) -> Result<Self> {
        let mut process = Command::new(env::current_exe()?)
            .env(SEND, format!("{way} {endpoint}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = BufReader::new(process.stdout.take().context("no output")?);
        Ok(Self { input: process.stdin.take(), output, process })
    }

    /// Lets it have a turn.
    pub(super) fn turn(&mut self, load: Load, seconds: u64) -> Result<Turn> {
        let input = self.input.as_mut().context("no input")?;
        writeln!(input, "{} {seconds}", load as usize)?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let numbers = line.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>()?;
        ensure!(numbers.len() == 3, "it ended: {line}");
        Ok(Turn { cpu: Duration::from_nanos(numbers[0]), points: numbers[1], records: numbers[2] })
    }

    /// Its resident KiB.
    pub(super) fn resident(&self) -> Result<u64> {
        memory(self.process.id(), "VmRSS")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.input.take());
        // It has ended already when this fails.
        let _ = self.process.wait();
    }
}
