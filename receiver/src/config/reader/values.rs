//! The kinds of values that settings have: how each is read and what the documentation says of it.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use ::config::{Value, ValueKind};

use super::{Reader, Written, scalar};
use crate::config::units;

impl Reader<'_> {
    /// A list of texts, each as `parse` makes of it.
    pub(in crate::config) fn texts<T: Display>(
        &mut self,
        name: &'static str,
        default: Vec<T>,
        allowed: &str,
        help: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Vec<T> {
        let listed = format!("a list of {allowed}");
        let shown: Vec<String> = default.iter().map(ToString::to_string).collect();
        self.state(name, Some(format!("[{}]", shown.join(", "))), &listed, help);
        if self.value(name).is_none() {
            return default;
        }
        let mut parsed = Vec::new();
        for (index, entry) in self.entries(name, &listed).iter().enumerate() {
            match scalar(entry).and_then(|text| parse(&text)) {
                Some(value) => parsed.push(value),
                None => self.refuse(format!("{}[{index}]", self.path_of(name)), entry, allowed),
            }
        }
        parsed
    }

    /// A table with keys of the user's own choice and texts as values, with where each stands.
    pub(in crate::config) fn map(
        &mut self,
        name: &'static str,
        allowed: &str,
        help: &'static str,
    ) -> Vec<(String, Written)> {
        self.state(name, Some("{}".into()), allowed, help);
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
    pub(in crate::config) fn duration(
        &mut self,
        name: &'static str,
        default: Duration,
        limits: RangeInclusive<Duration>,
        help: &'static str,
    ) -> Duration {
        let shown = units::show_duration(default);
        self.duration_or(name, &shown, limits, help).unwrap_or(default)
    }

    /// A duration within limits that has no default of its own.
    pub(in crate::config) fn optional_duration(
        &mut self,
        name: &'static str,
        limits: RangeInclusive<Duration>,
        help: &'static str,
    ) -> Option<Duration> {
        self.duration_or(name, "", limits, help)
    }

    fn duration_or(
        &mut self,
        name: &'static str,
        default: &str,
        limits: RangeInclusive<Duration>,
        help: &'static str,
    ) -> Option<Duration> {
        let [low, high] = [limits.start(), limits.end()].map(|limit| units::show_duration(*limit));
        let allowed = format!("a duration, {low} to {high}");
        self.scalar(name, default, &allowed, help, |text| {
            units::duration(text).filter(|d| limits.contains(d))
        })
    }

    /// A size in bytes within limits.
    pub(in crate::config) fn size(
        &mut self,
        name: &'static str,
        default: u64,
        limits: RangeInclusive<u64>,
        help: &'static str,
    ) -> u64 {
        let [low, high] = [*limits.start(), *limits.end()].map(units::show_size);
        let allowed = format!("a size, {low} to {high}");
        let parse = |text: &str| units::size(text).filter(|bytes| limits.contains(bytes));
        self.scalar(name, &units::show_size(default), &allowed, help, parse).unwrap_or(default)
    }

    /// A whole number within limits.
    pub(in crate::config) fn count(
        &mut self,
        name: &'static str,
        default: u32,
        limits: RangeInclusive<u32>,
        help: &'static str,
    ) -> u32 {
        let allowed = format!("a whole number, {} to {}", limits.start(), limits.end());
        let parse = |text: &str| text.parse().ok().filter(|count| limits.contains(count));
        self.scalar(name, &default.to_string(), &allowed, help, parse).unwrap_or(default)
    }

    /// `true` or `false`.
    pub(in crate::config) fn switch(
        &mut self,
        name: &'static str,
        default: bool,
        help: &'static str,
    ) -> bool {
        self.switch_or(name, if default { "true" } else { "false" }, help).unwrap_or(default)
    }

    /// `true` or `false`, without a default of its own.
    pub(in crate::config) fn optional_switch(
        &mut self,
        name: &'static str,
        help: &'static str,
    ) -> Option<bool> {
        self.switch_or(name, "", help)
    }

    fn switch_or(&mut self, name: &'static str, default: &str, help: &'static str) -> Option<bool> {
        self.scalar(name, default, "true | false", help, |text| text.parse().ok())
    }

    /// One of a few words; the first is the default.
    pub(in crate::config) fn choice<T: Copy>(
        &mut self,
        name: &'static str,
        words: &[(&str, T)],
        help: &'static str,
    ) -> Option<T> {
        let allowed: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let default = allowed.first().copied().unwrap_or_default();
        let parse = |text: &str| words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        self.scalar(name, default, &allowed.join(" | "), help, parse)
    }

    /// A value that must be there; `example` is for the documentation.
    pub(in crate::config) fn required<T>(
        &mut self,
        name: &'static str,
        example: &str,
        allowed: &str,
        help: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let parsed = self.scalar(name, example, allowed, help, parse);
        if !self.is_set(name) {
            self.problem(name, None, format!("is missing, allowed: {allowed}"));
        }
        parsed
    }

    /// A file that `read` makes something of, or says why it cannot. Nothing and an empty text are no file.
    pub(in crate::config) fn file<T>(
        &mut self,
        name: &'static str,
        help: &'static str,
        read: impl Fn(&Path) -> Result<T, String>,
    ) -> Option<T> {
        let some = |text: &str| Some(text.to_owned());
        let path = self.scalar(name, "", "a path", help, some).filter(|path| !path.is_empty())?;
        match read(Path::new(&path)) {
            Ok(content) => Some(content),
            Err(reason) => {
                self.problem(name, Some(path), reason);
                None
            }
        }
    }
}
