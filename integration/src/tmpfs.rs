//! A small file system of a test's own, to be filled up and made read-only.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use crate::netns::run;

/// A mounted file system in memory. Dropping it unmounts it.
#[derive(Debug)]
pub struct Tmpfs(TempDir);

impl Tmpfs {
    /// Mounts one of this size, as `mount` takes it.
    ///
    /// # Errors
    /// It cannot be mounted.
    pub fn new(size: &str) -> Result<Self> {
        let directory = TempDir::new()?;
        let options = format!("size={size},mode=0700");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(directory.path()))?;
        Ok(Self(directory))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Lets nobody write any more, or all again.
    ///
    /// # Errors
    /// A file is open for writing.
    pub fn read_only(&self, read_only: bool) -> Result<()> {
        let mode = if read_only { "remount,ro" } else { "remount,rw" };
        run(Command::new("mount").args(["-o", mode]).arg(self.path())).map(drop)
    }

    /// Takes all the room that is left; removing the file gives it back.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn fill(&self) -> Result<PathBuf> {
        let path = self.path().join("ballast");
        let mut file = fs::File::create(&path)?;
        // It ends with an error, as it is meant to.
        let _ = std::io::copy(&mut std::io::repeat(7), &mut file);
        Ok(path)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: a file of a failed test may still be open.
        let _ = run(Command::new("umount").arg("--lazy").arg(self.path()));
    }
}
