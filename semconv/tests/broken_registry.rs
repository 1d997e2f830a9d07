//! A broken registry must not become constants: each mistake is found, with the file and the name, and all at once.

use std::path::Path;

#[path = "../build/check.rs"]
mod check;
#[path = "../build/generate.rs"]
mod generate;
#[path = "../build/registry.rs"]
mod registry;

use registry::Registry;

/// A file that is in order, as a template for mistakes.
const GOOD: &str = "\
file_format: definition/2
attributes:
  - key: jitterscope.tcp.side
    type: { members: [{ id: client, value: client, stability: development }] }
    brief: Which side.
    stability: development
metrics:
  - name: jitterscope.tcp.resets
    brief: Resets.
    unit: \"{segment}\"
    instrument: counter
    stability: development
    annotations: { code_generation: { metric_value_type: int } }
    entity_associations: [jitterscope.netns]
    attributes: [{ ref: jitterscope.tcp.side, requirement_level: required }]
events:
  - name: jitterscope.tcp.reset
    brief: A reset.
    stability: development
    annotations: { severity_number: 9 }
    attributes: [{ ref: jitterscope.tcp.side, requirement_level: { opt_in: for two } }]
entities:
  - type: jitterscope.netns
    brief: A namespace.
    stability: development
    identity: [{ ref: jitterscope.tcp.side }]
";

/// What the build reports of files of these names and texts.
fn problems(files: &[(&str, &str)]) -> Vec<String> {
    let mut registry = Registry::default();
    let mut problems: Vec<_> =
        files.iter().filter_map(|(name, text)| registry.add(name, text).err()).collect();
    problems.extend(check::problems(&registry));
    problems
}

/// Asserts that replacing `from` by `to` in the good file gives exactly one problem, which says `what` and where.
#[track_caller]
fn refused(from: &str, to: &str, what: &str) {
    assert!(GOOD.contains(from), "{from}");
    let found = problems(&[("tcp.yaml", &GOOD.replace(from, to))]);
    assert!(found.len() == 1 && found[0].starts_with("tcp.yaml: ") && found[0].contains(what), "{found:#?}");
}

#[test]
fn the_registry_as_shipped_has_no_problem() -> anyhow::Result<()> {
    let (registry, mut found) = registry::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("registry"))?;
    found.extend(check::problems(&registry));
    assert_eq!(found, Vec::<String>::new());
    assert!(!registry.metrics.is_empty());
    Ok(())
}

#[test]
fn a_file_that_is_in_order_has_no_problem() {
    assert_eq!(problems(&[("tcp.yaml", GOOD)]), Vec::<String>::new());
}

#[test]
fn an_attribute_that_nothing_declares_is_refused() {
    let metric = "ref: jitterscope.tcp.side, requirement_level: required";
    refused(
        metric,
        "ref: jitterscope.tcp.sied",
        "jitterscope.tcp.resets: unknown attribute jitterscope.tcp.sied",
    );
}

#[test]
fn an_entity_that_nothing_declares_is_refused() {
    refused(
        "associations: [jitterscope.netns]",
        "associations: [pod]",
        "jitterscope.tcp.resets: unknown entity pod",
    );
}

#[test]
fn an_unknown_instrument_is_refused() {
    refused(
        "instrument: counter",
        "instrument: meter",
        "jitterscope.tcp.resets: instrument \"meter\" is none of",
    );
}

#[test]
fn a_metric_without_a_unit_is_refused() {
    refused("    unit: \"{segment}\"\n", "", "jitterscope.tcp.resets: no unit");
}

#[test]
fn an_unknown_type_stability_level_or_number_is_refused() {
    refused(
        "type: { members: [{ id: client, value: client, stability: development }] }",
        "type: text",
        "type \"text\"",
    );
    refused("Resets.\n", "Resets.\n    note: x\n", "unknown field `note`");
    refused("metric_value_type: int", "metric_value_type: long", "metric_value_type \"long\"");
    refused("requirement_level: required", "requirement_level: must", "requirement level \"must\"");
    refused(
        "Which side.\n    stability: development",
        "Which side.\n    stability: good",
        "stability \"good\"",
    );
}

#[test]
fn a_severity_that_opentelemetry_does_not_have_is_refused() {
    refused(
        "severity_number: 9",
        "severity_number: 25",
        "jitterscope.tcp.reset: severity_number outside 1 to 24",
    );
}

#[test]
fn a_name_with_bad_characters_is_refused() {
    for name in [
        "jitterscope.tcp.reSets",
        "jitterscope.tcp.re-sets",
        "jitterscope..resets",
        "jitterscope.tcp.resets_",
    ] {
        refused("jitterscope.tcp.resets", name, &format!("{name}: the name is not dotted snake_case"));
    }
}

#[test]
fn a_name_outside_our_namespace_is_refused_unless_imported() {
    refused("name: jitterscope.tcp.resets", "name: tcp.resets", "tcp.resets: names under jitterscope.");
    let imported = problems(&[("imported.yaml", GOOD)]);
    assert_eq!(imported.len(), 4, "{imported:#?}");
    assert_eq!(problems(&[("imported.yaml", &GOOD.replace("jitterscope.", "otel."))]), Vec::<String>::new());
}

#[test]
fn a_name_declared_twice_is_refused_with_both_files() {
    let found = problems(&[("tcp.yaml", GOOD), ("udp.yaml", GOOD)]);
    assert_eq!(found.len(), 4, "{found:#?}");
    assert!(
        found
            .iter()
            .all(|problem| problem.starts_with("udp.yaml: ") && problem.contains("declared in tcp.yaml"))
    );
}

#[test]
fn two_members_of_one_value_are_refused() {
    let twice = "members: [{ id: peer, value: client, stability: development }, { id";
    refused("members: [{ id", twice, "jitterscope.tcp.side: two members with one id or value");
}

#[test]
fn all_mistakes_of_all_files_are_reported_together() {
    let broken = GOOD
        .replace("instrument: counter", "instrument: meter")
        .replace("severity_number: 9", "severity_number: 0");
    let found =
        problems(&[("a.yaml", "file_format: definition/1"), ("b.yaml", "metrics: ["), ("tcp.yaml", &broken)]);
    assert_eq!(found.len(), 4, "{found:#?}");
    assert!(found[0].starts_with("a.yaml: ") && found[1].starts_with("b.yaml: "), "{found:#?}");
}

#[test]
fn constants_drop_the_prefix_that_all_our_names_share() -> anyhow::Result<()> {
    let mut registry = Registry::default();
    registry.add("tcp.yaml", GOOD).map_err(anyhow::Error::msg)?;
    let constants = generate::constants(&registry)?;
    for expected in
        ["pub static TCP_RESETS: Metric", "pub static TCP_RESET: Event", "pub enum TcpSide", "Self::Client"]
    {
        assert!(constants.contains(expected), "{expected} is missing in\n{constants}");
    }
    Ok(())
}
