//! What a kernel says of its types and functions. The types can be in a file that the user names.

use jitterscope_ebpf::{Functions, Symbols, btf::Btf, nearest_functions};

use super::Target;

/// A structure with a union in it, an enum, a tracepoint with an argument, a function, in the order of a little-endian machine.
const BTF: &[u8] = b"\
    \x9f\xeb\x01\0\x18\0\0\0\0\0\0\0\xa0\0\0\0\xa0\0\0\0\x1d\0\0\0\
    \x01\0\0\0\0\0\0\x01\x04\0\0\0\x20\0\0\x01\
    \x05\0\0\0\x01\0\0\x06\x04\0\0\0\x07\0\0\0\x07\0\0\0\
    \x09\0\0\0\x02\0\0\x04\x08\0\0\0\x0b\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\x04\0\0\0\x20\0\0\0\
    \0\0\0\0\x01\0\0\x05\x04\0\0\0\x0d\0\0\0\x01\0\0\0\0\0\0\0\
    \0\0\0\0\x02\0\0\x0d\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\
    \0\0\0\0\0\0\0\x02\x05\0\0\0\
    \x0f\0\0\0\0\0\0\x08\x06\0\0\0\
    \x1b\0\0\0\0\0\0\x0c\x05\0\0\0\
    \0int\0e\0a\0s\0m\0n\0btf_trace_t\0f\0";

const SYMBOLS: &[u8] = b"\
    ffffffff81000000 T _stext\n\
    ffffffff81000000 T __pfx_one\n\
    ffffffff81000010 t one\n\
    ffffffff81000090 t one.cold\n\
    ffffffff81000100 T _etext\n\
    ffffffffc0000000 t two\t[module]\n";

pub(crate) const TARGETS: &[Target] = &[
    Target { name: "btf", read: btf, samples: &[BTF] },
    Target { name: "symbols", read: symbols, samples: &[SYMBOLS] },
];

/// What the receiver asks of types.
fn btf(bytes: &[u8]) {
    let Some(btf) = Btf::parse(bytes.to_vec()) else { return };
    assert!(btf.bytes().len() <= bytes.len());
    let constants = btf.enumerators("e").map_or(0, |constants| constants.len());
    assert!(constants * 8 <= bytes.len());
    btf.enumerators_beside("a");
    btf.has_member("s", "nowhere");
    btf.has_function("f");
    btf.has_typedef("btf_trace_t");
    btf.tracepoint_arguments("t");
}

/// Functions by name and by address.
fn symbols(bytes: &[u8]) {
    let Ok(functions) = Functions::parse(bytes) else { return };
    for range in functions.ranges(&["one", "two"]) {
        assert!(range.start <= range.end && range.wanted < 2, "{range:?}");
    }
    let addresses = [0, 0xffff_ffff_8100_0020, u64::MAX, 0xffff_ffff_8100_0020];
    let near = nearest_functions(bytes, &addresses).unwrap_or_default();
    assert_eq!(near.len(), addresses.len());
    assert_eq!(near[1], near[3]);
    drop(Symbols::new(functions.into()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_samples_are_read_as_what_they_are() {
        let btf = Btf::parse(BTF.to_vec()).unwrap();
        assert_eq!(btf.enumerators("e"), Some(vec![("a".to_owned(), 7)]));
        assert_eq!(btf.enumerators("e"), btf.enumerators_beside("a"));
        assert!(btf.has_member("s", "m") && btf.has_member("s", "n") && !btf.has_member("s", "a"));
        assert!(btf.has_function("f") && btf.has_typedef("btf_trace_t"));
        assert_eq!(btf.tracepoint_arguments("t"), Some(1));
        let functions = Functions::parse(SYMBOLS).unwrap();
        assert_eq!(functions.ranges(&["one"]).len(), 2);
        let near = nearest_functions(SYMBOLS, &[0xffff_ffff_c000_0004, 0xffff_ffff_8100_0020, 1]).unwrap();
        assert_eq!(near, [Some("two+0x4".to_owned()), Some("one+0x10".to_owned()), None]);
    }

    /// A file of the user's may be anything.
    #[test]
    fn a_structure_that_contains_itself_is_looked_through_in_time() {
        let mut types = [5, 4 << 24 | 300, 8_u32].map(u32::to_le_bytes).concat();
        let member = [0, 1_u32, 0].map(u32::to_le_bytes).concat();
        types.extend(member.repeat(300));
        let strings = b"\0int\0s\0";
        let length = types.len() as u32;
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        bytes.extend([24, 0, length, length, strings.len() as u32].map(u32::to_le_bytes).concat());
        bytes.extend(types);
        bytes.extend(strings);
        assert!(!Btf::parse(bytes).unwrap().has_member("s", "nowhere"));
    }
}
