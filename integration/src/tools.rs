//! Programs that the set-up script built into its cache, found by the versions in `versions.env`.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

const VERSIONS: &str = include_str!("../versions.env");

/// Path of one program of a tool, for example `("collector", "otelcol")` or `("kubernetes-validate", "bin/kubernetes-validate")`.
///
/// # Errors
///
/// The tool has no line in `versions.env`, or the program is not in the cache.
pub fn path(tool: &str, program: &str) -> Result<PathBuf> {
    let path = cache().join(format!("{tool}-{}", version(tool)?)).join(program);
    ensure!(path.exists(), "{} is missing: run integration/setup.sh test", path.display());
    Ok(path)
}

/// As [`path`], for a test that can do without: `None` says on standard error that the test is skipped and why.
///
/// # Panics
///
/// In continuous integration (`CI` is set), where nothing may be skipped.
#[must_use]
pub fn path_or_skip(tool: &str, program: &str) -> Option<PathBuf> {
    match path(tool, program) {
        Ok(path) => Some(path),
        Err(reason) if std::env::var_os("CI").is_some() => panic!("{reason:#}"),
        Err(reason) => {
            // The skip is only reported; a closed standard error does not change the outcome.
            let _ = writeln!(std::io::stderr(), "skipped: {reason:#}");
            None
        }
    }
}

/// The directory of the set-up script's builds: `$JITTERSCOPE_CACHE`, or its default.
#[must_use]
pub fn cache() -> PathBuf {
    std::env::var_os("JITTERSCOPE_CACHE")
        .map_or_else(|| PathBuf::from("/var/cache/jitterscope"), PathBuf::from)
}

/// The repository's root, for tests that use its other files.
#[must_use]
pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn version(tool: &str) -> Result<&'static str> {
    let key = format!("{}_VERSION=", tool.to_uppercase().replace('-', "_"));
    VERSIONS
        .lines()
        .find_map(|line| line.strip_prefix(&key))
        .with_context(|| format!("versions.env has no {key}"))
}
