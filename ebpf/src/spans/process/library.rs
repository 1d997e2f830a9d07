//! Where a library or program refers to the variable: the relocation by which the dynamic linker told it where the variable
//! is. All of that is in memory, so the file need not be found or opened.
//! System V ABI, "Dynamic Linking"; the processors' supplements for the relocations.

use super::VARIABLE;
use super::maps::{self, Mapping};
use super::memory::{Memory, number};

/// ELF for 64 bits, little-endian, version 1.
const IDENTITY: &[u8; 7] = b"\x7fELF\x02\x01\x01";
const EXECUTABLE: u16 = 2;
const SHARED: u16 = 3;
const MACHINE: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };

const FILE_HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const DYNAMIC: usize = 16;
const RELOCATION: usize = 24;
const SYMBOL: u64 = 24;

const LOAD: u32 = 1;
const DYNAMIC_SEGMENT: u32 = 2;

/// No more of each is looked at.
const PROGRAM_HEADERS: usize = 128;
const DYNAMIC_BYTES: u64 = 64 << 10;
const RELOCATION_BYTES: u64 = 16 << 20;
/// Relocations read at once.
const CHUNK: u64 = 2048 * RELOCATION as u64;

/// What the linker wrote at a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A function and its argument.
    Descriptor,
    /// The distance from the thread pointer.
    Distance,
    /// Number of the module, and the distance from the start of its block.
    Module,
}

impl Kind {
    fn of(relocation: u32) -> Option<Self> {
        match (relocation, cfg!(target_arch = "aarch64")) {
            (36, false) | (1031, true) => Some(Self::Descriptor),
            (18, false) | (1030, true) => Some(Self::Distance),
            (16, false) | (1028, true) => Some(Self::Module),
            _ => None,
        }
    }
}

/// A reference to the variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) kind: Kind,
    /// Address of what the linker wrote.
    pub(super) at: u64,
}

/// The first reference in the file that is mapped at `start`; `None`: it has none, or is not what it should be.
pub(super) fn find(memory: &Memory, start: u64, mappings: &[Mapping<'_>]) -> Option<Reference> {
    search(&|address, length| memory.read(address, length), start, &|address| {
        maps::at(mappings, address).is_some()
    })
}

/// The same in bytes that are mapped as they are, at a round address.
pub(super) fn of_bytes(bytes: &[u8]) -> Option<Reference> {
    const START: u64 = 0x1_0000;
    let read = |address: u64, length: usize| {
        let at = usize::try_from(address.checked_sub(START)?).ok()?;
        Some(bytes.get(at..at.checked_add(length)?)?.to_vec())
    };
    search(&read, START, &|address| (START..START + bytes.len() as u64).contains(&address))
}

type Read<'a> = &'a dyn Fn(u64, usize) -> Option<Vec<u8>>;

fn search(read: Read<'_>, start: u64, is_mapped: &dyn Fn(u64) -> bool) -> Option<Reference> {
    let (bias, dynamic) = segments(read, start)?;
    let tables = Tables::read(read, bias, dynamic, is_mapped)?;
    tables.relocations.iter().find_map(|range| tables.reference(read, *range))
}

/// What is added to the addresses in the file, and where its dynamic section is.
fn segments(read: Read<'_>, start: u64) -> Option<(u64, (u64, u64))> {
    let header = read(start, FILE_HEADER)?;
    let half = |at| number(&header, at).map(u16::from_le_bytes);
    let kind = half(16)?;
    if !header.starts_with(IDENTITY) || ![EXECUTABLE, SHARED].contains(&kind) || half(18)? != MACHINE {
        return None;
    }
    let at = number(&header, 32).map(u64::from_le_bytes)?;
    let count = usize::from(half(56)?);
    if usize::from(half(54)?) != PROGRAM_HEADER || count > PROGRAM_HEADERS {
        return None;
    }
    let headers = read(start.checked_add(at)?, count * PROGRAM_HEADER)?;
    let (mut bias, mut dynamic) = (None, None);
    for header in headers.chunks_exact(PROGRAM_HEADER) {
        let word = |at| number(header, at).map(u64::from_le_bytes);
        let (offset, address, size) = (word(8)?, word(16)?, word(40)?);
        match number(header, 0).map(u32::from_le_bytes)? {
            LOAD if offset == 0 => bias = Some(start.wrapping_sub(address)),
            DYNAMIC_SEGMENT => dynamic = Some((address, size)),
            _ => {}
        }
    }
    let (bias, (address, size)) = (bias?, dynamic?);
    Some((bias, (bias.wrapping_add(address), size.min(DYNAMIC_BYTES))))
}

/// What the dynamic section tells of.
#[derive(Debug, Default)]
struct Tables {
    bias: u64,
    symbols: u64,
    names: u64,
    /// Addresses and bytes of both tables of relocations.
    relocations: [(u64, u64); 2],
}

impl Tables {
    fn read(
        read: Read<'_>,
        bias: u64,
        (at, size): (u64, u64),
        is_mapped: &dyn Fn(u64) -> bool,
    ) -> Option<Self> {
        // Some dynamic linkers write addresses as they are in memory back into the section, some leave them.
        let address = |value: u64| if is_mapped(value) { value } else { bias.wrapping_add(value) };
        let mut tables = Self { bias, ..Self::default() };
        for entry in read(at, size as usize)?.chunks_exact(DYNAMIC) {
            let value = number(entry, 8).map(u64::from_le_bytes)?;
            match number(entry, 0).map(u64::from_le_bytes)? {
                0 => break,
                5 => tables.names = address(value),
                6 => tables.symbols = address(value),
                7 => tables.relocations[0].0 = address(value),
                8 => tables.relocations[0].1 = value.min(RELOCATION_BYTES),
                23 => tables.relocations[1].0 = address(value),
                2 => tables.relocations[1].1 = value.min(RELOCATION_BYTES),
                _ => {}
            }
        }
        (tables.symbols != 0 && tables.names != 0).then_some(tables)
    }

    fn reference(&self, read: Read<'_>, (at, size): (u64, u64)) -> Option<Reference> {
        (0..size).step_by(CHUNK as usize).find_map(|done| {
            let bytes = read(at.checked_add(done)?, CHUNK.min(size - done) as usize)?;
            bytes.chunks_exact(RELOCATION).find_map(|relocation| self.is_ours(read, relocation))
        })
    }

    fn is_ours(&self, read: Read<'_>, relocation: &[u8]) -> Option<Reference> {
        let info = number(relocation, 8).map(u64::from_le_bytes)?;
        let (kind, symbol) = (Kind::of(info as u32)?, info >> 32);
        let place = number(relocation, 0).map(u64::from_le_bytes)?;
        let name = read(self.symbols.checked_add(symbol.checked_mul(SYMBOL)?)?, 4)?;
        let name = u64::from(u32::from_le_bytes(number(&name, 0)?));
        let name = read(self.names.checked_add(name)?, VARIABLE.len() + 1)?;
        let is_ours = symbol != 0 && name.strip_suffix(&[0]) == Some(VARIABLE);
        is_ours.then_some(Reference { kind, at: self.bias.wrapping_add(place) })
    }
}
