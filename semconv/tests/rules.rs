//! The naming rules that a schema check cannot know: what a name must look like for what it measures. Every rule is held
//! against the whole registry, and against a metric that breaks it.

use jitterscope_semconv::{
    ATTRIBUTES, ENTITIES, EVENTS, Entity, Instrument, METRICS, Metric, Number, Stability, attribute, entity,
    event,
};

/// Metrics of our own whose name breaks the rule of plurals, with the reason that it may.
const NOT_PLURAL: &[(&str, &str)] = &[
    ("jitterscope.conntrack.chains_too_long", "named as the kernel does; the plural is its first word"),
    ("jitterscope.conntrack.clashes_resolved", "named as the kernel does; the plural is its first word"),
    ("jitterscope.conntrack.found", "named as the kernel does; what is found is the look-up of the unit"),
    ("jitterscope.conntrack.invalid", "named as the kernel does; what is invalid is the packet of the unit"),
    (
        "jitterscope.exporter.produced",
        "as OpenTelemetry's otel.sdk.exporter.*.exported beside it; what is produced is the item of the unit",
    ),
    (
        "jitterscope.exporter.recovered",
        "as exporter.produced, with which it is added up; what is recovered is the item of the unit",
    ),
    (
        "jitterscope.udp.multicast.ignored",
        "named as the kernel does; what is ignored is the datagram of the unit",
    ),
    ("jitterscope.ip.forwarded", "named as the kernel does; what is forwarded is the packet of the unit"),
    ("jitterscope.rdma.counter", "what is counted is the driver's matter"),
    ("jitterscope.tcp.send_queue.too_big", "named as the kernel does; it says of which queue"),
];

/// Imported metrics have these first parts; the rest of OpenTelemetry's namespaces has nothing that we measure.
const IMPORTED_NAMESPACES: &[&str] = &["container", "k8s", "otel", "process", "system"];

/// A rule for one metric: what it says, whether a metric keeps it, and the change to a good metric that breaks it.
struct Rule {
    says: &'static str,
    kept: fn(&Metric) -> bool,
    breaks: fn(&mut Metric),
}

const RULES: &[Rule] = &[
    Rule {
        says: "names are dotted snake_case in lower case",
        kept: snake_case,
        breaks: |m| m.name = "jitterscope.Tcp.opens",
    },
    Rule {
        says: "names carry no unit and no total",
        kept: unitless,
        breaks: |m| m.name = "jitterscope.tcp.opens_total",
    },
    Rule { says: "units are in UCUM", kept: ucum, breaks: |m| m.unit = "packets" },
    Rule { says: "annotated units are singular", kept: singular, breaks: |m| m.unit = "{packets}" },
    Rule {
        says: "durations and waits are histograms in seconds",
        kept: durations,
        breaks: |m| m.name = "jitterscope.qdisc.wait",
    },
    Rule {
        says: "accumulated time is a counter in seconds",
        kept: times,
        breaks: |m| m.name = "jitterscope.tcp.time",
    },
    Rule {
        says: "counters of happenings are plurals",
        kept: plurals,
        breaks: |m| m.name = "jitterscope.tcp.reset",
    },
    Rule { says: "limits and amounts can fall", kept: amounts, breaks: |m| m.name = "jitterscope.tcp.limit" },
    Rule {
        says: "seconds and parts of one are fractional and the rest is whole",
        kept: numbers,
        breaks: |m| m.number = Number::Double,
    },
    Rule {
        says: "the first part of the name is allowed",
        kept: namespaces,
        breaks: |m| m.name = "tcp.resets",
    },
    Rule { says: "k8s.pod names belong to pods", kept: pods, breaks: |m| m.name = "k8s.pod.network.errors" },
    Rule {
        says: "system names belong to the host",
        kept: hosts,
        breaks: |m| m.name = "system.network.errors",
    },
    Rule { says: "metrics of our own name their entities", kept: owned, breaks: |m| m.entities = &[] },
];

static ANY_ENTITY: &[&Entity] = &[&entity::K8S_POD, &entity::HOST];

/// A metric that keeps every rule.
fn good() -> Metric {
    Metric {
        name: "jitterscope.tcp.resets",
        unit: "{segment}",
        instrument: Instrument::Counter,
        number: Number::Int,
        brief: "Segments with the reset flag.",
        stability: Stability::Development,
        attributes: &[],
        entities: ANY_ENTITY,
        imported: false,
    }
}

fn snake_case(metric: &Metric) -> bool {
    is_snake_case(metric.name)
}

fn is_snake_case(name: &str) -> bool {
    name.split('.').all(|part| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    })
}

fn unitless(metric: &Metric) -> bool {
    let units =
        ["total", "seconds", "second", "ms", "us", "ns", "bytes", "byte", "kb", "mb", "percent", "ratio"];
    !metric.name.split(['.', '_']).any(|word| units.contains(&word))
}

fn ucum(metric: &Metric) -> bool {
    let annotation = metric.unit.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    ["s", "By", "1"].contains(&metric.unit)
        || annotation
            .is_some_and(|word| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
}

fn singular(metric: &Metric) -> bool {
    !metric.unit.ends_with("s}") || metric.unit == "{series}"
}

fn durations(metric: &Metric) -> bool {
    let named = [".duration", ".wait"].iter().any(|end| metric.name.ends_with(end));
    let measured = metric.instrument == Instrument::Histogram && metric.unit == "s";
    named == measured
}

fn times(metric: &Metric) -> bool {
    let measured = metric.instrument == Instrument::Counter && metric.unit == "s";
    metric.name.ends_with(".time") == measured
}

fn plurals(metric: &Metric) -> bool {
    let counts_happenings = metric.instrument == Instrument::Counter && metric.unit.starts_with('{');
    let excepted = metric.imported || NOT_PLURAL.iter().any(|(name, _)| *name == metric.name);
    !counts_happenings || excepted || ends_in_plural(metric.name)
}

/// `tcp.resets`, or `events.lost`: the plural and then what became of them.
fn ends_in_plural(name: &str) -> bool {
    let mut parts = name.rsplit('.');
    let last = parts.next().unwrap_or_default();
    let participle = ["seen", "lost"].contains(&last) || last.ends_with("ed");
    last.ends_with('s') || participle && parts.next().is_some_and(|part| part.ends_with('s'))
}

fn amounts(metric: &Metric) -> bool {
    let amount = [".count", ".size", ".length", ".limit"].iter().any(|end| metric.name.ends_with(end));
    !amount || metric.imported || metric.instrument == Instrument::UpDownCounter
}

fn numbers(metric: &Metric) -> bool {
    ["s", "1"].contains(&metric.unit) == (metric.number == Number::Double)
}

fn namespaces(metric: &Metric) -> bool {
    let first = metric.name.split('.').next().unwrap_or_default();
    if metric.imported { IMPORTED_NAMESPACES.contains(&first) } else { first == "jitterscope" }
}

fn pods(metric: &Metric) -> bool {
    belongs(metric, "k8s.pod.", &entity::K8S_POD)
}

fn hosts(metric: &Metric) -> bool {
    belongs(metric, "system.", &entity::HOST)
}

fn belongs(metric: &Metric, prefix: &str, entity: &Entity) -> bool {
    !metric.name.starts_with(prefix) || metric.entities == [entity]
}

fn owned(metric: &Metric) -> bool {
    metric.imported || !metric.entities.is_empty()
}

#[test]
fn every_metric_keeps_every_rule() {
    let broken: Vec<_> = RULES
        .iter()
        .flat_map(|rule| {
            METRICS.iter().filter(|metric| !(rule.kept)(metric)).map(move |metric| (rule.says, metric.name))
        })
        .collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_rule_tells_a_good_metric_from_one_that_breaks_it() {
    for rule in RULES {
        let mut metric = good();
        assert!((rule.kept)(&metric), "{} refuses a good metric", rule.says);
        (rule.breaks)(&mut metric);
        assert!(!(rule.kept)(&metric), "{} accepts {metric:?}", rule.says);
    }
}

#[test]
fn every_exception_to_the_plural_is_still_needed() {
    for (name, _) in NOT_PLURAL {
        assert!(Metric::find(name).is_some_and(|metric| !ends_in_plural(metric.name)), "{name}");
    }
}

#[test]
fn no_name_is_the_namespace_of_another() {
    let metrics: Vec<_> = METRICS.iter().map(|metric| metric.name).collect();
    let keys: Vec<_> = ATTRIBUTES.iter().map(|attribute| attribute.key).collect();
    for names in [metrics, keys] {
        for name in &names {
            let inside =
                names.iter().find(|other| other.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')));
            assert!(inside.is_none(), "{name} is the namespace of {inside:?}");
        }
    }
}

#[test]
fn every_attribute_is_used_by_a_signal_or_an_entity() {
    let signals = METRICS.iter().flat_map(|m| m.attributes).chain(EVENTS.iter().flat_map(|e| e.attributes));
    let entities = ENTITIES.iter().flat_map(|e| e.identifying.iter().chain(e.descriptive));
    let mut used: Vec<_> = signals.chain(entities).map(|reference| reference.attribute.key).collect();
    used.push(attribute::OTEL_METRIC_OVERFLOW.key); // any metric's overflow point has it
    let unused: Vec<_> = ATTRIBUTES.iter().filter(|attribute| !used.contains(&attribute.key)).collect();
    assert!(unused.is_empty(), "{unused:#?}");
}

#[test]
fn values_of_our_own_enums_are_snake_case_in_lower_case() {
    for attribute in ATTRIBUTES {
        for value in attribute.closed_values().unwrap_or_default() {
            assert!(is_snake_case(value), "{attribute}: {value}");
        }
    }
}

#[test]
fn events_are_of_our_own_and_name_their_entities() {
    for event in EVENTS {
        assert!(is_snake_case(event.name) && event.name.starts_with("jitterscope."), "{event}");
        assert!(!event.entities.is_empty(), "{event}");
    }
}

#[test]
fn a_dropped_packet_is_a_warning() {
    assert_eq!(event::PACKET_DROPPED.severity, 13);
}

#[test]
fn every_declaration_is_found_by_its_name_and_nothing_else_is() {
    assert!(METRICS.iter().all(|metric| Metric::find(metric.name) == Some(metric)));
    assert!(ENTITIES.iter().all(|entity| Entity::find(entity.name) == Some(entity)));
    assert_eq!(Metric::find("jitterscope.packet.drop"), None);
}

#[test]
fn a_template_is_the_key_of_all_that_begin_with_it_and_a_full_stop() {
    let is_label = |key| attribute::K8S_POD_LABEL.is_key(key);
    assert!(is_label("k8s.pod.label.app") && is_label("k8s.pod.label.example.com/part-of"));
    assert!(!is_label("k8s.pod.label") && !is_label("k8s.pod.label.") && !is_label("k8s.pod.labels.app"));
    assert!(attribute::K8S_POD_UID.is_key("k8s.pod.uid") && !attribute::K8S_POD_UID.is_key("k8s.pod.uid.x"));
}
