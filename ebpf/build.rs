//! Compiles every `src/bpf/*.bpf.c` with clang and turns `src/bpf/abi.h` into Rust with zerocopy derives.

#[path = "build/clang.rs"]
mod clang;

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result};
use bindgen::callbacks::{DeriveInfo, ParseCallbacks};

const SOURCES: &str = "src/bpf";

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed={SOURCES}");
    println!("cargo::rerun-if-env-changed=JITTERSCOPE_CLANG");
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    let compiler = clang::find()?;
    let architecture = env::var("CARGO_CFG_TARGET_ARCH")?;
    for entry in fs::read_dir(SOURCES).context(SOURCES)? {
        let source = entry?.path();
        let name = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(probe) = name.strip_suffix(".bpf.c") {
            clang::compile(&compiler, &architecture, &source, &out.join(format!("{probe}.o")))?;
        }
    }
    bindings(&out.join("abi.rs"))
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
