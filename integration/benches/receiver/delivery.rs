//! What delivery costs: points and records at a steady rate, through the receiver's queue, splitting, encoding, compression and
//! gRPC into a real Collector, against the OpenTelemetry SDK's own OTLP exporter with the same points and records, against both
//! without compression, and with the queue on disk. Each way has a process of its own, and they take turns, so that whatever
//! else the machine does falls on all of them; what the Collector costs is in another process and in none of the figures.

mod child;
mod load;
mod ours;
mod sdk;

use std::{env, time::Duration};

use anyhow::{Result, ensure};
use jitterscope_integration::collector::Collector;

pub(crate) use self::child::sent;
use self::{
    child::{Child, Turn},
    load::Load,
};
use crate::median;

/// Says for how many seconds each way is measured.
const SECONDS: &str = "JITTERSCOPE_BENCH_SECONDS";

/// That many where nothing is said.
const DEFAULT_SECONDS: u64 = 120;

/// Seconds of a turn of each load.
const TURN_SECONDS: u64 = 5;

/// How something is sent.
#[derive(Clone, Copy)]
pub(crate) struct Way {
    name: &'static str,
    /// By the receiver, else by the SDK.
    ours: bool,
    gzip: bool,
    disk: bool,
}

/// All of them; the first is what the others are compared with.
pub(crate) const WAYS: [Way; 5] = [
    Way { name: "jitterscope", ours: true, gzip: true, disk: false },
    Way { name: "jitterscope, queue on disk", ours: true, gzip: true, disk: true },
    Way { name: "SDK", ours: false, gzip: true, disk: false },
    Way { name: "jitterscope, uncompressed", ours: true, gzip: false, disk: false },
    Way { name: "SDK, uncompressed", ours: false, gzip: false, disk: false },
];

/// What one way cost in one round.
struct Round {
    /// Seconds of processor time for each second with both loads.
    share: f64,
    /// Nanoseconds for a point and for a record.
    point: f64,
    record: f64,
    /// Resident KiB at its end.
    resident: u64,
}

/// Prints a row for each way.
pub(crate) fn run() -> Result<()> {
    let settings =
        ["metrics", "logs"].map(|signal| format!("service::pipelines::{signal}::exporters: [debug]"));
    let debug = "exporters::debug: {verbosity: basic, sampling_initial: 1, sampling_thereafter: 1000000}";
    let settings: Vec<String> = settings.into_iter().chain([debug.to_owned()]).collect();
    let Some(collector) = Collector::forward("127.0.0.1:1", &settings)? else { return Ok(()) };
    let start = |at| Child::start(at, &collector.endpoint());
    let mut children = (0..WAYS.len()).map(start).collect::<Result<Vec<_>>>()?;
    // The first turn makes connections and warms caches and counts for nothing.
    children.iter_mut().try_for_each(|child| child.turn(Load::Both, 2).map(drop))?;
    let seconds = env::var(SECONDS).ok().map_or(Ok(DEFAULT_SECONDS), |text| text.parse())?;
    let mut rounds: Vec<Vec<Round>> = WAYS.iter().map(|_| Vec::new()).collect();
    for _ in 0..(seconds / (3 * TURN_SECONDS)).max(1) {
        for (child, rounds) in children.iter_mut().zip(&mut rounds) {
            rounds.push(round(child)?);
        }
    }
    for (way, of) in WAYS.iter().zip(&rounds) {
        row(way, of, &rounds[0]);
    }
    Ok(())
}

fn round(child: &mut Child) -> Result<Round> {
    let each = |cpu: Duration, items: u64| cpu.as_nanos() as f64 / items as f64;
    let Turn { cpu, points, records } = child.turn(Load::Both, TURN_SECONDS)?;
    ensure!((points, records) == (load::POINTS * TURN_SECONDS, load::RECORDS * TURN_SECONDS));
    let share = cpu.as_secs_f64() / TURN_SECONDS as f64;
    let (points, records) =
        (child.turn(Load::Points, TURN_SECONDS)?, child.turn(Load::Records, TURN_SECONDS)?);
    let (point, record) = (each(points.cpu, points.points), each(records.cpu, records.records));
    Ok(Round { share, point, record, resident: child.resident()? })
}

fn row(way: &Way, rounds: &[Round], first: &[Round]) {
    let middle = |of: fn(&Round) -> f64| median(rounds.iter().map(of).collect());
    println!(
        "delivery, {}: {:.2} % of a CPU for {} points and {} records a second, {:.0} ns a point, {:.0} ns a record; \
         {} KiB resident after the first of {} rounds, {} after the last, at most {}",
        way.name,
        middle(|round| round.share) * 100.0,
        load::POINTS,
        load::RECORDS,
        middle(|round| round.point),
        middle(|round| round.record),
        rounds[0].resident,
        rounds.len(),
        rounds[rounds.len() - 1].resident,
        rounds.iter().map(|round| round.resident).max().unwrap_or_default()
    );
    let against = |of: fn(&Round) -> f64| {
        let mut ratios: Vec<f64> = rounds.iter().zip(first).map(|(one, first)| of(one) / of(first)).collect();
        ratios.sort_by(f64::total_cmp);
        format!("{:.2} ({:.2} to {:.2})", median(ratios.clone()), ratios[0], ratios[ratios.len() - 1])
    };
    println!(
        "      times the first: {} of both, {} a point, {} a record",
        against(|round| round.share),
        against(|round| round.point),
        against(|round| round.record)
    );
}
