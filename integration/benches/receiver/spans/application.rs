//! The shop, which OpenTelemetry's SDKs instrument: how many requests it answers, and how fast.

use anyhow::Result;
use jitterscope_integration::collector::Collector;
use jitterscope_integration::network::{Family, Network};
use jitterscope_integration::shop::{self, Language, Load, Measured};

use super::Switch;
use crate::{median, process::Receiver, quartiles, sink::Sink};

/// Pairs of a round with and one without.
const PAIRS: usize = 12;

/// Seconds of each half of a round.
const SECONDS: u32 = 4;

/// As many as there are answers for, and so many that the CPUs are idle half of the time and more.
const MOST: Load = Load { connections: 16, streams: 1, rate: 1_000_000, seconds: SECONDS, every: 0 };

fn steady(language: Language) -> Load {
    let rate = if language == Language::Go { 500 } else { 100 };
    Load { rate, ..MOST }
}

/// What one round measured: as much as it can, and at a steady rate.
struct Round {
    most: Measured,
    steady: Measured,
}

struct Bench {
    language: Language,
    network: Network,
    sink: Sink,
}

pub(super) fn run(switches: &[Switch]) -> Result<()> {
    println!(
        "\n| source | server | answers a second | its ratio | middle latency | its ratio | 99 of 100 | its ratio |\n|---|---|---|---|---|---|---|---|"
    );
    for language in Language::HTTP.into_iter().filter(|language| language.is_there()) {
        let Some(collector) = collector()? else { return Ok(()) };
        let bench = Bench { language, network: Network::new()?, sink: Sink::start()? };
        shop::relay(&bench.network, collector.http_address())?;
        let _server = shop::serve(language, &bench.network, Family::V4)?;
        // The first round warms caches and counts for nothing.
        bench.round(&[])?;
        switches.iter().try_for_each(|switch| bench.row(switch))?;
    }
    Ok(())
}

/// One that takes spans and keeps nothing.
fn collector() -> Result<Option<Collector>> {
    let debug = "exporters::debug: {verbosity: basic, sampling_initial: 1, sampling_thereafter: 1000000}";
    let settings = ["service::pipelines::traces::exporters: [debug]".to_owned(), debug.to_owned()];
    Collector::forward("127.0.0.1:1", &settings)
}

impl Bench {
    /// With a receiver of default probes beside it, and these settings.
    fn round(&self, settings: &[String]) -> Result<Round> {
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let receiver = Receiver::start(Some(&self.sink), &settings)?;
        receiver.follows()?;
        let measure = |load| shop::measure(&self.network, Family::V4, load);
        Ok(Round { most: measure(MOST)?, steady: measure(steady(self.language))? })
    }

    fn row(&self, switch: &Switch) -> Result<()> {
        let (mut off, mut on) = (Vec::new(), Vec::new());
        for pair in 0..PAIRS {
            // Which of the two comes first takes turns as well.
            if pair % 2 == 0 {
                off.push(self.round(&[])?);
                on.push(self.round(&switch.settings)?);
            } else {
                on.push(self.round(&switch.settings)?);
                off.push(self.round(&[])?);
            }
        }
        let middle = |of: fn(&Round) -> f64| median(off.iter().map(of).collect());
        let ratio = |of: fn(&Round) -> f64| {
            quartiles(on.iter().zip(&off).map(|(on, off)| of(on) / of(off)).collect(), 3)
        };
        let half = |round: &Round| round.steady.middle.as_secs_f64() * 1e6;
        let late = |round: &Round| round.steady.late.as_secs_f64() * 1e6;
        println!(
            "| `{}` | {:?} | {:.0} | {} | {:.0} µs | {} | {:.0} µs | {} |",
            switch.name,
            self.language,
            middle(|round| round.most.rate),
            ratio(|round| round.most.rate),
            middle(half),
            ratio(half),
            middle(late),
            ratio(late),
        );
        Ok(())
    }
}
