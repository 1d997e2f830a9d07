//! Network namespaces that are mounted on a file: made by `ip netns`, by Docker, or by a container runtime for its pods.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// File system type of namespace files, include/uapi/linux/magic.h.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// Most mounts looked at in one directory; more than this is a leak of somebody's, and the rest resolves by processes.
const MAX_MOUNTS: usize = 4_096;

/// A directory that changed less than this ago may have changed again within one tick of its time stamp, or have a file on
/// which the namespace is mounted only now (`ip netns add` makes the file first).
const SETTLING: Duration = Duration::from_secs(2);

/// A namespace mounted on a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Mount {
    /// The file.
    pub(super) path: PathBuf,
    /// Its name: that of the namespace.
    pub(super) name: String,
    /// The directory changed since the last look: another namespace may be mounted under the same name by now.
    pub(super) changed: bool,
    /// The directory changed so lately that its time stamp may hide another change.
    pub(super) recent: bool,
}

/// Directories with mounted namespaces, and when each last changed.
pub(super) struct Mounts {
    directories: Vec<(PathBuf, Option<SystemTime>)>,
}

impl Mounts {
    pub(super) fn new(directories: &[PathBuf]) -> Self {
        Self { directories: directories.iter().map(|path| (path.clone(), None)).collect() }
    }

    /// All mounted namespaces by inode; of several names the first in the order of the directories and the alphabet.
    pub(super) fn list(&mut self) -> HashMap<u32, Mount> {
        let mut mounts = HashMap::new();
        for (directory, changed) in &mut self.directories {
            let modified = std::fs::metadata(&*directory).and_then(|metadata| metadata.modified()).ok();
            let (differs, recent) = (modified != *changed, modified.is_none_or(is_recent));
            *changed = modified;
            for (inode, path, name) in entries(directory) {
                mounts.entry(inode).or_insert(Mount { path, name, changed: differs, recent });
            }
        }
        mounts
    }
}

fn is_recent(time: SystemTime) -> bool {
    // A time in the future, after the clock was set back, is no reason to trust.
    time.elapsed().map_or(true, |elapsed| elapsed < SETTLING)
}

/// Inode, path and name of each namespace in a directory.
fn entries(directory: &Path) -> Vec<(u32, PathBuf, String)> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut found: Vec<_> = entries
        .flatten()
        .take(MAX_MOUNTS)
        .filter_map(|entry| {
            let path = entry.path();
            let inode = namespace_inode(&path)?;
            Some((inode, path, entry.file_name().to_string_lossy().into_owned()))
        })
        .collect();
    found.sort_by(|a, b| a.2.cmp(&b.2));
    found
}

/// Inode of the namespace mounted on a file; `None` for an ordinary file. (A namespace of another type there does no harm:
/// entering it as a network namespace fails, and no packet carries its number.)
fn namespace_inode(path: &Path) -> Option<u32> {
    let inode = std::fs::metadata(path).ok()?.ino();
    let system = rustix::fs::statfs(path).ok()?;
    (system.f_type as u64 == NSFS_MAGIC).then(|| u32::try_from(inode).ok())?
}
