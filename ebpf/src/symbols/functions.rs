//! All functions of the running kernel at one moment, in eight bytes and a name each: some 2 MB.

use std::io;

use super::{file, place};

/// Suffixes that compilers add to the parts and clones of a function, before a number or the end.
const CLONES: [&str; 5] = ["isra", "constprop", "part", "cold", "llvm"];

/// Where the code of the kernel itself begins and ends (arch/*/kernel/vmlinux.lds.S).
const TEXT: [&[u8]; 2] = [b"_stext", b"_etext"];

/// Functions, sorted by address. Empty where the kernel hides its addresses.
#[derive(Debug, Default)]
pub struct Functions {
    /// Address to which the others are relative.
    base: u64,
    starts: Vec<Start>,
    /// Names, each ended by a line feed.
    names: Vec<u8>,
    /// The kernel's own code, which stays what it is.
    text: [u64; 2],
}

#[derive(Clone, Copy, Debug)]
struct Start {
    offset: u32,
    /// Where its name begins.
    name: u32,
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

impl Functions {
    /// Reads `/proc/kallsyms`, some 100 ms.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read() -> io::Result<Self> {
        Self::parse(file::open()?)
    }

    /// Those of such lines.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn parse(lines: impl io::BufRead) -> io::Result<Self> {
        let mut functions = Self::default();
        file::for_each_function(lines, |address, name| functions.add(address, name))?;
        // Stable: of two names for one address the first stays the first.
        functions.starts.sort_by_key(|start| start.offset);
        functions.starts.shrink_to_fit();
        functions.names.shrink_to_fit();
        Ok(functions)
    }

    fn add(&mut self, address: u64, name: &[u8]) {
        if address == 0 {
            return;
        }
        if self.starts.is_empty() {
            self.base = address;
        }
        let offset = address.checked_sub(self.base).and_then(|offset| u32::try_from(offset).ok());
        // The kernel and its modules are within 4 GiB, for their calls to reach each other. What is not is left out.
        let (Some(offset), Ok(at)) = (offset, u32::try_from(self.names.len())) else { return };
        self.starts.push(Start { offset, name: at });
        self.names.extend_from_slice(name);
        self.names.push(b'\n');
        if let Some(bound) = TEXT.iter().position(|text| *text == name) {
            self.text[bound] = address;
        }
    }

    fn text_of(&self, start: Start) -> &[u8] {
        let rest = &self.names[start.name as usize..];
        rest.split(|byte| *byte == b'\n').next().unwrap_or_default()
    }

    /// `function+0xoffset` of an address in the kernel's own code; `None` for any other, and where nothing is known.
    pub(super) fn name(&self, address: u64) -> Option<String> {
        let [begin, end] = self.text;
        if !(begin..end).contains(&address) {
            return None;
        }
        let offset = u32::try_from(address - self.base).ok()?;
        let after = self.starts.partition_point(|start| start.offset <= offset);
        let nearest = self.starts.get(after.checked_sub(1)?)?.offset;
        let first = self.starts.get(self.starts.partition_point(|start| start.offset < nearest))?;
        Some(place(self.text_of(*first), u64::from(offset - nearest)))
    }

    /// The ranges of every function with one of `names`, clones and cold parts included, sorted by address. Names
    /// that this kernel does not have are absent.
    pub fn ranges(&self, names: &[&str]) -> Vec<FunctionRange> {
        let mut ranges: Vec<FunctionRange> =
            self.starts.iter().filter_map(|s| self.range(*s, names)).collect();
        ranges.dedup_by_key(|range| range.start);
        ranges
    }

    fn range(&self, start: Start, names: &[&str]) -> Option<FunctionRange> {
        let name = self.text_of(start);
        let wanted = names.iter().position(|wanted| is_function(name, wanted.as_bytes()))?;
        let next = self.starts.partition_point(|other| other.offset <= start.offset);
        let address = |start: Start| self.base + u64::from(start.offset);
        Some(FunctionRange {
            name: String::from_utf8_lossy(name).into_owned(),
            wanted,
            start: address(start),
            end: address(*self.starts.get(next)?),
        })
    }
}

/// True for the function itself and for what the compiler split off or cloned from it.
fn is_function(symbol: &[u8], wanted: &[u8]) -> bool {
    let Some(suffix) = symbol.strip_prefix(wanted) else { return false };
    let Ok(suffix) = str::from_utf8(suffix) else { return false };
    let part = |p: &str| CLONES.contains(&p) || p.bytes().all(|b| b.is_ascii_digit());
    suffix.is_empty() || suffix.strip_prefix('.').is_some_and(|s| s.split('.').all(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn functions() -> Functions {
        let mut functions = Functions::default();
        for (address, name) in [
            (0x1000, "_stext"),
            (0x1000, "first"),
            (0x1100, "second"),
            (0x1180, "second.cold"),
            (0x1200, "_etext"),
            (0x9000, "of_a_module"),
            (0x8000, "of_another"),
        ] {
            functions.add(address, name.as_bytes());
        }
        functions.starts.sort_by_key(|start| start.offset);
        functions
    }

    #[test]
    fn the_kernels_own_code_has_names_and_nothing_else_has() {
        let functions = functions();
        let name = |address| functions.name(address);
        assert_eq!(name(0x1000).as_deref(), Some("_stext+0x0"));
        assert_eq!(name(0x11ff).as_deref(), Some("second.cold+0x7f"));
        assert_eq!([name(0), name(0xfff), name(0x1200), name(0x9001)], [None, None, None, None]);
        assert_eq!(Functions::default().name(0x1100), None);
    }

    #[test]
    fn ranges_end_where_the_next_function_begins_and_include_split_off_parts() {
        let functions = functions();
        let ranges = |names: &[&str]| -> Vec<(String, usize, u64, u64)> {
            let ranges = functions.ranges(names).into_iter();
            ranges.map(|range| (range.name, range.wanted, range.start, range.end)).collect()
        };
        let second =
            [("second".to_owned(), 1, 0x1100, 0x1180), ("second.cold".to_owned(), 1, 0x1180, 0x1200)];
        assert_eq!(ranges(&["absent", "second"]), second);
        assert_eq!(ranges(&["of_another"]), [("of_another".to_owned(), 0, 0x8000, 0x9000)]);
        assert_eq!(ranges(&["of_a_module"]), [], "where it ends is not known");
    }
}
