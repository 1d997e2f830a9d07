//! Cgroups of a test, and processes in them that do a known amount of input and output.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Where the v2 hierarchy is mounted, alone or beside v1 controllers; a test needs one.
fn hierarchy() -> PathBuf {
    let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(PathBuf::from);
    mounts.into_iter().find(|mount| mount.join("cgroup.procs").exists()).unwrap()
}

/// A cgroup, removed on drop when its processes have ended.
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    pub(crate) fn new() -> Self {
        let name = format!("jse{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = hierarchy().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn id(&self) -> u64 {
        fs::metadata(&self.0).unwrap().ino()
    }

    /// Moves a process here.
    pub(crate) fn take(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    pub(crate) fn remove(&self) {
        fs::remove_dir(&self.0).unwrap();
    }

    /// For a process that moves itself, which is one write of one byte.
    pub(crate) fn procs(&self) -> std::ffi::CString {
        std::ffi::CString::new(self.0.join("cgroup.procs").into_os_string().into_encoded_bytes()).unwrap()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // It may be gone, or still have processes after a failure.
        let _ = fs::remove_dir(&self.0);
    }
}
