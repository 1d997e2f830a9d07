//! A program that has the variable itself, static or not: its linker knew where that is, so there is no relocation, and only
//! the table of symbols tells. That is in the file alone.

use std::fs::File;

use object::read::elf::{ElfFile64, ProgramHeader as _};
use object::{Object as _, ObjectSymbol as _, ReadCache, SymbolFlags, elf};

use super::{VARIABLE, place};
use crate::abi::thread_place;

/// Larger files are not read.
const LONGEST: u64 = 512 << 20;

/// The size of what precedes the block of the program on arm64.
const CONTROL_BLOCK: u64 = 16;

/// Where the variable of the program that a process runs is; `None`: it has none.
pub(super) fn find(pid: u32) -> Option<thread_place> {
    let file = File::open(format!("/proc/{pid}/exe")).ok()?;
    if file.metadata().ok()?.len() > LONGEST {
        return None;
    }
    let cache = ReadCache::new(file);
    let elf: ElfFile64<'_, object::Endianness, _> = ElfFile64::parse(&cache).ok()?;
    let endian = elf.endian();
    let block = elf.elf_program_headers().iter().find(|header| header.p_type(endian) == elf::PT_TLS)?;
    let mut symbols = elf.symbols().chain(elf.dynamic_symbols());
    let is_variable =
        |flags| matches!(flags, SymbolFlags::Elf { st_info, .. } if st_info & 0xf == elf::STT_TLS);
    let symbol = symbols.find(|symbol| {
        symbol.name_bytes() == Ok(VARIABLE) && is_variable(symbol.flags()) && !symbol.is_undefined()
    })?;
    let offset = distance(symbol.address(), block.p_memsz(endian), block.p_align(endian))?;
    place::fixed(offset)
}

/// From the thread pointer to a variable at `address` of the program's block: the block ends at the pointer on x86-64 and
/// begins behind it on arm64, in both cases so that it is aligned.
fn distance(address: u64, size: u64, alignment: u64) -> Option<i64> {
    let alignment = alignment.max(1);
    if address >= size {
        return None;
    }
    if cfg!(target_arch = "aarch64") {
        return CONTROL_BLOCK.checked_next_multiple_of(alignment)?.checked_add(address)?.try_into().ok();
    }
    let end = i64::try_from(size.checked_next_multiple_of(alignment)?).ok()?;
    i64::try_from(address).ok()?.checked_sub(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_before_the_thread_pointer_or_behind_it() {
        let expected = if cfg!(target_arch = "aarch64") { [40, 72] } else { [-24, -40] };
        assert_eq!([distance(24, 48, 8), distance(8, 33, 16)].map(Option::unwrap)[0], expected[0]);
        assert_eq!(distance(8, 33, 64), if cfg!(target_arch = "aarch64") { Some(72) } else { Some(-56) });
        assert_eq!(
            [distance(48, 48, 8), distance(u64::MAX, 8, 8), distance(1, u64::MAX, 1 << 62)],
            [None; 3]
        );
    }
}
