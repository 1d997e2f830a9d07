//! The node's own Resource, read once at start.

use std::path::Path;

use jitterscope_semconv::value::{HostArch, OsType};
use jitterscope_semconv::{attribute, entity};
use opentelemetry_proto::tonic::resource::v1::Resource;

use super::entity::Builder;

/// Where systemd and D-Bus keep the machine's id, see machine-id(5).
const MACHINE_ID: [&str; 2] = ["etc/machine-id", "var/lib/dbus/machine-id"];

/// Resource of the node. `root` is the host's root directory, `name` the node's name in Kubernetes. What cannot be read is
/// left out.
pub(super) fn resource(root: &Path, name: Option<&str>) -> Resource {
    let system = rustix::system::uname();
    let (release, host) = (system.release().to_string_lossy(), system.nodename().to_string_lossy());
    let description = os_description(root);
    Builder::default()
        .text(&attribute::K8S_NODE_NAME, name)
        .text(&attribute::HOST_NAME, Some(&host))
        .text(&attribute::HOST_ID, machine_id(root).as_deref())
        .text(&attribute::HOST_ARCH, Some(architecture()))
        .text(&attribute::OS_TYPE, Some(OsType::Linux.as_str()))
        .text(&attribute::OS_DESCRIPTION, description.as_deref())
        .text(&attribute::OS_VERSION, Some(&release))
        .entity(&entity::HOST)
        .entity(&entity::OS)
        .build()
}

fn machine_id(root: &Path) -> Option<String> {
    let read = |path: &&str| std::fs::read_to_string(root.join(path)).ok();
    let id = MACHINE_ID.iter().find_map(read)?;
    Some(id.trim().to_owned())
}

/// `PRETTY_NAME` of os-release(5).
fn os_description(root: &Path) -> Option<String> {
    let text = std::fs::read_to_string(root.join("etc/os-release")).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim_matches(['"', '\'']).to_owned())
}

/// `host.arch` in OpenTelemetry's words.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => HostArch::Amd64.as_str(),
        "aarch64" => HostArch::Arm64.as_str(),
        "arm" => HostArch::Arm32.as_str(),
        "powerpc64" => HostArch::Ppc64.as_str(),
        other => other,
    }
}
