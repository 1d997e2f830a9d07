//! The program that measures commands of virtio-net, at the function that the kernel has for them.

use crate::abi::histogram;
use crate::histogram::Range;
use crate::{Kernel, LoadError, Missing, Object, Observer, ObserverOptions, Table};

/// The function that waits for the answer: the first since 6.9, where the second calls it, or is a part of its callers.
const FUNCTIONS: [&str; 2] = ["virtnet_send_command_reply", "virtnet_send_command"];
/// Programs at a function: at its beginning and its end.
const BOTH_ENDS: usize = 2;

/// Room for classes of commands; there are eight.
pub const CLASSES: u32 = 64;
/// Most commands at once: each waits with a lock held, that of the network configuration or of its device.
pub const COMMANDS: u32 = 256;

/// The program, attached. Dropping it detaches it.
#[derive(Debug)]
pub struct VirtCmdLatency {
    /// Its account, limits and ring.
    pub observer: Observer,
    /// Durations by class.
    pub durations: Table<u64, histogram>,
    /// Commands under way: since when and of which class, by task.
    pub commands: Table<u64, [u64; 2]>,
}

impl VirtCmdLatency {
    /// Loads and attaches the program. No event is submitted before [`Observer::configure`].
    ///
    /// # Errors
    /// The kernel refuses it, or has no virtio-net, see [`LoadError`].
    pub fn open(kernel: &Kernel, options: &ObserverOptions<'_>) -> Result<Self, LoadError> {
        let [new, old] = FUNCTIONS;
        match Self::at(new, old, kernel, options)? {
            Ok(program) => Ok(program),
            Err(_) => Self::at(old, new, kernel, options)?
                .map_err(|missing| LoadError::Hook { object: Object::VIRTCMDLATENCY.name, missing }),
        }
    }

    /// The program at one function, else why it cannot be there.
    fn at(
        function: &str,
        other: &str,
        kernel: &Kernel,
        options: &ObserverOptions<'_>,
    ) -> Result<Result<Self, Missing>, LoadError> {
        let latency = Range::LATENCY.bounds();
        let constants = [options.constants, &[latency.constant()]].concat();
        let options = ObserverOptions {
            constants: &constants,
            entries: &[("durations", CLASSES), ("commands", COMMANDS)],
            without: &[options.without, &[other]].concat(),
            ..*options
        };
        let observer = Observer::open(&Object::VIRTCMDLATENCY, kernel, &options)?;
        let loaded = observer.loaded();
        if loaded.attachments().len() < BOTH_ENDS {
            let none = || Missing { hook: function.to_owned(), attempts: Vec::new() };
            return Ok(Err(loaded.missing().first().cloned().unwrap_or_else(none)));
        }
        Ok(Ok(Self { durations: loaded.table("durations")?, commands: loaded.table("commands")?, observer }))
    }
}
