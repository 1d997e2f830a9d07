//! Reads the merged configuration key by key. Each key is stated once, with default, limits and help; the same
//! statements give the values, every problem, the list of known keys, the default file and the help.

mod values;

use ::config::{Map, Value, ValueKind};

use super::problem::Problem;

/// What a list of tables is called.
pub(super) const TABLES: &str = "a list of tables";

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
        self.state(name, None, "", help);
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
        self.state(name, Some("[]".into()), TABLES, help);
        let path = self.path_of(name);
        let mut example = Report::default();
        read(&mut Reader::within(None, format!("{path}[]"), "", &mut example));
        self.report.keys.append(&mut example.keys);
        let mut settings = Vec::new();
        for (index, entry) in self.entries(name, TABLES).iter().enumerate() {
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

    /// Whether there is a value, be it right or wrong.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    /// Any single value, as `parse` makes of it; None when it is not set or not allowed.
    pub(super) fn scalar<T>(
        &mut self,
        name: &'static str,
        default: &str,
        allowed: &str,
        help: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        self.state(name, Some(default.to_owned()), allowed, help);
        let value = self.value(name)?;
        let parsed = scalar(value).and_then(|text| parse(&text));
        if parsed.is_none() {
            self.refuse(self.path_of(name), value, allowed);
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

    fn state(&mut self, name: &'static str, default: Option<String>, allowed: &str, help: &'static str) {
        self.asked.push(name);
        let path = self.path_of(name);
        self.report.keys.push(Key { path, default, allowed: allowed.to_owned(), help });
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
