//! What a dropped packet costs its sender, with and without the receiver: rounds of both take turns, so that whatever
//! else the machine does falls on both.

use std::{fs, net::UdpSocket};

use anyhow::Result;
use jitterscope_integration::netns::Netns;
use rustix::time::ClockId;

use crate::{
    median,
    process::{Receiver, spent},
    sink::Sink,
};

/// Datagrams of one round, all to a closed port.
const PACKETS: u32 = 200_000;

/// Rounds of each kind.
const ROUNDS: usize = 7;

/// Switches the kernel's run-time statistics of BPF programs.
const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Prints the cost from both sides.
pub(crate) fn run() -> Result<()> {
    let netns = Netns::new("bench")?;
    // The first round warms caches and counts for nothing.
    send(&netns)?;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    let sink = Sink::start()?;
    for _ in 0..ROUNDS {
        without.push(send(&netns)?);
        let receiver = Receiver::start(Some(&sink), &[])?;
        receiver.running()?;
        with.push(send(&netns)?);
    }
    let added: Vec<f64> = with.iter().zip(&without).map(|(with, without)| with - without).collect();
    let (without, with, added) = (median(without), median(with), median(added));
    println!(
        "dropped packet, sender's processor time: {without:.0} ns without, {with:.0} ns with, {added:.0} ns added ({:.1} %)",
        added / without * 100.0
    );
    statistics(&netns)
}

/// Processor time of the sending thread for a packet, in nanoseconds: the kernel drops it in the sender's own system call.
fn send(netns: &Netns) -> Result<f64> {
    netns.inside(|| {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        let began = spent(ClockId::ThreadCPUTime);
        for _ in 0..PACKETS {
            socket.send_to(b"x", ("127.0.0.1", 9))?;
        }
        Ok((spent(ClockId::ThreadCPUTime) - began).as_nanos() as f64 / f64::from(PACKETS))
    })
}

/// The kernel's own account of the program: time per run, in a round of its own, for to measure costs too.
fn statistics(netns: &Netns) -> Result<()> {
    let _on = Switched::on()?;
    let mut receiver = Receiver::start(None, &[])?;
    receiver.running()?;
    send(netns)?;
    receiver.end()?;
    let printed = receiver.printed()?;
    for runs in printed.last("jitterscope.probe.program.runs") {
        let time = printed.last("jitterscope.probe.program.time");
        let time =
            time.iter().find(|time| time.attributes == runs.attributes).map_or(f64::NAN, |time| time.value);
        println!(
            "program {:?}: {:.0} runs, {:.0} ns each",
            runs.attributes,
            runs.value,
            time * 1e9 / runs.value
        );
    }
    Ok(())
}

/// The statistics as they were before, when dropped.
pub(crate) struct Switched(String);

impl Switched {
    pub(crate) fn on() -> Result<Self> {
        let before = fs::read_to_string(STATISTICS)?;
        fs::write(STATISTICS, "1")?;
        Ok(Self(before))
    }
}

impl Drop for Switched {
    fn drop(&mut self) {
        // Nothing is left to do about a failure; the statistics cost 20 ns a run.
        let _ = fs::write(STATISTICS, &self.0);
    }
}
