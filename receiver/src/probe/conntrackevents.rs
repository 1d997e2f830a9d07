//! Every change of tracked connections, and of those that helpers expect, as an event.
//!
//! The kernel tells them in netlink groups. A socket in each network namespace hears them: so every event has its own
//! namespace, and a busy one takes no room from the others. Such a socket keeps its namespace alive; it is closed within
//! about a second after the last process and mount of the namespace are gone. (One socket could hear all namespaces that
//! have an id in the host's, but tells them apart by that id alone, which is used again at once.)
//!
//! The kernel tells nothing of connections that were tracked before anyone listened (`net.netfilter.nf_conntrack_events` is
//! 2 by default).

mod bucket;
mod listeners;
mod tell;
#[cfg(any(test, fuzzing))]
pub(super) use self::tell::occurrence;

use std::{os::fd::BorrowedFd, sync::Arc};

use jitterscope_ebpf::TooShort;
use jitterscope_semconv::event as events;

use self::listeners::Listeners;
use super::{
    CollectError, Definition, Opening, Overhead, Probe, ProbeOption, Skip, Source, conntrack::check,
    qdisc::own_namespace_only,
};
use crate::{
    account::KernelAccount,
    batch::{Batch, Occurrence},
    clock::Clock,
    config::{EventLimit, ProbeSettings},
    pods::Snapshot,
    round::Round,
};

/// Events of connection tracking.
pub(super) static DEFINITION: Definition = Definition {
    name: "conntrackevents",
    use_when: "a connection hangs or is translated wrongly: each tracked connection from its first packet to its end",
    source: Source::Netlink,
    overhead: Overhead::High,
    default: false,
    capabilities: &["CAP_NET_ADMIN", "CAP_SYS_ADMIN"],
    options: &[ProbeOption::Events],
    metrics: &[],
    events: &[&events::CONNTRACK_CHANGED, &events::CONNTRACK_EXPECTATION_CHANGED],
    open,
};

struct Events {
    listeners: Listeners,
}

fn open(opening: &Opening<'_>) -> Result<Box<dyn Probe>, Skip> {
    check()?;
    let listeners = Listeners::new(limit(opening.settings))
        .map_err(|error| Skip::Temporary(format!("epoll: {error}")))?;
    Ok(Box::new(Events { listeners }))
}

/// A probe with this option always has it.
fn limit(settings: &ProbeSettings) -> EventLimit {
    settings.events.unwrap_or(EventLimit { rate: 0, burst: 0 })
}

impl Probe for Events {
    fn collect(&mut self, _: &Round<'_>, _: &mut Batch<'_>) -> Result<(), CollectError> {
        self.listeners.count_drops();
        Ok(())
    }

    fn reconfigure(&mut self, settings: &ProbeSettings) -> Result<(), CollectError> {
        self.listeners.limit = limit(settings);
        Ok(())
    }

    fn follows(&self) -> bool {
        true
    }

    fn follow(&mut self, pods: &Arc<Snapshot>) {
        self.listeners.follow(pods.namespaces());
    }

    fn events(&self) -> Option<BorrowedFd<'_>> {
        Some(self.listeners.ready())
    }

    fn next_event(&mut self, _: &Clock) -> Option<Result<Occurrence, TooShort>> {
        self.listeners.next()
    }

    fn detach(&mut self) {
        self.listeners.leave();
    }

    fn account(&self) -> KernelAccount {
        self.listeners.account
    }

    fn limitation(&self) -> Option<String> {
        own_namespace_only().or_else(|| self.listeners.limitation())
    }
}
