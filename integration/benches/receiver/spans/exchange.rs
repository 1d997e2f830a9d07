//! Exchanges on a connection of the loopback, both ends in one thread: what is sent is read, and answered, and read. Counted
//! is the processor time of the thread, in which packets pass from end to end, too: nothing is waited for.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
};

use anyhow::Result;
use jitterscope_integration::{netns::Netns, request::Request};
use rustix::time::ClockId;

use super::Switch;
use crate::{
    median,
    overhead::pin,
    process::{Receiver, spent},
    quartiles,
};

/// Exchanges of a round.
const EXCHANGES: usize = 20_000;

/// System calls of an exchange that send or read, as many as half of them packets with data.
const CALLS: f64 = 4.0;

/// Reads of an exchange: each is a wait that a bucket counts.
const WAITS: f64 = 2.0;

/// Pairs of a round with and one without.
const PAIRS: usize = 15;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nhere you are";

/// What is sent: the bytes of requests, one after the other.
struct Kind {
    name: &'static str,
    requests: fn() -> Vec<Vec<u8>>,
    answer: &'static [u8],
}

const KINDS: [Kind; 3] = [
    Kind { name: "no HTTP, 300 bytes", requests: || vec![vec![0x17; 300]], answer: &[0x17; 50] },
    Kind { name: "a request without `traceparent`", requests: without, answer: ANSWER },
    Kind { name: "a request with it", requests: with, answer: ANSWER },
];

fn with() -> Vec<Vec<u8>> {
    (1..=64).map(|number| Request::new(number, true).text().into_bytes()).collect()
}

fn without() -> Vec<Vec<u8>> {
    with()
        .into_iter()
        .map(|text| String::from_utf8_lossy(&text).replace("traceparent", "x-nothing-x").into())
        .collect()
}

/// The probe that links without a program for every packet.
const RARE: [&str; 2] = ["profile=none", "probes.tcpretrans.enabled=true"];

/// The probe that counts each read in a bucket.
const WAITING: [&str; 2] = ["profile=none", "probes.socketlatency.enabled=true"];

pub(super) fn run(switches: &[Switch]) -> Result<()> {
    let netns = Netns::new("exchange")?;
    println!(
        "\n| source | exemplars of buckets | an exchange without | added, ns | for each wait |\n|---|---|---|---|---|"
    );
    switches.iter().try_for_each(|switch| exemplars(&netns, switch))?;
    println!(
        "\n| source | exchange of | without | added, ns | for each system call |\n|---|---|---|---|---|"
    );
    for switch in switches {
        for kind in &KINDS {
            let on: Vec<&str> = RARE.into_iter().chain(switch.settings.iter().map(String::as_str)).collect();
            let (off, added) = compare(&netns, kind, &RARE, &on)?;
            println!(
                "| `{}` | {} | {off:.0} ns | {} | {:.0} ns |",
                switch.name,
                kind.name,
                quartiles(added.clone(), 0),
                median(added) / CALLS
            );
        }
    }
    Ok(())
}

/// Links without exemplars against none, then buckets that keep whose wait each has counted last against those.
fn exemplars(netns: &Netns, switch: &Switch) -> Result<()> {
    let kind = &KINDS[2];
    let setting = |exemplars: &'static str| -> Vec<&str> {
        let of = switch.settings.iter().map(String::as_str);
        WAITING.into_iter().chain(of).chain([exemplars]).collect()
    };
    let (never, always) = (setting("exemplars=always_off"), setting("exemplars=trace_based"));
    for (name, off, on) in [("none, but links", &WAITING[..], &never), ("of recorded spans", &never, &always)]
    {
        let (off, added) = compare(netns, kind, off, on)?;
        let each = median(added.clone()) / WAITS;
        println!("| `{}` | {name} | {off:.0} ns | {} | {each:.0} ns |", switch.name, quartiles(added, 0));
    }
    Ok(())
}

/// Nanoseconds of an exchange with the receiver set in one way, the middle figure, and what it is more with the other.
fn compare(netns: &Netns, kind: &Kind, off: &[&str], on: &[&str]) -> Result<(f64, Vec<f64>)> {
    let measure = |settings: &[&str]| -> Result<f64> {
        let receiver = Receiver::start(None, settings)?;
        receiver.follows()?;
        round(netns, kind)
    };
    let (mut without, mut added) = (Vec::new(), Vec::new());
    for pair in 0..PAIRS {
        let ways = if pair % 2 == 0 { [off, on] } else { [on, off] };
        let [first, second] = [measure(ways[0])?, measure(ways[1])?];
        let (off, on) = if pair % 2 == 0 { (first, second) } else { (second, first) };
        without.push(off);
        added.push(on - off);
    }
    Ok((median(without), added))
}

/// In a thread of its own, which stays on one CPU and in the namespace.
fn round(netns: &Netns, kind: &Kind) -> Result<f64> {
    netns.inside(|| {
        pin()?;
        exchange(kind)
    })
}

/// Nanoseconds of an exchange.
fn exchange(kind: &Kind) -> Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let mut server = listener.accept()?.0;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let requests = (kind.requests)();
    let mut buffer = vec![0; 1 << 12];
    let mut one = |request: &[u8]| -> Result<()> {
        client.write_all(request)?;
        server.read_exact(&mut buffer[..request.len()])?;
        server.write_all(kind.answer)?;
        client.read_exact(&mut buffer[..kind.answer.len()])?;
        Ok(())
    };
    // The first ones find caches cold.
    requests.iter().cycle().take(EXCHANGES / 10).try_for_each(|request| one(request))?;
    let began = spent(ClockId::ThreadCPUTime);
    requests.iter().cycle().take(EXCHANGES).try_for_each(|request| one(request))?;
    Ok((spent(ClockId::ThreadCPUTime) - began).as_nanos() as f64 / EXCHANGES as f64)
}
