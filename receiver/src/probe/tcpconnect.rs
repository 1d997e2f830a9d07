//! How long TCP's handshakes take, how long connections live, and which attempts to connect fail and why.

use jitterscope_ebpf::{
    Object, Observer, ObserverOptions, PerCpuTable, Table, TableError,
    abi::{ROLE_CLIENT, ROLE_SERVER, connect_event, connect_failure_key, entity, handshake_key, histogram},
    histogram::Range,
};
use jitterscope_semconv::{
    Metric, attribute as key, event as events, metric,
    value::{NetworkType, TcpHandshakeRole},
};

use super::{
    CollectError, Definition, Opening, Overhead, Probe, ProbeOption, Skip, Source,
    connection::{attributes, ends, family_name},
    errno,
    machine::EBPF_CAPABILITIES,
    observed::{Fill, Observed, Reading, origin},
    sums::Sums,
};
use crate::{
    batch::{
        Batch, Occurrence,
        attributes::{Pair, key_double, key_value},
    },
    clock::Clock,
    round::Round,
};

/// Connections.
pub(super) static DEFINITION: Definition = Definition {
    name: "tcpconnect",
    use_when: "connecting is slow or fails: how long handshakes take, which attempts fail, and why",
    source: Source::Ebpf,
    overhead: Overhead::Low,
    default: true,
    capabilities: EBPF_CAPABILITIES,
    options: &[ProbeOption::Events],
    metrics: &[
        &metric::TCP_HANDSHAKE_DURATION,
        &metric::TCP_CONNECTION_SUCCESSES,
        &metric::TCP_CONNECTION_FAILURES,
        &metric::TCP_CONNECTION_DURATION,
    ],
    events: &[&events::TCP_CONNECT_FAILED],
    open,
};

/// Most series of a role and family: 250 pods.
const SERIES: u32 = 1024;
/// Most series of failures: two kinds of error for each of those.
const FAILURES: u32 = 2048;

struct TcpConnect {
    observer: Observer,
    handshakes: Table<handshake_key, histogram>,
    lifetimes: Table<handshake_key, histogram>,
    successes: PerCpuTable<handshake_key, u64>,
    failures: PerCpuTable<connect_failure_key, u64>,
}

fn open(opening: &Opening<'_>) -> Result<Box<dyn Probe>, Skip> {
    let (latency, lifetime) = (Range::LATENCY.bounds(), Range::LIFETIME.bounds());
    let options = ObserverOptions {
        constants: &[latency.constant(), lifetime.named("lifetime_bounds")],
        entries: &[
            ("handshakes", SERIES),
            ("lifetimes", SERIES),
            ("successes", SERIES),
            ("failures", FAILURES),
        ],
        ..ObserverOptions::new(opening.machine.host_netns()?)
    };
    let observer = Observer::open(&Object::TCPCONNECT, opening.machine.kernel()?, &options)?;
    let probe = TcpConnect {
        handshakes: observer.loaded().table("handshakes")?,
        lifetimes: observer.loaded().table("lifetimes")?,
        successes: observer.loaded().per_cpu_table("successes")?,
        failures: observer.loaded().per_cpu_table("failures")?,
        observer,
    };
    Observed::start(probe, opening)
}

impl TcpConnect {
    fn emit_failures(
        &self,
        round: &Round<'_>,
        batch: &mut Batch<'_>,
        attached: u64,
    ) -> Result<usize, TableError> {
        let mut sums = Sums::default();
        let entries = self.failures.for_each(|key, attempts| {
            if let Some(family) = family(key.family) {
                sums.add(round, &origin(&key.entity), (key.error, family), attempts);
            }
        })?;
        for sum in sums {
            let (error, family) = sum.what;
            let mut emit = batch.entity(&sum.entity, Some(attached));
            let error = (&key::ERROR_TYPE, error_type(error).into());
            let [role, family] = What { role: TcpHandshakeRole::Client, family }.attributes();
            emit.counter(&metric::TCP_CONNECTION_FAILURES, &[error, role, family], sum.value);
        }
        Ok(entries)
    }
}

impl Reading for TcpConnect {
    type Record = connect_event;

    fn observer(&self) -> &Observer {
        &self.observer
    }

    fn observer_mut(&mut self) -> &mut Observer {
        &mut self.observer
    }

    fn emit(
        &mut self,
        round: &Round<'_>,
        batch: &mut Batch<'_>,
        attached: u64,
    ) -> Result<Vec<Fill>, CollectError> {
        let mut fill = Vec::new();
        for (map, table, metric, range) in [
            ("handshakes", &self.handshakes, &metric::TCP_HANDSHAKE_DURATION, Range::LATENCY),
            ("lifetimes", &self.lifetimes, &metric::TCP_CONNECTION_DURATION, Range::LIFETIME),
        ] {
            let mut sums = Sums::default();
            let entries = table.for_each(|key, durations| {
                if let Some(what) = What::of(key) {
                    sums.add(round, &origin(&key.entity), what, durations);
                }
            })?;
            for sum in sums {
                let mut emit = batch.entity(&sum.entity, Some(attached));
                emit.histogram(metric, &sum.what.attributes(), range, &sum.value);
            }
            fill.push(Fill { map, entries, limit: SERIES as usize });
        }
        let mut sums = Sums::default();
        let entries = self.successes.for_each(|key, connections| {
            if let Some(what) = What::of(key) {
                sums.add(round, &origin(&key.entity), what, connections);
            }
        })?;
        for sum in sums {
            let mut emit = batch.entity(&sum.entity, Some(attached));
            emit.counter(&metric::TCP_CONNECTION_SUCCESSES, &sum.what.attributes(), sum.value);
        }
        fill.push(Fill { map: "successes", entries, limit: SERIES as usize });
        let entries = self.emit_failures(round, batch, attached)?;
        fill.push(Fill { map: "failures", entries, limit: FAILURES as usize });
        Ok(fill)
    }

    fn overflows_to(&self) -> &'static Metric {
        &metric::TCP_CONNECTION_SUCCESSES
    }

    fn forget(&self, is_gone: &dyn Fn(&entity) -> bool) -> Result<(), TableError> {
        for table in [&self.handshakes, &self.lifetimes] {
            table.retain(|key, _| !is_gone(&key.entity))?;
        }
        self.successes.retain(|key, _| !is_gone(&key.entity))?;
        self.failures.retain(|key, _| !is_gone(&key.entity)).map(drop)
    }

    fn occurrence(&mut self, record: &connect_event, clock: &Clock) -> Occurrence {
        let seconds = record.duration as f64 / 1e9;
        let mut facts = attributes(&record.head.connection);
        facts.push(key_value(&key::ERROR_TYPE, error_type(record.error)));
        facts.push(key_double(&key::TCP_CONNECT_DURATION, seconds));
        facts.push(key_value(&key::TCP_CONNECT_ATTEMPTS, i64::from(record.attempts)));
        let why = errno::sentence(record.error).unwrap_or("the application gave up");
        Occurrence {
            event: &events::TCP_CONNECT_FAILED,
            time_unix_nano: clock.at_boot(record.head.time),
            origin: origin(&record.head.entity),
            body: format!(
                "{}: not connected after {seconds:.3} s and {} requests: {why}",
                ends(&record.head.connection),
                record.attempts
            ),
            attributes: facts,
        }
    }
}

/// What handshakes and lifetimes are told apart by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct What {
    role: TcpHandshakeRole,
    family: NetworkType,
}

impl What {
    fn of(key: &handshake_key) -> Option<Self> {
        let role = match key.role {
            ROLE_CLIENT => TcpHandshakeRole::Client,
            ROLE_SERVER => TcpHandshakeRole::Server,
            _ => return None,
        };
        Some(Self { role, family: family(key.family)? })
    }

    fn attributes(self) -> [Pair<'static>; 2] {
        [
            (&key::TCP_HANDSHAKE_ROLE, self.role.as_str().into()),
            (&key::NETWORK_TYPE, self.family.as_str().into()),
        ]
    }
}

fn family(number: u32) -> Option<NetworkType> {
    family_name(u8::try_from(number).ok()?)
}

/// The kernel's name of the error; giving up is none.
fn error_type(number: u32) -> &'static str {
    if number == 0 { "canceled" } else { errno::name(number) }
}
