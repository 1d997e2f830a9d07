//! What each eBPF probe costs an application: requests and answers, and a bulk transfer, between two containers behind a router,
//! with the probe on and off in turns, so that whatever else the machine does falls on both. And the kernel's own account of
//! each program. Both ends share one CPU: what a probe costs then shows in full, and no time is spent on waking another one,
//! which takes several times as long in a virtual machine and depends on whether the receiver keeps that CPU awake.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread::{scope, sleep},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use jitterscope::probe::{PROBES, Source};
use jitterscope_integration::network::{Family, Network};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::{drops::Switched, median, process::Receiver, sink::Sink};

/// Requests of one round, one after the other.
const REQUESTS: usize = 10_000;

/// Bytes of a request and of its answer.
const SIZE: usize = 200;

/// Bytes of one round's bulk transfer.
const BULK: usize = 1 << 30;

/// Rounds of each kind, of a probe and of a profile.
const ROUNDS: usize = 5;
const PROFILE_ROUNDS: usize = 25;

/// What one round took.
struct Round {
    /// Microseconds from request to answer: the middle one and the one that 99 of 100 are below.
    middle: f64,
    late: f64,
    /// Seconds of the bulk transfer.
    bulk: f64,
}

/// Prints a row for the default probes, for each eBPF probe alone, and for all of them.
pub(crate) fn run() -> Result<()> {
    let network = Network::new()?;
    // The first round warms caches and counts for nothing.
    round(&network)?;
    let alone = PROBES.iter().filter(|probe| probe.source == Source::Ebpf);
    let alone = alone.map(|probe| (probe.name.to_owned(), vec!["profile=none".to_owned(), on(probe.name)]));
    let profiles = [("the default probes", "profile=monitor"), ("all probes", "profile=troubleshoot")];
    let profiles = profiles.map(|(name, profile)| (name.to_owned(), vec![profile.to_owned()]));
    for (name, settings) in profiles {
        row(&network, &name, &settings, PROFILE_ROUNDS)?;
    }
    for (name, settings) in alone {
        row(&network, &name, &settings, ROUNDS)?;
    }
    Ok(())
}

fn on(probe: &str) -> String {
    format!("probes.{probe}.enabled=true")
}

fn row(network: &Network, name: &str, settings: &[String], rounds: usize) -> Result<()> {
    let sink = Sink::start()?;
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let (mut off, mut with) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        off.push(round(network)?);
        let receiver = Receiver::start(Some(&sink), &settings)?;
        receiver.follows()?;
        with.push(round(network)?);
    }
    let ratio = |of: fn(&Round) -> f64| spread(with.iter().zip(&off).map(|(with, off)| of(with) / of(off)));
    println!(
        "{name}: request and answer {} of off ({:.1} µs), the latest in 100 {}; bulk transfer {} ({:.2} s a GiB); {}",
        ratio(|round| round.middle),
        median(off.iter().map(|round| round.middle).collect()),
        ratio(|round| round.late),
        ratio(|round| round.bulk),
        median(off.iter().map(|round| round.bulk).collect()),
        statistics(network, &settings)?
    );
    Ok(())
}

/// The middle ratio, and the least and the largest.
fn spread(ratios: impl Iterator<Item = f64>) -> String {
    let mut ratios: Vec<f64> = ratios.collect();
    ratios.sort_by(f64::total_cmp);
    let (least, most) = (ratios.first().unwrap_or(&f64::NAN), ratios.last().unwrap_or(&f64::NAN));
    format!("{:.3} ({least:.3} to {most:.3})", median(ratios.clone()))
}

/// Threads that this one starts run on the first CPU, too.
pub(crate) fn pin() -> Result<()> {
    let mut first = CpuSet::new();
    first.set(0);
    Ok(sched_setaffinity(None, &first)?)
}

/// In a thread of its own, for what is started from it must not stay on one CPU.
fn round(network: &Network) -> Result<Round> {
    let pinned = || {
        pin()?;
        measure(network)
    };
    scope(|scope| scope.spawn(pinned).join().map_err(|_| anyhow!("the measuring panicked"))?)
}

fn measure(network: &Network) -> Result<Round> {
    let address: SocketAddr = (Family::V4.address(2, 2), 0).into();
    let listener = network.b.inside(|| Ok(TcpListener::bind(address)?))?;
    let address = listener.local_addr()?;
    let mut times = scope(|scope| {
        let served = scope.spawn(|| answer(&listener));
        let times = network.a.inside(|| ask(address));
        served.join().map_err(|_| anyhow!("the server panicked"))??;
        times
    })?;
    let bulk = scope(|scope| {
        let received = scope.spawn(|| receive(&listener));
        let began = Instant::now();
        network.a.inside(|| send(address))?;
        received.join().map_err(|_| anyhow!("the reader panicked"))??;
        anyhow::Ok(began.elapsed().as_secs_f64())
    })?;
    times.sort_by(f64::total_cmp);
    let at = |part: usize| times.get(times.len() * part / 100).copied().unwrap_or(f64::NAN);
    Ok(Round { middle: at(50), late: at(99), bulk })
}

/// Microseconds of each request.
fn ask(server: SocketAddr) -> Result<Vec<f64>> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_nodelay(true)?;
    let mut buffer = [7; SIZE];
    let one = |_| -> Result<f64> {
        let began = Instant::now();
        stream.write_all(&buffer)?;
        stream.read_exact(&mut buffer)?;
        Ok(began.elapsed().as_secs_f64() * 1e6)
    };
    (0..REQUESTS).map(one).collect()
}

fn answer(listener: &TcpListener) -> Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let mut buffer = [0; SIZE];
    for _ in 0..REQUESTS {
        stream.read_exact(&mut buffer)?;
        stream.write_all(&buffer)?;
    }
    Ok(())
}

fn send(server: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(server)?;
    let block = vec![7; 1 << 18];
    for _ in 0..BULK / block.len() {
        stream.write_all(&block)?;
    }
    Ok(())
}

fn receive(listener: &TcpListener) -> Result<()> {
    let (mut stream, _) = listener.accept()?;
    let mut block = vec![0; 1 << 18];
    while stream.read(&mut block)? > 0 {}
    Ok(())
}

/// Nanoseconds of a run of each program, in a round of its own, for to measure costs too.
fn statistics(network: &Network, settings: &[&str]) -> Result<String> {
    let _on = Switched::on()?;
    let mut receiver = Receiver::start(None, settings)?;
    receiver.follows()?;
    round(network)?;
    // The programs' times are told with the next collection.
    sleep(Duration::from_secs(1));
    receiver.end()?;
    let printed = receiver.printed()?;
    let last = |name: &str| -> BTreeMap<String, f64> {
        let points = printed.last(name).into_iter();
        points
            .map(|point| (point.attributes.into_values().collect::<Vec<_>>().join(" "), point.value))
            .collect()
    };
    let (runs, times) = (last("jitterscope.probe.program.runs"), last("jitterscope.probe.program.time"));
    let ran = runs.iter().filter(|(_, runs)| **runs > 1000.0);
    let each = ran.map(|(name, runs)| {
        format!("{name} {:.0} ns × {runs:.0}", times.get(name).unwrap_or(&f64::NAN) * 1e9 / runs)
    });
    Ok(each.collect::<Vec<_>>().join(", "))
}
