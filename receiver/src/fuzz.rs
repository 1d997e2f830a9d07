//! Everything that reads bytes which others wrote, as functions of such bytes: what fuzzing calls. Each checks what must hold
//! of whatever they are; a panic is a finding.
//!
//! `make test` tries each with bytes near samples for a moment, `make fuzz` by coverage for as long as it is told to.

mod kernel;
mod near;

use crate::{export, netlink, pods, probe, round, spans};

/// What reads foreign bytes.
pub struct Target {
    /// What it is called.
    pub name: &'static str,
    /// Reads the bytes.
    pub read: fn(&[u8]),
    /// Bytes that are whole.
    pub samples: &'static [&'static [u8]],
}

impl Target {
    /// Reads bytes, as they are and as changes of a sample.
    pub fn try_with(&self, bytes: &[u8]) {
        (self.read)(bytes);
        (self.read)(&near::sample(self.samples, bytes));
    }
}

/// All of them.
pub fn targets() -> impl Iterator<Item = &'static Target> {
    [
        export::fuzz::TARGETS,
        export::fuzz::QUEUE,
        netlink::fuzz::TARGETS,
        round::fuzz::TARGETS,
        pods::fuzz::TARGETS,
        probe::fuzz::TARGETS,
        kernel::TARGETS,
        spans::fuzz::TARGETS,
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, test_runner::TestRunner};

    use super::*;

    /// Tries of each target.
    const TRIES: u32 = 2000;

    #[test]
    fn whatever_the_bytes_are_each_of_them_is_read() {
        for target in targets() {
            // Each try with a queue makes files.
            let cases = if target.name == export::fuzz::QUEUE[0].name { TRIES / 10 } else { TRIES };
            let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
            target.samples.iter().for_each(|sample| (target.read)(sample));
            let bytes = vec(any::<u8>(), 0..512);
            let read = |bytes: Vec<u8>| {
                target.try_with(&bytes);
                Ok(())
            };
            let result = TestRunner::new(config).run(&bytes, read);
            result.unwrap_or_else(|error| panic!("{}: {error}", target.name));
        }
    }
}
