//! The configuration file as a JSON schema, for the chart: keys, kinds of values and words, from the statements that read
//! them. Ranges and what must fit together stay with the receiver, which says more about them.

use serde_json::{Map, Value, json};

use crate::probe::Definition;

use super::keys;
use super::reader::{Key, TABLES};

/// The schema of the whole file, without the tables in `without`.
#[must_use]
pub fn schema(probes: &[&'static Definition], without: &[&str]) -> Value {
    let mut root = table();
    let top = |path: &str| path.split('.').next().is_some_and(|top| without.contains(&top));
    for key in keys(probes).iter().filter(|key| !top(&key.path)) {
        let mut described = value(key);
        described["description"] = text(key).into();
        *place(&mut root, &key.path) = described;
    }
    root
}

/// Where a key's schema stands in that of the file; `a[]` are the entries of a list.
fn place<'a>(root: &'a mut Value, path: &str) -> &'a mut Value {
    path.split('.').fold(root, |table, name| match name.strip_suffix("[]") {
        Some(list) => &mut table["properties"][list]["items"],
        None => &mut table["properties"][name],
    })
}

fn table() -> Value {
    json!({ "type": ["object", "null"], "additionalProperties": false, "properties": Map::new() })
}

/// A key without a value is as good as absent, so nothing is allowed everywhere.
fn value(key: &Key) -> Value {
    let words: Vec<&str> = key.allowed.split(" | ").collect();
    match key.default.as_deref() {
        None => table(),
        Some("{}") => json!({ "type": ["object", "null"] }),
        Some(_) if key.allowed == TABLES => json!({ "type": ["array", "null"], "items": table() }),
        Some(_) if key.allowed.starts_with("a list of ") => {
            json!({ "type": ["array", "null"], "items": { "type": "string" } })
        }
        Some(_) if words == ["true", "false"] => json!({ "type": ["boolean", "null"] }),
        Some(_) if words.iter().all(|word| is_word(word)) => choice(&words),
        Some(_) if key.allowed.starts_with("a whole number") => json!({ "type": ["integer", "null"] }),
        Some(_) => json!({ "type": ["string", "null"] }),
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || b"_/".contains(&byte))
}

fn choice(words: &[&str]) -> Value {
    let words = words.iter().map(|word| Value::from(*word));
    json!({ "enum": words.chain([Value::Null]).collect::<Vec<_>>() })
}

fn text(key: &Key) -> String {
    if key.allowed.is_empty() { key.help.to_owned() } else { format!("{} ({})", key.help, key.allowed) }
}
