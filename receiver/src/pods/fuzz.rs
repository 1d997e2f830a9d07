//! Paths of cgroups, files of processes, and what container runtimes answer.

use super::{cgroup, cri::messages, process};
use crate::fuzz::Target;

const SYSTEMD: &[u8] = b"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1f8ba8c5_2f6e_4a3e_8d7a_0123456789ab.slice/cri-containerd-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.scope";
const CGROUPFS: &[u8] = b"0::/kubepods/besteffort/pod1f8ba8c5-2f6e-4a3e-8d7a-0123456789ab/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n1:name=systemd:/docker/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n";
const STAT: &[u8] = b"4242 (a) b) S 1 4242 4242 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 123456 1000 100\n";
const SANDBOXES: &[u8] = b"\x0a\x18\x0a\x04abcd\x12\x10\x0a\x04cart\x12\x02u1\x1a\x04shop";

pub(crate) const TARGETS: &[Target] = &[
    Target { name: "cgroup", read: cgroup, samples: &[SYSTEMD, CGROUPFS] },
    Target { name: "process", read: process, samples: &[STAT, b"net:[4026531840]"] },
    Target { name: "cri", read: messages::read, samples: &[SANDBOXES] },
];

/// A path, and the file with one of each hierarchy. What is found stands in the text.
fn cgroup(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for owner in [cgroup::owner(&text), cgroup::owner_of_process(&text)] {
        assert!(owner.container.iter().all(|id| id.len() == 64 && text.contains(id.as_str())));
        let is_there = |uid: &String| text.contains(uid.as_str()) || text.contains(&uid.replace('-', "_"));
        let mixed = |uid: &String| text.replace('_', "-").contains(uid.as_str());
        assert!(owner.pod.iter().all(|uid| is_there(uid) || mixed(uid)), "{owner:?}");
        assert!(owner.runtime.is_none() || owner.container.is_some());
    }
}

fn process(bytes: &[u8]) {
    std::hint::black_box((process::started(&String::from_utf8_lossy(bytes)), process::inode(bytes)));
}
