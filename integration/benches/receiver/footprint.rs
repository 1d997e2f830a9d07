//! Size of the binary, time from the start to the first batch at the Collector, resident memory.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::Result;
use jitterscope_integration::{poll, receiver};

use crate::{median, process::Receiver, sink::Sink};

/// How often a start is measured.
const STARTS: usize = 7;

/// Requests after which memory is read: by then every path of a quiet node has been taken several times.
const SETTLED: u64 = 60;

const WITHOUT_EBPF: &[&str] = &["probes.packetloss.enabled=false", "interval=500ms"];
const WITH_EBPF: &[&str] = &["interval=500ms"];

/// Prints all three.
pub(crate) fn run() -> Result<()> {
    let size = fs::metadata(receiver::binary()?)?.len();
    println!("binary: {:.1} MB", size as f64 / 1e6);
    for (name, settings) in [("without eBPF", WITHOUT_EBPF), ("with eBPF", WITH_EBPF)] {
        let starts = (0..STARTS).map(|_| start(settings)).collect::<Result<Vec<_>>>()?;
        println!("start to first batch, {name}: {:.0} ms (median of {STARTS})", median(starts));
    }
    for (name, settings) in [("without eBPF", WITHOUT_EBPF), ("with eBPF", WITH_EBPF)] {
        memory(name, settings)?;
    }
    Ok(())
}

/// Milliseconds until the first request with points has arrived.
fn start(settings: &[&str]) -> Result<f64> {
    let sink = Sink::start()?;
    let began = Instant::now();
    let _receiver = Receiver::start(Some(&sink), settings)?;
    while sink.requests() == 0 {
        anyhow::ensure!(began.elapsed() < poll::PATIENCE, "no batch arrived");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

fn memory(name: &str, settings: &[&str]) -> Result<()> {
    let sink = Sink::start()?;
    let receiver = Receiver::start(Some(&sink), settings)?;
    poll::until("requests", || (sink.requests() >= SETTLED).then_some(()))?;
    let mb = |row| receiver.memory(row).map(|kib| kib as f64 * 1024.0 / 1e6);
    println!(
        "resident memory, {name}: {:.1} MB, of it {:.1} anonymous and {:.1} of files; at most {:.1}",
        mb("VmRSS")?,
        mb("RssAnon")?,
        mb("RssFile")?,
        mb("VmHWM")?
    );
    Ok(())
}
