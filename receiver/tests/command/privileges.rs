//! What happens where the kernel or the privileges lack something: a probe fails alone, and says why.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use crate::{
    netns::Netns,
    receiver::{BINARY, Configuration, Receiver, is_root, until},
    telemetry::points,
};

/// The command where the kernel has no BTF, in a mount namespace of its own.
fn without_btf(arguments: &[&str]) -> Receiver {
    let hide = "mount -t tmpfs none /sys/kernel/btf && exec \"$0\" \"$@\"";
    Receiver::spawn(Command::new("unshare").args(["--mount", "sh", "-c", hide, BINARY]).args(arguments))
}

/// The command as a user without any capability. The build's own directory may be closed to that user.
fn as_nobody(arguments: &[&str]) -> Receiver {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let binary = folder.path().join("jitterscope");
    fs::copy(BINARY, &binary).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&binary).args(arguments);
    let receiver = Receiver::spawn(command.current_dir("/"));
    // The file may go once it runs, which is when the process is no longer setpriv.
    let executable = || fs::read_link(format!("/proc/{}/exe", receiver.pid())).ok();
    until("the command", || executable().is_none_or(|path| path == binary).then_some(()));
    receiver
}

#[test]
fn a_named_probe_without_privileges_is_77_with_the_capabilities_to_add() {
    if !is_root() {
        return;
    }
    let ended = as_nobody(&["once", "packetloss"]).end();
    assert_eq!(ended.code, Some(77), "{}", ended.stderr);
    for expected in ["packetloss", "CAP_BPF", "CAP_PERFMON"] {
        assert!(ended.stderr.contains(expected), "{}", ended.stderr);
    }
}

#[test]
fn connection_tracking_without_privileges_is_77_with_the_capability_to_add() {
    if !is_root() {
        return;
    }
    for probe in ["conntrack", "conntrackevents"] {
        let ended = as_nobody(&["once", probe]).end();
        assert_eq!(ended.code, Some(77), "{}", ended.stderr);
        assert!(ended.stderr.contains("CAP_NET_ADMIN"), "{}", ended.stderr);
    }
}

#[test]
fn without_the_privilege_to_enter_namespaces_queues_of_the_own_one_are_told_and_it_says_so() {
    if !is_root() {
        return;
    }
    let ended = as_nobody(&["once", "qdisc", "--format=json"]).end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("CAP_SYS_ADMIN"), "{}", ended.stderr);
}

#[test]
fn a_kernel_that_does_not_track_connections_skips_the_probe_until_it_does() {
    if !is_root() {
        return;
    }
    let hide = "mount -t tmpfs none /proc/sys/net/netfilter && exec \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", hide, BINARY, "once", "conntrack"]);
    let ended = Receiver::spawn(&mut command).end();
    assert_eq!(ended.code, Some(69), "{}", ended.stderr);
    assert!(ended.stderr.contains("nf_conntrack is not loaded; it is tried again"), "{}", ended.stderr);
}

#[test]
fn a_node_without_rdma_devices_skips_the_probe_with_the_reason() {
    if !is_root() || std::path::Path::new("/sys/class/infiniband").exists() {
        return;
    }
    let ended = Receiver::spawn(Command::new(BINARY).args(["once", "rdma"])).end();
    assert_eq!(ended.code, Some(69), "{}", ended.stderr);
    assert!(ended.stderr.contains("there is no RDMA device"), "{}", ended.stderr);
}

#[test]
fn without_privileges_the_counters_of_the_own_namespace_go_on() {
    if !is_root() {
        return;
    }
    let ended = as_nobody(&["run", "--for=1s", "--format=json", "--set=health.endpoint=off"]).end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("skipped probe=\"packetloss\""), "{}", ended.stderr);
    assert!(!points(&ended.stdout, "jitterscope.tcp.segments").is_empty(), "{}", ended.stderr);
}

#[test]
fn without_btf_packet_loss_is_skipped_with_the_reason_and_the_other_probes_go_on() {
    if !is_root() {
        return;
    }
    let ended = without_btf(&["run", "--for=1s", "--format=json", "--set=health.endpoint=off"]).end();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let skipped = ended.stderr.lines().find(|line| line.contains("skipped")).expect("it is said");
    assert!(
        skipped.contains("packetloss") && skipped.contains("no kernel type information (BTF)"),
        "{skipped}"
    );
    assert!(skipped.contains("/sys/kernel/btf/vmlinux"), "{skipped}");
    for metric in ["jitterscope.tcp.segments", "jitterscope.udp.datagrams", "system.network.io"] {
        assert!(!points(&ended.stdout, metric).is_empty(), "{metric}");
    }
}

#[test]
fn a_required_probe_that_cannot_run_is_69() {
    if !is_root() {
        return;
    }
    let ended =
        without_btf(&["run", "--set=probes.packetloss.required=true", "--set=health.endpoint=off"]).end();
    assert_eq!(ended.code, Some(69), "{}", ended.stderr);
    let last = ended.stderr.lines().last().unwrap();
    assert!(last.contains("packetloss is required and cannot run: no kernel type information"), "{last}");
    let ended = without_btf(&["once", "packetloss"]).end();
    assert_eq!(ended.code, Some(69), "{}", ended.stderr);
}

#[test]
fn without_btf_check_names_the_probe_that_cannot_run_and_is_1() {
    if !is_root() {
        return;
    }
    let configuration = Configuration::new("health: {endpoint: off}\n");
    let ended = without_btf(&["check", "-c", configuration.path().to_str().unwrap()]).end();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(
        ended.stdout.contains("probe packetloss cannot run: no kernel type information"),
        "{}",
        ended.stdout
    );
}

#[test]
fn a_configured_btf_file_takes_the_place_of_the_kernels_own() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let btf = folder.path().join("vmlinux");
    fs::copy("/sys/kernel/btf/vmlinux", &btf).unwrap();
    let netns = Netns::new();
    let setting = format!("--set=kernel.btf={}", btf.display());
    let arguments = ["run", "--format=json", "--set=interval=200ms", "--set=health.endpoint=off", &setting];
    let receiver = without_btf(&arguments);
    receiver.says("running probe=\"packetloss\"", 1);
    netns.drop_datagrams(20);
    until("the dropped packets", || (netns.dropped(&receiver.stdout()) == Some(20)).then_some(()));
    assert_eq!(receiver.terminate().code, Some(0));
}
