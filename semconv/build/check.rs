//! What must hold of a registry before constants can be made of it. Every violation is found, not only the first.

use std::collections::{BTreeMap, BTreeSet};

use crate::generate::{INSTRUMENTS, LEVELS, NUMBERS, PRIMITIVES, STABILITIES, Words, constant};
use crate::registry::{Declared, IMPORTED, Level, Metric, Reference, Registry, Type};

/// The namespace of everything that OpenTelemetry does not have.
const PREFIX: &str = "jitterscope.";

/// Every violation, as `file: name: what is wrong`.
pub(crate) fn problems(registry: &Registry) -> Vec<String> {
    let mut found = Found::default();
    attributes(registry, &mut found);
    metrics(registry, &mut found);
    events(registry, &mut found);
    entities(registry, &mut found);
    found.0
}

#[derive(Default)]
struct Found(Vec<String>);

impl Found {
    fn add(&mut self, file: &str, name: &str, what: impl AsRef<str>) {
        self.0.push(format!("{file}: {name}: {}", what.as_ref()));
    }

    /// Reports a word that is not one of those that the syntax allows there.
    fn word(&mut self, at: (&str, &str), what: &str, word: &str, allowed: Words) {
        if !allowed.iter().any(|(name, _)| *name == word) {
            let names: Vec<_> = allowed.iter().map(|(name, _)| *name).collect();
            self.add(at.0, at.1, format!("{what} {word:?} is none of {}", names.join(", ")));
        }
    }

    /// Reports names that are malformed, in the wrong file, or taken.
    fn names<'a>(&mut self, kind: &str, names: impl Iterator<Item = (&'a str, &'a str)>) {
        let mut taken = BTreeMap::new();
        for (file, name) in names {
            if !well_formed(name) {
                self.add(file, name, "the name is not dotted snake_case in lower case");
            }
            if (file == IMPORTED) == name.starts_with(PREFIX) {
                self.add(
                    file,
                    name,
                    format!("names under {PREFIX} stand anywhere but in {IMPORTED}, others only there"),
                );
            }
            if let Some(other) = taken.insert(constant(name), file) {
                self.add(
                    file,
                    name,
                    format!("{kind} already declared in {other}, or one with the same constant"),
                );
            }
        }
    }

    /// Reports references to attributes that are not declared, or that come twice.
    fn references<'a>(
        &mut self,
        at: (&str, &str),
        known: &BTreeSet<&str>,
        all: impl Iterator<Item = &'a Reference>,
    ) {
        let mut seen = BTreeSet::new();
        for Reference { key, requirement_level } in all {
            if !known.contains(key.as_str()) {
                self.add(at.0, at.1, format!("unknown attribute {key}"));
            }
            if !seen.insert(key) {
                self.add(at.0, at.1, format!("attribute {key} twice"));
            }
            if let Level::Plain(word) = requirement_level {
                self.word(at, "requirement level", word, LEVELS);
            }
        }
    }

    fn associations(&mut self, at: (&str, &str), registry: &Registry, names: &[String]) {
        for name in names.iter().filter(|name| !registry.entities.iter().any(|e| e.item.name == **name)) {
            self.add(at.0, at.1, format!("unknown entity {name}"));
        }
    }
}

fn keys(registry: &Registry) -> BTreeSet<&str> {
    registry.attributes.iter().map(|declared| declared.item.key.as_str()).collect()
}

fn well_formed(name: &str) -> bool {
    name.split('.').all(|part| {
        part.starts_with(|c: char| c.is_ascii_lowercase())
            && !part.ends_with('_')
            && !part.contains("__")
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    })
}

fn attributes(registry: &Registry, found: &mut Found) {
    found.names("an attribute", registry.attributes.iter().map(|d| (d.file.as_str(), d.item.key.as_str())));
    for Declared { file, item } in &registry.attributes {
        let at = (file.as_str(), item.key.as_str());
        found.word(at, "stability", &item.stability, STABILITIES);
        match &item.kind {
            Type::Primitive(name) => found.word(at, "type", name, PRIMITIVES),
            Type::Enum { members } if members.is_empty() => found.add(at.0, at.1, "an enum without members"),
            Type::Enum { members } => {
                for member in members {
                    found.word(at, "stability of a member", &member.stability, STABILITIES);
                }
                let ids = members.iter().map(|member| &member.id).collect::<BTreeSet<_>>();
                let values = members.iter().map(|member| &member.value).collect::<BTreeSet<_>>();
                if ids.len() < members.len() || values.len() < members.len() {
                    found.add(at.0, at.1, "two members with one id or value");
                }
                for id in ids.iter().filter(|id| !well_formed(id) || id.contains('.')) {
                    found.add(at.0, at.1, format!("member id {id:?} is not snake_case in lower case"));
                }
            }
        }
    }
}

fn metrics(registry: &Registry, found: &mut Found) {
    found.names("a metric", registry.metrics.iter().map(|d| (d.file.as_str(), d.item.name.as_str())));
    let keys = keys(registry);
    for Declared { file, item } in &registry.metrics {
        let at = (file.as_str(), item.name.as_str());
        metric(found, at, item);
        found.references(at, &keys, item.attributes.iter());
        found.associations(at, registry, &item.entity_associations);
    }
}

fn metric(found: &mut Found, at: (&str, &str), metric: &Metric) {
    found.word(at, "instrument", &metric.instrument, INSTRUMENTS);
    found.word(at, "stability", &metric.stability, STABILITIES);
    found.word(at, "metric_value_type", &metric.annotations.code_generation.metric_value_type, NUMBERS);
    if metric.unit.is_empty() {
        found.add(at.0, at.1, "no unit");
    }
}

fn events(registry: &Registry, found: &mut Found) {
    found.names("an event", registry.events.iter().map(|d| (d.file.as_str(), d.item.name.as_str())));
    let keys = keys(registry);
    for Declared { file, item } in &registry.events {
        let at = (file.as_str(), item.name.as_str());
        found.word(at, "stability", &item.stability, STABILITIES);
        if !(1..=24).contains(&item.annotations.severity_number) {
            found.add(at.0, at.1, "severity_number outside 1 to 24");
        }
        found.references(at, &keys, item.attributes.iter());
        found.associations(at, registry, &item.entity_associations);
    }
}

fn entities(registry: &Registry, found: &mut Found) {
    found.names("an entity", registry.entities.iter().map(|d| (d.file.as_str(), d.item.name.as_str())));
    let keys = keys(registry);
    for Declared { file, item } in &registry.entities {
        let at = (file.as_str(), item.name.as_str());
        found.word(at, "stability", &item.stability, STABILITIES);
        if item.identity.is_empty() {
            found.add(at.0, at.1, "no identifying attribute");
        }
        found.references(at, &keys, item.identity.iter().chain(&item.description));
    }
}
