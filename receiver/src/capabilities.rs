//! Which Linux capabilities this process has (capabilities(7)).

/// Names and numbers of the capabilities that probes ask for (include/uapi/linux/capability.h).
const NUMBERS: [(&str, u32); 5] = [
    ("CAP_NET_ADMIN", 12),
    ("CAP_SYS_PTRACE", 19),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_PERFMON", 38),
    ("CAP_BPF", 39),
];

/// The capabilities of `wanted` that this process lacks. `CAP_SYS_ADMIN` stands for `CAP_BPF` and `CAP_PERFMON`,
/// which were split from it in 5.8.
pub fn lacking(wanted: &[&'static str]) -> Vec<&'static str> {
    let effective = effective().unwrap_or(0);
    let has = |name: &str| {
        let number = NUMBERS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
        number.is_some_and(|number| effective & 1 << number != 0)
    };
    let covered =
        |name: &str| has(name) || (matches!(name, "CAP_BPF" | "CAP_PERFMON") && has("CAP_SYS_ADMIN"));
    wanted.iter().copied().filter(|name| !covered(name)).collect()
}

/// The effective set (proc(5), `/proc/pid/status`, `CapEff`).
fn effective() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}
