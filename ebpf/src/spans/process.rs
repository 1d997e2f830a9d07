//! Processes that say where their threads keep their span contexts: OpenTelemetry's process context (OTEP 4719) and the
//! thread-local variable of OTEP 4947.
//!
//! All of it is memory of others, who may be hostile. It is read by `/proc/<pid>/mem`, which stays with one address space
//! whatever becomes of the process, and, unlike `process_vm_readv(2)`, does not wait for pages that the process itself
//! would have to deliver (userfaultfd). Nothing is followed without a bound, nothing is written.

mod context;
mod executable;
pub mod fuzz;
mod library;
mod maps;
mod memory;
mod place;

use std::collections::HashSet;

use crate::abi::thread_place;

use maps::{Mapping, Maps};
use memory::Memory;

/// Name of the variable, a pointer to the thread's context.
const VARIABLE: &[u8] = b"otel_thread_ctx_v1";

/// Files known not to mention the variable that are kept in mind; at the limit it starts anew.
const FILES: usize = 4096;

/// A file as the maps of processes name it: device and inode.
type FileId = (String, u64);

/// Looks at processes, and remembers which files have nothing to do with it.
#[derive(Debug, Default)]
pub(super) struct Finder {
    others: HashSet<FileId>,
}

impl Finder {
    /// Where the threads of a process keep their contexts. `started`: when the process did, ns since boot. `None`: it does
    /// not say so, in a way that is known, or it is another process.
    pub(super) fn find(&mut self, pid: u32, started: u64) -> Option<thread_place> {
        let memory = Memory::open(pid)?;
        let maps = Maps::read(pid)?;
        // After both were opened: then they are of the process that started at that time.
        if !is_same_start(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?, started) {
            return None;
        }
        let mappings = maps.parse();
        if !context::has_thread_contexts(&memory, &mappings) {
            return None;
        }
        self.in_libraries(&memory, &mappings).or_else(|| executable::find(pid))
    }

    fn in_libraries(&mut self, memory: &Memory, mappings: &[Mapping<'_>]) -> Option<thread_place> {
        for mapping in mappings.iter().filter(|mapping| mapping.is_start_of_file()) {
            let id = (mapping.device.to_owned(), mapping.inode);
            if self.others.contains(&id) {
                continue;
            }
            let Some(reference) = library::find(memory, mapping.start, mappings) else {
                self.remember(id);
                continue;
            };
            // A file may be mapped to be read, too, without a linker that writes anything there.
            if let Some(place) = place::of(memory, mappings, reference) {
                return Some(place);
            }
        }
        None
    }

    fn remember(&mut self, id: FileId) {
        if self.others.len() >= FILES {
            self.others.clear();
        }
        self.others.insert(id);
    }
}

/// Whether field 22 of `/proc/<pid>/stat`, in hundredths of a second since boot, is this time.
fn is_same_start(stat: &str, started: u64) -> bool {
    const TICK: u64 = 10_000_000;
    // The command, field 2, is in parentheses and may contain anything.
    let after_command = stat.rsplit_once(')').map(|(_, rest)| rest);
    let ticks = after_command.and_then(|rest| rest.split_ascii_whitespace().nth(19)?.parse::<u64>().ok());
    ticks == Some(started / TICK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_by_its_start() {
        let stat = "4242 (a) b) S 1 4242 4242 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 123456 1000 100\n";
        assert!(is_same_start(stat, 1_234_560_000_000) && is_same_start(stat, 1_234_569_999_999));
        assert!(!is_same_start(stat, 1_234_570_000_000) && !is_same_start("", 0));
    }
}
