//! Removes what a containerd of a test left: processes, cgroups, namespaces, mounts, the bridge. By ids and paths that the
//! test's own directory names, so that others' pods are not touched. Goes on when a step fails: most often there is nothing
//! left to do.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long killed processes may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// File with the paths of all cgroups that were made.
const CGROUPS: &str = "cgroups";

/// Notes a cgroup that will hold containers, by its path in each hierarchy, before it is made.
pub(super) fn remember_cgroup(directory: &Path, path: &str) -> std::io::Result<()> {
    let mut list = fs::File::options().create(true).append(true).open(directory.join(CGROUPS))?;
    writeln!(list, "{path}")
}

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

fn run(program: &str, arguments: &[&str]) {
    let _ = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

fn kill(pid: u32) {
    run("kill", &["-KILL", &pid.to_string()]);
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
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

/// The cgroups in every hierarchy.
fn cgroups(directory: &Path) -> Vec<PathBuf> {
    let mut hierarchies = entries(Path::new("/sys/fs/cgroup"));
    hierarchies.push("/sys/fs/cgroup".into());
    let paths = fs::read_to_string(directory.join(CGROUPS)).unwrap_or_default();
    let below = |path: &str| path.trim_start_matches('/').to_owned();
    let groups = hierarchies
        .iter()
        .flat_map(|hierarchy| paths.lines().map(|path| hierarchy.join(below(path))).collect::<Vec<_>>());
    groups.filter(|group| group.is_dir()).collect()
}

/// Processes in a group and in those right below it.
fn processes(group: &Path) -> Vec<u32> {
    let groups = entries(group).into_iter().chain([group.to_owned()]);
    let lists = groups.filter_map(|group| fs::read_to_string(group.join("cgroup.procs")).ok());
    lists.flat_map(|list| list.lines().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()).collect()
}

/// Removes the groups once they are empty, and those above them unless others use them.
fn remove_cgroups(groups: &[PathBuf]) {
    let deadline = Instant::now() + PATIENCE;
    for group in groups {
        while group.exists() && Instant::now() < deadline {
            entries(group)
                .iter()
                .filter(|below| below.is_dir())
                .for_each(|below| drop(fs::remove_dir(below)));
            if fs::remove_dir(group).is_err() {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        group.ancestors().skip(1).take(2).for_each(|above| drop(fs::remove_dir(above)));
    }
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

/// Unmounts root file systems and shared memory below the directory, the latest first.
fn unmount_below(directory: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let ours: Vec<_> = points.filter(|point| Path::new(point).starts_with(directory)).collect();
    ours.iter().rev().for_each(|point| run("umount", &["--lazy", point]));
}
