//! The load balancer IPVS of each namespace, from `/proc/net/ip_vs_stats` (`net/netfilter/ipvs/ip_vs_ctl.c`). IPv4 and IPv6
//! are counted together.

use std::path::Path;

use jitterscope_semconv::{attribute as key, metric, value::NetworkIoDirection};

use super::{CollectError, Definition, Opening, Overhead, Probe, Skip, Source};
use crate::{
    batch::{Batch, Emitter},
    round::{Round, ipvs::Totals},
};

/// Counters of IPVS.
pub(super) static DEFINITION: Definition = Definition {
    name: "ipvs",
    use_when: "services are balanced by IPVS (kube-proxy, LVS): connections, packets and bytes that it passed",
    source: Source::Procfs,
    overhead: Overhead::Low,
    default: true,
    capabilities: &["CAP_SYS_PTRACE"],
    options: &[],
    metrics: &[&metric::IPVS_CONNECTIONS, &metric::IPVS_PACKETS, &metric::IPVS_IO],
    events: &[],
    open,
};

struct Ipvs;

/// The module may be loaded later, as kube-proxy does.
fn open(_: &Opening<'_>) -> Result<Box<dyn Probe>, Skip> {
    if Path::new("/proc/net/ip_vs_stats").exists() {
        return Ok(Box::new(Ipvs));
    }
    Err(Skip::Absent("the kernel module ip_vs is not loaded".to_owned()))
}

impl Probe for Ipvs {
    fn collect(&mut self, round: &Round<'_>, batch: &mut Batch<'_>) -> Result<(), CollectError> {
        for namespace in round.namespaces() {
            let Some(totals) = namespace.ip_vs_stats() else { continue };
            if namespace.namespace.host || totals != Totals::default() {
                // When the module was loaded is unknown: the counters start with the first collection.
                emit(totals, &mut batch.entity(&namespace.namespace.entity, None));
            }
        }
        Ok(())
    }
}

fn emit(totals: Totals, emit: &mut Emitter<'_, '_>) {
    emit.counter(&metric::IPVS_CONNECTIONS, &[], totals.connections);
    for (direction, packets, bytes) in [
        (NetworkIoDirection::Receive, totals.packets_in, totals.bytes_in),
        (NetworkIoDirection::Transmit, totals.packets_out, totals.bytes_out),
    ] {
        let attributes = [(&key::NETWORK_IO_DIRECTION, direction.as_str().into())];
        emit.counter(&metric::IPVS_PACKETS, &attributes, packets);
        emit.counter(&metric::IPVS_IO, &attributes, bytes);
    }
}
