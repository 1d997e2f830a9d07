//! How long TCP's handshakes take, how long connections live, and which attempts to connect fail and why.

use std::time::Duration;

use jitterscope_ebpf::{
    Loaded, Object, Observer, ObserverOptions, TableError,
    abi::{ROLE_CLIENT, ROLE_SERVER, connect_event, connect_failure_key, handshake_key, histogram},
    histogram::Range,
};
use jitterscope_semconv::{
    attribute as key, event as events, metric,
    value::{NetworkType, TcpHandshakeRole},
};

use super::{
    Definition, Opening, Overhead, Probe, ProbeOption, Skip, Source,
    connection::{attributes, ends, family_name},
    errno,
    machine::EBPF_CAPABILITIES,
    maps::{Attributes, KernelMap, Told, by_entity},
    observed::{Observed, Reading, origin},
};
use crate::{
    batch::{
        Occurrence,
        attributes::{Pair, key_double, key_value},
    },
    clock::Clock,
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

struct TcpConnect;

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
    let maps = maps(observer.loaded())?;
    Observed::start(observer, maps, TcpConnect, opening)
}

fn maps(loaded: &Loaded) -> Result<Vec<Box<dyn KernelMap>>, TableError> {
    let handshakes = Told::new("handshakes", SERIES, &metric::TCP_HANDSHAKE_DURATION);
    let lifetimes = Told::new("lifetimes", SERIES, &metric::TCP_CONNECTION_DURATION).within(Range::LIFETIME);
    let successes = Told::new("successes", SERIES, &metric::TCP_CONNECTION_SUCCESSES);
    let failures = Told::new("failures", FAILURES, &metric::TCP_CONNECTION_FAILURES);
    let durations = |told: Told| {
        let table = loaded.table::<handshake_key, histogram>(told.map)?;
        Ok(by_entity(told, table, |key| key.entity, What::of))
    };
    let made = loaded.per_cpu_table::<handshake_key, u64>(successes.map)?;
    let failed = loaded.per_cpu_table::<connect_failure_key, u64>(failures.map)?;
    Ok(vec![
        durations(handshakes)?,
        durations(lifetimes)?,
        by_entity(successes, made, |key| key.entity, What::of),
        by_entity(failures, failed, |key| key.entity, Failure::of),
    ])
}

impl Reading for TcpConnect {
    type Record = connect_event;

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
            link: None,
            lasted: Duration::ZERO,
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
}

impl Attributes for What {
    fn attributes(&self) -> Vec<Pair<'_>> {
        vec![
            (&key::TCP_HANDSHAKE_ROLE, self.role.as_str().into()),
            (&key::NETWORK_TYPE, self.family.as_str().into()),
        ]
    }
}

/// What failed attempts are told apart by: the error, beside what all of them have in common.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Failure {
    error: u32,
    of: What,
}

impl Failure {
    fn of(key: &connect_failure_key) -> Option<Self> {
        Some(Self {
            error: key.error,
            of: What { role: TcpHandshakeRole::Client, family: family(key.family)? },
        })
    }
}

impl Attributes for Failure {
    fn attributes(&self) -> Vec<Pair<'_>> {
        let error = (&key::ERROR_TYPE, error_type(self.error).into());
        std::iter::once(error).chain(self.of.attributes()).collect()
    }
}

fn family(number: u32) -> Option<NetworkType> {
    family_name(u8::try_from(number).ok()?)
}

/// The kernel's name of the error; giving up is none.
fn error_type(number: u32) -> &'static str {
    if number == 0 { "canceled" } else { errno::name(number) }
}

/// Reads a record as if it came out of the ring, without a kernel's names.
#[cfg(any(test, fuzzing))]
pub(super) fn read_record(bytes: &[u8]) {
    super::observed::read_record(TcpConnect, bytes);
}
