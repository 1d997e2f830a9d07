//! What the receiver itself uses, and what tells it from its siblings.

use std::hash::{BuildHasher, RandomState};

/// Processor time of this process in user and kernel mode, in seconds (proc(5), `/proc/pid/stat`, fields 14
/// and 15).
pub(super) fn cpu_seconds() -> Option<(f64, f64)> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The command name stands in parentheses and may hold blanks.
    let mut fields = stat.rsplit_once(") ")?.1.split_ascii_whitespace().skip(11);
    let tick = rustix::param::clock_ticks_per_second() as f64;
    let mut seconds = || fields.next()?.parse::<f64>().ok().map(|ticks| ticks / tick);
    Some((seconds()?, seconds()?))
}

/// Resident memory of this process in bytes (proc(5), `/proc/pid/statm`, field 2).
pub(super) fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// A random UUID (version 4) for `service.instance.id`, new with each start.
pub(super) fn instance_id() -> String {
    let random = || RandomState::new().hash_one(std::process::id());
    let (high, low) = (random(), random());
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xfff,
        0x8000 | (low >> 48 & 0x3fff),
        low & 0xffff_ffff_ffff
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_processor_time_and_memory() {
        let (user, system) = cpu_seconds().expect("the kernel says so");
        assert!(user + system < 3600.0);
        assert!(resident_bytes().is_some_and(|bytes| bytes > 100_000));
    }

    #[test]
    fn instance_ids_are_random_uuids() {
        let id = instance_id();
        assert_eq!(id.len(), 36);
        assert_eq!(id.as_bytes()[14], b'4');
        assert_ne!(id, instance_id());
    }
}
