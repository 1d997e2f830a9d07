//! Which probes can run on which kernel, as `jitterscope probes` tells, by which hooks, and why the others cannot: on each
//! kernel of kernels.txt exactly these. With `JITTERSCOPE_RECORD` in a virtual machine that may write to `integration/kernels`
//! the hooks are recorded there, and `UPDATE_REFERENCE` makes the documentation of them, `ebpf/kernels.md`.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use jitterscope::probe::{Definition, PROBES, Source};
use jitterscope_integration::receiver::{limitation, listed, once, skipped};
use jitterscope_integration::requirements;
use jitterscope_integration::telemetry::{Telemetry, has};
use jitterscope_semconv::{attribute as key, value::NetworkType};
use serde_json::{Value, json};

/// A probe that cannot run, and a part of the reason.
type Skipped = (&'static str, &'static str);

/// What Debian's kernels have as modules that nobody has loaded, and what needs a device.
const MODULES: &[Skipped] = &[
    ("conntrack", "nf_conntrack is not loaded"),
    ("conntrackevents", "nf_conntrack is not loaded"),
    ("ipvs", "ip_vs is not loaded"),
    ("rdma", "no RDMA device"),
    ("virtcmdlatency", "no hook virtnet_send_command"),
];

/// On 5.10 tracing programs have no storage with sockets (5.11) and no atomic exchange (5.12).
const STORAGE: &[Skipped] = &[
    ("flow", "no hook task_file: iter: the kernel refused to load it"),
    ("tcpconnect", "no hook inet_sock_set_state: tp_btf: the kernel refused to load it"),
];

/// Beginnings of the releases of kernels.txt, and what is missing there.
const KERNELS: [(&str, &[&[Skipped]]); 4] =
    [("5.10.", &[MODULES, STORAGE]), ("6.1.", &[MODULES]), ("6.12.", &[MODULES]), ("7.3.", &[MODULES])];

/// The row of a table by beginnings of releases that the running kernel has; `None` for a kernel that is in no virtual machine.
fn of_this_kernel<T: Copy>(table: &[(&'static str, T)]) -> Option<(&'static str, T)> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    table.iter().copied().find(|(begins, _)| release.starts_with(begins))
}

#[test]
fn probes_that_cannot_run_here_are_those_whose_hooks_the_kernel_lacks() {
    if !requirements::met(&[]) {
        return;
    }
    let found = skipped().unwrap();
    // On a kernel that is in no list every skip must have a reason all the same.
    assert!(found.values().all(|reason| !reason.is_empty()), "{found:?}");
    let Some((_, missing)) = of_this_kernel(&KERNELS) else { return };
    let missing: BTreeMap<&str, &str> = missing.iter().copied().flatten().copied().collect();
    assert_eq!(found.keys().collect::<Vec<_>>(), missing.keys().collect::<Vec<_>>(), "{found:#?}");
    for (probe, reason) in missing {
        assert!(found[probe].contains(reason), "{probe}: {}", found[probe]);
    }
}

/// On 5.10 that is also why `socketlatency` has a half alone.
const HALVES: [(&str, &str); 5] = [
    ("5.10.", "no waits of reads: without hook sock_def_readable: fentry: the kernel refused to load it"),
    ("6.1.", ""),
    ("6.12.", ""),
    ("6.18.", ""),
    ("7.3.", ""),
];

#[test]
fn a_probe_that_sees_a_part_says_which() {
    if !requirements::met(&[]) {
        return;
    }
    let Some((_, expected)) = of_this_kernel(&HALVES) else { return };
    let told = limitation("socketlatency").unwrap();
    assert!(told.starts_with(expected) && told.is_empty() == expected.is_empty(), "{told}");
}

/// Since 7.1 the search for the socket of a TCP packet is a part of its caller. That no other hook is at such a function,
/// where it sees nothing, is what the tests of the program show.
#[test]
fn the_stages_of_a_packets_way_are_told_apart_or_it_is_said_which_are_not() {
    if !requirements::met(&[]) {
        return;
    }
    let Some((begins, _)) = of_this_kernel(&KERNELS) else { return };
    let said = limitation("kernellatency").unwrap();
    if begins == "7.3." {
        let wanted = "without hook tcp_v4_early_demux, tcp_v6_early_demux routing is in prerouting";
        assert!(said.contains(wanted) && !said.contains("sent packets"), "{said}");
    } else {
        assert_eq!(said, "");
    }
}

#[test]
fn every_probe_works_alone_or_says_what_is_missing() {
    if !requirements::met(&[]) {
        return;
    }
    let skipped = skipped().unwrap();
    for probe in PROBES {
        match (once(probe.name).unwrap(), skipped.get(probe.name)) {
            (Ok(telemetry), None) => {
                let own = |name: &str| probe.metrics.iter().any(|metric| metric.name == name);
                let foreign: Vec<&str> =
                    telemetry.metrics().map(|(_, metric)| &*metric.name).filter(|name| !own(name)).collect();
                assert_eq!(foreign, [""; 0], "{}", probe.name);
                check_family(probe, &telemetry);
            }
            (Err((status, told)), Some(reason)) => {
                assert_eq!(status.code(), Some(69), "{}: {told}", probe.name);
                assert!(told.contains(reason.as_str()), "{}: {told}", probe.name);
            }
            (found, expected) => panic!("{}: {found:?}, {expected:?}", probe.name),
        }
    }
}

/// Where what was seen of each kernel is recorded, in files named as its row of kernels.txt.
const RECORDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels");

/// Hooks with their forms, what is missing, or why it cannot run, by probe.
type Record = BTreeMap<String, Value>;

fn found() -> Record {
    let of_probe = |probe: &Value| {
        let name = probe["name"].as_str().unwrap().to_owned();
        (
            name,
            json!({ "hooks": probe["hooks"], "limitation": probe["limitation"], "reason": probe["reason"] }),
        )
    };
    listed().unwrap().iter().filter(|probe| probe["source"] == "ebpf").map(of_probe).collect()
}

#[test]
fn programs_are_attached_by_the_hooks_that_are_recorded_of_the_kernel() {
    if !requirements::met(&[]) {
        return;
    }
    let Some((begins, _)) = of_this_kernel(&KERNELS) else { return };
    let file = format!("{RECORDS}/{}.json", begins.trim_end_matches('.'));
    if std::env::var_os("JITTERSCOPE_RECORD").is_some() {
        fs::write(&file, serde_json::to_string_pretty(&found()).unwrap() + "\n").unwrap();
    }
    let recorded: Record = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(found(), recorded);
}

#[test]
fn the_table_of_hooks_in_the_documentation_is_what_is_recorded() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ebpf/kernels.md");
    let table = table();
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        fs::write(&page, &table).unwrap();
    }
    assert_eq!(fs::read_to_string(page).unwrap(), table, "update it with UPDATE_REFERENCE=1");
}

const HEAD: &str = "# Probes, kernels and hooks

How the programs of each eBPF probe are attached on Debian's kernels, recorded by the test `kernel_states` in virtual machines
(`make vm`) and checked by each further run. `fentry` and `fexit` are trampolines, `kprobe` is a breakpoint or ftrace, `tp_btf`
and `raw_tp` are tracepoints, `iter` is a walk over the kernel's objects. What reads sockets (`tcpsummary`, `fd`, `flow`) also
loads an `iter/task_file` with its first collection.

";

fn table() -> String {
    let records: Vec<(String, Record)> = KERNELS.iter().map(|(begins, _)| record(begins)).collect();
    let kernels: Vec<&str> = records.iter().map(|(kernel, _)| kernel.as_str()).collect();
    let mut table =
        format!("{HEAD}| probe | {} |\n|---|{}\n", kernels.join(" | "), "---|".repeat(kernels.len()));
    let of_ebpf = PROBES.iter().filter(|probe| probe.source == Source::Ebpf);
    for probe in of_ebpf {
        let cells: Vec<String> = records.iter().map(|(_, record)| cell(&record[probe.name])).collect();
        table += &format!("| `{}` | {} |\n", probe.name, cells.join(" | "));
    }
    table
}

fn record(begins: &str) -> (String, Record) {
    let kernel = begins.trim_end_matches('.').to_owned();
    let text = fs::read_to_string(format!("{RECORDS}/{kernel}.json")).unwrap();
    (kernel, serde_json::from_str(&text).unwrap())
}

/// Hooks by form; or why there are none.
fn cell(probe: &Value) -> String {
    if let Some(reason) = probe["reason"].as_str() {
        return format!("cannot run: {}", reason.replace('|', "\\|"));
    }
    let mut forms: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for hook in probe["hooks"].as_array().unwrap() {
        let name = format!("`{}`", hook["hook"].as_str().unwrap());
        forms.entry(hook["form"].as_str().unwrap()).or_default().push(name);
    }
    let mut parts: Vec<String> =
        forms.into_iter().map(|(form, hooks)| format!("{form}: {}", hooks.join(", "))).collect();
    parts.extend(probe["limitation"].as_str().map(|missing| missing.replace('|', "\\|")));
    parts.join("; ")
}

/// A kernel without IPv6 tells none of it, and all that it tells of IPv4.
fn check_family(probe: &Definition, telemetry: &Telemetry) {
    let told = |family: NetworkType| {
        let names = probe.metrics.iter().flat_map(|metric| telemetry.points(metric.name));
        names.filter(|point| has(&point.attributes, key::NETWORK_TYPE.key, family.as_str())).count()
    };
    if !Path::new("/proc/net/if_inet6").exists() {
        assert_eq!(told(NetworkType::Ipv6), 0, "{}", probe.name);
    }
    if probe.name == "ip" || probe.name == "udp" {
        assert_ne!(told(NetworkType::Ipv4), 0, "{}", probe.name);
    }
}
