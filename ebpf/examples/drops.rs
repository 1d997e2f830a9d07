//! Shows what the packet-loss program counts while a command runs: `drops SECONDS [RATE]`.
#![expect(clippy::print_stdout, reason = "a tool for the terminal")]

use std::time::{Duration, Instant};

use jitterscope_ebpf::packetloss::{Event, Options, PacketLoss};
use jitterscope_ebpf::{Kernel, RunTimeStats, Symbols};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let seconds: u64 = arguments.next().and_then(|a| a.parse().ok()).unwrap_or(5);
    let rate: u32 = arguments.next().and_then(|a| a.parse().ok()).unwrap_or(10);
    let start = Instant::now();
    let kernel = Kernel::read(None)?;
    let options = Options::new(jitterscope_ebpf::host_netns()?);
    let mut probe = PacketLoss::open(&kernel, &options)?;
    drop(kernel);
    println!("opened in {:?}: {:?}", start.elapsed(), probe.loaded().attachments());
    probe.loaded().missing().iter().for_each(|m| println!("missing {m}"));
    probe.harmless().iter().for_each(|f| println!("harmless {f:?}"));
    let _stats = RunTimeStats::enable();
    probe.configure(rate, rate * 2, true)?;
    let until = Instant::now() + Duration::from_secs(seconds);
    let stop = arguments.next().unwrap_or_default();
    while Instant::now() < until && !std::path::Path::new(&stop).exists() {
        std::thread::sleep(Duration::from_millis(100));
    }
    let mut symbols = Symbols::default();
    let mut ring = probe.events().ok_or("ring taken")?;
    let mut addresses = Vec::new();
    let mut events = Vec::new();
    while let Some(e) = ring.take::<Event>().and_then(Result::ok) {
        addresses.push(e.location);
        addresses.extend(&e.stack[..e.frames as usize]);
        events.push(e);
    }
    probe.drops.for_each(|k, _| addresses.push(k.location))?;
    symbols.learn(&addresses);
    let mut shown = std::collections::HashSet::new();
    for e in events
        .iter()
        .filter(|e| shown.insert((e.reason, e.location, e.family, e.host, e.direction, e.protocol)))
    {
        let name = String::from_utf8_lossy(&e.interface).trim_end_matches('\0').to_owned();
        println!(
            "event ns {} in {} cgroup {} if {}:{} {:?} len {} {}/{} dir {} host {} {:?}:{} > {:?}:{} flags {:#x} at {:?}",
            e.netns,
            e.happened_in,
            e.cgroup,
            e.ifindex,
            name,
            probe.reasons().name(e.reason),
            e.length,
            e.family,
            e.protocol,
            e.direction,
            e.host,
            e.source_address,
            e.source_port,
            e.destination_address,
            e.destination_port,
            e.tcp_flags,
            symbols.name(e.location),
        );
        for frame in &e.stack[..e.frames.min(12) as usize] {
            println!("      {}", symbols.name(*frame).unwrap_or("?"));
        }
    }
    let mut rows = Vec::new();
    probe.drops.for_each(|k, n| rows.push((*k, *n)))?;
    for (k, n) in rows {
        println!(
            "{n:8} ns {} cookie {} cgroup {} source {} reason {:?} {}/{} dir {} host {} {}",
            k.netns,
            k.netns_cookie,
            k.cgroup,
            k.source,
            probe.reasons().name(k.reason),
            k.family,
            k.protocol,
            k.direction,
            k.host,
            symbols.name(k.location).unwrap_or("-"),
        );
    }
    println!("{:?}", probe.account()?);
    println!("{:?}", probe.loaded().programs()?);
    println!("{:?}", probe.loaded().maps()?);
    println!(
        "{}",
        std::fs::read_to_string("/proc/self/status")?
            .lines()
            .filter(|l| l.starts_with("VmRSS") || l.starts_with("VmHWM"))
            .collect::<Vec<_>>()
            .join(" ")
    );
    Ok(())
}
