//! Descriptors of processes: how many of which kind, and how near a process is to its limit, from the pass over all
//! open files.

use std::{collections::HashMap, sync::Arc};

use jitterscope_ebpf::abi::descriptor_sums;
use jitterscope_semconv::{attribute as key, metric, value::FileDescriptorKind};

use super::{CollectError, Definition, Opening, Overhead, Probe, Skip, Source, machine::EBPF_CAPABILITIES};
use crate::{
    batch::{Batch, Emitter},
    pods::Entity,
    round::{
        Round,
        sockets::{Interest, origin},
    },
};

/// Descriptors by kind.
pub(super) static DEFINITION: Definition = Definition {
    name: "fd",
    use_when: "accept or open fail with \"too many open files\": descriptors per pod or container, and how near the limit",
    source: Source::Ebpf,
    overhead: Overhead::Low,
    default: true,
    capabilities: EBPF_CAPABILITIES,
    options: &[],
    metrics: &[&metric::FILE_DESCRIPTOR_COUNT, &metric::FILE_DESCRIPTOR_UTILIZATION],
    events: &[],
    open,
};

struct Fd {
    interest: Arc<Interest>,
    limitation: Option<String>,
}

fn open(opening: &Opening<'_>) -> Result<Box<dyn Probe>, Skip> {
    let interest = Interest::new(opening.machine);
    let limitation = interest.limitation();
    Ok(Box::new(Fd { interest, limitation }))
}

impl Probe for Fd {
    fn collect(&mut self, round: &Round<'_>, batch: &mut Batch<'_>) -> Result<(), CollectError> {
        let view = round.sockets(&self.interest)?;
        let mut all: HashMap<u64, (Arc<Entity>, descriptor_sums)> = HashMap::new();
        for (holder, sums) in &view.descriptors {
            let Some(entity) = round.entity(&origin(holder)) else { continue };
            let (_, total) = all.entry(entity.key).or_insert_with(|| (entity, descriptor_sums::default()));
            add(total, sums);
        }
        for (entity, total) in all.values() {
            emit(&mut batch.entity(entity, None), total);
        }
        self.limitation.clone_from(&view.limitation);
        Ok(())
    }

    fn limitation(&self) -> Option<String> {
        self.limitation.clone()
    }
}

fn add(total: &mut descriptor_sums, sums: &descriptor_sums) {
    total.open.iter_mut().zip(sums.open).for_each(|(total, open)| *total += open);
    if utilization(sums) > utilization(total) {
        (total.fullest_open, total.fullest_limit) = (sums.fullest_open, sums.fullest_limit);
    }
}

/// Of the process nearest to its limit; 0 without any process.
fn utilization(sums: &descriptor_sums) -> f64 {
    if sums.fullest_limit == 0 { 0.0 } else { sums.fullest_open as f64 / sums.fullest_limit as f64 }
}

fn emit(emit: &mut Emitter<'_, '_>, total: &descriptor_sums) {
    /// In the order of `enum descriptor_kind`.
    const KINDS: [FileDescriptorKind; 5] = [
        FileDescriptorKind::Socket,
        FileDescriptorKind::File,
        FileDescriptorKind::Pipe,
        FileDescriptorKind::Epoll,
        FileDescriptorKind::Other,
    ];
    for (kind, open) in KINDS.iter().zip(total.open) {
        let attributes = [(&key::FILE_DESCRIPTOR_KIND, kind.as_str().into())];
        emit.amount(&metric::FILE_DESCRIPTOR_COUNT, &attributes, open.cast_signed());
    }
    emit.reading(&metric::FILE_DESCRIPTOR_UTILIZATION, &[], utilization(total));
}
