//! The frame of netlink messages (`include/uapi/linux/netlink.h`): headers, and attributes in the byte order of the machine.

use std::iter::from_fn;

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;

/// Length of `struct nlattr`.
const ATTRIBUTE: usize = 4;

/// `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER` are flags in an attribute's type.
const TYPE: u16 = 0x3fff;

/// Flags of a question: to be answered, and by a list.
pub const REQUEST: u16 = 0x1;
/// `NLM_F_DUMP`.
pub const DUMP: u16 = 0x300;

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'b> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// What follows the header.
    pub body: &'b [u8],
}

/// The messages of a datagram, as far as they are whole.
pub fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    from_fn(move || {
        let length = number(datagram)? as usize;
        let message = Message {
            kind: short(datagram.get(4..)?)?,
            flags: short(datagram.get(6..)?)?,
            body: datagram.get(HEADER..length)?,
        };
        datagram = datagram.get(aligned(length)..).unwrap_or_default();
        Some(message)
    })
}

/// Type and content of each attribute, as far as they are whole.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    from_fn(move || {
        let length = usize::from(short(bytes)?);
        let kind = short(bytes.get(2..)?)? & TYPE;
        let content = bytes.get(ATTRIBUTE..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        Some((kind, content))
    })
}

/// Content of the first attribute of a type.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, content)| content)
}

/// A text that ends with a zero byte.
pub fn text(content: &[u8]) -> Option<&str> {
    std::str::from_utf8(content.split(|byte| *byte == 0).next()?).ok()
}

/// The first two bytes as a number.
pub fn short(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

/// The first four bytes as a number.
pub fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// The first eight bytes as a number.
pub fn long(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes))
}

/// A question: `body` is what follows the header.
pub fn question(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = (HEADER + body.len()) as u32;
    let mut bytes = Vec::with_capacity(length as usize);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((REQUEST | flags).to_ne_bytes());
    // Sequence number and port: a socket has one question at a time.
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

/// Messages and attributes begin at multiples of four.
fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An attribute with its padding.
    pub(in crate::netlink) fn attribute_of(kind: u16, content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::from(((ATTRIBUTE + content.len()) as u16).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(content);
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    #[test]
    fn messages_of_one_datagram_are_read_one_after_the_other() {
        let mut datagram = question(20, DUMP, b"abc");
        datagram.push(0);
        datagram.extend(question(3, 0, b"wxyz"));
        let found: Vec<_> = messages(&datagram).collect();
        let expected = [
            Message { kind: 20, flags: REQUEST | DUMP, body: b"abc" },
            Message { kind: 3, flags: REQUEST, body: b"wxyz" },
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_datagram_cut_anywhere_gives_what_is_whole_of_it() {
        let mut datagram = question(1, 0, b"first");
        datagram.resize(aligned(datagram.len()), 0);
        let second = datagram.len();
        datagram.extend(question(2, 0, b"seconds."));
        for length in 0..datagram.len() {
            let expected = usize::from(length >= HEADER + 5);
            assert_eq!(messages(&datagram[..length]).count(), expected, "{length} of {second}");
        }
    }

    #[test]
    fn attributes_cut_or_with_an_impossible_length_end_the_list() {
        let whole = [attribute_of(1, b"one"), attribute_of(0x8002, b"seven b")].concat();
        assert_eq!(attributes(&whole).collect::<Vec<_>>(), [(1, &b"one"[..]), (2, b"seven b")]);
        for length in 0..whole.len() - 1 {
            assert_eq!(attributes(&whole[..length]).count(), usize::from(length >= 7), "{length}");
        }
        assert_eq!(attributes(&[3, 0, 1, 0, 9, 9, 9, 9]).count(), 0);
        assert_eq!(attributes(&[0; 16]).count(), 0);
    }

    #[test]
    fn a_text_ends_at_its_zero() {
        assert_eq!(text(b"fq_codel\0\0"), Some("fq_codel"));
        assert_eq!(text(&[0xff, 0]), None);
    }
}
