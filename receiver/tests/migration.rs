//! The page for those who come from the `KubeSkoop` exporter: it has each of the reference's names once, and what it says of
//! ours is so.
#![expect(clippy::expect_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::{collections::BTreeSet, fs, path::Path};

use jitterscope::probe::{Definition, PROBES};
use jitterscope_semconv::{AttributeRef, Event, Metric};

/// One name a line: `metric NAME` or `event PROBE NAME`.
const REFERENCE: &str = include_str!("fixtures/kubeskoop-metrics.txt");

/// How a row says that its probe is still to come.
const LATER: &str = "*not there yet*";

/// Why a name of the reference may have no counterpart.
const REASONS: [&str; 3] = ["wrong in the reference: ", "its own bookkeeping: ", "a driver's counter: "];

/// A row of the page.
#[derive(Clone, Debug)]
struct Row {
    /// As in the list.
    reference: String,
    /// Our name; `None` where there is none.
    target: Option<String>,
    /// `key=value` of its points.
    attributes: Vec<String>,
    probe: String,
    note: String,
}

fn page() -> Vec<Row> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../semconv/migration.md");
    let page = fs::read_to_string(path).expect("the page is there");
    page.lines().filter(|line| line.starts_with("| `") || line.starts_with("| event")).map(row).collect()
}

fn row(line: &str) -> Row {
    let cells: Vec<_> = line.split('|').map(|cell| cell.trim().replace('`', "")).collect();
    let [_, reference, target, attributes, probe, note, _] = cells.as_slice() else { panic!("{line}") };
    let kind = if reference.starts_with("event ") { "" } else { "metric " };
    Row {
        reference: format!("{kind}{reference}"),
        target: Some(target.clone()).filter(|target| target != "none"),
        attributes: attributes.split_whitespace().map(str::to_owned).collect(),
        probe: probe.clone(),
        note: note.clone(),
    }
}

impl Row {
    fn is_event(&self) -> bool {
        self.reference.starts_with("event ")
    }

    /// What is wrong with it; nothing when it is right.
    fn problem(&self) -> Option<String> {
        let Some(target) = &self.target else {
            let allowed = REASONS.iter().any(|reason| self.note.starts_with(reason));
            return (!allowed).then(|| "has no counterpart for no reason that is allowed".to_owned());
        };
        let probe = PROBES.iter().find(|probe| probe.name == self.probe);
        match (self.note.starts_with(LATER), probe) {
            (true, Some(_)) => Some(format!("is {LATER}, but the probe is")),
            (true, None) => {
                self.is_declared().then(|| format!("is {LATER}, but {target} is in the registry"))
            }
            (false, None) => Some("names no probe that there is".to_owned()),
            (false, Some(probe)) => self.mismatch(target, probe),
        }
    }

    fn is_declared(&self) -> bool {
        let target = self.target.as_deref().unwrap_or_default();
        Metric::find(target).is_some() || Event::find(target).is_some()
    }

    /// What the probe does not emit as the row says.
    fn mismatch(&self, target: &str, probe: &Definition) -> Option<String> {
        let declared = if self.is_event() {
            probe.events.iter().find(|event| event.name == target).map(|event| event.attributes)
        } else {
            probe.metrics.iter().find(|metric| metric.name == target).map(|metric| metric.attributes)
        };
        let Some(declared) = declared else {
            return Some(format!("{target} is not of the probe {}", probe.name));
        };
        let unknown = self.attributes.iter().find(|attribute| !is_of(attribute, declared))?;
        Some(format!("{target} has no {unknown}"))
    }
}

fn is_of(attribute: &str, declared: &[AttributeRef]) -> bool {
    let Some((key, value)) = attribute.split_once('=') else { return false };
    declared
        .iter()
        .map(|reference| reference.attribute)
        .any(|known| known.key == key && known.closed_values().is_none_or(|values| values.contains(&value)))
}

#[test]
fn every_name_of_the_reference_has_one_row() {
    let list: Vec<_> = REFERENCE.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
    let rows: Vec<_> = page().into_iter().map(|row| row.reference).collect();
    let both = [&list, &rows].map(|names| names.iter().collect::<BTreeSet<_>>());
    assert!(list.len() > 150 && both[0].len() == list.len() && both[1].len() == rows.len());
    assert_eq!(both[0].symmetric_difference(&both[1]).collect::<Vec<_>>(), [&""; 0]);
}

#[test]
fn every_row_says_what_is_so() {
    let wrong: Vec<_> =
        page().iter().filter_map(|row| Some(format!("{}: {}", row.reference, row.problem()?))).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_row_that_is_wrong_is_found() {
    let of = |line: &str| row(line).problem().unwrap_or_default();
    let good = "| `x` | `jitterscope.tcp.segments` | `network.io.direction=receive` | `tcp` | |";
    assert_eq!(of(good), "");
    assert!(of(&good.replace("segments", "segment")).contains("is not of the probe"));
    assert!(of(&good.replace("direction", "way")).contains("has no"));
    assert!(of(&good.replace("`tcp`", "`nosuch`")).contains("names no probe"));
    assert!(of(&good.replace("| |", "| *not there yet* |")).contains("but the probe is"));
    assert!(of(&good.replace("`tcp` | |", "`nosuch` | *not there yet* |")).contains("is in the registry"));
    assert!(of("| `x` | none | | | nobody wants it |").contains("for no reason"));
    assert_eq!(of("| `x` | none | | | its own bookkeeping: it |"), "");
}
