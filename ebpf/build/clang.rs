//! How the programs are compiled: for the build, and for the test that compiles them for other machines.

use std::env;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The compiler: what `JITTERSCOPE_CLANG` names, else the first of the usual names that runs.
pub(crate) fn find() -> Result<String> {
    if let Ok(named) = env::var("JITTERSCOPE_CLANG") {
        return Ok(named);
    }
    let runs = |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success());
    let found = ["clang-19", "clang"].into_iter().find(runs);
    found.map(str::to_owned).context("no clang: install clang-19, or name one in JITTERSCOPE_CLANG")
}

/// Compiles one file for machines of an architecture, by Rust's name. The failing command and its output are in the error.
pub(crate) fn compile(clang: &str, architecture: &str, source: &Path, object: &Path) -> Result<()> {
    let registers = match architecture {
        "x86_64" => "-D__TARGET_ARCH_x86",
        "aarch64" => "-D__TARGET_ARCH_arm64",
        other => bail!("no eBPF register layout for {other}"),
    };
    let mut command = Command::new(clang);
    command.args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror", registers]);
    command.arg("-c").arg(source).arg("-o").arg(object);
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
