//! Counters and resources of RDMA devices: `/sys/class/infiniband/*/ports/*/{counters,hw_counters}`
//! (`drivers/infiniband/core/sysfs.c`) and, over netlink, what each device holds. They belong to the node.

mod files;

use std::{collections::BTreeMap, path::Path};

use jitterscope_semconv::{attribute as key, metric};

use self::files::Counter;
use super::{CollectError, Definition, Opening, Overhead, Probe, Skip, Source};
use crate::{
    batch::{Batch, Emitter},
    netlink::{
        Buffer, Socket, Subsystem,
        rdma::{Resources, resources},
    },
    round::Round,
};

/// Where the kernel shows RDMA devices.
const DEVICES: &str = "/sys/class/infiniband";

/// RDMA devices.
pub(super) static DEFINITION: Definition = Definition {
    name: "rdma",
    use_when: "RDMA traffic is slow or fails: congestion, retries and errors of each port, and what the devices hold",
    source: Source::Netlink,
    overhead: Overhead::Low,
    default: false,
    capabilities: &[],
    options: &[],
    metrics: &[&metric::RDMA_COUNTER, &metric::RDMA_RESOURCES],
    events: &[],
    open,
};

struct Rdma {
    buffer: Buffer,
    /// Why the kernel does not tell resources.
    refused: Option<String>,
}

fn open(_: &Opening<'_>) -> Result<Box<dyn Probe>, Skip> {
    if !files::has_devices(Path::new(DEVICES)) {
        // One can be plugged in or its driver loaded.
        return Err(Skip::Absent(format!("there is no RDMA device: {DEVICES} is empty")));
    }
    Ok(Box::new(Rdma { buffer: Buffer::default(), refused: None }))
}

impl Probe for Rdma {
    fn collect(&mut self, round: &Round<'_>, batch: &mut Batch<'_>) -> Result<(), CollectError> {
        // Counters begin with their driver, whose start nobody tells.
        let mut emit = batch.entity(&round.pods.node(), None);
        for counter in files::counters(Path::new(DEVICES)) {
            tell_counter(&counter, &mut emit);
        }
        let found = Socket::open(Subsystem::Rdma)
            .map_err(Into::into)
            .and_then(|socket| resources(&socket, &mut self.buffer));
        match found {
            Ok(found) => {
                self.refused = None;
                tell_resources(&found, &mut emit);
            }
            Err(error) => self.refused = Some(error.to_string()),
        }
        Ok(())
    }

    fn limitation(&self) -> Option<String> {
        self.refused.as_ref().map(|reason| format!("without the devices' resources: {reason}"))
    }
}

fn tell_counter(counter: &Counter, emit: &mut Emitter<'_, '_>) {
    let attributes = [
        (&key::RDMA_DEVICE, counter.device.as_str().into()),
        (&key::RDMA_PORT, i64::from(counter.port).into()),
        (&key::RDMA_COUNTER, counter.name.as_str().into()),
    ];
    emit.counter(&metric::RDMA_COUNTER, &attributes, counter.value);
}

/// A device that is in several lists of the answer, as after one was added meanwhile, counts once.
fn tell_resources(found: &[Resources], emit: &mut Emitter<'_, '_>) {
    let found: BTreeMap<_, _> =
        found.iter().map(|one| ((one.device.as_str(), one.kind.as_str()), one.count)).collect();
    for ((device, kind), count) in found {
        let attributes = [(&key::RDMA_DEVICE, device.into()), (&key::RDMA_RESOURCE_TYPE, kind.into())];
        emit.amount(&metric::RDMA_RESOURCES, &attributes, count.cast_signed());
    }
}
