//! What the documentation says of the settings: the complete default file, the page around it and the help text, all
//! from the statements that read them.

use std::collections::HashSet;
use std::fmt::Write;

use crate::probe::Definition;

use super::keys;
use super::otel::VARIABLES;
use super::reader::Key;

/// Column of the comments, past nearly all keys with their defaults.
const COMMENTS: usize = 36;

/// The complete default file as YAML with comments. To load it changes nothing.
#[must_use]
pub fn default_file(probes: &[&'static Definition]) -> String {
    let keys = keys(probes);
    let before = std::iter::once(None).chain(keys.iter().map(Some));
    let mut said = HashSet::new();
    keys.iter().zip(before).map(|(key, before)| line(key, before, &mut said)).collect()
}

/// Each setting once, with its default, for `--help`.
#[must_use]
pub fn settings_help(probes: &[&'static Definition]) -> String {
    let mut seen = HashSet::new();
    let mut text = String::from("Settings, for --set, the file and the environment:\n");
    for key in keys(probes).iter().filter(|key| key.default.is_some()) {
        let path = any_probe(&key.path);
        if seen.insert(path.clone()) {
            _ = write!(text, "  {path}:{}\n      {}; {}\n", value(key), key.help, key.allowed);
        }
    }
    text
}

/// The page of the configuration: layers, default file, standard variables.
#[must_use]
pub fn page(probes: &[&'static Definition]) -> String {
    let variables: String = VARIABLES.iter().map(|(name, what)| format!("| `{name}` | {what} |\n")).collect();
    let file = default_file(probes);
    format!(include_str!("page.md"), file = file.trim_end(), variables = variables.trim_end())
}

/// `probes.tcp.interval` as `probes.PROBE.interval`.
fn any_probe(path: &str) -> String {
    match path.split('.').collect::<Vec<_>>().as_slice() {
        ["probes", _, rest @ ..] => format!("probes.PROBE.{}", rest.join(".")),
        _ => path.to_owned(),
    }
}

fn line(key: &Key, before: Option<&Key>, said: &mut HashSet<(String, &'static str)>) -> String {
    let name = key.path.rsplit('.').next().unwrap_or_default();
    let first_of_entry = before.is_none_or(|before| !before.path.contains("[]"));
    let setting = format!("{}{name}:{}", indent(&key.path, first_of_entry), value(key));
    // The same of every probe is said once.
    if !said.insert((name.to_owned(), key.help)) {
        return format!("{}\n", setting.trim_end());
    }
    let allowed = if key.allowed.is_empty() { String::new() } else { format!(" ({})", key.allowed) };
    format!("{setting:<COMMENTS$} # {}{allowed}\n", key.help)
}

fn value(key: &Key) -> String {
    match &key.default {
        Some(default) if !default.is_empty() => format!(" {default}"),
        _ => String::new(),
    }
}

/// Two blanks a level. A list is empty by default: an entry is shown as a comment, its first key behind the dash.
fn indent(path: &str, first_of_entry: bool) -> String {
    let level = path.matches('.').count();
    let Some((list, inner)) = path.split_once("[].") else { return "  ".repeat(level) };
    let outer = "  ".repeat(list.matches('.').count() + 1);
    let first = if first_of_entry { "- " } else { "  " };
    format!("{outer}# {first}{}", "  ".repeat(inner.matches('.').count()))
}
