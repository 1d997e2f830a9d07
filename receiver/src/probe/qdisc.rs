//! Queueing disciplines of every interface, read over netlink inside each network namespace.
//!
//! Only those that hang at the interface itself are told unless children are asked for: what a child counted, its root
//! counted too. Of `mq`, whose packets pass its children alone, the kernel adds these up (`net/sched/sch_mq.c`, `mq_dump`).

use jitterscope_semconv::{attribute as key, metric};

use super::{CollectError, Definition, Opening, Overhead, Probe, ProbeOption, Skip, Source};
use crate::{
    batch::{Batch, Emitter, attributes::Pair},
    capabilities,
    config::{Pattern, ProbeSettings},
    netlink::{Socket, Subsystem, qdisc::Qdisc},
    round::{Round, netlink::Wanted},
};

/// Counters of queueing disciplines.
pub(super) static DEFINITION: Definition = Definition {
    name: "qdisc",
    use_when: "packets wait or vanish before they are sent: drops, backlog and requeues of every interface's queue",
    source: Source::Netlink,
    overhead: Overhead::Low,
    default: true,
    capabilities: &["CAP_SYS_ADMIN"],
    options: &[ProbeOption::ExcludedInterfaces(&[]), ProbeOption::Children],
    metrics: &[
        &metric::QDISC_IO,
        &metric::QDISC_PACKETS,
        &metric::QDISC_DROPS,
        &metric::QDISC_OVERLIMITS,
        &metric::QDISC_REQUEUES,
        &metric::QDISC_QUEUE_LENGTH,
        &metric::QDISC_BACKLOG,
    ],
    events: &[],
    open,
};

struct Queues {
    excluded: Vec<Pattern>,
    children: bool,
}

fn open(opening: &Opening<'_>) -> Result<Box<dyn Probe>, Skip> {
    Socket::open(Subsystem::Route).map_err(|error| Skip::Missing(format!("netlink: {error}")))?;
    let mut probe = Queues { excluded: Vec::new(), children: false };
    probe.configure(opening.settings);
    Ok(Box::new(probe))
}

impl Probe for Queues {
    fn collect(&mut self, round: &Round<'_>, batch: &mut Batch<'_>) -> Result<(), CollectError> {
        for namespace in round.namespaces() {
            for qdisc in namespace.qdiscs().iter().filter(|qdisc| self.wants(qdisc)) {
                let namespace = namespace.namespace;
                // One that is younger than its namespace had counted nothing before.
                let mut emit = batch.entity(&namespace.entity, namespace.started_unix_nano);
                tell(qdisc, &mut emit);
            }
        }
        Ok(())
    }

    fn wanted(&self) -> Wanted {
        Wanted { qdiscs: true, qdisc_children: self.children, ..Wanted::default() }
    }

    fn reconfigure(&mut self, settings: &ProbeSettings) -> Result<(), CollectError> {
        self.configure(settings);
        Ok(())
    }

    fn limitation(&self) -> Option<String> {
        own_namespace_only()
    }
}

impl Queues {
    fn configure(&mut self, settings: &ProbeSettings) {
        self.excluded.clone_from(&settings.exclude_interfaces);
        self.children = settings.children;
    }

    fn wants(&self, qdisc: &Qdisc) -> bool {
        !self.excluded.iter().any(|pattern| pattern.matches(&qdisc.interface))
    }
}

/// What a probe that asks inside namespaces cannot see when it may not enter any.
pub(super) fn own_namespace_only() -> Option<String> {
    let lacking = capabilities::lacking(&["CAP_SYS_ADMIN"]);
    (!lacking.is_empty())
        .then(|| "without CAP_SYS_ADMIN: only the receiver's own network namespace, no pod's".to_owned())
}

fn tell(qdisc: &Qdisc, emit: &mut Emitter<'_, '_>) {
    let handle = qdisc.handle.to_string();
    let parent = qdisc.parent.map(|parent| parent.to_string());
    let mut attributes: Vec<Pair<'_>> = vec![
        (&key::NETWORK_INTERFACE_NAME, qdisc.interface.as_str().into()),
        (&key::QDISC_KIND, qdisc.kind.as_str().into()),
        (&key::QDISC_HANDLE, handle.as_str().into()),
    ];
    attributes.extend(parent.as_deref().map(|parent| (&key::QDISC_PARENT, parent.into())));
    let counts = &qdisc.counts;
    emit.counter(&metric::QDISC_IO, &attributes, counts.bytes);
    emit.counter(&metric::QDISC_PACKETS, &attributes, counts.packets);
    emit.counter(&metric::QDISC_DROPS, &attributes, counts.drops.into());
    emit.counter(&metric::QDISC_OVERLIMITS, &attributes, counts.overlimits.into());
    emit.counter(&metric::QDISC_REQUEUES, &attributes, counts.requeues.into());
    emit.amount(&metric::QDISC_QUEUE_LENGTH, &attributes, counts.length.into());
    emit.amount(&metric::QDISC_BACKLOG, &attributes, counts.backlog.into());
}
