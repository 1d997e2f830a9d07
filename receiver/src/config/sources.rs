//! Where a configuration comes from: file, environment and flags, merged so that the later wins.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use ::config::{FileFormat, Format, Map, Value, ValueKind};

use super::otel::{Otel, Resource};
use super::problem::Problem;

/// Prefix and separator of the receiver's own environment variables: `JITTERSCOPE__A__B` sets `a.b`.
const PREFIX: &str = "JITTERSCOPE__";
const SEPARATOR: &str = "__";

/// The list of destinations, which a standard variable or a flag can name too.
const OTLP: &str = "export.otlp";

/// What the user gave. Read anew at every reload, of which only the file can have changed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// `-c`: YAML, TOML or JSON by its extension.
    pub file: Option<PathBuf>,
    /// Environment variables; those that are not of OpenTelemetry or of the receiver are passed over.
    pub environment: Vec<(String, String)>,
    /// `--endpoint`: the only destination.
    pub endpoint: Option<String>,
    /// `--set`: key and value, in the order given.
    pub set: Vec<(String, String)>,
}

/// Leaves the values out: headers among them carry secrets.
impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names =
            |pairs: &[(String, String)]| pairs.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        f.debug_struct("Sources")
            .field("file", &self.file)
            .field("environment", &names(&self.environment))
            .field("endpoint", &self.endpoint)
            .field("set", &names(&self.set))
            .finish()
    }
}

/// The layers on top of each other.
pub(super) struct Merged {
    /// A table.
    pub(super) settings: Value,
    pub(super) resource: Resource,
    pub(super) problems: Vec<Problem>,
}

impl Sources {
    /// Takes the environment of this process, as [`std::env::vars_os`] gives it; names and values that are not
    /// UTF-8 are made so, and then refused where they matter.
    #[must_use]
    pub fn with_environment(mut self, variables: impl Iterator<Item = (OsString, OsString)>) -> Self {
        let text = |value: OsString| value.to_string_lossy().into_owned();
        let ours = |(name, _): &(String, String)| name.starts_with("OTEL_") || name.starts_with(PREFIX);
        self.environment = variables.map(|(name, value)| (text(name), text(value))).filter(ours).collect();
        self.environment.sort_unstable();
        self
    }

    pub(super) fn merge(&self) -> Merged {
        let mut problems = Vec::new();
        let otel = Otel(&self.environment);
        let file = self.file.as_deref().map(|path| read_file(path, &mut problems)).unwrap_or_default();
        let mut layers: Vec<Value> =
            otel.interval(&mut problems).map(|value| single("interval", value)).into_iter().collect();
        layers.extend(otel.exemplars().map(|value| single("exemplars", value)));
        let named = self.endpoint.is_some() || names_destinations(&file);
        layers.extend(file.into_iter().map(|(key, value)| single(&key, value)));
        // A destination of the standard variables goes on top of an empty list in the file. When another takes its
        // place, nothing is said of what is not used.
        let standard = if named { Vec::new() } else { otel.destinations(&mut problems) };
        layers.extend(only_destinations(standard));
        layers.extend(self.environment.iter().filter_map(own_variable));
        let flag = |endpoint: &String| otel.destinations_at(endpoint, "--endpoint", &mut problems);
        layers.extend(only_destinations(self.endpoint.as_ref().map(flag).unwrap_or_default()));
        layers.extend(self.set.iter().map(|(key, value)| single(key, parse(value, &"--set".to_owned()))));
        let resource = otel.resource(&mut problems);
        Merged { settings: stack(layers), resource, problems }
    }
}

fn stack(layers: Vec<Value>) -> Value {
    let mut settings = Value::from(Map::<String, Value>::new());
    layers.into_iter().for_each(|layer| put(&mut settings, layer));
    settings
}

/// These destinations and no others; no layer where there are none.
fn only_destinations(destinations: Vec<Value>) -> Option<Value> {
    let origin = destinations.first()?.origin().map(str::to_owned);
    Some(single(OTLP, Value::new(origin.as_ref(), destinations)))
}

/// Puts one value on top of another: tables are merged, all else is replaced. The crate that reads the formats could
/// do this too, but forgets where tables stand.
fn put(below: &mut Value, above: Value) {
    match (&mut below.kind, above) {
        (ValueKind::Table(old), Value { kind: ValueKind::Table(new), .. }) => {
            new.into_iter().for_each(|(key, value)| put(old.entry(key).or_default(), value));
        }
        (_, above) => *below = above,
    }
}

/// One setting as a layer: `a.b` is the key `b` of the table `a`.
fn single(key: &str, value: Value) -> Value {
    key.rsplit('.').fold(value, |inner, name| {
        let origin = inner.origin().map(str::to_owned);
        Value::new(origin.as_ref(), Map::from([(name.to_owned(), inner)]))
    })
}

fn own_variable((name, value): &(String, String)) -> Option<Value> {
    let key = name.strip_prefix(PREFIX)?.to_lowercase().replace(SEPARATOR, ".");
    Some(single(&key, parse(value, &format!("environment variable {name}"))))
}

/// A value of a variable or flag: YAML, so that lists and tables can be given. What is no YAML, such as
/// `[::1]:13134`, is a text, and so is nothing.
fn parse(text: &str, origin: &String) -> Value {
    let parsed = FileFormat::Yaml.parse(Some(origin), &format!("value: {text}"));
    let value = parsed.ok().filter(|table| table.len() == 1).and_then(|mut table| table.remove("value"));
    value.filter(|value| value.kind != ValueKind::Nil).unwrap_or_else(|| Value::new(Some(origin), text))
}

fn read_file(path: &Path, problems: &mut Vec<Problem>) -> Map<String, Value> {
    let origin = format!("file {}", path.display());
    let read = format_of(path).and_then(|format| {
        let text = std::fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))?;
        let blank =
            text.lines().all(|line| matches!(line.trim(), "" | "---") || line.trim_start().starts_with('#'));
        let table = if blank { Ok(Map::new()) } else { format.parse(Some(&origin), &text) };
        table.map_err(|error| format!("is no valid {format:?}: {error}"))
    });
    let mut table = read.unwrap_or_else(|reason| {
        problems.push(whole(&origin, reason));
        Map::new()
    });
    table.retain(|_, value| keep(value));
    table
}

fn format_of(path: &Path) -> Result<FileFormat, String> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("yaml" | "yml") => Ok(FileFormat::Yaml),
        Some("toml") => Ok(FileFormat::Toml),
        Some("json") => Ok(FileFormat::Json),
        _ => Err("has no known format, allowed: .yaml, .yml, .toml, .json".to_owned()),
    }
}

/// Keys without a value are taken out, so that they do not hide what an earlier layer says.
fn keep(value: &mut Value) -> bool {
    if let ValueKind::Table(table) = &mut value.kind {
        table.retain(|_, inner| keep(inner));
    }
    value.kind != ValueKind::Nil
}

/// Whether the file has a destination, also one that is wrong. An empty list has none, and is as good as absent.
fn names_destinations(file: &Map<String, Value>) -> bool {
    let Some(ValueKind::Table(export)) = file.get("export").map(|value| &value.kind) else { return false };
    match export.get("otlp").map(|value| &value.kind) {
        Some(ValueKind::Array(destinations)) => !destinations.is_empty(),
        other => other.is_some(),
    }
}

fn whole(origin: &str, reason: String) -> Problem {
    Problem { origin: origin.to_owned(), key: String::new(), value: None, reason }
}
