//! Which pod and container a cgroup path belongs to: pure functions over paths, for every runtime and cgroup driver.

/// The pod and the container that a cgroup belongs to, as far as its path says.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Owner {
    /// Pod uid with dashes; of a static pod the 32 hexadecimal digits of its configuration hash.
    pub(super) pod: Option<String>,
    /// Container id, 64 hexadecimal digits. In a pod this can be the sandbox's ("pause") id: paths do not tell.
    pub(super) container: Option<String>,
    /// Name of the container runtime (`container.runtime.name`), where the path says it.
    pub(super) runtime: Option<&'static str>,
}

impl Owner {
    /// Whether the path named neither a pod nor a container.
    pub(super) fn is_none(&self) -> bool {
        self.pod.is_none() && self.container.is_none()
    }
}

/// Scope prefixes that runtimes put before a container id, and the runtime's name.
const RUNTIMES: [(&str, &str); 5] = [
    ("cri-containerd", "containerd"),
    ("nerdctl", "containerd"),
    ("crio", "cri-o"),
    ("docker", "docker"),
    ("libpod", "podman"),
];

/// What a cgroup path says of its owner. The path is absolute within its hierarchy; leading `..` of a reader in a cgroup
/// namespace do no harm.
///
/// The innermost pod counts (a kind node is a container itself). In a pod the outermost container counts, for what runs
/// nested in it is unknown to Kubernetes; elsewhere the innermost.
pub(super) fn owner(path: &str) -> Owner {
    let mut owner = Owner::default();
    let mut parent = "";
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        descend(&mut owner, parent, segment);
        parent = segment;
    }
    owner
}

/// What `/proc/<pid>/cgroup` says of the process: the line that names a container, else one that names a pod. The unified
/// hierarchy goes first, systemd's own second, v1 controllers last.
pub(super) fn owner_of_process(lines: &str) -> Owner {
    let mut owners: Vec<(u8, Owner)> = lines.lines().filter_map(line_owner).collect();
    owners.sort_by_key(|(rank, owner)| (owner.container.is_none(), *rank));
    owners.into_iter().next().map(|(_, owner)| owner).unwrap_or_default()
}

/// One line `id:controllers:path`: its rank among the hierarchies, and its owner if it has one. See cgroups(7).
fn line_owner(line: &str) -> Option<(u8, Owner)> {
    let mut fields = line.splitn(3, ':');
    let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let rank = match controllers {
        "" => 0,
        "name=systemd" => 1,
        _ => 2,
    };
    let owner = owner(path);
    (!owner.is_none()).then_some((rank, owner))
}

/// Takes one more path segment into account.
fn descend(owner: &mut Owner, parent: &str, segment: &str) {
    // containerd with the systemd driver, but without systemd's cgroup manager: `<pod slice>:cri-containerd:<id>`.
    let mut parts = segment.splitn(3, ':');
    let unit = parts.next().unwrap_or(segment);
    if let Some(pod) = pod_uid(unit) {
        *owner = Owner { pod: Some(pod), ..Owner::default() };
    }
    let found = match (parts.next(), parts.next()) {
        (Some(prefix), Some(id)) if is_container_id(id) => Some((id, runtime(prefix))),
        _ => container(unit, parent),
    };
    if let Some((id, runtime)) = found
        && (owner.pod.is_none() || owner.container.is_none())
    {
        owner.container = Some(id.to_owned());
        owner.runtime = runtime;
    }
}

/// The container id in a path segment: bare (cgroupfs driver) or behind its runtime's prefix, as scope or directory.
fn container<'a>(segment: &'a str, parent: &str) -> Option<(&'a str, Option<&'static str>)> {
    let unit = segment.strip_suffix(".scope").unwrap_or(segment);
    if is_container_id(unit) {
        return Some((unit, (parent == "docker").then_some("docker")));
    }
    // The monitors of CRI-O and podman (`crio-conmon-<id>`) are no containers: their prefix is in no list.
    let (prefix, id) = unit.rsplit_once('-')?;
    let runtime = runtime(prefix)?;
    is_container_id(id).then_some((id, Some(runtime)))
}

fn runtime(prefix: &str) -> Option<&'static str> {
    RUNTIMES.iter().find(|(known, _)| *known == prefix).map(|(_, name)| *name)
}

/// The pod uid in `pod<uid>` or `…-pod<uid>.slice`; systemd units carry `_` for the uid's dashes.
fn pod_uid(segment: &str) -> Option<String> {
    let uid = match segment.strip_suffix(".slice") {
        Some(unit) => unit.rsplit_once("-pod").map(|(_, uid)| uid)?.replace('_', "-"),
        None => segment.strip_prefix("pod")?.to_owned(),
    };
    (is_uuid(&uid) || is_hex(&uid, 32)).then_some(uid)
}

fn is_container_id(text: &str) -> bool {
    is_hex(text, 64)
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Groups of 8, 4, 4, 4 and 12 hexadecimal digits.
fn is_uuid(text: &str) -> bool {
    let mut groups = text.split('-');
    [8, 4, 4, 4, 12].iter().all(|length| groups.next().is_some_and(|group| is_hex(group, *length)))
        && groups.next().is_none()
}

#[cfg(test)]
#[path = "cgroup_tests.rs"]
mod tests;
