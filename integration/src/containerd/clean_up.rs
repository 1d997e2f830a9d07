//! Removes what a containerd of a test left: shims, pods with their namespaces, the bridge.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Child;

use crate::clean_up::{cgroups, entries, kill, processes, remove_cgroups, run, unmount_below};

/// Ends and removes everything.
pub(super) fn all(containerd: &mut Child, directory: &Path, bridge: &str) {
    let _ = containerd.kill();
    let _ = containerd.wait();
    let sockets = shim_sockets(directory);
    let groups = cgroups(directory);
    let processes: Vec<u32> = groups.iter().flat_map(|group| processes(group)).collect();
    let namespaces: Vec<u64> = processes.iter().filter_map(|pid| netns(*pid)).collect();
    shims(directory).into_iter().chain(processes).for_each(kill);
    remove_cgroups(&groups);
    remove_namespaces(&namespaces);
    unmount_below(directory);
    sockets.iter().for_each(|socket| drop(fs::remove_file(socket)));
    run("ip", &["link", "delete", bridge]);
    for shared in ["/run/containerd/s", "/run/containerd"] {
        let _ = fs::remove_dir(shared);
    }
}

/// Shims that serve this containerd: their command line names its socket.
fn shims(directory: &Path) -> Vec<u32> {
    let socket = directory.join("c.sock").display().to_string();
    let serves = |process: &PathBuf| {
        let line = fs::read(process.join("cmdline")).unwrap_or_default();
        let mut arguments = line.split(|byte| *byte == 0);
        let shim = arguments.next().is_some_and(|program| program.ends_with(b"containerd-shim-runc-v2"));
        shim && arguments.any(|argument| argument == socket.as_bytes())
    };
    let processes = entries(Path::new("/proc")).into_iter().filter(serves);
    processes.filter_map(|process| process.file_name()?.to_str()?.parse().ok()).collect()
}

/// Sockets that shims made outside of the directory; each bundle names its own.
fn shim_sockets(directory: &Path) -> Vec<PathBuf> {
    let bundles = entries(&directory.join("state/io.containerd.runtime.v2.task/k8s.io"));
    let address = |bundle: PathBuf| fs::read_to_string(bundle.join("address")).ok();
    let addresses = bundles.into_iter().filter_map(address);
    addresses.filter_map(|address| address.strip_prefix("unix://").map(PathBuf::from)).collect()
}

fn netns(pid: u32) -> Option<u64> {
    Some(fs::metadata(format!("/proc/{pid}/ns/net")).ok()?.ino())
}

/// Unmounts the names under which the runtime keeps the pods' namespaces; the host's own has none.
fn remove_namespaces(inodes: &[u64]) {
    for path in entries(Path::new("/run/netns")) {
        if fs::metadata(&path).is_ok_and(|metadata| inodes.contains(&metadata.ino())) {
            run("umount", &["--lazy", &path.display().to_string()]);
            let _ = fs::remove_file(&path);
        }
    }
}
