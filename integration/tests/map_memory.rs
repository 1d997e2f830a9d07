//! The kernel memory of all maps, as bpftool shows them, on a large machine with all its pods: within the budget.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::process::Command;

use jitterscope_integration::netns::run;
use jitterscope_integration::objects::Objects;
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::{poll, requirements};
use serde_json::Value;

/// A large machine: per-CPU values count so many times.
const CPUS: u64 = 64;

/// What an entry of a hash needs beside key and value (`kernel/bpf/hashtab.c`, `struct htab_elem`).
const ELEMENT: u64 = 48;

/// Bytes of a map with all its entries on such a machine. Storage that hangs on sockets and tasks has none beforehand.
fn full(map: &Value) -> u64 {
    let number = |key: &str| map[key].as_u64().unwrap();
    let (kind, entries) = (map["type"].as_str().unwrap(), number("max_entries"));
    let values = if kind.contains("percpu") { CPUS } else { 1 };
    let element = if kind.contains("hash") { ELEMENT } else { 0 };
    match kind {
        "ringbuf" => entries,
        storage if storage.contains("storage") => 0,
        _ => entries * (number("bytes_key") + number("bytes_value").next_multiple_of(8) * values + element),
    }
}

/// Bytes of all maps that a receiver has after its first collections.
fn memory(profile: &str) -> u64 {
    let before = Objects::list().unwrap();
    let receiver =
        Receiver::start(&["--format", "json", "--set", profile, "--set", "interval=200ms"]).unwrap();
    receiver.settle().unwrap();
    receiver.prints("jitterscope.probe.map.limit", 3).unwrap();
    let list = || run(Command::new("bpftool").args(["--json", "map", "list"])).ok();
    let maps: Value = serde_json::from_str(&poll::until("the list of maps", list).unwrap()).unwrap();
    let own = Objects::list().unwrap().beyond(&before).maps;
    let is_own = |map: &&Value| own.contains(&map["id"].as_u64().unwrap());
    maps.as_array().unwrap().iter().filter(is_own).map(full).sum()
}

#[test]
fn maps_on_64_cpus_stay_within_64_mib_by_default_and_128_mib_with_all_probes() {
    if !requirements::met(&["bpftool"]) {
        return;
    }
    let (default, all) = (memory("profile=monitor"), memory("profile=troubleshoot"));
    assert!((1 << 20..64 << 20).contains(&default), "{default} bytes by default");
    assert!((default..128 << 20).contains(&all), "{all} bytes with all probes");
}
