//! The lines of `/proc/kallsyms`: address, type letter, name, module.

use std::fs::File;
use std::io::{self, BufRead, BufReader};

const PATH: &str = "/proc/kallsyms";

/// Names of the padding before functions (x86, `CONFIG_FUNCTION_PADDING_BYTES`), as many as functions; nothing runs there.
const PADDING: &[u8] = b"__pfx_";

/// The running kernel's.
pub(super) fn open() -> io::Result<impl BufRead> {
    Ok(BufReader::with_capacity(1 << 16, File::open(PATH)?))
}

/// Calls `visit` with address and name of every function.
pub(super) fn for_each_function(
    mut lines: impl BufRead,
    mut visit: impl FnMut(u64, &[u8]),
) -> io::Result<()> {
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        if let Some((address, b't' | b'T' | b'w' | b'W', name)) = parse(&line)
            && !name.starts_with(PADDING)
        {
            visit(address, name);
        }
        line.clear();
    }
    Ok(())
}

fn parse(line: &[u8]) -> Option<(u64, u8, &[u8])> {
    let (address, rest) = line.split_at_checked(16)?;
    let address = u64::from_str_radix(str::from_utf8(address).ok()?, 16).ok()?;
    let name = rest.get(3..)?;
    let end = name.iter().position(|c| matches!(c, b'\t' | b'\n' | b' ')).unwrap_or(name.len());
    Some((address, rest[1], &name[..end]))
}
