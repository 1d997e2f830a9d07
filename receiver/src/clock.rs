//! The kernel's boot-time clock against the wall clock.
//!
//! Events carry `bpf_ktime_get_boot_ns()`. The difference of the clocks is taken anew for every round and every
//! record of a ring, which waits there for a moment only, so a step of the wall clock and suspend are followed.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// The clocks' difference at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    now: u64,
    boot: u64,
}

impl Clock {
    /// Reads both clocks.
    pub fn read() -> Self {
        // The boot clock is read on both sides of the wall clock: the middle halves the error.
        let before = nanoseconds(clock_gettime(ClockId::Boottime));
        let now = wall();
        let after = nanoseconds(clock_gettime(ClockId::Boottime));
        Self { now, boot: before.midpoint(after) }
    }

    /// Nanoseconds since the epoch when the clocks were read.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Nanoseconds since the epoch of a moment on the boot-time clock.
    pub fn at_boot(&self, boot_ns: u64) -> u64 {
        self.now.saturating_sub(self.boot).saturating_add(boot_ns)
    }
}

/// Nanoseconds since the epoch.
pub(crate) fn wall() -> u64 {
    nanoseconds(clock_gettime(ClockId::Realtime))
}

/// A time as one number; none of the clocks that we read is before its zero.
pub(crate) fn nanoseconds(time: Timespec) -> u64 {
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_present_on_the_boot_clock_is_the_present_on_the_wall() {
        let clock = Clock::read();
        assert_eq!(clock.at_boot(clock.boot), clock.now());
    }
}
