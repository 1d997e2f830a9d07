//! Writes a registry that passed the checks as Rust: a static per name, lists of all, and an enum per attribute that
//! has fixed values.

use std::fmt::{Result, Write};

use crate::registry::{
    Attribute, Condition, Declared, Entity, Event, Level, Member, Metric, Reference, Registry, Type,
};

/// The words that the syntax allows in one place, with the Rust variant that each becomes.
pub(crate) type Words = &'static [(&'static str, &'static str)];

pub(crate) const INSTRUMENTS: Words = &[
    ("counter", "Counter"),
    ("updowncounter", "UpDownCounter"),
    ("gauge", "Gauge"),
    ("histogram", "Histogram"),
];
pub(crate) const NUMBERS: Words = &[("int", "Int"), ("double", "Double")];
pub(crate) const STABILITIES: Words = &[
    ("development", "Development"),
    ("alpha", "Alpha"),
    ("beta", "Beta"),
    ("release_candidate", "ReleaseCandidate"),
    ("stable", "Stable"),
];
pub(crate) const PRIMITIVES: Words = &[
    ("string", "String"),
    ("int", "Int"),
    ("double", "Double"),
    ("boolean", "Boolean"),
    ("string[]", "StringArray"),
    ("int[]", "IntArray"),
    ("template[string]", "StringTemplate"),
];
pub(crate) const LEVELS: Words =
    &[("required", "Required"), ("recommended", "Recommended(\"\")"), ("opt_in", "OptIn(\"\")")];

/// The variant that a word becomes; empty for a word that the checks refuse.
pub(crate) fn variant(words: Words, word: &str) -> &'static str {
    words.iter().find(|(name, _)| *name == word).map_or("", |(_, variant)| variant)
}

/// The name of the static that holds `name`: without the `jitterscope.` that all of our own have in common.
pub(crate) fn constant(name: &str) -> String {
    short(name).replace('.', "_").to_uppercase()
}

fn short(name: &str) -> &str {
    name.strip_prefix("jitterscope.").unwrap_or(name)
}

/// `network.io.direction` or `fin_wait_1` as the name of a Rust type or variant.
fn camel(name: &str) -> String {
    let words = name.split(['.', '_']);
    words
        .flat_map(|word| word.chars().take(1).flat_map(char::to_uppercase).chain(word.chars().skip(1)))
        .collect()
}

/// A brief on one line, as YAML folds it differently from how it reads.
pub(crate) fn line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The whole generated file.
pub(crate) fn constants(registry: &Registry) -> std::result::Result<String, std::fmt::Error> {
    let mut out = String::new();
    let list = |d: &Declared<Attribute>| d.item.key.clone();
    module(&mut out, "attribute", "Attribute", &registry.attributes, list, attribute)?;
    let list = |d: &Declared<Entity>| d.item.name.clone();
    module(&mut out, "entity", "Entity", &registry.entities, list, entity)?;
    let list = |d: &Declared<Metric>| d.item.name.clone();
    module(&mut out, "metric", "Metric", &registry.metrics, list, metric)?;
    let list = |d: &Declared<Event>| d.item.name.clone();
    module(&mut out, "event", "Event", &registry.events, list, event)?;
    values(&mut out, &registry.attributes)?;
    Ok(out)
}

/// A module with a static per declaration, and the sorted list of all of them.
fn module<T>(
    out: &mut String,
    module: &str,
    kind: &str,
    all: &[Declared<T>],
    name: impl Fn(&Declared<T>) -> String,
    write: impl Fn(&mut String, &Declared<T>) -> Result,
) -> Result {
    let mut sorted: Vec<_> = all.iter().collect();
    sorted.sort_by_key(|declared| name(declared));
    writeln!(out, "/// Every {module} of the registry.\npub mod {module} {{\n    use crate::types::*;")?;
    for declared in &sorted {
        write(out, declared)?;
    }
    let list = if kind == "Entity" { "ENTITIES".to_owned() } else { format!("{}S", kind.to_uppercase()) };
    writeln!(
        out,
        "}}\n\n/// Every {module} of the registry, sorted by name.\npub static {list}: &[&{kind}] = &["
    )?;
    for declared in &sorted {
        writeln!(out, "    &{module}::{},", constant(&name(declared)))?;
    }
    writeln!(out, "];\n")
}

/// The documentation and the head of a static.
fn head(out: &mut String, kind: &str, name: &str, brief: &str, facts: &str) -> Result {
    writeln!(out, "\n    /// {}\n    ///\n    /// `{name}`{facts}", line(brief))?;
    writeln!(out, "    pub static {}: {kind} = {kind} {{", constant(name))
}

/// The fields that every declaration ends with.
fn tail(out: &mut String, brief: &str, stability: &str, imported: bool) -> Result {
    writeln!(out, "        brief: {:?},", line(brief))?;
    writeln!(out, "        stability: Stability::{},", variant(STABILITIES, stability))?;
    writeln!(out, "        imported: {imported},\n    }};")
}

fn attribute(out: &mut String, declared: &Declared<Attribute>) -> Result {
    let Attribute { key, kind, brief, stability, .. } = &declared.item;
    let value_type = match kind {
        Type::Primitive(name) => variant(PRIMITIVES, name).to_owned(),
        Type::Enum { members } => {
            format!("Enum(&{:?})", members.iter().map(|m| &m.value).collect::<Vec<_>>())
        }
    };
    head(out, "Attribute", key, brief, "")?;
    writeln!(out, "        key: {key:?},\n        kind: ValueType::{value_type},")?;
    tail(out, brief, stability, declared.imported())
}

fn metric(out: &mut String, declared: &Declared<Metric>) -> Result {
    let Metric { name, brief, unit, instrument, stability, annotations, attributes, entity_associations } =
        &declared.item;
    let number = variant(NUMBERS, &annotations.code_generation.metric_value_type);
    head(out, "Metric", name, brief, &format!(", {instrument} in `{unit}`"))?;
    writeln!(out, "        name: {name:?},\n        unit: {unit:?},\n        number: Number::{number},")?;
    writeln!(out, "        instrument: Instrument::{},", variant(INSTRUMENTS, instrument))?;
    references(out, "attributes", attributes)?;
    entities(out, entity_associations)?;
    tail(out, brief, stability, declared.imported())
}

fn event(out: &mut String, declared: &Declared<Event>) -> Result {
    let Event { name, brief, stability, annotations, attributes, entity_associations } = &declared.item;
    let severity = annotations.severity_number;
    head(out, "Event", name, brief, &format!(", severity {severity}"))?;
    writeln!(out, "        name: {name:?},\n        severity: {severity},")?;
    references(out, "attributes", attributes)?;
    entities(out, entity_associations)?;
    tail(out, brief, stability, declared.imported())
}

fn entity(out: &mut String, declared: &Declared<Entity>) -> Result {
    let Entity { name, brief, stability, identity, description } = &declared.item;
    head(out, "Entity", name, brief, "")?;
    writeln!(out, "        name: {name:?},")?;
    references(out, "identifying", identity)?;
    references(out, "descriptive", description)?;
    tail(out, brief, stability, declared.imported())
}

fn references(out: &mut String, field: &str, references: &[Reference]) -> Result {
    writeln!(out, "        {field}: &[")?;
    for Reference { key, requirement_level } in references {
        let (name, level) = (constant(key), level(requirement_level));
        writeln!(
            out,
            "            AttributeRef {{ attribute: &crate::attribute::{name}, level: RequirementLevel::{level} }},"
        )?;
    }
    writeln!(out, "        ],")
}

fn level(level: &Level) -> String {
    match level {
        Level::Plain(word) => variant(LEVELS, word).to_owned(),
        Level::When(Condition::ConditionallyRequired(when)) => {
            format!("ConditionallyRequired({:?})", line(when))
        }
        Level::When(Condition::Recommended(when)) => format!("Recommended({:?})", line(when)),
        Level::When(Condition::OptIn(when)) => format!("OptIn({:?})", line(when)),
    }
}

fn entities(out: &mut String, names: &[String]) -> Result {
    let statics = names.iter().map(|name| format!("&crate::entity::{}", constant(name)));
    writeln!(out, "        entities: &[{}],", statics.collect::<Vec<_>>().join(", "))
}

/// The module with an enum for each attribute of fixed values.
fn values(out: &mut String, attributes: &[Declared<Attribute>]) -> Result {
    writeln!(out, "/// The values of the attributes that have fixed ones.\npub mod value {{")?;
    for Attribute { key, kind, .. } in attributes.iter().map(|declared| &declared.item) {
        if let Type::Enum { members } = kind {
            value(out, key, members)?;
        }
    }
    writeln!(out, "}}")
}

fn value(out: &mut String, key: &str, members: &[Member]) -> Result {
    let name = camel(short(key));
    writeln!(
        out,
        "\n    /// Values of `{key}`.\n    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]"
    )?;
    writeln!(out, "    pub enum {name} {{")?;
    for Member { id, value, brief, .. } in members {
        writeln!(
            out,
            "        /// `{value}`{}{}\n        {},",
            if brief.is_empty() { "" } else { ": " },
            line(brief),
            camel(id)
        )?;
    }
    writeln!(out, "    }}\n\n    impl {name} {{\n        /// All of them, as declared.")?;
    let variants: Vec<_> = members.iter().map(|member| format!("Self::{}", camel(&member.id))).collect();
    writeln!(out, "        pub const ALL: &[Self] = &[{}];\n", variants.join(", "))?;
    writeln!(
        out,
        "        /// The value on the wire.\n        pub const fn as_str(self) -> &'static str {{"
    )?;
    writeln!(out, "            match self {{")?;
    for (variant, member) in variants.iter().zip(members) {
        writeln!(out, "                {variant} => {:?},", member.value)?;
    }
    writeln!(out, "            }}\n        }}\n    }}")?;
    writeln!(out, "\n    impl From<{name}> for &'static str {{\n        fn from(value: {name}) -> Self {{")?;
    writeln!(out, "            value.as_str()\n        }}\n    }}")
}
