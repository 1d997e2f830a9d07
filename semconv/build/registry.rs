//! The registry as written: the part of Weaver's `definition/2` syntax that jitterscope uses. Values that must come
//! from a fixed list stay strings here, so that the checks can report all the wrong ones together.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

/// The file that declares the names that OpenTelemetry owns. Everything else is under `jitterscope.`.
pub(crate) const IMPORTED: &str = "imported.yaml";

/// Describes the registry to Weaver; it declares no names.
const MANIFEST: &str = "manifest.yaml";

/// Everything that the files of the registry declare.
#[derive(Default)]
pub(crate) struct Registry {
    pub(crate) attributes: Vec<Declared<Attribute>>,
    pub(crate) metrics: Vec<Declared<Metric>>,
    pub(crate) events: Vec<Declared<Event>>,
    pub(crate) entities: Vec<Declared<Entity>>,
}

/// A declaration and the file that it stands in.
pub(crate) struct Declared<T> {
    pub(crate) file: String,
    pub(crate) item: T,
}

impl<T> Declared<T> {
    /// Whether OpenTelemetry owns the name.
    pub(crate) fn imported(&self) -> bool {
        self.file == IMPORTED
    }
}

/// One file of the registry.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    file_format: String,
    #[serde(default)]
    attributes: Vec<Attribute>,
    #[serde(default)]
    metrics: Vec<Metric>,
    #[serde(default)]
    events: Vec<Event>,
    #[serde(default)]
    entities: Vec<Entity>,
}

/// An attribute's definition.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Attribute {
    pub(crate) key: String,
    #[serde(rename = "type")]
    pub(crate) kind: Type,
    pub(crate) brief: String,
    pub(crate) stability: String,
    #[serde(default, rename = "examples")]
    pub(crate) _examples: Vec<serde_norway::Value>,
}

/// An attribute's type: a primitive by name, or the members of an enum.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Type {
    Primitive(String),
    Enum { members: Vec<Member> },
}

/// A value of an enum attribute.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Member {
    pub(crate) id: String,
    pub(crate) value: String,
    #[serde(default)]
    pub(crate) brief: String,
    pub(crate) stability: String,
}

/// A metric's definition.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Metric {
    pub(crate) name: String,
    pub(crate) brief: String,
    #[serde(default)]
    pub(crate) unit: String,
    #[serde(default)]
    pub(crate) instrument: String,
    pub(crate) stability: String,
    pub(crate) annotations: MetricAnnotations,
    #[serde(default)]
    pub(crate) attributes: Vec<Reference>,
    #[serde(default)]
    pub(crate) entity_associations: Vec<String>,
}

/// OpenTelemetry's annotation for code generators.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MetricAnnotations {
    pub(crate) code_generation: CodeGeneration,
}

/// What a code generator must know of a metric beyond its instrument.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CodeGeneration {
    pub(crate) metric_value_type: String,
}

/// An event's definition.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) brief: String,
    pub(crate) stability: String,
    pub(crate) annotations: EventAnnotations,
    #[serde(default)]
    pub(crate) attributes: Vec<Reference>,
    #[serde(default)]
    pub(crate) entity_associations: Vec<String>,
}

/// Our own annotation: the syntax has no field for an event's severity.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EventAnnotations {
    pub(crate) severity_number: i32,
}

/// An entity's definition.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entity {
    #[serde(rename = "type")]
    pub(crate) name: String,
    pub(crate) brief: String,
    pub(crate) stability: String,
    pub(crate) identity: Vec<Reference>,
    #[serde(default)]
    pub(crate) description: Vec<Reference>,
}

/// An attribute on a signal or entity.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reference {
    #[serde(rename = "ref")]
    pub(crate) key: String,
    #[serde(default)]
    pub(crate) requirement_level: Level,
}

/// How binding an attribute is: a word, or a word with the condition under which it holds.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Level {
    Plain(String),
    When(Condition),
}

impl Default for Level {
    /// What the syntax says of a reference without a level.
    fn default() -> Self {
        Self::Plain("recommended".to_owned())
    }
}

/// A requirement level that holds under a condition.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Condition {
    ConditionallyRequired(String),
    Recommended(String),
    OptIn(String),
}

/// Reads every file of the registry in order of name. Files that are no valid YAML of the syntax are returned as
/// problems; fails only when the directory or a file cannot be read.
pub(crate) fn read(directory: &Path) -> Result<(Registry, Vec<String>)> {
    let mut paths = fs::read_dir(directory)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, _>>())
        .with_context(|| format!("cannot list {}", directory.display()))?;
    paths.sort();
    let mut registry = Registry::default();
    let mut problems = Vec::new();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name == MANIFEST || !name.ends_with(".yaml") {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        problems.extend(registry.add(&name, &text).err());
    }
    Ok((registry, problems))
}

impl Registry {
    /// Adds what one file declares, or says why it cannot be understood.
    pub(crate) fn add(&mut self, file: &str, text: &str) -> Result<(), String> {
        let parsed: File = serde_norway::from_str(text).map_err(|error| format!("{file}: {error}"))?;
        if parsed.file_format != "definition/2" {
            return Err(format!("{file}: file_format is {:?}, not \"definition/2\"", parsed.file_format));
        }
        declare(&mut self.attributes, file, parsed.attributes);
        declare(&mut self.metrics, file, parsed.metrics);
        declare(&mut self.events, file, parsed.events);
        declare(&mut self.entities, file, parsed.entities);
        Ok(())
    }
}

fn declare<T>(all: &mut Vec<Declared<T>>, file: &str, items: Vec<T>) {
    all.extend(items.into_iter().map(|item| Declared { file: file.to_owned(), item }));
}
