//! What a test needs from the machine. Without it the test is skipped and says why; in continuous integration that is a
//! failure.

use std::io::Write;
use std::path::Path;

/// Whether the process is root and every program is there; the set-up script installs them.
///
/// # Panics
/// Something is missing in continuous integration (`CI` is set), where nothing may be skipped.
#[must_use]
pub fn met(programs: &[&str]) -> bool {
    let Some(missing) = missing(programs) else { return true };
    assert!(std::env::var_os("CI").is_none(), "needs {missing}");
    // The skip is only reported; a closed standard error does not change the outcome.
    let _ = writeln!(std::io::stderr(), "skipped: needs {missing}");
    false
}

fn missing(programs: &[&str]) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("root".to_owned());
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Some("a kernel with BTF".to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = |program: &str| std::env::split_paths(&path).any(|folder| folder.join(program).exists());
    programs.iter().find(|program| !found(program)).map(|program| (*program).to_owned())
}
