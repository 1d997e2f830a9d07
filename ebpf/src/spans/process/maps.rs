//! The mappings of a process: `proc_pid_maps(5)`.

use std::fs::File;
use std::io::Read as _;

/// Text of more is not read: 65,530 mappings, the kernel's usual limit, with long names.
const LONGEST: u64 = 16 << 20;

/// The file, as bytes: names are whatever its owner likes.
pub(super) struct Maps(Vec<u8>);

/// One mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapping<'a> {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) is_readable: bool,
    /// Where in its file it begins.
    pub(super) offset: u64,
    /// Major and minor number, as text.
    pub(super) device: &'a str,
    /// 0: of no file.
    pub(super) inode: u64,
    pub(super) name: &'a [u8],
}

impl Maps {
    /// `None`: there is no such process, it may not be read, or it has too many.
    pub(super) fn read(pid: u32) -> Option<Self> {
        let file = File::open(format!("/proc/{pid}/maps")).ok()?;
        let mut text = Vec::new();
        let length = file.take(LONGEST).read_to_end(&mut text).ok()?;
        ((length as u64) < LONGEST).then_some(Self(text))
    }

    pub(super) fn parse(&self) -> Vec<Mapping<'_>> {
        parse(&self.0)
    }
}

impl Mapping<'_> {
    /// Whether a file that can be read begins here.
    pub(super) fn is_start_of_file(&self) -> bool {
        self.is_readable && self.inode != 0 && self.offset == 0
    }
}

/// Lines that are none are left out.
pub(super) fn parse(text: &[u8]) -> Vec<Mapping<'_>> {
    text.split(|byte| *byte == b'\n').filter_map(mapping).collect()
}

/// `start-end perms offset device inode name`, the name after any number of blanks, or absent.
fn mapping(line: &[u8]) -> Option<Mapping<'_>> {
    let mut fields = line.splitn(6, |byte| *byte == b' ');
    let mut field = || str::from_utf8(fields.next()?).ok();
    let (range, permissions, offset, device, inode) = (field()?, field()?, field()?, field()?, field()?);
    let (start, end) = range.split_once('-')?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    Some(Mapping {
        start: hex(start)?,
        end: hex(end)?,
        is_readable: permissions.starts_with('r'),
        offset: hex(offset)?,
        device,
        inode: inode.parse().ok()?,
        name: fields.next().unwrap_or_default().trim_ascii_start(),
    })
}

/// The mapping that an address is in, if it can be read. They are sorted, as the kernel tells them.
pub(super) fn at<'a, 'b>(mappings: &'a [Mapping<'b>], address: u64) -> Option<&'a Mapping<'b>> {
    let after = mappings.partition_point(|mapping| mapping.start <= address);
    let found = mappings.get(after.checked_sub(1)?)?;
    (address < found.end && found.is_readable).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"55d0-55e0 r--p 00000000 fe:01 4711                       /usr/bin/a b\n\
        7f00-7f10 rw-p 00000000 00:00 0 \n\
        7f10-7f20 ---p 00001000 00:01 12                         /memfd:OTEL_CTX (deleted)\n\
        nonsense\n";

    #[test]
    fn lines_are_mappings_and_others_are_left_out() {
        let mappings = parse(TEXT);
        assert_eq!(mappings.len(), 3);
        assert_eq!(
            (mappings[0].name, mappings[0].device, mappings[0].inode),
            (&b"/usr/bin/a b"[..], "fe:01", 4711)
        );
        assert!(mappings[0].is_start_of_file() && !mappings[1].is_start_of_file());
        assert_eq!((mappings[1].name, mappings[2].offset), (&b""[..], 0x1000));
        assert_eq!(mappings[2].name, b"/memfd:OTEL_CTX (deleted)");
    }

    #[test]
    fn an_address_is_in_a_mapping_that_can_be_read_or_in_none() {
        let mappings = parse(TEXT);
        let start = |address| at(&mappings, address).map(|found| found.start);
        assert_eq!([start(0x55d0), start(0x55df), start(0x7f0f)], [Some(0x55d0), Some(0x55d0), Some(0x7f00)]);
        assert_eq!([start(0), start(0x55e0), start(0x7f10), start(u64::MAX)], [None; 4]);
    }
}
