//! The instruments that are read at each collection: one row each, metric and where its figures come from.

use std::sync::Arc;

use arc_swap::ArcSwap;
use jitterscope_ebpf::abi::span_counts;
use jitterscope_semconv::{
    Attribute, Metric, attribute as key, metric,
    value::{
        CountersSource, CpuMode, ExporterDropCause, OtelComponentType, ProbeDropStage, ProbeState,
        SpanLinkSource,
    },
};
use opentelemetry::{KeyValue, Value, metrics::Meter};

use super::{Observed, process};
use crate::{
    account::Account,
    batch::SERIES_LIMIT,
    export::{DestinationAccount, Signal, Terms},
    pods::{self, EntityKind},
};

/// Takes a value and its attributes.
type Emit<'a, T> = &'a mut dyn FnMut(T, &[KeyValue]);
type U64<'a> = Emit<'a, u64>;
type I64<'a> = Emit<'a, i64>;
type F64<'a> = Emit<'a, f64>;

/// Registers all of them.
pub(super) fn register(meter: &Meter, observed: &Observed) -> Destinations {
    let destinations = Destinations::new(observed);
    probe_accounts(meter, observed);
    probe_programs(meter, observed);
    probe_maps(meter, observed);
    entities(meter, observed);
    counters(meter, observed);
    span_links(meter, observed);
    queues(meter, &destinations);
    disks(meter, observed);
    outcomes(meter, &destinations);
    process_cost(meter);
    destinations
}

fn of(attribute: &Attribute, value: impl Into<Value>) -> KeyValue {
    KeyValue::new(attribute.key, value)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn counter(meter: &Meter, metric: &'static Metric, read: impl Fn(U64<'_>) + Send + Sync + 'static) {
    let builder =
        meter.u64_observable_counter(metric.name).with_unit(metric.unit).with_description(metric.brief);
    builder.with_callback(move |instrument| read(&mut |value, of| instrument.observe(value, of))).build();
}

fn seconds(meter: &Meter, metric: &'static Metric, read: impl Fn(F64<'_>) + Send + Sync + 'static) {
    let builder =
        meter.f64_observable_counter(metric.name).with_unit(metric.unit).with_description(metric.brief);
    builder.with_callback(move |instrument| read(&mut |value, of| instrument.observe(value, of))).build();
}

fn amount(meter: &Meter, metric: &'static Metric, read: impl Fn(I64<'_>) + Send + Sync + 'static) {
    let builder = meter
        .i64_observable_up_down_counter(metric.name)
        .with_unit(metric.unit)
        .with_description(metric.brief);
    builder.with_callback(move |instrument| read(&mut |value, of| instrument.observe(value, of))).build();
}

/// Calls `read` for each probe with its account and its name as an attribute.
fn each_probe<T: 'static>(
    observed: &Observed,
    read: impl Fn(Emit<'_, T>, &Account, KeyValue) + Send + Sync + 'static,
) -> impl Fn(Emit<'_, T>) + Send + Sync + 'static {
    let accounts = Arc::clone(&observed.accounts);
    move |emit| {
        for account in accounts.iter() {
            read(emit, account, of(&key::PROBE_NAME, account.definition.name));
        }
    }
}

fn probe_accounts(meter: &Meter, observed: &Observed) {
    let states = each_probe(observed, |to: I64<'_>, account, probe| {
        let now = account.state.load().name();
        for state in ProbeState::ALL {
            to(i64::from(*state == now), &[probe.clone(), of(&key::PROBE_STATE, state.as_str())]);
        }
    });
    amount(meter, &metric::PROBE_STATE, states);
    let kernel = |metric, term: fn(&Account) -> u64| {
        let read = each_probe(observed, move |to: U64<'_>, account, probe| {
            has_events(account, || to(term(account), &[probe]));
        });
        counter(meter, metric, read);
    };
    kernel(&metric::PROBE_EVENTS_SEEN, |account| account.kernel_terms().seen);
    kernel(&metric::PROBE_EVENTS_SUPPRESSED, |account| account.kernel_terms().suppressed);
    kernel(&metric::PROBE_EVENTS_LOST, |account| account.kernel_terms().lost);
    kernel(&metric::PROBE_OVERFLOWS, |account| account.kernel_terms().overflow);
    kernel(&metric::PROBE_EVENTS_EXPORTED, Account::exported);
    kernel(&metric::PROBE_SPANS_SUPPRESSED, Account::suppressed_spans);
    let dropped = each_probe(observed, |to: U64<'_>, account, probe| {
        has_events(account, || {
            for stage in ProbeDropStage::ALL {
                to(account.dropped(*stage), &[probe.clone(), of(&key::PROBE_DROP_STAGE, stage.as_str())]);
            }
        });
    });
    counter(meter, &metric::PROBE_EVENTS_DROPPED, dropped);
    let series = each_probe(observed, |to: I64<'_>, account, probe| to(account.series(), &[probe]));
    amount(meter, &metric::PROBE_SERIES_COUNT, series);
    let limit = each_probe(observed, |to: I64<'_>, _, probe| to(SERIES_LIMIT as i64, &[probe]));
    amount(meter, &metric::PROBE_SERIES_LIMIT, limit);
}

fn span_links(meter: &Meter, observed: &Observed) {
    let term = |metric, term: fn(&span_counts) -> u64| {
        let spans = Arc::clone(&observed.spans);
        counter(meter, metric, move |to| {
            for source in SpanLinkSource::ALL {
                if let Some(counts) = spans.counts(source) {
                    to(term(&counts), &[of(&key::SPAN_LINK_SOURCE, source.as_str())]);
                }
            }
        });
    };
    term(&metric::SPAN_LINK_CAPTURES, |counts| counts.captured);
    term(&metric::SPAN_LINK_USES, |counts| counts.used);
    term(&metric::SPAN_LINK_EXPIRATIONS, |counts| counts.expired);
    term(&metric::SPAN_LINK_AMBIGUITIES, |counts| counts.ambiguous);
    term(&metric::SPAN_LINK_CONFLICTS, |counts| counts.conflicting);
}

fn has_events(account: &Account, observe: impl FnOnce()) {
    if !account.definition.events.is_empty() {
        observe();
    }
}

fn probe_programs(meter: &Meter, observed: &Observed) {
    let runs = |metric, figure: fn(&jitterscope_ebpf::ProgramStats) -> u64| {
        let read = each_probe(observed, move |to: U64<'_>, account, probe| {
            for program in &account.usage.load().programs {
                to(figure(program), &[probe.clone(), of(&key::PROBE_PROGRAM, program.name.clone())]);
            }
        });
        counter(meter, metric, read);
    };
    runs(&metric::PROBE_PROGRAM_RUNS, |program| program.runs);
    runs(&metric::PROBE_PROGRAM_RECURSION_MISSES, |program| program.recursion_misses);
    let time = each_probe(observed, |to: F64<'_>, account, probe| {
        for program in &account.usage.load().programs {
            let attributes = [probe.clone(), of(&key::PROBE_PROGRAM, program.name.clone())];
            to(program.time as f64 / 1e9, &attributes);
        }
    });
    seconds(meter, &metric::PROBE_PROGRAM_TIME, time);
}

fn probe_maps(meter: &Meter, observed: &Observed) {
    let maps = |metric, figure: fn(&jitterscope_ebpf::MapUsage) -> Option<u64>| {
        let read = each_probe(observed, move |to: I64<'_>, account, probe| {
            for map in &account.usage.load().maps {
                if let Some(value) = figure(map) {
                    to(signed(value), &[probe.clone(), of(&key::PROBE_MAP, map.name.clone())]);
                }
            }
        });
        amount(meter, metric, read);
    };
    let entries = each_probe(observed, |to: I64<'_>, account, probe| {
        for (map, entries) in &account.usage.load().entries {
            to(signed(*entries), &[probe.clone(), of(&key::PROBE_MAP, *map)]);
        }
    });
    amount(meter, &metric::PROBE_MAP_ENTRIES, entries);
    maps(&metric::PROBE_MAP_LIMIT, |map| Some(map.limit.into()));
    maps(&metric::PROBE_MAP_MEMORY, |map| Some(map.memory));
}

fn entities(meter: &Meter, observed: &Observed) {
    let pods = observed.pods.clone();
    amount(meter, &metric::ENTITY_COUNT, move |to| {
        let snapshot = pods.snapshot();
        for kind in EntityKind::ALL {
            to(signed(snapshot.counts().of(*kind) as u64), &[of(&key::ENTITY_KIND, kind.as_str())]);
        }
    });
    amount(meter, &metric::ENTITY_LIMIT, |to| to(pods::MAX_ENTITIES as i64, &[]));
}

fn counters(meter: &Meter, observed: &Observed) {
    let account = Arc::clone(&observed.counters);
    counter(meter, &metric::COUNTERS_READS, move |to| {
        for (source, tables) in
            [(CountersSource::Walk, account.walked()), (CountersSource::Procfs, account.procfs())]
        {
            to(tables, &[of(&key::COUNTERS_SOURCE, source.as_str())]);
        }
    });
    let account = Arc::clone(&observed.counters);
    counter(meter, &metric::COUNTERS_MISMATCHES, move |to| to(account.mismatches(), &[]));
}

/// The accounts of the destinations, read once for all instruments: their terms add up only at one instant.
#[derive(Clone)]
pub(super) struct Destinations {
    accounts: Arc<ArcSwap<Vec<Arc<DestinationAccount>>>>,
    read: Arc<ArcSwap<Vec<Figures>>>,
}

/// One destination and signal at one instant.
struct Figures {
    name: String,
    signal: Signal,
    terms: Terms,
    capacity: u64,
    over_http: bool,
}

impl Destinations {
    fn new(observed: &Observed) -> Self {
        Self { accounts: Arc::clone(&observed.destinations), read: Arc::default() }
    }

    /// Takes over what the accounts say now.
    pub(super) fn read(&self) {
        let of = |account: &Arc<DestinationAccount>| {
            Signal::ALL.map(|signal| Figures {
                name: account.name.clone(),
                signal,
                terms: account.terms(signal),
                capacity: account.capacity(),
                over_http: account.over_http(),
            })
        };
        self.read.store(Arc::new(self.accounts.load().iter().flat_map(of).collect()));
    }

    /// Calls `read` for each destination and signal with attributes that name both.
    fn each<T: 'static>(
        &self,
        read: impl Fn(Emit<'_, T>, &Figures, [KeyValue; 2]) + Send + Sync + 'static,
    ) -> impl Fn(Emit<'_, T>) + Send + Sync + 'static {
        let figures = Arc::clone(&self.read);
        move |emit| {
            for figures in figures.load().iter() {
                let name = of(&key::EXPORTER_DESTINATION, figures.name.clone());
                read(emit, figures, [of(&key::SIGNAL, figures.signal.name()), name]);
            }
        }
    }
}

fn queues(meter: &Meter, destinations: &Destinations) {
    let now = |metric, figure: fn(&Figures) -> u64| {
        let read = destinations
            .each(move |to: I64<'_>, figures, attributes| to(signed(figure(figures)), &attributes));
        amount(meter, metric, read);
    };
    now(&metric::EXPORTER_QUEUE_SIZE, |figures| figures.terms.bytes);
    now(&metric::EXPORTER_QUEUE_LENGTH, |figures| figures.terms.queued);
    now(&metric::EXPORTER_QUEUE_CAPACITY, |figures| figures.capacity);
    let total = |metric, figure: fn(&Figures) -> u64| {
        let read =
            destinations.each(move |to: U64<'_>, figures, attributes| to(figure(figures), &attributes));
        counter(meter, metric, read);
    };
    total(&metric::EXPORTER_PRODUCED, |figures| figures.terms.produced);
    total(&metric::EXPORTER_RECOVERED, |figures| figures.terms.recovered);
    total(&metric::EXPORTER_RETRIES, |figures| figures.terms.retries);
}

fn disks(meter: &Meter, observed: &Observed) {
    let each = |figure: fn(&DestinationAccount, (u64, u64)) -> u64| {
        let accounts = Arc::clone(&observed.destinations);
        move |emit: &mut dyn FnMut(u64, &[KeyValue])| {
            for account in accounts.load().iter() {
                if let Some(disk) = account.disk() {
                    emit(figure(account, disk), &[of(&key::EXPORTER_DESTINATION, account.name.clone())]);
                }
            }
        }
    };
    let now = |metric, figure| {
        let each = each(figure);
        amount(meter, metric, move |to| each(&mut |value, of| to(signed(value), of)));
    };
    now(&metric::EXPORTER_QUEUE_DISK_SIZE, |_, (bytes, _)| bytes);
    now(&metric::EXPORTER_QUEUE_DISK_LIMIT, |_, (_, limit)| limit);
    let failures = each(|account, _| account.disk_failures());
    counter(meter, &metric::EXPORTER_QUEUE_DISK_FAILURES, move |to| failures(to));
}

fn outcomes(meter: &Meter, destinations: &Destinations) {
    let drops = destinations.each(|to: U64<'_>, figures, [of_signal, name]| {
        for cause in ExporterDropCause::ALL {
            let of_cause = of(&key::EXPORTER_DROP_CAUSE, cause.as_str());
            to(figures.terms.dropped(*cause), &[of_signal.clone(), name.clone(), of_cause]);
        }
    });
    counter(meter, &metric::EXPORTER_DROPS, drops);
    for (metric, signal) in [
        (&metric::OTEL_SDK_EXPORTER_METRIC_DATA_POINT_EXPORTED, Signal::Metrics),
        (&metric::OTEL_SDK_EXPORTER_LOG_EXPORTED, Signal::Logs),
        (&metric::OTEL_SDK_EXPORTER_SPAN_EXPORTED, Signal::Traces),
    ] {
        let exported = destinations.each(move |to: U64<'_>, figures, [_, name]| {
            if figures.signal == signal {
                let name = KeyValue::new(key::OTEL_COMPONENT_NAME.key, name.value);
                let kind = of(&key::OTEL_COMPONENT_TYPE, component(figures).as_str());
                to(figures.terms.delivered, &[kind, name]);
            }
        });
        counter(meter, metric, exported);
    }
}

fn component(figures: &Figures) -> OtelComponentType {
    match (figures.signal, figures.over_http) {
        (Signal::Metrics, false) => OtelComponentType::OtlpGrpcMetricExporter,
        (Signal::Metrics, true) => OtelComponentType::OtlpHttpMetricExporter,
        (Signal::Logs, false) => OtelComponentType::OtlpGrpcLogExporter,
        (Signal::Logs, true) => OtelComponentType::OtlpHttpLogExporter,
        (Signal::Traces, false) => OtelComponentType::OtlpGrpcSpanExporter,
        (Signal::Traces, true) => OtelComponentType::OtlpHttpSpanExporter,
    }
}

fn process_cost(meter: &Meter) {
    seconds(meter, &metric::PROCESS_CPU_TIME, |to| {
        if let Some((user, system)) = process::cpu_seconds() {
            to(user, &[of(&key::CPU_MODE, CpuMode::User.as_str())]);
            to(system, &[of(&key::CPU_MODE, CpuMode::System.as_str())]);
        }
    });
    amount(meter, &metric::PROCESS_MEMORY_USAGE, |to| {
        if let Some(bytes) = process::resident_bytes() {
            to(signed(bytes), &[]);
        }
    });
}
