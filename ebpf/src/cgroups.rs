//! Where the root of the cgroup hierarchy is.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;

/// Inode of the root of the hierarchy, in `fs/kernfs` the first one that is made.
const ROOT: u64 = 1;

/// Why there is nothing to attach to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CgroupsError {
    #[error("the mounts of this process: {0}")]
    Mounts(#[source] io::Error),
    #[error("no cgroup v2 hierarchy is mounted from its root")]
    Absent,
    #[error("the root of the cgroup hierarchy: {0}")]
    Root(#[source] io::Error),
}

/// The root of the v2 hierarchy, opened. In a container that sees its own cgroups only there is none: what is mounted there
/// has the root's looks, but not its number.
pub(crate) fn cgroups_root() -> Result<File, CgroupsError> {
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(CgroupsError::Mounts)?;
    let places = mounts.lines().filter_map(|line| {
        let mut columns = line.split(' ').skip(1);
        let place = columns.next()?;
        (columns.next() == Some("cgroup2")).then_some(place)
    });
    let is_root = |place: &&str| fs::metadata(place).is_ok_and(|found| found.ino() == ROOT);
    let root = places.into_iter().find(is_root).ok_or(CgroupsError::Absent)?;
    File::open(root).map_err(CgroupsError::Root)
}
