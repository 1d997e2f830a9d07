//! The process context: OpenTelemetry's OTEP 4719, version 2. A mapping with a name of its own begins with a header that
//! points to a protobuf message, `ProcessContext { Resource resource = 1; repeated KeyValue attributes = 2 }`.

use super::maps::{self, Mapping};
use super::memory::{Memory, number};

/// What the name of its mapping begins with.
const NAMES: [&[u8]; 3] = [b"[anon_shmem:OTEL_CTX]", b"[anon:OTEL_CTX]", b"/memfd:OTEL_CTX"];
const SIGNATURE: &[u8; 8] = b"OTEL_CTX";
const VERSION: u32 = 2;
const HEADER: usize = 32;
/// No message of more bytes is read: attributes of one process.
const LONGEST: u32 = 64 << 10;
/// How often one is read that changes meanwhile.
const TRIES: usize = 3;

/// The attribute that says what the threads' records are like, and what is understood here: both are that of OTEP 4947,
/// before it got its number and after.
const SCHEMA: &[u8] = b"threadlocal.schema_version";
const SCHEMAS: [&[u8]; 2] = [b"tlsdesc_v1_dev", b"tls_v1"];

/// A header that is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) size: u32,
    /// `CLOCK_BOOTTIME`, ns. Each change has another one.
    pub(super) published: u64,
    pub(super) payload: u64,
}

impl Header {
    /// `None`: it is none, or one that is being changed.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let header = Self {
            size: u32::from_ne_bytes(number(bytes, 12)?),
            published: u64::from_ne_bytes(number(bytes, 16)?),
            payload: u64::from_ne_bytes(number(bytes, 24)?),
        };
        let is_ours = bytes.starts_with(SIGNATURE) && u32::from_ne_bytes(number(bytes, 8)?) == VERSION;
        (is_ours && header.published != 0 && (1..=LONGEST).contains(&header.size)).then_some(header)
    }
}

/// Whether the process says that its threads keep contexts of a kind that is understood.
pub(super) fn has_thread_contexts(memory: &Memory, mappings: &[Mapping<'_>]) -> bool {
    let is_named = |mapping: &&Mapping<'_>| NAMES.iter().any(|name| mapping.name.starts_with(name));
    let payload = mappings.iter().find(is_named).and_then(|mapping| read(memory, mapping.start, mappings));
    payload.is_some_and(|payload| has_known_schema(&payload))
}

fn read(memory: &Memory, at: u64, mappings: &[Mapping<'_>]) -> Option<Vec<u8>> {
    (0..TRIES).find_map(|_| {
        let header = Header::parse(&memory.read(at, HEADER)?)?;
        maps::at(mappings, header.payload)?;
        let payload = memory.read(header.payload, header.size as usize)?;
        let after = Header::parse(&memory.read(at, HEADER)?)?;
        (after == header).then_some(payload)
    })
}

/// Whether the message names a schema that is understood, and no other.
pub(super) fn has_known_schema(message: &[u8]) -> bool {
    let mut named =
        fields(message).filter(|(number, _)| *number == 2).filter_map(|(_, attribute)| schema(attribute));
    named.next().is_some_and(|schema| SCHEMAS.contains(&schema)) && named.next().is_none()
}

/// The text of the attribute, if it is that one: `KeyValue { key = 1, AnyValue value = 2 }`, `AnyValue { string_value = 1 }`.
fn schema(attribute: &[u8]) -> Option<&[u8]> {
    let field =
        |message, wanted| fields(message).find(|(number, _)| *number == wanted).map(|(_, bytes)| bytes);
    (field(attribute, 1)? == SCHEMA)
        .then(|| field(attribute, 2).and_then(|value| field(value, 1)).unwrap_or_default())
}

/// Number and bytes of the fields of a protobuf message that have a length. It ends at what is none.
fn fields(mut message: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    std::iter::from_fn(move || {
        loop {
            let tag = varint(&mut message)?;
            let length = match tag & 7 {
                0 => {
                    varint(&mut message)?;
                    continue;
                }
                1 => 8,
                2 => usize::try_from(varint(&mut message)?).ok()?,
                5 => 4,
                _ => return None,
            };
            let (bytes, rest) = message.split_at_checked(length)?;
            message = rest;
            if tag & 7 == 2 {
                return Some((tag >> 3, bytes));
            }
        }
    })
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::fuzz::{HEADER as WHOLE, MESSAGE};
    use super::*;

    #[test]
    fn a_header_is_whole_or_none() {
        let whole = Header::parse(WHOLE).unwrap();
        assert_eq!(whole, Header { size: MESSAGE.len() as u32, published: 7, payload: 0x7f00_0000_1000 });
        for (at, value) in [(0, b'o'), (8, 1), (16, 0), (12, 0), (14, 2)] {
            let mut changed = WHOLE.to_vec();
            changed[at] = value;
            assert_eq!(Header::parse(&changed), None, "byte {at}");
        }
        assert_eq!(Header::parse(&WHOLE[..31]), None);
    }

    #[test]
    fn the_schema_is_one_that_is_understood_or_there_is_no_context() {
        assert!(has_known_schema(MESSAGE));
        let other = MESSAGE.to_vec();
        let at = other.windows(7).position(|text| text == b"tlsdesc").unwrap();
        for (at, by) in [(at, b'x'), (at - 20, b'y')] {
            let mut other = other.clone();
            other[at] = by;
            assert!(!has_known_schema(&other));
        }
        assert!(!has_known_schema(&[MESSAGE, MESSAGE].concat()), "two of them");
        (0..MESSAGE.len()).for_each(|length| assert!(!has_known_schema(&MESSAGE[..length])));
    }
}
