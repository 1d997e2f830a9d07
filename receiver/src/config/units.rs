//! Durations and sizes as a person writes them: `250ms`, `15s`, `10m`, `64MiB`.

use std::time::Duration;

/// Units of a duration, largest first, in milliseconds.
const DURATIONS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Units of a size, largest first, in bytes.
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads a whole number and a unit of time, `h`, `m`, `s` or `ms`. None for anything else, a bare number included:
/// it says nothing of its unit.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    quantity(text, &DURATIONS).map(Duration::from_millis)
}

/// Writes a duration in the largest unit that divides it; parts below a millisecond are left out.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    show(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), &DURATIONS)
}

/// Reads a whole number and a unit of size, `GiB`, `MiB`, `KiB` or `B`, as bytes.
#[must_use]
pub fn size(text: &str) -> Option<u64> {
    quantity(text, &SIZES)
}

/// Writes bytes in the largest unit that divides them.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    show(bytes, &SIZES)
}

fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(end);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn show(amount: u64, units: &[(&str, u64)]) -> String {
    let whole = units.iter().find(|(_, factor)| amount != 0 && amount.is_multiple_of(*factor));
    let smallest = ("", 1);
    let (unit, factor) = whole.or(units.last()).unwrap_or(&smallest);
    format!("{}{unit}", amount / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_every_unit() {
        for (text, millis) in
            [("250ms", 250), ("15s", 15_000), ("10m", 600_000), ("2h", 7_200_000), ("0s", 0)]
        {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "15",
            "s",
            "-1s",
            "1.5s",
            "1 s",
            "15S",
            "5d",
            "1s2ms",
            "99999999999999999999s",
            "9999999999999999h",
        ] {
            assert_eq!(duration(text), None, "{text:?}");
        }
    }

    #[test]
    fn sizes_are_binary_and_need_their_unit() {
        assert_eq!(size("64MiB"), Some(64 << 20));
        assert_eq!(size("1KiB"), Some(1024));
        for text in ["64", "64MB", "64mib", "MiB", "99999999999GiB"] {
            assert_eq!(size(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_is_shown_reads_back_the_same() {
        for millis in [0, 1, 250, 1_000, 15_000, 90_000, 600_000, 3_600_000, 3_600_001] {
            let value = Duration::from_millis(millis);
            assert_eq!(duration(&show_duration(value)), Some(value));
        }
        for bytes in [0, 1, 1024, 1536, 16 << 20, 3 << 30] {
            assert_eq!(size(&show_size(bytes)), Some(bytes));
        }
    }

    #[test]
    fn the_largest_exact_unit_is_shown() {
        assert_eq!(show_duration(Duration::from_secs(600)), "10m");
        assert_eq!(show_duration(Duration::from_secs(90)), "90s");
        assert_eq!(show_size(16 << 20), "16MiB");
        assert_eq!(show_size(0), "0B");
    }
}
