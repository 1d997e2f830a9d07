//! A small disk of a test's own, that can be kept from answering.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use tempfile::TempDir;

use crate::netns::run;

/// A mounted ext4 in a file. Dropping it lets it answer and unmounts it.
#[derive(Debug)]
pub struct Disk {
    mounted: PathBuf,
    _directory: TempDir,
}

impl Disk {
    /// Makes and mounts one of so many bytes.
    ///
    /// # Errors
    /// It cannot be made or mounted.
    pub fn new(bytes: u64) -> Result<Self> {
        let directory = TempDir::new()?;
        let (image, mounted) = (directory.path().join("image"), directory.path().join("disk"));
        File::create(&image)?.set_len(bytes)?;
        fs::create_dir(&mounted)?;
        run(Command::new("mkfs.ext4").arg("-q").arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mounted))?;
        Ok(Self { mounted, _directory: directory })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mounted
    }

    /// From now on who writes waits, until it answers again.
    ///
    /// # Errors
    /// It is so already.
    pub fn answers(&self, answers: bool) -> Result<()> {
        let how = if answers { "--unfreeze" } else { "--freeze" };
        run(Command::new("fsfreeze").arg(how).arg(&self.mounted)).map(drop)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It answers, unless a test failed. The file is still open then.
        let _ = self.answers(true);
        let _ = run(Command::new("umount").arg("--lazy").arg(&self.mounted));
    }
}
