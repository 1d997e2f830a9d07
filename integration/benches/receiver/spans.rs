//! What links from anomalies to requests cost those who make the requests, for each source of spans: an application that
//! OpenTelemetry's SDKs instrument, and single exchanges on connections, of no request and of some. With the source on and
//! off in turns, so that whatever else the machine does falls on both. Printed as tables of the page `ebpf/span-costs.md`.

mod application;
mod exchange;

use std::fs;

use anyhow::Result;

/// The sources, by the name of their switch: each alone, and all together where there are several.
const SOURCES: [&str; 1] = ["wire"];

/// What is measured, with the settings that switch it on.
struct Switch {
    name: String,
    settings: Vec<String>,
}

fn switches() -> Vec<Switch> {
    let on = |source: &&str| format!("spans.sources.{source}=true");
    let alone =
        SOURCES.iter().map(|source| Switch { name: (*source).to_owned(), settings: vec![on(source)] });
    let all = Switch { name: "all".to_owned(), settings: SOURCES.iter().map(on).collect() };
    alone.chain((SOURCES.len() > 1).then_some(all)).collect()
}

/// Prints the tables.
pub(crate) fn run() -> Result<()> {
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    println!(
        "{}, {} CPUs, Linux {}",
        model.map_or("a CPU", |(_, model)| model),
        std::thread::available_parallelism()?,
        fs::read_to_string("/proc/sys/kernel/osrelease")?.trim()
    );
    exchange::run(&switches())?;
    application::run(&switches())
}
