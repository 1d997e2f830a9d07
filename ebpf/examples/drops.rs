//! Watches for `drops [SECONDS]` and shows what the packet-loss program counted, one event with its stack for each
//! place, and what a drop cost. For finding out what a new kernel frees where.

#![expect(clippy::print_stdout, reason = "a tool for the terminal")]

use std::collections::HashSet;
use std::error::Error;
use std::time::{Duration, Instant};

use jitterscope_ebpf::packetloss::{Event, Options, PacketLoss};
use jitterscope_ebpf::{Kernel, RunTimeStats, Symbols, Telling, host_netns};

fn main() -> Result<(), Box<dyn Error>> {
    let seconds = std::env::args().nth(1).map_or(Ok(5), |text| text.parse())?;
    let start = Instant::now();
    let mut probe = PacketLoss::open(&Kernel::read(None)?, &Options::new(host_netns()?))?;
    println!("opened in {:?}: {:?}", start.elapsed(), probe.observer.loaded().attachments());
    probe.observer.loaded().missing().iter().for_each(|hook| println!("missing {hook}"));
    let _on = RunTimeStats::enable()?;
    probe.observer.configure(&Telling { rate: 50, burst: 100, stack: true, ..Telling::default() })?;
    std::thread::sleep(Duration::from_secs(seconds));
    let mut symbols = Symbols::default();
    show_events(&mut probe, &mut symbols);
    show_counters(&probe, &mut symbols)?;
    for program in probe.observer.loaded().programs()? {
        println!("{program:?}: {} ns a run", program.time / program.runs.max(1));
    }
    let memory: u64 = probe.observer.loaded().maps()?.iter().map(|map| map.memory).sum();
    println!("{memory} bytes of maps, {:?}", probe.observer.account()?);
    Ok(())
}

fn show_events(probe: &mut PacketLoss, symbols: &mut Symbols) {
    let Some(mut ring) = probe.observer.events() else { return };
    let mut shown = HashSet::new();
    let place = |e: &Event| (e.reason, e.location, e.family, e.protocol, e.direction, e.host);
    let events: Vec<Event> = std::iter::from_fn(|| ring.take::<Event>().and_then(Result::ok))
        .filter(|e| shown.insert(place(e)))
        .collect();
    let addresses: Vec<u64> =
        events.iter().flat_map(|e| e.stack).chain(events.iter().map(|e| e.location)).collect();
    symbols.learn(&addresses);
    for event in &events {
        println!("{event:?}: {:?} at {:?}", probe.reasons().name(event.reason), symbols.name(event.location));
        for frame in &event.stack[..event.frames as usize] {
            println!("        {}", symbols.name(*frame).unwrap_or("?"));
        }
    }
}

fn show_counters(probe: &PacketLoss, symbols: &mut Symbols) -> Result<(), Box<dyn Error>> {
    let mut rows = Vec::new();
    probe.drops.for_each(|key, packets| rows.push((*key, *packets)))?;
    symbols.learn(&rows.iter().map(|(key, _)| key.location).collect::<Vec<_>>());
    for (key, packets) in rows {
        let reason = probe.reasons().name(key.reason);
        println!("{packets} x {reason:?} {:?} {key:?}", symbols.name(key.location));
    }
    Ok(())
}
