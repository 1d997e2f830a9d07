//! Connection tracking of the host and of every namespace that has, or had, a tracked connection, read over ctnetlink
//! inside each.
//!
//! The counters overlap (a packet whose entry cannot be inserted counts as a failed insert and as a drop), so each is a
//! metric of its own.

use jitterscope_semconv::{
    Metric, attribute as key, metric,
    value::{ConntrackState, NetworkType},
};

use super::{
    CollectError, Definition, Opening, Overhead, Probe, ProbeOption, Skip, Source,
    packetloss::transport_name, qdisc::own_namespace_only,
};
use crate::{
    batch::{Batch, Emitter, attributes::Pair},
    capabilities,
    config::ProbeSettings,
    netlink::{
        Buffer, Socket, Subsystem,
        conntrack::{self, Census, Counter},
    },
    round::{
        Round,
        netlink::{Conntrack, Wanted},
    },
};

/// Counters of connection tracking.
pub(super) static DEFINITION: Definition = Definition {
    name: "conntrack",
    use_when: "new connections are dropped: a full connection tracking table, failed inserts, invalid packets",
    source: Source::Netlink,
    overhead: Overhead::Low,
    default: true,
    capabilities: &["CAP_NET_ADMIN", "CAP_SYS_ADMIN"],
    options: &[ProbeOption::Census],
    metrics: &[
        &metric::CONNTRACK_ENTRIES,
        &metric::CONNTRACK_LIMIT,
        &metric::CONNTRACK_ENTRY_COUNT,
        &metric::CONNTRACK_FOUND,
        &metric::CONNTRACK_INVALID,
        &metric::CONNTRACK_INSERTS,
        &metric::CONNTRACK_INSERT_FAILURES,
        &metric::CONNTRACK_DROPS,
        &metric::CONNTRACK_EARLY_DROPS,
        &metric::CONNTRACK_ERRORS,
        &metric::CONNTRACK_SEARCH_RESTARTS,
        &metric::CONNTRACK_CLASHES_RESOLVED,
        &metric::CONNTRACK_CHAINS_TOO_LONG,
    ],
    events: &[],
    open,
};

/// Counters of the kernel and what they are called here.
static COUNTERS: [(Counter, &Metric); 10] = [
    (Counter::Found, &metric::CONNTRACK_FOUND),
    (Counter::Invalid, &metric::CONNTRACK_INVALID),
    (Counter::Insert, &metric::CONNTRACK_INSERTS),
    (Counter::InsertFailed, &metric::CONNTRACK_INSERT_FAILURES),
    (Counter::Drop, &metric::CONNTRACK_DROPS),
    (Counter::EarlyDrop, &metric::CONNTRACK_EARLY_DROPS),
    (Counter::Error, &metric::CONNTRACK_ERRORS),
    (Counter::SearchRestart, &metric::CONNTRACK_SEARCH_RESTARTS),
    (Counter::ClashResolve, &metric::CONNTRACK_CLASHES_RESOLVED),
    (Counter::ChainTooLong, &metric::CONNTRACK_CHAINS_TOO_LONG),
];

/// There in every namespace once the kernel tracks connections. Asking over netlink would load the module.
const LOADED: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

struct Tracking {
    census: bool,
}

fn open(opening: &Opening<'_>) -> Result<Box<dyn Probe>, Skip> {
    check()?;
    Ok(Box::new(Tracking { census: opening.settings.census }))
}

/// Whether the kernel tracks connections, and tells.
pub(super) fn check() -> Result<(), Skip> {
    let lacking = capabilities::lacking(&["CAP_NET_ADMIN"]);
    if !lacking.is_empty() {
        let reason = "reading connection tracking is not permitted".to_owned();
        return Err(Skip::Privilege { capabilities: lacking.join(", "), reason });
    }
    if !std::path::Path::new(LOADED).exists() {
        let reason = "the kernel does not track connections: nf_conntrack is not loaded";
        return Err(Skip::Absent(reason.to_owned()));
    }
    let missing = |error: &dyn std::fmt::Display| Skip::Missing(format!("ctnetlink: {error}"));
    let socket = Socket::open(Subsystem::Netfilter).map_err(|error| missing(&error))?;
    conntrack::totals(&socket, &mut Buffer::default()).map_err(|error| missing(&error))?;
    Ok(())
}

impl Probe for Tracking {
    fn collect(&mut self, round: &Round<'_>, batch: &mut Batch<'_>) -> Result<(), CollectError> {
        for namespace in round.namespaces() {
            if let Some(conntrack) = namespace.conntrack() {
                let namespace = namespace.namespace;
                tell(conntrack, &mut batch.entity(&namespace.entity, namespace.started_unix_nano));
            }
        }
        Ok(())
    }

    fn wanted(&self) -> Wanted {
        Wanted { conntrack: true, conntrack_census: self.census, ..Wanted::default() }
    }

    fn reconfigure(&mut self, settings: &ProbeSettings) -> Result<(), CollectError> {
        self.census = settings.census;
        Ok(())
    }

    fn limitation(&self) -> Option<String> {
        own_namespace_only()
    }
}

fn tell(conntrack: &Conntrack, emit: &mut Emitter<'_, '_>) {
    emit.amount(&metric::CONNTRACK_ENTRIES, &[], conntrack.totals.entries.into());
    if let Some(limit) = conntrack.totals.limit {
        emit.amount(&metric::CONNTRACK_LIMIT, &[], limit.into());
    }
    for (counter, metric) in COUNTERS {
        if let Some(value) = conntrack.counters.get(counter) {
            emit.counter(metric, &[], value);
        }
    }
    if let Some(census) = &conntrack.census {
        tell_census(census, emit);
    }
}

fn tell_census(census: &Census, emit: &mut Emitter<'_, '_>) {
    for (kind, count) in census {
        let transport = transport_name(kind.protocol);
        let mut attributes: Vec<Pair<'_>> = vec![
            (&key::NETWORK_TRANSPORT, transport.as_str().into()),
            (&key::NETWORK_TYPE, family(kind.family).as_str().into()),
        ];
        attributes.extend(kind.state.and_then(state).map(|state| (&key::CONNTRACK_STATE, state.into())));
        emit.amount(&metric::CONNTRACK_ENTRY_COUNT, &attributes, count.cast_signed());
    }
}

fn family(family: u8) -> NetworkType {
    if i32::from(family) == libc::AF_INET { NetworkType::Ipv4 } else { NetworkType::Ipv6 }
}

/// Name of a state of TCP, which the registry lists in the order of `enum tcp_conntrack`.
pub(super) fn state(state: u8) -> Option<&'static str> {
    ConntrackState::ALL.get(usize::from(state)).map(|state| state.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_have_the_kernels_numbers() {
        let names = [1, 3, 7, 9].map(|number| state(number).unwrap_or_default());
        assert_eq!(names, ["syn_sent", "established", "time_wait", "syn_sent2"]);
        assert_eq!(state(10), None);
    }
}
