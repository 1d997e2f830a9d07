//! Configuration: what the user gave, in layers, read into validated [`Settings`]; every problem reported at once.

mod endpoint;
mod export;
mod file;
mod otel;
mod page;
mod pattern;
mod probes;
mod problem;
mod reader;
mod schema;
mod settings;
mod sources;
mod spans;
mod units;
mod watch;

pub use endpoint::Endpoint;
pub use export::{
    Compression, Destination, DiskQueue, Export, Histograms, Protocol, Signals, Temporality, Tls,
};
pub use otel::Resource;
pub use page::{default_file, page, settings_help};
pub use pattern::Pattern;
pub use probes::{EventLimit, ProbeSettings, Probes, Profile};
pub use problem::{ConfigError, Problem};
pub use schema::schema;
pub use settings::{Counters, Cri, Entities, EventsText, Kernel, Log, LogFormat, Settings};
pub use sources::Sources;
pub use spans::{ExemplarFilter, Links, SpanSources, Spans, Tap};
pub use units::{duration, show_duration, show_size, size};
pub use watch::{Change, Watch};

use crate::probe::Definition;
use reader::{Key, Reader, Report, Unknown};

impl Sources {
    /// Reads all layers into settings, the later before the earlier: defaults, `OTEL_*` variables, file,
    /// `JITTERSCOPE__*` variables, flags. `probes` gives the keys below `probes`.
    ///
    /// # Errors
    ///
    /// All that is wrong, in any layer: unknown keys, wrong types, values out of range, files that cannot be read.
    pub fn load(&self, probes: &[&'static Definition]) -> Result<Settings, ConfigError> {
        let merged = self.merge();
        let mut report = Report { problems: merged.problems, ..Report::default() };
        let settings =
            Reader::root(Some(&merged.settings), &mut report, |r| settings::read(r, probes, merged.resource));
        let Report { mut problems, unknown, keys } = report;
        problems.extend(unknown.into_iter().map(|unknown| explain(unknown, &keys)));
        if problems.is_empty() { Ok(settings) } else { Err(ConfigError { problems }) }
    }
}

/// Every key that there is, in the order of the documentation.
fn keys(probes: &[&'static Definition]) -> Vec<Key> {
    let mut report = Report::default();
    Reader::root(None, &mut report, |r| settings::read(r, probes, Resource::default()));
    report.keys
}

fn explain(unknown: Unknown, keys: &[Key]) -> Problem {
    let nearest = nearest(&unknown, keys);
    let advice = nearest
        .map_or_else(|| format!("allowed: {}", unknown.known.join(", ")), |key| format!("nearest: {key}"));
    let reason = format!("unknown key, {advice}");
    Problem { origin: unknown.origin, key: unknown.path, value: None, reason }
}

/// A key of the same table that is spelt much alike, else one of the same name elsewhere; not of another probe's,
/// that would be no help.
fn nearest(unknown: &Unknown, keys: &[Key]) -> Option<String> {
    let (table, name) = unknown.path.rsplit_once('.').unwrap_or(("", &unknown.path));
    if let Some(sibling) = most_alike(name, &unknown.known) {
        return Some(if table.is_empty() { sibling.to_owned() } else { format!("{table}.{sibling}") });
    }
    let mut others = keys.iter().map(|key| &key.path).filter(|path| !path.starts_with("probes."));
    others.find(|path| path.rsplit('.').next() == Some(name)).cloned()
}

/// The word that is spelt most like this one, if it is alike enough to be meant.
pub(crate) fn most_alike<'a>(word: &str, words: &[&'a str]) -> Option<&'a str> {
    let word = word.to_lowercase();
    let alike = words.iter().map(|known| (strsim::normalized_damerau_levenshtein(&word, known), *known));
    alike.filter(|(score, _)| *score >= 0.6).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
}

#[cfg(test)]
pub(crate) mod tests;
