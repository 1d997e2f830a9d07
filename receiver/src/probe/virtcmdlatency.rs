//! How long commands on the control queue of virtio-net take: the network configuration stands still meanwhile.

use std::time::Duration;

use jitterscope_ebpf::{
    ObserverOptions,
    abi::{command_event, entity},
    virtcmdlatency::{CLASSES, VirtCmdLatency as Program},
};
use jitterscope_semconv::{attribute as key, event as events, metric};

use super::{
    Definition, Opening, Overhead, Probe, ProbeOption, Skip, Source,
    command::command,
    machine::EBPF_CAPABILITIES,
    maps::{Attributes, Told, by_entity, in_flight},
    observed::{Observed, Reading, origin},
};
use crate::{
    batch::{
        Occurrence,
        attributes::{Pair, key_double, key_value},
    },
    clock::Clock,
};

/// Commands of virtio-net.
pub(super) static DEFINITION: Definition = Definition {
    name: "virtcmdlatency",
    use_when: "in a virtual machine, changes of the network configuration hang: how long its hypervisor takes to answer",
    source: Source::Ebpf,
    overhead: Overhead::Low,
    default: false,
    capabilities: EBPF_CAPABILITIES,
    options: &[ProbeOption::Events, ProbeOption::Threshold(THRESHOLD)],
    metrics: &[&metric::VIRTIO_COMMAND_DURATION],
    events: &[&events::VIRTIO_COMMAND_SLOW],
    open,
};

/// A hypervisor that is not held off answers within a fraction of a millisecond.
const THRESHOLD: Duration = Duration::from_millis(10);

struct VirtCmdLatency;

fn open(opening: &Opening<'_>) -> Result<Box<dyn Probe>, Skip> {
    let options = ObserverOptions::new(opening.machine.host_netns()?);
    let Program { observer, durations, commands } = Program::open(opening.machine.kernel()?, &options)?;
    let told = Told::new("durations", CLASSES, &metric::VIRTIO_COMMAND_DURATION);
    let maps = vec![
        by_entity(told, durations, |_| entity::default(), |class| Some(Class(class_name(*class)))),
        in_flight("commands", commands),
    ];
    Observed::start(observer, maps, VirtCmdLatency, opening)
}

impl Reading for VirtCmdLatency {
    type Record = command_event;

    fn occurrence(&mut self, record: &command_event, clock: &Clock) -> Occurrence {
        let (name, seconds) = (command(&record.command), record.duration as f64 / 1e9);
        let class = class_name(record.class.into());
        Occurrence {
            event: &events::VIRTIO_COMMAND_SLOW,
            time_unix_nano: clock.at_boot(record.head.time),
            origin: origin(&record.head.entity),
            body: format!(
                "virtio-net's device took {seconds:.3} s to answer a command ({class}) of {name} (pid {})",
                record.pid
            ),
            attributes: vec![
                key_value(&key::VIRTIO_COMMAND_CLASS, class.as_str()),
                key_double(&key::VIRTIO_COMMAND_DELAY, seconds),
                key_value(&key::TASK_COMMAND, name.as_str()),
                key_value(&key::PROCESS_PID, i64::from(record.pid)),
            ],
            link: None,
            lasted: Duration::ZERO,
        }
    }
}

/// What a command is about, by its name in `include/uapi/linux/virtio_net.h`.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Class(String);

impl Attributes for Class {
    fn attributes(&self) -> Vec<Pair<'_>> {
        vec![(&key::VIRTIO_COMMAND_CLASS, self.0.as_str().into())]
    }
}

fn class_name(class: u64) -> String {
    let names = [
        (0, "rx"),
        (1, "mac"),
        (2, "vlan"),
        (3, "announce"),
        (4, "mq"),
        (5, "guest_offloads"),
        (6, "notf_coal"),
        (8, "stats"),
    ];
    let known = names.iter().find(|(number, _)| *number == class);
    known.map_or_else(|| class.to_string(), |(_, name)| (*name).to_owned())
}

/// Reads a record as if it came out of the ring, without a kernel's names.
#[cfg(any(test, fuzzing))]
pub(super) fn read_record(bytes: &[u8]) {
    super::observed::read_record(VirtCmdLatency, bytes);
}
