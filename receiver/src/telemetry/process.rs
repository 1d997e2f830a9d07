//! What the receiver itself uses, and what tells it from its siblings.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// Processor time of this process in user and kernel mode, in seconds (proc(5), `/proc/pid/stat`, fields 14
/// and 15).
pub(super) fn cpu_seconds() -> Option<(f64, f64)> {
    let [user, system] = seconds([14, 15])?;
    Some((user, system))
}

/// When this process started, in ISO 8601 (proc(5), `/proc/pid/stat`, field 22, in seconds since boot).
pub(super) fn creation_time() -> Option<String> {
    let [started] = seconds([22])?;
    let boot = clock_gettime(ClockId::Boottime);
    let since_boot = Duration::new(boot.tv_sec.try_into().ok()?, boot.tv_nsec.try_into().ok()?);
    let age = since_boot.saturating_sub(Duration::from_secs_f64(started));
    jiff::Timestamp::try_from(SystemTime::now() - age).ok().map(|time| time.to_string())
}

/// Fields of `/proc/self/stat` that hold clock ticks, by their number in proc(5), in seconds.
fn seconds<const N: usize>(numbers: [usize; N]) -> Option<[f64; N]> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The command name, field 2, stands in parentheses and may hold blanks.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split_ascii_whitespace().collect();
    let tick = rustix::param::clock_ticks_per_second() as f64;
    let mut seconds = [0.0; N];
    for (slot, number) in seconds.iter_mut().zip(numbers) {
        *slot = fields.get(number - 3)?.parse::<f64>().ok()? / tick;
    }
    Some(seconds)
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
    fn this_process_started_not_long_ago() {
        let started: jiff::Timestamp =
            creation_time().expect("the kernel says so").parse().expect("ISO 8601");
        let age = jiff::Timestamp::now().duration_since(started).as_secs();
        assert!((0..3600).contains(&age), "{age} s");
    }

    #[test]
    fn instance_ids_are_random_uuids() {
        let id = instance_id();
        assert_eq!(id.len(), 36);
        assert_eq!(id.as_bytes()[14], b'4');
        assert_ne!(id, instance_id());
    }
}
