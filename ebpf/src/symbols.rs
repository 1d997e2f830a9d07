//! Kernel addresses to function names. Those of the kernel itself come from a table that is read once; what modules and
//! eBPF programs have comes and goes, so for an address in one of them `/proc/kallsyms` is read anew.

use std::collections::{HashMap, hash_map::Entry};
use std::io;
use std::sync::Arc;

mod file;
mod functions;

pub use functions::{FunctionRange, Functions};

/// Answers kept. Addresses of drops are few; at the limit the cache starts anew.
const CACHE: usize = 1024;

/// Names of kernel addresses, as asked for so far.
#[derive(Debug, Default)]
pub struct Symbols {
    functions: Arc<Functions>,
    known: HashMap<u64, Option<String>>,
}

impl Symbols {
    /// Names from this table; [`Symbols::default`] has none, and reads the file for every new address.
    pub fn new(functions: Arc<Functions>) -> Self {
        Self { functions, known: HashMap::new() }
    }

    /// `function+0xoffset` of `address`; `None` when it is in no function or when the kernel hides its
    /// addresses (`kptr_restrict`, no `CAP_SYSLOG`). Reads the file, some 100 ms, for an address outside of the
    /// kernel's own code that was not seen before.
    pub fn name(&mut self, address: u64) -> Option<&str> {
        self.learn(&[address]);
        self.known.get(&address)?.as_deref()
    }

    /// Makes the names of all `addresses` known, in one reading of the file at most.
    pub fn learn(&mut self, addresses: &[u64]) {
        if self.known.len() + addresses.len() > CACHE {
            self.known.clear();
        }
        let mut elsewhere = Vec::new();
        for address in addresses {
            let Entry::Vacant(unknown) = self.known.entry(*address) else { continue };
            match self.functions.name(*address) {
                Some(name) => drop(unknown.insert(Some(name))),
                None => elsewhere.push(*address),
            }
        }
        if !elsewhere.is_empty() {
            let names = file::open().and_then(|lines| nearest_functions(lines, &elsewhere));
            let names = names.unwrap_or_else(|_| vec![None; elsewhere.len()]);
            self.known.extend(elsewhere.into_iter().zip(names));
        }
    }
}

/// The nearest function at or below each address. The file is not sorted where modules begin, so every
/// function is offered to the first address at or above it, and what an address got is good for the next too.
///
/// # Errors
/// The lines cannot be read.
pub fn nearest_functions(lines: impl io::BufRead, addresses: &[u64]) -> io::Result<Vec<Option<String>>> {
    let mut sorted = addresses.to_vec();
    sorted.sort_unstable();
    let mut best: Vec<(u64, Vec<u8>)> = vec![(0, Vec::new()); sorted.len()];
    file::for_each_function(lines, |start, name| {
        let at = sorted.partition_point(|address| *address < start);
        if let Some((found, text)) = best.get_mut(at).filter(|(found, _)| *found < start) {
            *found = start;
            text.clear();
            text.extend_from_slice(name);
        }
    })?;
    for i in 1..best.len() {
        if best[i].0 < best[i - 1].0 {
            best[i] = best[i - 1].clone();
        }
    }
    let text = |address: &u64| {
        let (start, name) = best.get(sorted.partition_point(|a| a < address))?;
        (*start != 0).then(|| place(name, address - start))
    };
    Ok(addresses.iter().map(text).collect())
}

fn place(function: &[u8], offset: u64) -> String {
    format!("{}+{offset:#x}", String::from_utf8_lossy(function))
}
