//! Names as the kernel keeps them: up to a zero byte, or to their length.

use jitterscope_ebpf::abi::COMMAND_NAME;

/// The name of a task (`comm`). It can be anything that a program gave itself.
pub(super) fn command(name: &[u8; COMMAND_NAME as usize]) -> String {
    text(name)
}

/// Any such name.
pub(super) fn text(name: &[u8]) -> String {
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    String::from_utf8_lossy(&name[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_ends_at_its_zero_byte_or_at_its_length() {
        assert_eq!(command(b"nginx\0remainder\0"), "nginx");
        assert_eq!(command(b"sixteen-bytes-ok"), "sixteen-bytes-ok");
        assert_eq!(text(&[0; 32]), "");
    }
}
