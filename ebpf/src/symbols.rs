//! Kernel addresses to function names and back, from `/proc/kallsyms`, without keeping its 200,000 lines: the
//! file is read through once for the addresses not seen before, and the answers are kept.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};

const PATH: &str = "/proc/kallsyms";

/// Answers kept. Addresses of drops are few; at the limit the cache starts anew.
const CACHE: usize = 1024;

/// Suffixes that compilers add to the parts and clones of a function, before a number or the end.
const CLONES: [&str; 5] = ["isra", "constprop", "part", "cold", "llvm"];

/// Names of kernel addresses, as asked for so far.
#[derive(Debug, Default)]
pub struct Symbols {
    known: HashMap<u64, Option<String>>,
}

impl Symbols {
    /// `function+0xoffset` of `address`; `None` when it is in no function or when the kernel hides its
    /// addresses (`kptr_restrict`, no `CAP_SYSLOG`). Reads the file, some 100 ms, for an address not seen before.
    pub fn name(&mut self, address: u64) -> Option<&str> {
        self.learn(&[address]);
        self.known.get(&address)?.as_deref()
    }

    /// Makes the names of all `addresses` known in one reading of the file.
    pub fn learn(&mut self, addresses: &[u64]) {
        let mut unknown: Vec<u64> =
            addresses.iter().copied().filter(|a| !self.known.contains_key(a)).collect();
        if unknown.is_empty() {
            return;
        }
        if self.known.len() + unknown.len() > CACHE {
            self.known.clear();
            unknown = addresses.to_vec();
        }
        let names = resolve(&unknown).unwrap_or_else(|_| vec![None; unknown.len()]);
        self.known.extend(unknown.into_iter().zip(names));
    }
}

/// A line of the file: address, type letter, name.
fn parse(line: &[u8]) -> Option<(u64, u8, &[u8])> {
    let (address, rest) = line.split_at_checked(16)?;
    let address =
        address.iter().try_fold(0u64, |a, c| Some(a << 4 | u64::from((*c as char).to_digit(16)?)))?;
    let name = rest.get(3..)?;
    let end = name.iter().position(|c| matches!(c, b'\t' | b'\n' | b' ')).unwrap_or(name.len());
    Some((address, rest[1], &name[..end]))
}

/// Calls `visit` with every function.
fn for_each_function(mut visit: impl FnMut(u64, &[u8])) -> io::Result<()> {
    let mut file = BufReader::with_capacity(1 << 16, File::open(PATH)?);
    let mut line = Vec::new();
    while file.read_until(b'\n', &mut line)? > 0 {
        if let Some((address, b't' | b'T' | b'w' | b'W', name)) = parse(&line) {
            visit(address, name);
        }
        line.clear();
    }
    Ok(())
}

/// The nearest function at or below each address. The file is not sorted where modules begin, so every
/// function is offered to the first address at or above it, and what an address got is good for the next too.
fn resolve(addresses: &[u64]) -> io::Result<Vec<Option<String>>> {
    let mut sorted = addresses.to_vec();
    sorted.sort_unstable();
    let mut best: Vec<(u64, Vec<u8>)> = vec![(0, Vec::new()); sorted.len()];
    for_each_function(|start, name| {
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
        (*start != 0).then(|| format!("{}+{:#x}", String::from_utf8_lossy(name), address - start))
    };
    Ok(addresses.iter().map(text).collect())
}

/// Where a function's code is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionRange {
    /// Name in the kernel, clone suffix included.
    pub name: String,
    /// Which of the names asked for it belongs to, by position.
    pub wanted: usize,
    /// First address.
    pub start: u64,
    /// First address after it: the start of the next function.
    pub end: u64,
}

/// The ranges of every function with one of `names`, clones and cold parts included, sorted by address. Names
/// that this kernel does not have are absent; empty when the kernel hides its addresses.
pub fn function_ranges(names: &[&str]) -> io::Result<Vec<FunctionRange>> {
    let mut starts = Vec::new();
    let mut ranges = Vec::new();
    for_each_function(|start, name| {
        starts.push(start);
        if let Some(wanted) = names.iter().position(|wanted| is_function(name, wanted.as_bytes())) {
            let name = String::from_utf8_lossy(name).into_owned();
            ranges.push(FunctionRange { name, wanted, start, end: start });
        }
    })?;
    starts.sort_unstable();
    ranges.retain_mut(|range| {
        let next = starts.partition_point(|s| *s <= range.start);
        range.end = starts.get(next).copied().unwrap_or(range.start);
        range.start != 0 && range.end > range.start
    });
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by_key(|range| range.start);
    Ok(ranges)
}

/// True for the function itself and for what the compiler split off or cloned from it.
fn is_function(symbol: &[u8], wanted: &[u8]) -> bool {
    let Some(suffix) = symbol.strip_prefix(wanted) else { return false };
    let Ok(suffix) = std::str::from_utf8(suffix) else { return false };
    let part = |p: &str| CLONES.contains(&p) || p.bytes().all(|b| b.is_ascii_digit());
    suffix.is_empty() || suffix.strip_prefix('.').is_some_and(|s| s.split('.').all(part))
}
