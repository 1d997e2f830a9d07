//! Where the variable of each thread is, by what the dynamic linker wrote at a reference to it.
//!
//! The layouts of thread-local storage: Ulrich Drepper, "ELF Handling For Thread-Local Storage"; glibc
//! `sysdeps/*/nptl/tls.h` and `sysdeps/*/dl-tlsdesc.h`, musl `src/internal/pthread_impl.h`.

use super::library::{Kind, Reference};
use super::maps::{self, Mapping};
use super::memory::{Memory, number};
use crate::abi::thread_place;

/// Nobody has so much of it, nor so many modules.
const MOST_BYTES: u64 = 1 << 30;
const MOST_MODULES: u64 = 1 << 20;

/// How the C library keeps the blocks of modules.
struct Vector {
    /// From the thread pointer to the vector's address.
    at: i64,
    /// Bytes of an entry.
    entry: u64,
    /// From the vector to the number of its entries.
    count: i64,
}

const GLIBC: Vector = Vector { at: if cfg!(target_arch = "aarch64") { 0 } else { 8 }, entry: 16, count: -16 };
const MUSL: Vector = Vector { at: if cfg!(target_arch = "aarch64") { -8 } else { 8 }, entry: 8, count: 0 };

/// `None`: what is written there makes no sense.
pub(super) fn of(memory: &Memory, mappings: &[Mapping<'_>], reference: Reference) -> Option<thread_place> {
    let first = memory.word(reference.at)?;
    let second = || memory.word(reference.at.checked_add(8)?);
    match reference.kind {
        Kind::Distance => fixed(first as i64),
        Kind::Module => in_module(mappings, first, second()?),
        // A function's argument is the distance itself, or points to module and distance.
        Kind::Descriptor => match (first, second()?) {
            (0, _) => None,
            (_, argument) if maps::at(mappings, argument).is_some() => {
                let pair = memory.read(argument, 16)?;
                let word = |at| number(&pair, at).map(u64::from_ne_bytes);
                in_module(mappings, word(0)?, word(8)?)
            }
            (_, distance) => fixed(distance as i64),
        },
    }
}

/// At the same distance from the thread pointer of each thread.
pub(super) fn fixed(offset: i64) -> Option<thread_place> {
    (offset != 0 && offset.unsigned_abs() < MOST_BYTES)
        .then_some(thread_place { offset: offset as u64, ..thread_place::default() })
}

fn in_module(mappings: &[Mapping<'_>], module: u64, offset: u64) -> Option<thread_place> {
    if !(1..MOST_MODULES).contains(&module) || offset >= MOST_BYTES {
        return None;
    }
    let is_musl = |mapping: &Mapping<'_>| {
        let file = mapping.name.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        file == b"libc.so" || file.starts_with(b"ld-musl-") || file.starts_with(b"libc.musl-")
    };
    let vector = if mappings.iter().any(is_musl) { MUSL } else { GLIBC };
    Some(thread_place {
        module,
        offset,
        vector: vector.at as u64,
        entry: vector.entry,
        count: vector.count as u64,
    })
}
