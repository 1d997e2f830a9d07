//! What the running kernel is, found by other means than the receiver's: `bpftool` for its drop reasons, `nstat`, `ip`,
//! `tc` and `conntrack` for its counters.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context, Result};

use crate::netns::{Netns, run};

/// The names of the running kernel's drop reasons, without their prefix; empty before 5.17, which has none.
///
/// # Errors
/// No `bpftool`, or no BTF.
pub fn drop_reasons() -> Result<BTreeSet<String>> {
    let types = run(Command::new("bpftool").args(["btf", "dump", "file", "/sys/kernel/btf/vmlinux"]))?;
    let names = types.lines().filter_map(|line| line.trim().strip_prefix("'SKB_DROP_REASON_"));
    Ok(names.filter_map(|rest| rest.split('\'').next()).map(str::to_owned).collect())
}

/// A counter of a namespace under its name in nstat(8), read inside by another process.
///
/// # Errors
/// The kernel does not have it.
pub fn counter(netns: &Netns, name: &str) -> Result<u64> {
    let listed = run(netns.command("nstat").args(["--ignore", "--zeros", "--noupdate", "--json", name]))?;
    let listed: serde_json::Value = serde_json::from_str(&listed)?;
    listed["kernel"][name].as_u64().with_context(|| format!("{} has no {name}: {listed}", netns.name()))
}

/// Every counter of a namespace under its name in nstat(8), read inside by another process.
///
/// # Errors
/// No `nstat`, or the namespace is gone.
pub fn all_counters(netns: &Netns) -> Result<BTreeMap<String, u64>> {
    let listed = run(netns.command("nstat").args(["--ignore", "--zeros", "--noupdate", "--json"]))?;
    let listed: serde_json::Value = serde_json::from_str(&listed)?;
    let counters = listed["kernel"].as_object().context("no counters")?;
    Ok(counters.iter().filter_map(|(name, value)| Some((name.clone(), value.as_u64()?))).collect())
}

/// Counters of one direction of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Direction {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Errors.
    pub errors: u64,
    /// Drops, with what a device missed on receive, as `/proc/net/dev` adds them up (`dev_seq_printf_stats`).
    pub drops: u64,
}

/// A device of a namespace as `ip -s link` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Name.
    pub name: String,
    /// What came in.
    pub receive: Direction,
    /// What went out.
    pub transmit: Direction,
}

/// The devices of a namespace, read inside by another process.
///
/// # Errors
/// No `ip`, or the namespace is gone.
pub fn devices(netns: &Netns) -> Result<Vec<Device>> {
    let listed = run(netns.command("ip").args(["-s", "-j", "link"]))?;
    let listed: Vec<serde_json::Value> = serde_json::from_str(&listed)?;
    let direction = |stats: &serde_json::Value| -> Option<Direction> {
        let number = |name: &str| stats[name].as_u64();
        let drops = number("dropped")? + number("missed_errors").unwrap_or(0);
        Some(Direction {
            bytes: number("bytes")?,
            packets: number("packets")?,
            errors: number("errors")?,
            drops,
        })
    };
    let device = |link: &serde_json::Value| {
        let name = link["ifname"].as_str()?.to_owned();
        Some(Device {
            name,
            receive: direction(&link["stats64"]["rx"])?,
            transmit: direction(&link["stats64"]["tx"])?,
        })
    };
    listed.iter().map(|link| device(link).with_context(|| format!("no counters in {link}"))).collect()
}

/// The root queue of a device, as `tc -s` shows it: `drops` since it was made, `qlen` packets that wait.
///
/// # Errors
/// The device has none.
pub fn qdisc(netns: &Netns, device: &str) -> Result<serde_json::Value> {
    let listed = qdiscs(netns)?.into_iter().find(|qdisc| qdisc["dev"] == device && qdisc["root"] == true);
    listed.with_context(|| format!("no queue at {device}"))
}

/// Every queue of a namespace, as `tc -s` shows it inside.
///
/// # Errors
/// No `tc`, or the namespace is gone.
pub fn qdiscs(netns: &Netns) -> Result<Vec<serde_json::Value>> {
    Ok(serde_json::from_str(&run(netns.command("tc").args(["-s", "-j", "qdisc", "show"]))?)?)
}

/// The counters of connection tracking in a namespace as `conntrack -S` shows them inside, summed over the processors, and
/// under `entries` what `conntrack -C` shows.
///
/// # Errors
/// No `conntrack`, or the kernel tracks no connections.
pub fn conntrack(netns: &Netns) -> Result<BTreeMap<String, u64>> {
    let mut sums = BTreeMap::new();
    for cell in run(netns.command("conntrack").arg("-S"))?.split_whitespace() {
        if let Some((name, value)) = cell.split_once('=').filter(|(name, _)| *name != "cpu") {
            *sums.entry(name.to_owned()).or_default() += value.parse::<u64>()?;
        }
    }
    sums.insert("entries".to_owned(), run(netns.command("conntrack").arg("-C"))?.trim().parse()?);
    Ok(sums)
}
