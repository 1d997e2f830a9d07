//! Traffic, errors and drops of each interface, from `/proc/net/dev`.
//!
//! OpenTelemetry names the same quantity by whom it is about, so each kind of entity has its own metrics here.

use std::{collections::HashMap, path::Path};

use jitterscope_semconv::{Attribute, Metric, attribute as key, metric, value::NetworkIoDirection};

use super::{CollectError, Definition, Opening, Overhead, Probe, ProbeOption, Skip, Source};
use crate::{
    batch::{Batch, Emitter},
    config::{Pattern, ProbeSettings},
    pods::EntityKind,
    round::{
        InNamespace, Round,
        interfaces::{Direction, Interface},
    },
};

/// Counters of interfaces.
pub(super) static DEFINITION: Definition = Definition {
    name: "netdev",
    use_when: "traffic is not what it should be: bytes, packets, errors and drops per pod and interface",
    source: Source::Procfs,
    overhead: Overhead::Low,
    default: true,
    capabilities: &["CAP_SYS_PTRACE"],
    // The loopback interface counts each packet twice and reaches nobody.
    options: &[ProbeOption::ExcludedInterfaces(&["lo"])],
    metrics: &[
        &metric::K8S_POD_NETWORK_IO,
        &metric::K8S_POD_NETWORK_ERRORS,
        &metric::CONTAINER_NETWORK_IO,
        &metric::SYSTEM_NETWORK_IO,
        &metric::SYSTEM_NETWORK_ERRORS,
        &metric::SYSTEM_NETWORK_PACKET_COUNT,
        &metric::SYSTEM_NETWORK_PACKET_DROPPED,
        &metric::NETDEV_IO,
        &metric::NETDEV_ERRORS,
        &metric::NETDEV_PACKETS,
        &metric::NETDEV_DROPS,
    ],
    events: &[],
    open,
};

struct Netdev {
    excluded: Vec<Pattern>,
    /// Host interfaces, and whether each is the host's end of a pod's link.
    peers: HashMap<String, bool>,
}

fn open(opening: &Opening<'_>) -> Result<Box<dyn Probe>, Skip> {
    Ok(Box::new(Netdev { excluded: opening.settings.exclude_interfaces.clone(), peers: HashMap::new() }))
}

/// The metrics of one kind of entity.
struct Metrics {
    io: &'static Metric,
    errors: &'static Metric,
    packets: &'static Metric,
    drops: &'static Metric,
    /// Under which key OpenTelemetry wants the interface's name with packets.
    packets_interface: &'static Attribute,
}

static POD: Metrics = Metrics {
    io: &metric::K8S_POD_NETWORK_IO,
    errors: &metric::K8S_POD_NETWORK_ERRORS,
    packets: &metric::NETDEV_PACKETS,
    drops: &metric::NETDEV_DROPS,
    packets_interface: &key::NETWORK_INTERFACE_NAME,
};
static CONTAINER: Metrics =
    Metrics { io: &metric::CONTAINER_NETWORK_IO, errors: &metric::NETDEV_ERRORS, ..NAMESPACE };
static NODE: Metrics = Metrics {
    io: &metric::SYSTEM_NETWORK_IO,
    errors: &metric::SYSTEM_NETWORK_ERRORS,
    packets: &metric::SYSTEM_NETWORK_PACKET_COUNT,
    drops: &metric::SYSTEM_NETWORK_PACKET_DROPPED,
    packets_interface: &key::SYSTEM_DEVICE,
};
const NAMESPACE: Metrics = Metrics {
    io: &metric::NETDEV_IO,
    errors: &metric::NETDEV_ERRORS,
    packets: &metric::NETDEV_PACKETS,
    drops: &metric::NETDEV_DROPS,
    packets_interface: &key::NETWORK_INTERFACE_NAME,
};
static PLAIN: Metrics = NAMESPACE;

fn metrics(kind: EntityKind) -> &'static Metrics {
    match kind {
        EntityKind::Node => &NODE,
        EntityKind::Pod => &POD,
        EntityKind::Container => &CONTAINER,
        EntityKind::Netns => &PLAIN,
    }
}

impl Probe for Netdev {
    fn collect(&mut self, round: &Round<'_>, batch: &mut Batch<'_>) -> Result<(), CollectError> {
        for namespace in round.namespaces() {
            let metrics = metrics(namespace.namespace.entity.kind);
            self.learn_peers(&namespace);
            for interface in self.interfaces(&namespace) {
                // An interface that is younger than its namespace had counted nothing before: the namespace's start is
                // right for it too. One that is made anew under its name counts less, and that is a new start.
                let started = namespace.namespace.started_unix_nano;
                let mut emit = batch.entity(&namespace.namespace.entity, started);
                for (direction, counters) in [
                    (NetworkIoDirection::Receive, interface.receive),
                    (NetworkIoDirection::Transmit, interface.transmit),
                ] {
                    metrics.emit(&interface.name, direction, counters, &mut emit);
                }
            }
        }
        Ok(())
    }

    fn reconfigure(&mut self, settings: &ProbeSettings) -> Result<(), CollectError> {
        self.excluded.clone_from(&settings.exclude_interfaces);
        Ok(())
    }
}

impl Netdev {
    /// The interfaces that count: without those excluded by name and, on the node, without the host's ends of
    /// the pods' links, whose traffic is the pods' own.
    fn interfaces<'r>(&self, namespace: &InNamespace<'r>) -> impl Iterator<Item = &'r Interface> {
        let host = namespace.namespace.host;
        let wanted = move |interface: &&Interface| {
            let excluded = self.excluded.iter().any(|pattern| pattern.matches(&interface.name));
            !(excluded || host && self.peers.get(&interface.name) == Some(&true))
        };
        namespace.interfaces().iter().filter(wanted)
    }

    fn learn_peers(&mut self, namespace: &InNamespace<'_>) {
        if !namespace.namespace.host {
            return;
        }
        let interfaces = namespace.interfaces();
        self.peers.retain(|name, _| interfaces.iter().any(|interface| interface.name == *name));
        for interface in interfaces {
            self.peers.entry(interface.name.clone()).or_insert_with(|| is_peer(&interface.name));
        }
    }
}

/// Whether a host interface is one end of a pair whose other end is another interface (veth, netkit): it is linked
/// to another index (`iflink`, net/core/net-sysfs.c) and does not stand on a lower device, as a VLAN does.
fn is_peer(name: &str) -> bool {
    let folder = Path::new("/sys/class/net").join(name);
    let number = |file: &str| std::fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u32>().ok();
    let (Some(index), Some(link)) = (number("ifindex"), number("iflink")) else { return false };
    let lower = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with("lower_");
    link != 0
        && link != index
        && !std::fs::read_dir(&folder).is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(lower)))
}

impl Metrics {
    fn emit(
        &self,
        interface: &str,
        direction: NetworkIoDirection,
        counters: Direction,
        emit: &mut Emitter<'_, '_>,
    ) {
        let direction = (&key::NETWORK_IO_DIRECTION, direction.as_str().into());
        let named = [(&key::NETWORK_INTERFACE_NAME, interface.into()), direction];
        emit.counter(self.io, &named, counters.bytes);
        emit.counter(self.errors, &named, counters.errors);
        emit.counter(self.drops, &named, counters.drops);
        let named = [(self.packets_interface, interface.into()), direction];
        emit.counter(self.packets, &named, counters.packets);
    }
}
