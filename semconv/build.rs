//! Turns the registry (`registry/*.yaml`) into typed Rust constants. A broken registry fails the build, with every
//! problem named at once.

#[path = "build/check.rs"]
mod check;
#[path = "build/generate.rs"]
mod generate;
#[path = "build/registry.rs"]
mod registry;

use std::path::Path;
use std::{env, fs};

use anyhow::{Context, Result, bail};

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=registry");
    println!("cargo::rerun-if-changed=build");
    let (registry, mut problems) = registry::read(Path::new("registry"))?;
    problems.extend(check::problems(&registry));
    if !problems.is_empty() {
        bail!("the registry is broken:\n  {}", problems.join("\n  "));
    }
    let target = Path::new(&env::var("OUT_DIR")?).join("registry.rs");
    fs::write(&target, generate::constants(&registry)?)
        .with_context(|| format!("cannot write {}", target.display()))
}
