//! What the running kernel is, found by other means than the receiver's: `bpftool` for its drop reasons, `nstat` and `ip`
//! for its counters.

use std::collections::BTreeSet;
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
