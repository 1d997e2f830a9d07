//! Names of tasks as the kernel keeps them.

use jitterscope_ebpf::abi::COMMAND_NAME;

/// The name of a task (`comm`), up to its zero byte. It can be anything that a program gave itself.
pub(super) fn command(name: &[u8; COMMAND_NAME as usize]) -> String {
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
        assert_eq!(command(&[0; 16]), "");
    }
}
