//! The crate's README is the registry for people: written from the constants, and checked against them.

use std::fmt::{Result, Write};
use std::{env, fs};

use jitterscope_semconv::{
    ATTRIBUTES, Attribute, AttributeRef, ENTITIES, EVENTS, Entity, Event, METRICS, Metric, RequirementLevel,
    SCHEMA_URL, ValueType,
};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
const REGENERATE: &str = "UPDATE_REFERENCE=1 cargo test -p jitterscope-semconv";

#[test]
fn the_reference_page_is_what_the_registry_says() -> anyhow::Result<()> {
    let expected = page()?;
    if env::var_os("UPDATE_REFERENCE").is_some() {
        fs::write(PAGE, &expected)?;
    }
    let found = fs::read_to_string(PAGE).unwrap_or_default();
    let differs = expected.lines().zip(found.lines()).find(|(expected, found)| expected != found);
    assert!(
        found == expected,
        "README.md is not what the registry says; write it anew with\n  {REGENERATE}\n{differs:#?}"
    );
    Ok(())
}

fn page() -> std::result::Result<String, std::fmt::Error> {
    let mut out = String::new();
    introduction(&mut out)?;
    writeln!(out, "## Metrics\n\nOf our own, by namespace:")?;
    for namespace in namespaces() {
        let inside = METRICS
            .iter()
            .copied()
            .filter(|metric| !metric.imported && namespace_of(metric.name) == namespace);
        metrics(&mut out, namespace, inside)?;
    }
    metrics(
        &mut out,
        "OpenTelemetry's, unchanged",
        METRICS.iter().copied().filter(|metric| metric.imported),
    )?;
    writeln!(out, "\n## Events")?;
    EVENTS.iter().try_for_each(|event| write_event(&mut out, event))?;
    writeln!(out, "\n## Attributes")?;
    attributes(&mut out, "Of our own", false)?;
    attributes(&mut out, "OpenTelemetry's, unchanged", true)?;
    entities(&mut out)?;
    Ok(out)
}

fn introduction(out: &mut String) -> Result {
    writeln!(
        out,
        "# Telemetry schema\n\n\
         Every metric, event, attribute and entity that jitterscope emits. The source is `registry/*.yaml`, in the\n\
         `definition/2` syntax of [OpenTelemetry Weaver](https://github.com/open-telemetry/weaver); `build.rs` turns it\n\
         into typed constants, and this page is written from those:\n\n\
         ```sh\n{REGENERATE}\n```\n\n\
         Names that OpenTelemetry has are used unchanged, as of <{SCHEMA_URL}>, and declared in\n\
         `registry/imported.yaml`; their enums are open, ours are not. Everything else is under `jitterscope.`. To add a\n\
         name, declare it in the file of its probe; what a name must look like is in `tests/rules.rs`.\n\n\
         Requirement levels: **required** · conditionally required, with the condition · recommended, with the condition\n\
         if there is one · *opt-in*.\n"
    )
}

/// The first part of a name after the prefix that all our names have in common.
fn namespace_of(name: &str) -> &str {
    let rest = name.strip_prefix("jitterscope.").unwrap_or(name);
    rest.split('.').next().unwrap_or(rest)
}

fn namespaces() -> Vec<&'static str> {
    let mut all: Vec<_> =
        METRICS.iter().filter(|metric| !metric.imported).map(|m| namespace_of(m.name)).collect();
    all.dedup();
    all
}

fn metrics(out: &mut String, title: &str, all: impl Iterator<Item = &'static Metric>) -> Result {
    writeln!(
        out,
        "\n### {title}\n\n| metric | instrument, unit | what it is | attributes | entities |\n|---|---|---|---|---|"
    )?;
    for Metric { name, unit, instrument, brief, attributes, entities, .. } in all {
        let attributes: Vec<_> = attributes.iter().map(reference).collect();
        writeln!(
            out,
            "| `{name}` | {instrument}, `{unit}` | {} | {} | {} |",
            cell(brief),
            attributes.join("<br>"),
            names(entities)
        )?;
    }
    Ok(())
}

fn write_event(out: &mut String, event: &Event) -> Result {
    let Event { name, severity, brief, attributes, entities, .. } = event;
    writeln!(out, "\n### `{name}`\n\n{brief} Severity {severity}; for {}.\n", names(entities))?;
    writeln!(out, "| attribute | type | what it says |\n|---|---|---|")?;
    for at in *attributes {
        writeln!(out, "| {} | {} | {} |", reference(at), kind(at.attribute), cell(at.attribute.brief))?;
    }
    Ok(())
}

fn attributes(out: &mut String, title: &str, imported: bool) -> Result {
    writeln!(out, "\n### {title}\n\n| attribute | type | what it says |\n|---|---|---|")?;
    for attribute in ATTRIBUTES.iter().filter(|attribute| attribute.imported == imported) {
        writeln!(out, "| `{attribute}` | {} | {} |", kind(attribute), cell(attribute.brief))?;
    }
    Ok(())
}

fn entities(out: &mut String) -> Result {
    writeln!(out, "\n## Entities\n\n| entity | what it is | identifying | descriptive |\n|---|---|---|---|")?;
    for Entity { name, brief, identifying, descriptive, .. } in ENTITIES {
        let keys = |all: &[AttributeRef]| {
            all.iter().map(|at| format!("`{}`", at.attribute)).collect::<Vec<_>>().join(", ")
        };
        writeln!(out, "| `{name}` | {} | {} | {} |", cell(brief), keys(identifying), keys(descriptive))?;
    }
    Ok(())
}

/// An attribute with how binding it is.
fn reference(at: &AttributeRef) -> String {
    let key = at.attribute;
    match at.level {
        RequirementLevel::Required => format!("**`{key}`**"),
        RequirementLevel::ConditionallyRequired(when) => format!("`{key}` (required {when})"),
        RequirementLevel::Recommended("") => format!("`{key}`"),
        RequirementLevel::Recommended(when) => format!("`{key}` ({when})"),
        RequirementLevel::OptIn("") => format!("*`{key}`*"),
        RequirementLevel::OptIn(when) => format!("*`{key}`* ({when})"),
    }
}

fn kind(attribute: &Attribute) -> String {
    match attribute.kind {
        ValueType::String => "string".to_owned(),
        ValueType::Int => "int".to_owned(),
        ValueType::Double => "double".to_owned(),
        ValueType::Boolean => "boolean".to_owned(),
        ValueType::StringArray => "string[]".to_owned(),
        ValueType::IntArray => "int[]".to_owned(),
        ValueType::StringTemplate => "template[string]".to_owned(),
        ValueType::Enum(values) => {
            values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ")
        }
    }
}

fn names(entities: &[&Entity]) -> String {
    entities.iter().map(|entity| format!("`{entity}`")).collect::<Vec<_>>().join(", ")
}

/// Text that cannot end its table cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
