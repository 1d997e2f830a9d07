//! Reads the merged configuration key by key. Each key is stated once, with default, limits and help; the same
//! statements give the values, every problem, the list of known keys, the default file and the help.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use ::config::{Map, Value, ValueKind};

use super::problem::Problem;
use super::units;

/// A setting that was asked for: what the documentation says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// `a.b`, and `a[].b` within the entries of a list.
    pub(super) path: String,
    /// The default as YAML, empty for none; None for a table.
    pub(super) default: Option<String>,
    /// What values it takes.
    pub(super) allowed: String,
    /// What it does, in a few words.
    pub(super) help: &'static str,
}

/// What was found while reading.
#[derive(Default)]
pub(super) struct Report {
    pub(super) problems: Vec<Problem>,
    pub(super) unknown: Vec<Unknown>,
    pub(super) keys: Vec<Key>,
}

/// A key that nobody asked for.
pub(super) struct Unknown {
    pub(super) path: String,
    pub(super) origin: String,
    /// The keys that its table has.
    pub(super) known: Vec<&'static str>,
}

/// One table of the configuration.
pub(super) struct Reader<'a> {
    table: Option<&'a Map<String, Value>>,
    path: String,
    /// Where the table stands, for what is missing in it.
    origin: String,
    asked: Vec<&'static str>,
    report: &'a mut Report,
}

/// A value as written, with where.
pub(super) struct Written {
    pub(super) text: String,
    pub(super) origin: String,
}

impl<'a> Reader<'a> {
    /// Reads the whole configuration with `read`; without one, that gives the defaults.
    pub(super) fn root<T>(
        settings: Option<&'a Value>,
        report: &'a mut Report,
        read: impl FnOnce(&mut Reader<'_>) -> T,
    ) -> T {
        let mut root = Reader::within(settings, String::new(), "defaults", report);
        let settings = read(&mut root);
        root.finish();
        settings
    }

    /// A table below this one.
    pub(super) fn section<T>(
        &mut self,
        name: &'static str,
        help: &'static str,
        read: impl FnOnce(&mut Reader<'_>) -> T,
    ) -> T {
        self.state(name, None, String::new(), help);
        let path = self.path_of(name);
        let value = self.value(name);
        let mut inner = Reader::within(value, path, &self.origin, self.report);
        let settings = read(&mut inner);
        inner.finish();
        settings
    }

    /// A list of tables. Its entries' keys are stated even when it is empty.
    pub(super) fn list<T>(
        &mut self,
        name: &'static str,
        help: &'static str,
        mut read: impl FnMut(&mut Reader<'_>) -> T,
    ) -> Vec<T> {
        self.state(name, Some("[]".into()), String::new(), help);
        let path = self.path_of(name);
        let mut example = Report::default();
        read(&mut Reader::within(None, format!("{path}[]"), "", &mut example));
        self.report.keys.append(&mut example.keys);
        let mut settings = Vec::new();
        for (index, entry) in self.entries(name, "a list of tables").iter().enumerate() {
            let mut report = Report::default();
            let mut inner =
                Reader::within(Some(entry), format!("{path}[{index}]"), &self.origin, &mut report);
            settings.push(read(&mut inner));
            inner.finish();
            self.report.problems.append(&mut report.problems);
            self.report.unknown.append(&mut report.unknown);
        }
        settings
    }

    /// A list of texts, each as `parse` makes of it.
    pub(super) fn texts<T: Display>(
        &mut self,
        name: &'static str,
        default: Vec<T>,
        allowed: &str,
        help: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Vec<T> {
        let shown: Vec<String> = default.iter().map(ToString::to_string).collect();
        self.state(name, Some(format!("[{}]", shown.join(", "))), format!("a list of {allowed}"), help);
        if self.value(name).is_none() {
            return default;
        }
        let mut parsed = Vec::new();
        for (index, entry) in self.entries(name, &format!("a list of {allowed}")).iter().enumerate() {
            match scalar(entry).and_then(|text| parse(&text)) {
                Some(value) => parsed.push(value),
                None => self.refuse(format!("{}[{index}]", self.path_of(name)), entry, allowed),
            }
        }
        parsed
    }

    /// A table with keys of the user's own choice and texts as values, with where each stands.
    pub(super) fn map(
        &mut self,
        name: &'static str,
        allowed: &str,
        help: &'static str,
    ) -> Vec<(String, Written)> {
        self.state(name, Some("{}".into()), allowed.to_owned(), help);
        let Some(value) = self.value(name) else { return Vec::new() };
        let ValueKind::Table(table) = &value.kind else {
            self.refuse(self.path_of(name), value, allowed);
            return Vec::new();
        };
        let mut entries: Vec<(&String, &Value)> = table.iter().collect();
        entries.sort_unstable_by_key(|(key, _)| *key);
        let mut written = Vec::new();
        for (key, value) in entries {
            match scalar(value) {
                Some(text) => written.push((key.clone(), Written { text, origin: self.origin_of(value) })),
                None => self.refuse(format!("{}.{key}", self.path_of(name)), value, "a text"),
            }
        }
        written
    }

    /// A duration within limits.
    pub(super) fn duration(
        &mut self,
        name: &'static str,
        default: Duration,
        limits: RangeInclusive<Duration>,
        help: &'static str,
    ) -> Duration {
        let shown = units::show_duration(default);
        self.duration_or(name, shown, limits, help).unwrap_or(default)
    }

    /// A duration within limits that has no default of its own.
    pub(super) fn optional_duration(
        &mut self,
        name: &'static str,
        limits: RangeInclusive<Duration>,
        help: &'static str,
    ) -> Option<Duration> {
        self.duration_or(name, String::new(), limits, help)
    }

    fn duration_or(
        &mut self,
        name: &'static str,
        default: String,
        limits: RangeInclusive<Duration>,
        help: &'static str,
    ) -> Option<Duration> {
        let [low, high] = [limits.start(), limits.end()].map(|limit| units::show_duration(*limit));
        let allowed = format!("a duration, {low} to {high}");
        self.scalar(name, default, allowed, help, |text| units::duration(text).filter(|d| limits.contains(d)))
    }

    /// A size in bytes within limits.
    pub(super) fn size(
        &mut self,
        name: &'static str,
        default: u64,
        limits: RangeInclusive<u64>,
        help: &'static str,
    ) -> u64 {
        let [low, high] = [*limits.start(), *limits.end()].map(units::show_size);
        let allowed = format!("a size, {low} to {high}");
        let parse = |text: &str| units::size(text).filter(|bytes| limits.contains(bytes));
        self.scalar(name, units::show_size(default), allowed, help, parse).unwrap_or(default)
    }

    /// A whole number within limits.
    pub(super) fn count(
        &mut self,
        name: &'static str,
        default: u32,
        limits: RangeInclusive<u32>,
        help: &'static str,
    ) -> u32 {
        let allowed = format!("a whole number, {} to {}", limits.start(), limits.end());
        let parse = |text: &str| text.parse().ok().filter(|count| limits.contains(count));
        self.scalar(name, default.to_string(), allowed, help, parse).unwrap_or(default)
    }

    /// `true` or `false`.
    pub(super) fn switch(&mut self, name: &'static str, default: bool, help: &'static str) -> bool {
        self.optional_switch(name, default.to_string(), help).unwrap_or(default)
    }

    /// `true`, `false` or not set; `default` is for the documentation.
    pub(super) fn optional_switch(
        &mut self,
        name: &'static str,
        default: String,
        help: &'static str,
    ) -> Option<bool> {
        self.scalar(name, default, "true | false".into(), help, |text| text.parse().ok())
    }

    /// One of a few words; the first is the default.
    pub(super) fn choice<T: Copy>(
        &mut self,
        name: &'static str,
        words: &[(&str, T)],
        help: &'static str,
    ) -> Option<T> {
        let allowed: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let default = allowed.first().copied().unwrap_or_default().to_owned();
        let parse = |text: &str| words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        self.scalar(name, default, allowed.join(" | "), help, parse)
    }

    /// A value that must be there; `example` is for the documentation.
    pub(super) fn required<T>(
        &mut self,
        name: &'static str,
        example: &str,
        allowed: &str,
        help: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let parsed = self.scalar(name, example.to_owned(), allowed.to_owned(), help, parse);
        if !self.is_set(name) {
            self.problem(name, None, format!("is missing, allowed: {allowed}"));
        }
        parsed
    }

    /// A file that `read` makes something of, or says why it cannot. Nothing and an empty text are no file.
    pub(super) fn file<T>(
        &mut self,
        name: &'static str,
        help: &'static str,
        read: impl Fn(&Path) -> Result<T, String>,
    ) -> Option<T> {
        let some = |text: &str| Some(text.to_owned());
        let path =
            self.scalar(name, String::new(), "a path".into(), help, some).filter(|path| !path.is_empty())?;
        match read(Path::new(&path)) {
            Ok(content) => Some(content),
            Err(reason) => {
                self.problem(name, Some(path), reason);
                None
            }
        }
    }

    /// Whether there is a value, be it right or wrong.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    /// Any single value, as `parse` makes of it; None when it is not set or not allowed.
    pub(super) fn scalar<T>(
        &mut self,
        name: &'static str,
        default: String,
        allowed: String,
        help: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        self.state(name, Some(default), allowed.clone(), help);
        let value = self.value(name)?;
        let parsed = scalar(value).and_then(|text| parse(&text));
        if parsed.is_none() {
            self.refuse(self.path_of(name), value, &allowed);
        }
        parsed
    }

    /// Reports something about a setting of this table that its own value does not show: what is missing, what does
    /// not fit together, a file that cannot be read.
    pub(super) fn problem(&mut self, name: &str, value: Option<String>, reason: impl Into<String>) {
        let origin = self.value(name).map_or(self.origin.clone(), |value| self.origin_of(value));
        self.problem_at(origin, name, value, reason);
    }

    /// The same for what stands somewhere below this table.
    pub(super) fn problem_at(
        &mut self,
        origin: String,
        name: &str,
        value: Option<String>,
        reason: impl Into<String>,
    ) {
        self.report.problems.push(Problem { origin, key: self.path_of(name), value, reason: reason.into() });
    }

    fn within(value: Option<&'a Value>, path: String, outer: &str, report: &'a mut Report) -> Self {
        let origin = value.and_then(Value::origin).unwrap_or(outer).to_owned();
        let table = match value.map(|value| &value.kind) {
            Some(ValueKind::Table(table)) => Some(table),
            Some(ValueKind::Nil) | None => None,
            Some(_) => {
                let value = value.and_then(scalar);
                let reason = "allowed: a table of settings".to_owned();
                report.problems.push(Problem { origin: origin.clone(), key: path.clone(), value, reason });
                None
            }
        };
        Self { table, path, origin, asked: Vec::new(), report }
    }

    fn state(&mut self, name: &'static str, default: Option<String>, allowed: String, help: &'static str) {
        self.asked.push(name);
        let path = self.path_of(name);
        self.report.keys.push(Key { path, default, allowed, help });
    }

    fn value(&self, name: &str) -> Option<&'a Value> {
        self.table?.get(name).filter(|value| value.kind != ValueKind::Nil)
    }

    fn entries(&mut self, name: &'static str, allowed: &str) -> &'a [Value] {
        match self.value(name) {
            Some(Value { kind: ValueKind::Array(entries), .. }) => entries,
            Some(value) => {
                self.refuse(self.path_of(name), value, allowed);
                &[]
            }
            None => &[],
        }
    }

    fn refuse(&mut self, key: String, value: &Value, allowed: &str) {
        let shown = scalar(value).unwrap_or_else(|| kind_of(value).to_owned());
        let reason = format!("allowed: {allowed}");
        let origin = self.origin_of(value);
        self.report.problems.push(Problem { origin, key, value: Some(shown), reason });
    }

    fn origin_of(&self, value: &Value) -> String {
        value.origin().unwrap_or(&self.origin).to_owned()
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn finish(self) {
        let mut unknown: Vec<(&String, &Value)> = self
            .table
            .into_iter()
            .flatten()
            .filter(|(name, _)| !self.asked.contains(&name.as_str()))
            .collect();
        unknown.sort_unstable_by_key(|(name, _)| *name);
        for (name, value) in unknown {
            let (path, origin) = (self.path_of(name), self.origin_of(value));
            self.report.unknown.push(Unknown { path, origin, known: self.asked.clone() });
        }
    }
}

/// The text of a single value; None for tables, lists and nothing.
fn scalar(value: &Value) -> Option<String> {
    match &value.kind {
        ValueKind::Nil | ValueKind::Table(_) | ValueKind::Array(_) => None,
        kind => Some(kind.to_string()),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value.kind {
        ValueKind::Table(_) => "a table",
        ValueKind::Array(_) => "a list",
        _ => "nothing",
    }
}
