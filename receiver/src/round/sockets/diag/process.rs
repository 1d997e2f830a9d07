//! Descriptors of processes from `/proc/<pid>/{fd,limits}`.

use std::{collections::HashMap, fs, os::unix::fs::MetadataExt, path::Path};

use jitterscope_ebpf::abi::{
    DESCRIPTOR_EPOLL, DESCRIPTOR_FILE, DESCRIPTOR_OTHER, DESCRIPTOR_PIPE, DESCRIPTOR_SOCKET, descriptor_sums,
    entity as holder,
};

use crate::pods::Namespace;

/// Where the v2 hierarchy is mounted, beside v1 controllers or alone.
const HIERARCHIES: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];

/// The descriptors of all processes by holder.
pub(super) fn descriptors(namespaces: &[Namespace]) -> Vec<(holder, descriptor_sums)> {
    let mut all: HashMap<holder, descriptor_sums> = HashMap::new();
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    for process in processes.flatten() {
        let is_process = process.file_name().to_string_lossy().bytes().all(|c| c.is_ascii_digit());
        // A process that ends meanwhile has none.
        if let Some((holder, sums)) = is_process.then(|| read(&process.path(), namespaces)).flatten() {
            add(all.entry(holder).or_default(), &sums);
        }
    }
    all.into_iter().collect()
}

fn add(total: &mut descriptor_sums, sums: &descriptor_sums) {
    total.open.iter_mut().zip(sums.open).for_each(|(total, open)| *total += open);
    if sums.fullest_open * total.fullest_limit >= total.fullest_open * sums.fullest_limit {
        (total.fullest_open, total.fullest_limit) = (sums.fullest_open, sums.fullest_limit);
    }
}

fn read(process: &Path, namespaces: &[Namespace]) -> Option<(holder, descriptor_sums)> {
    let mut sums = descriptor_sums::default();
    for descriptor in fs::read_dir(process.join("fd")).ok()?.flatten() {
        let Ok(link) = fs::read_link(descriptor.path()) else { continue };
        if let Some(open) = sums.open.get_mut(kind(&link.to_string_lossy()) as usize) {
            *open += 1;
        }
    }
    sums.fullest_open = sums.open.iter().sum();
    sums.fullest_limit = limit(&fs::read_to_string(process.join("limits")).ok()?)?;
    Some((holder_of(process, namespaces)?, sums))
}

fn kind(link: &str) -> u32 {
    match link {
        _ if link.starts_with("socket:") => DESCRIPTOR_SOCKET,
        _ if link.starts_with("pipe:") => DESCRIPTOR_PIPE,
        _ if link.starts_with("/memfd:") => DESCRIPTOR_OTHER,
        _ if link.starts_with('/') => DESCRIPTOR_FILE,
        "anon_inode:[eventpoll]" => DESCRIPTOR_EPOLL,
        _ => DESCRIPTOR_OTHER,
    }
}

/// The soft limit of open files.
pub(in crate::round) fn limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn holder_of(process: &Path, namespaces: &[Namespace]) -> Option<holder> {
    let inode = fs::metadata(process.join("ns/net")).ok()?.ino();
    let known = namespaces.iter().find(|known| u64::from(known.id.inode) == inode)?;
    let cgroup = cgroup(&fs::read_to_string(process.join("cgroup")).unwrap_or_default());
    Some(holder {
        netns_cookie: known.id.cookie,
        cgroup: cgroup.unwrap_or(0),
        netns: known.id.inode,
        reserved: 0,
    })
}

/// Id of the cgroup in the v2 hierarchy: the inode of its directory.
fn cgroup(lines: &str) -> Option<u64> {
    let path = lines.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let root = HIERARCHIES.iter().find(|root| Path::new(root).join("cgroup.controllers").exists())?;
    fs::metadata(Path::new(root).join(path)).ok().map(|directory| directory.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_the_soft_one() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(limit(limits), Some(1024));
        assert_eq!(limit(""), None);
    }

    #[test]
    fn links_tell_the_kind() {
        let links = ["socket:[7]", "pipe:[8]", "/dev/null", "/memfd:x (deleted)", "anon_inode:[eventpoll]"];
        let kinds = [DESCRIPTOR_SOCKET, DESCRIPTOR_PIPE, DESCRIPTOR_FILE, DESCRIPTOR_OTHER, DESCRIPTOR_EPOLL];
        assert_eq!(links.map(kind), kinds);
        assert_eq!(kind("anon_inode:[eventfd]"), DESCRIPTOR_OTHER);
    }
}
