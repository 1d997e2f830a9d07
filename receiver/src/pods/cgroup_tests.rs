//! Cgroup paths of every runtime and driver. Each row says where its shape comes from.

use super::*;

const POD: &str = "0c9a5c1e-7f0e-4a51-9c7a-3b8a4f6d2e11";
const SYSTEMD_POD: &str = "0c9a5c1e_7f0e_4a51_9c7a_3b8a4f6d2e11";
const STATIC_POD: &str = "f4d8a0b1c2d3e4f5a6b7c8d9e0f1a2b3";
const C: &str = "3f2a1b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f701";
const NODE: &str = "aa2a1b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f7ff";

/// Provenance, path with placeholders, pod, container, runtime.
type Row = (&'static str, &'static str, Option<&'static str>, Option<&'static str>, Option<&'static str>);

const ROWS: &[Row] = &[
    // kubelet's cgroup names: pkg/kubelet/cm/cgroup_manager_linux.go, qos_container_manager_linux.go, pod_container_manager_linux.go
    (
        "kubelet, cgroupfs, guaranteed: /kubepods/pod<uid>/<id>",
        "/kubepods/pod{pod}/{c}",
        Some(POD),
        Some(C),
        None,
    ),
    ("kubelet, cgroupfs, best effort", "/kubepods/besteffort/pod{pod}/{c}", Some(POD), Some(C), None),
    ("kubelet, cgroupfs, burstable", "/kubepods/burstable/pod{pod}/{c}", Some(POD), Some(C), None),
    ("kubelet, cgroupfs, the pod's own group", "/kubepods/burstable/pod{pod}", Some(POD), None, None),
    (
        "kubelet, static pod: uid is a hash of its file",
        "/kubepods/burstable/pod{static}/{c}",
        Some(STATIC_POD),
        Some(C),
        None,
    ),
    ("kubelet, the class's own group", "/kubepods/burstable", None, None, None),
    // containerd's CRI plugin: getCgroupsPath, systemd form <slice>:cri-containerd:<id>, which runc turns into a scope
    (
        "containerd, systemd, burstable",
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{systemd}.slice/cri-containerd-{c}.scope",
        Some(POD),
        Some(C),
        Some("containerd"),
    ),
    (
        "containerd, systemd, guaranteed",
        "/kubepods.slice/kubepods-pod{systemd}.slice/cri-containerd-{c}.scope",
        Some(POD),
        Some(C),
        Some("containerd"),
    ),
    (
        "containerd, systemd, static pod",
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{static}.slice/cri-containerd-{c}.scope",
        Some(STATIC_POD),
        Some(C),
        Some("containerd"),
    ),
    (
        "containerd, systemd path given to a runtime that uses cgroupfs",
        "/kubepods-besteffort-pod{systemd}.slice:cri-containerd:{c}",
        Some(POD),
        Some(C),
        Some("containerd"),
    ),
    (
        "the same below containerd's own unit",
        "/system.slice/containerd.service/kubepods-burstable-pod{systemd}.slice:cri-containerd:{c}",
        Some(POD),
        Some(C),
        Some("containerd"),
    ),
    (
        "containerd, nested group made in the container",
        "/kubepods/burstable/pod{pod}/{c}/init.scope",
        Some(POD),
        Some(C),
        None,
    ),
    // CRI-O: internal/config/cgmgr, scope prefix "crio", monitor "crio-conmon"
    (
        "CRI-O, systemd",
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{systemd}.slice/crio-{c}.scope",
        Some(POD),
        Some(C),
        Some("cri-o"),
    ),
    (
        "CRI-O, systemd, group that crun makes in the scope",
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{systemd}.slice/crio-{c}.scope/container",
        Some(POD),
        Some(C),
        Some("cri-o"),
    ),
    ("CRI-O, cgroupfs", "/kubepods/besteffort/pod{pod}/crio-{c}", Some(POD), Some(C), Some("cri-o")),
    (
        "CRI-O's monitor is no container",
        "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{systemd}.slice/crio-conmon-{c}.scope",
        Some(POD),
        None,
        None,
    ),
    ("CRI-O's monitor, cgroupfs", "/kubepods/besteffort/pod{pod}/crio-conmon-{c}", Some(POD), None, None),
    // cri-dockerd and dockershim: Docker's CgroupParent is the pod's slice, scope prefix "docker"
    (
        "cri-dockerd, systemd",
        "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{systemd}.slice/docker-{c}.scope",
        Some(POD),
        Some(C),
        Some("docker"),
    ),
    ("cri-dockerd, cgroupfs", "/kubepods/burstable/pod{pod}/{c}", Some(POD), Some(C), None),
    // Docker: daemon/oci_linux.go, "/docker/<id>" with cgroupfs, "system.slice:docker:<id>" with systemd
    ("Docker, cgroupfs", "/docker/{c}", None, Some(C), Some("docker")),
    ("Docker, systemd", "/system.slice/docker-{c}.scope", None, Some(C), Some("docker")),
    ("Docker's own unit", "/system.slice/docker.service", None, None, None),
    ("Docker in Docker", "/docker/{node}/docker/{c}", None, Some(C), Some("docker")),
    // podman: libpod/container_internal_linux.go, "libpod-<id>.scope", "libpod-conmon-<id>.scope", rootless below user.slice
    ("podman, systemd, root", "/machine.slice/libpod-{c}.scope/container", None, Some(C), Some("podman")),
    ("podman's monitor", "/machine.slice/libpod-conmon-{c}.scope", None, None, None),
    ("podman, cgroupfs", "/libpod_parent/libpod-{c}", None, Some(C), Some("podman")),
    (
        "podman, rootless",
        "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{c}.scope",
        None,
        Some(C),
        Some("podman"),
    ),
    (
        "podman's pod",
        "/machine.slice/machine-libpod_pod_{node}.slice/libpod-{c}.scope",
        None,
        Some(C),
        Some("podman"),
    ),
    // nerdctl and plain containerd: "/<namespace>/<id>", scope prefix "nerdctl"
    ("containerd without Kubernetes", "/default/{c}", None, Some(C), None),
    ("nerdctl, systemd", "/system.slice/nerdctl-{c}.scope", None, Some(C), Some("containerd")),
    // k3s embeds containerd; its agent's own groups are beside the pods
    ("k3s, cgroupfs", "/kubepods/besteffort/pod{pod}/{c}", Some(POD), Some(C), None),
    ("k3s's own unit", "/system.slice/k3s.service", None, None, None),
    // kind: the node is a container; kubelet's cgroup root is /kubelet or kubelet.slice in it
    ("kind, cgroupfs", "/docker/{node}/kubelet/kubepods/besteffort/pod{pod}/{c}", Some(POD), Some(C), None),
    (
        "kind, systemd",
        "/system.slice/docker-{node}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{systemd}.slice/cri-containerd-{c}.scope",
        Some(POD),
        Some(C),
        Some("containerd"),
    ),
    (
        "kind, seen from inside of the node",
        "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{systemd}.slice/cri-containerd-{c}.scope",
        Some(POD),
        Some(C),
        Some("containerd"),
    ),
    ("kind, the node itself", "/docker/{node}/init.scope", None, Some(NODE), Some("docker")),
    // Docker in a pod: the pod's container is what Kubernetes knows
    ("Docker in a pod", "/kubepods/besteffort/pod{pod}/{node}/docker/{c}", Some(POD), Some(NODE), None),
    // cgroup namespaces: cgroup_namespaces(7), paths of processes outside of the reader's root
    ("reader in a cgroup namespace", "/../../burstable/pod{pod}/{c}", Some(POD), Some(C), None),
    // What looks like one but is none
    ("root", "/", None, None, None),
    ("a session", "/user.slice/user-0.slice/session-3.scope", None, None, None),
    ("32 digits without `pod` are no pod", "/process/{static}", None, None, None),
    ("a unit with pod in its name", "/system.slice/system-podman.slice", None, None, None),
    (
        "63 digits are no container",
        "/docker/f2a1b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f701",
        None,
        None,
        None,
    ),
    ("an unknown prefix", "/system.slice/backup-{c}.scope", None, None, None),
];

fn fill(path: &str) -> String {
    [("{pod}", POD), ("{systemd}", SYSTEMD_POD), ("{static}", STATIC_POD), ("{c}", C), ("{node}", NODE)]
        .iter()
        .fold(path.to_owned(), |path, (placeholder, value)| path.replace(placeholder, value))
}

#[test]
fn every_runtimes_paths_name_pod_container_and_runtime() {
    for (provenance, path, pod, container, runtime) in ROWS {
        let expected =
            Owner { pod: pod.map(str::to_owned), container: container.map(str::to_owned), runtime: *runtime };
        assert_eq!(owner(&fill(path)), expected, "{provenance}: {path}");
    }
}

#[test]
fn the_unified_line_wins_over_v1_controllers_when_both_name_a_container() {
    let lines =
        fill("5:memory:/docker/{node}\n1:name=systemd:/docker/{node}\n0::/system.slice/docker-{c}.scope\n");
    assert_eq!(owner_of_process(&lines).container.as_deref(), Some(C));
}

#[test]
fn a_v1_line_counts_where_the_unified_hierarchy_is_empty() {
    // Docker 20 on a hybrid host: the v2 hierarchy has no controllers and the container is not in it.
    let lines =
        fill("12:pids:/docker/{c}\n1:name=systemd:/docker/{c}\n0::/system.slice/containerd.service\n");
    assert_eq!(owner_of_process(&lines).container.as_deref(), Some(C));
}

#[test]
fn a_line_with_a_container_wins_over_one_with_a_pod_only() {
    let lines = fill("3:cpu,cpuacct:/kubepods/pod{pod}/{c}\n0::/kubepods/pod{pod}\n");
    assert_eq!(owner_of_process(&lines).container.as_deref(), Some(C));
}

#[test]
fn a_path_with_colons_is_read_whole() {
    let lines = fill("1:name=systemd:/kubepods-besteffort-pod{systemd}.slice:cri-containerd:{c}\n");
    let owner = owner_of_process(&lines);
    assert_eq!((owner.pod.as_deref(), owner.container.as_deref()), (Some(POD), Some(C)));
}

#[test]
fn lines_that_are_cut_off_or_name_nobody_give_nobody() {
    assert!(owner_of_process("").is_none());
    assert!(owner_of_process("4:memory").is_none());
    assert!(owner_of_process("0::/init.scope\n1:name=systemd:/\n").is_none());
}
