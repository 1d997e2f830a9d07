//! Removes what a container runtime of a test left: processes, cgroups, mounts, devices. By ids and paths that the test's own
//! directory names, so that others' containers are not touched. Goes on when a step fails: most often there is nothing left
//! to do.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long killed processes may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// File with the paths of all cgroups that were made.
const CGROUPS: &str = "cgroups";

/// Notes a cgroup that will hold containers, by its path in each hierarchy, before it is made.
pub(crate) fn remember_cgroup(directory: &Path, path: &str) -> std::io::Result<()> {
    let mut list = fs::File::options().create(true).append(true).open(directory.join(CGROUPS))?;
    writeln!(list, "{path}")
}

/// Runs a program; what comes of it does not matter.
pub(crate) fn run(program: &str, arguments: &[&str]) {
    let _ = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

/// Ends a process at once.
pub(crate) fn kill(pid: u32) {
    run("kill", &["-KILL", &pid.to_string()]);
}

/// What is in a directory.
pub(crate) fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// The cgroups in every hierarchy.
pub(crate) fn cgroups(directory: &Path) -> Vec<PathBuf> {
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
pub(crate) fn processes(group: &Path) -> Vec<u32> {
    let groups = entries(group).into_iter().chain([group.to_owned()]);
    let lists = groups.filter_map(|group| fs::read_to_string(group.join("cgroup.procs")).ok());
    lists.flat_map(|list| list.lines().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()).collect()
}

/// Removes the groups once they are empty, and those above them unless others use them.
pub(crate) fn remove_cgroups(groups: &[PathBuf]) {
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

/// Unmounts root file systems and shared memory below the directory, the latest first.
pub(crate) fn unmount_below(directory: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let ours: Vec<_> = points.filter(|point| Path::new(point).starts_with(directory)).collect();
    ours.iter().rev().for_each(|point| run("umount", &["--lazy", point]));
}
