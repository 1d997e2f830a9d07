//! A small reader of BTF, the kernel's own type information: enumerators, existence of members and functions,
//! arguments of tracepoints. It walks the raw bytes and keeps nothing but them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where the running kernel publishes its BTF.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const HEADER: usize = 24;
const TYPE: usize = 12;

/// Anonymous members of a structure, and of those in turn, that are looked into: several times what the kernel's have. A file
/// that is not the kernel's may have one that contains itself.
const ANONYMOUS: u32 = 256;

/// Kinds of BTF type, `include/uapi/linux/btf.h`, as far as they are told apart here.
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const POINTER: u32 = 2;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const FUNCTION: u32 = 12;
    pub(super) const PROTOTYPE: u32 = 13;
    pub(super) const VARIABLE: u32 = 14;
    pub(super) const SECTION: u32 = 15;
    pub(super) const DECLARATION_TAG: u32 = 17;
    pub(super) const ENUM64: u32 = 19;
}

/// BTF that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The kernel was built without `CONFIG_DEBUG_INFO_BTF`, or the file is not readable.
    #[error("no kernel type information (BTF) at {path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why it could not be read.
        source: io::Error,
    },
    /// The file is not BTF of this machine's byte order.
    #[error("{0} is not BTF")]
    Malformed(PathBuf),
}

/// The BTF of one kernel, some 6 MB: ask what is needed and drop it.
#[derive(Debug)]
pub struct Btf {
    bytes: Vec<u8>,
    types: usize,
    strings: usize,
}

impl Btf {
    /// Reads and checks the header of `path`, [`VMLINUX`] for the running kernel.
    pub fn read(path: &Path) -> Result<Self, BtfError> {
        let bytes =
            fs::read(path).map_err(|source| BtfError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(bytes).ok_or_else(|| BtfError::Malformed(path.to_owned()))
    }

    /// The BTF that these bytes are, if they are any.
    pub fn parse(mut bytes: Vec<u8>) -> Option<Self> {
        if u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?) != MAGIC || bytes.len() < HEADER {
            return None;
        }
        let header = word(&bytes, 4) as usize;
        let types = header + word(&bytes, 8) as usize;
        let types_end = types + word(&bytes, 12) as usize;
        let strings = header + word(&bytes, 16) as usize;
        let strings_end = strings + word(&bytes, 20) as usize;
        // Everything below relies on types before strings before the end.
        if types_end > strings || strings_end > bytes.len() || bytes[strings_end.checked_sub(1)?] != 0 {
            return None;
        }
        bytes.truncate(strings_end);
        Some(Self { bytes, types, strings })
    }

    /// The raw bytes, for a loader that relocates by them.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Name and value of every constant of `enum name`; `None` when the kernel has no such enum.
    pub fn enumerators(&self, name: &str) -> Option<Vec<(String, u64)>> {
        let found = self.find(name, &[kind::ENUM, kind::ENUM64])?;
        Some(self.constants(&found))
    }

    /// Name and value of every constant of the enum that has the constant `member`, which most of the kernel's do
    /// not have a name for; `None` when no enum has it.
    pub fn enumerators_beside(&self, member: &str) -> Option<Vec<(String, u64)>> {
        let has_member = |found: &Type| {
            let step = found.trailing() / found.count.max(1);
            (0..found.count).any(|i| self.is_text(found.data + i * step, member))
        };
        let is_enum = |found: &Type| matches!(found.kind, kind::ENUM | kind::ENUM64);
        self.walk().find(|found| is_enum(found) && has_member(found)).map(|found| self.constants(&found))
    }

    fn constants(&self, found: &Type) -> Vec<(String, u64)> {
        let step = if found.kind == kind::ENUM64 { 12 } else { 8 };
        let read = |i: usize| {
            let at = found.data + i * step;
            let high = if step == 12 { word(&self.bytes, at + 8) } else { 0 };
            (self.text(at).to_owned(), u64::from(high) << 32 | u64::from(word(&self.bytes, at + 4)))
        };
        (0..found.count).map(read).collect()
    }

    /// True when `member` is in `struct structure` or in one of its anonymous members.
    pub fn has_member(&self, structure: &str, member: &str) -> bool {
        let found = self.find(structure, &[kind::STRUCT, kind::UNION]);
        found.is_some_and(|t| self.has_member_in(&t, member, &mut { ANONYMOUS }))
    }

    /// `left`: anonymous members that are still looked into.
    fn has_member_in(&self, structure: &Type, member: &str, left: &mut u32) -> bool {
        (0..structure.count).any(|i| {
            let at = structure.data + i * 12;
            match self.text(at) {
                "" if *left > 0 => {
                    *left -= 1;
                    let inner = self.by_id(word(&self.bytes, at + 4));
                    inner.is_some_and(|t| self.has_member_in(&t, member, left))
                }
                name => name == member,
            }
        })
    }

    /// True when the kernel has a function of this name that tracing may attach to.
    pub fn has_function(&self, name: &str) -> bool {
        self.find(name, &[kind::FUNCTION]).is_some()
    }

    /// True when the kernel has this typedef.
    pub fn has_typedef(&self, name: &str) -> bool {
        self.find(name, &[kind::TYPEDEF]).is_some()
    }

    /// Number of arguments of tracepoint `name`; `None` when the kernel has no such tracepoint. The typedef
    /// `btf_trace_<name>` is a function pointer whose first parameter is the tracer's own.
    pub fn tracepoint_arguments(&self, name: &str) -> Option<usize> {
        let typedef = self.find(&format!("btf_trace_{name}"), &[kind::TYPEDEF])?;
        let pointer = self.by_id(typedef.size_or_type).filter(|t| t.kind == kind::POINTER)?;
        let prototype = self.by_id(pointer.size_or_type).filter(|t| t.kind == kind::PROTOTYPE)?;
        prototype.count.checked_sub(1)
    }

    fn find(&self, name: &str, kinds: &[u32]) -> Option<Type> {
        self.walk().find(|t| kinds.contains(&t.kind) && self.text(t.at) == name)
    }

    fn by_id(&self, id: u32) -> Option<Type> {
        self.walk().nth((id as usize).checked_sub(1)?)
    }

    fn walk(&self) -> Walk<'_> {
        Walk { btf: self, at: self.types }
    }

    /// Whether the string that the word at `at` points to is `text`.
    fn is_text(&self, at: usize, text: &str) -> bool {
        let start = self.strings + word(&self.bytes, at) as usize;
        let found = self.bytes.get(start..start + text.len() + 1);
        found.and_then(|found| found.strip_suffix(&[0])) == Some(text.as_bytes())
    }

    /// The string that the word at `at` points to.
    fn text(&self, at: usize) -> &str {
        let start = self.strings + word(&self.bytes, at) as usize;
        let rest = self.bytes.get(start..).unwrap_or_default();
        let end = rest.iter().position(|b| *b == 0).unwrap_or(0);
        std::str::from_utf8(&rest[..end]).unwrap_or_default()
    }
}

/// One type: where it and its members are.
struct Type {
    at: usize,
    data: usize,
    kind: u32,
    count: usize,
    size_or_type: u32,
}

impl Type {
    /// Bytes of what follows the common part.
    fn trailing(&self) -> usize {
        match self.kind {
            kind::INT | kind::VARIABLE | kind::DECLARATION_TAG => 4,
            kind::ARRAY => 12,
            kind::STRUCT | kind::UNION | kind::SECTION | kind::ENUM64 => self.count * 12,
            kind::ENUM | kind::PROTOTYPE => self.count * 8,
            _ => 0,
        }
    }
}

struct Walk<'a> {
    btf: &'a Btf,
    at: usize,
}

impl Iterator for Walk<'_> {
    type Item = Type;

    fn next(&mut self) -> Option<Type> {
        let at = self.at;
        if at + TYPE > self.btf.strings {
            return None;
        }
        let info = word(&self.btf.bytes, at + 4);
        let found = Type {
            at,
            data: at + TYPE,
            kind: info >> 24 & 31,
            count: (info & 0xffff) as usize,
            size_or_type: word(&self.btf.bytes, at + 8),
        };
        self.at = found.data + found.trailing();
        (self.at <= self.btf.strings).then_some(found)
    }
}

/// The 32-bit word at `at`, 0 beyond the end.
fn word(bytes: &[u8], at: usize) -> u32 {
    let slice = bytes.get(at..at + 4).and_then(|s| s.try_into().ok());
    slice.map_or(0, u32::from_ne_bytes)
}
