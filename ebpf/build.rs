//! Compiles every `src/bpf/*.bpf.c` with clang and turns `src/bpf/abi.h` into Rust with zerocopy derives.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, bail};
use bindgen::callbacks::{DeriveInfo, ParseCallbacks};

const SOURCES: &str = "src/bpf";

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed={SOURCES}");
    println!("cargo::rerun-if-env-changed=JITTERSCOPE_CLANG");
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    let clang = clang()?;
    for entry in fs::read_dir(SOURCES).context(SOURCES)? {
        let source = entry?.path();
        let name = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(probe) = name.strip_suffix(".bpf.c") {
            compile(&clang, &source, &out.join(format!("{probe}.o")))?;
        }
    }
    bindings(&out.join("abi.rs"))
}

/// The compiler: what `JITTERSCOPE_CLANG` names, else the first of the usual names that runs.
fn clang() -> Result<String> {
    if let Ok(named) = env::var("JITTERSCOPE_CLANG") {
        return Ok(named);
    }
    let runs = |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success());
    let found = ["clang-19", "clang"].into_iter().find(runs);
    found.map(str::to_owned).context("no clang: install clang-19, or name one in JITTERSCOPE_CLANG")
}

fn compile(clang: &str, source: &Path, object: &Path) -> Result<()> {
    let arch = match env::var("CARGO_CFG_TARGET_ARCH")?.as_str() {
        "x86_64" => "-D__TARGET_ARCH_x86",
        "aarch64" => "-D__TARGET_ARCH_arm64",
        other => bail!("no eBPF register layout for {other}"),
    };
    let mut command = Command::new(clang);
    command.args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror", arch]);
    command.arg("-c").arg(source).arg("-o").arg(object);
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

#[derive(Debug)]
struct Zerocopy;

impl ParseCallbacks for Zerocopy {
    fn add_derives(&self, _: &DeriveInfo<'_>) -> Vec<String> {
        ["FromBytes", "IntoBytes", "Immutable", "KnownLayout"].map(|t| format!("zerocopy::{t}")).to_vec()
    }
}

fn bindings(target: &Path) -> Result<()> {
    let abi = format!("{SOURCES}/abi.h");
    let bindings = bindgen::builder()
        .header(&abi)
        .parse_callbacks(Box::new(Zerocopy))
        .derive_default(true)
        // An array too long for the derive: see histogram.rs.
        .no_default("histogram|passage_times")
        // An array too long for the derive.
        .no_default("namespace_counters")
        .derive_eq(true)
        .derive_hash(true)
        .layout_tests(false)
        .prepend_enum_name(false)
        .generate_comments(false)
        .blocklist_type("[us](8|16|32|64)")
        .generate()
        .with_context(|| abi.clone())?;
    bindings.write_to_file(target).with_context(|| target.display().to_string())
}
