//! What holds for a configuration as a whole: defaults, documentation, and what tests of layers and problems share.

use std::path::PathBuf;
use std::time::Duration;

use crate::probe::{Definition, Overhead, ProbeOption, Source};

use super::*;

mod layers;
mod problems;

/// The one definition that is written out for tests; others differ from it in a few fields.
pub(crate) const PACKETLOSS: Definition = Definition {
    name: "packetloss",
    use_when: "packets vanish",
    source: Source::Ebpf,
    overhead: Overhead::Low,
    default: true,
    capabilities: &["CAP_BPF"],
    options: &[ProbeOption::Events, ProbeOption::Stack],
    metrics: &[],
    events: &[],
    open: |_| Err(crate::probe::Skip::Missing("it is a test's".to_owned())),
};
const NETDEV: Definition = Definition {
    name: "netdev",
    use_when: "an interface is suspected",
    default: false,
    options: &[
        ProbeOption::ExcludedInterfaces(&["lo"]),
        ProbeOption::Threshold(Duration::from_millis(10)),
        ProbeOption::Sampling(4),
    ],
    ..PACKETLOSS
};
const TWO: &[&Definition] = &[&PACKETLOSS, &NETDEV];

/// A directory with one file in it, removed at the end.
struct Written {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

fn written(name: &str, text: &str) -> Written {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, text).unwrap();
    Written { _directory: directory, path }
}

fn yaml(text: &str) -> (Written, Sources) {
    let file = written("config.yaml", text);
    let sources = Sources { file: Some(file.path.clone()), ..Sources::default() };
    (file, sources)
}

fn load_yaml(text: &str) -> Result<Settings, ConfigError> {
    yaml(text).1.load(TWO)
}

fn pairs(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn environment(all: &[(&str, &str)]) -> Sources {
    Sources { environment: pairs(all), ..Sources::default() }
}

fn set(all: &[(&str, &str)]) -> Sources {
    Sources { set: pairs(all), ..Sources::default() }
}

fn defaults() -> Settings {
    Sources::default().load(TWO).unwrap()
}

/// The problems as printed.
fn problems(sources: &Sources) -> Vec<String> {
    sources.load(TWO).unwrap_err().problems.iter().map(ToString::to_string).collect()
}

/// The problems of a file, without its path.
fn problems_of_yaml(text: &str) -> Vec<String> {
    let (file, sources) = yaml(text);
    let path = format!("file {}: ", file.path.display());
    problems(&sources).iter().map(|problem| problem.strip_prefix(&path).unwrap().to_owned()).collect()
}

fn endpoints(settings: &Settings) -> Vec<String> {
    settings.export.otlp.iter().map(|destination| destination.endpoint.to_string()).collect()
}

#[test]
fn nothing_configured_gives_the_documented_defaults() {
    let settings = defaults();
    assert_eq!(settings.interval, Duration::from_secs(15));
    assert!(settings.probes["packetloss"].enabled);
    assert!(!settings.probes["netdev"].enabled);
    assert_eq!(settings.probes["packetloss"].events, Some(EventLimit { rate: 20, burst: 100 }));
    assert_eq!(settings.probes["netdev"].events, None);
    assert!(settings.probes["netdev"].exclude_interfaces[0].matches("lo"));
    assert_eq!(settings.export.otlp, []);
    assert_eq!(settings.health, Some("127.0.0.1:13134".parse().unwrap()));
    assert!(settings.prints_events());
}

#[test]
fn to_load_the_default_file_changes_nothing() {
    assert_eq!(load_yaml(&default_file(TWO)), Ok(defaults()));
}

#[test]
fn the_destination_shown_in_the_default_file_loads_as_shown() {
    let file = default_file(TWO).replace("otlp: []", "otlp:");
    let shown: Vec<String> = file
        .lines()
        .map(|line| line.replacen("    # ", "    ", usize::from(line.starts_with("    # "))))
        .collect();
    let settings = load_yaml(&shown.join("\n")).unwrap();
    assert_eq!(endpoints(&settings), ["http://127.0.0.1:4317/"]);
    let endpoint_alone = set(&[("export.otlp", "[{endpoint: 'http://127.0.0.1:4317'}]")]);
    assert_eq!(settings, endpoint_alone.load(TWO).unwrap());
}

#[test]
fn the_configuration_page_is_what_the_settings_say() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config.md");
    let now = page(crate::probe::PROBES);
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(path, &now).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == now,
        "receiver/config.md is out of date: UPDATE_REFERENCE=1 cargo test -p jitterscope --lib config"
    );
}

/// Where the schema of the chart's values has the receiver's configuration, which the chart gives its health endpoint.
const CHART: (&str, &str, &str) =
    ("/../helm/jitterscope/values.schema.json", "    \"config\": ", ",\n    \"health\": ");

#[test]
fn the_charts_schema_of_the_configuration_is_what_the_settings_say() {
    let (file, begin, end) = CHART;
    let path = format!("{}{file}", env!("CARGO_MANIFEST_DIR"));
    let committed = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = committed.split_once(begin).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    let schema = schema(crate::probe::PROBES, &["health"]);
    let schema = serde_json::to_string_pretty(&schema).unwrap().replace('\n', "\n    ");
    let now = format!("{before}{begin}{schema}{end}{after}");
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    assert!(
        committed == now,
        "{path} is out of date: UPDATE_REFERENCE=1 cargo test -p jitterscope --lib config"
    );
}

#[test]
fn the_help_names_each_setting_once_for_all_probes() {
    let help = settings_help(TWO);
    assert_eq!(help.matches("probes.PROBE.interval:").count(), 1, "{help}");
    for key in ["  interval: 15s", "probes.PROBE.events.rate: 20", "export.otlp[].queue.memory: 16MiB"] {
        assert!(help.contains(key), "{key} in {help}");
    }
    assert!(!help.contains("packetloss"), "{help}");
}

#[test]
fn the_same_settings_are_read_from_yaml_toml_and_json() {
    let texts = [
        ("a.yaml", "interval: 5s\nprobes: {netdev: {enabled: true, exclude_interfaces: [lo, 'veth*']}}"),
        (
            "a.yml",
            "interval: 5s\nprobes:\n  netdev:\n    enabled: true\n    exclude_interfaces: [lo, 'veth*']",
        ),
        ("a.toml", "interval = '5s'\n[probes.netdev]\nenabled = true\nexclude_interfaces = ['lo', 'veth*']"),
        (
            "a.json",
            r#"{"interval":"5s","probes":{"netdev":{"enabled":true,"exclude_interfaces":["lo","veth*"]}}}"#,
        ),
    ];
    for (name, text) in texts {
        let file = written(name, text);
        let settings = Sources { file: Some(file.path.clone()), ..Sources::default() }.load(TWO).unwrap();
        assert_eq!(settings.interval, Duration::from_secs(5), "{name}");
        assert!(settings.probes["netdev"].enabled, "{name}");
        assert!(settings.probes["netdev"].exclude_interfaces[1].matches("veth0"), "{name}");
    }
}

#[test]
fn profiles_decide_for_probes_that_nothing_is_said_of() {
    let enabled = |text: &str| {
        let settings = load_yaml(text).unwrap();
        (settings.probes["packetloss"].enabled, settings.probes["netdev"].enabled)
    };
    assert_eq!(enabled("profile: monitor"), (true, false));
    assert_eq!(enabled("profile: troubleshoot"), (true, true));
    assert_eq!(enabled("profile: none"), (false, false));
    assert_eq!(enabled("{profile: none, probes: {netdev: {enabled: true}}}"), (false, true));
    assert_eq!(enabled("{profile: none, probes: {netdev: {required: true}}}"), (false, true));
    assert_eq!(enabled("{profile: troubleshoot, probes: {netdev: {enabled: false}}}"), (true, false));
}

#[test]
fn a_probe_has_the_general_interval_unless_it_has_its_own() {
    let settings = load_yaml("{interval: 5s, probes: {netdev: {interval: 1m}}}").unwrap();
    assert_eq!(settings.probes["packetloss"].interval, Duration::from_secs(5));
    assert_eq!(settings.probes["netdev"].interval, Duration::from_secs(60));
}

#[test]
fn only_the_probe_whose_settings_changed_differs() {
    let (before, after) = (defaults(), load_yaml("probes: {netdev: {interval: 1m}}").unwrap());
    assert_ne!(before, after);
    assert_eq!(before.probes["packetloss"], after.probes["packetloss"]);
    assert_ne!(before.probes["netdev"], after.probes["netdev"]);
}

#[test]
fn the_container_runtime_is_found_or_named_or_left_alone() {
    let cri = |text: &str| set(&[("entities.cri", text)]).load(TWO).map(|settings| settings.entities.cri);
    assert_eq!(cri("auto"), Ok(Cri::Auto));
    assert_eq!(cri("off"), Ok(Cri::Off));
    assert_eq!(cri("unix:///run/a.sock"), Ok(Cri::Socket("/run/a.sock".into())));
    assert!(cri("/run/a.sock").is_err());
}

#[test]
fn labels_are_named_as_kubernetes_names_them() {
    let labels = |text: &str| load_yaml(text).map(|settings| settings.entities.labels);
    assert_eq!(labels("{}"), Ok(Vec::new()));
    let some = labels("entities: { labels: [team, app.kubernetes.io/name, team] }").unwrap();
    assert_eq!(some, ["app.kubernetes.io/name", "team"]);
    let refused = labels("entities: { labels: [ok, -a, a/b/c, '', A.io/b, a*] }").unwrap_err().to_string();
    for problem in ["[1] = -a", "[2] = a/b/c", "[3] = ", "[4] = A.io/b", "[5] = a*"] {
        let problem = format!("entities.labels{problem}: allowed: labels' names");
        assert!(refused.contains(&problem), "{refused}");
    }
    let refused = labels("entities: { labels: app }").unwrap_err().to_string();
    assert!(refused.contains("entities.labels = app: allowed: a list of labels' names"), "{refused}");
    let many: Vec<String> = (0..33).map(|number| format!("l{number}")).collect();
    let refused = labels(&format!("entities: {{ labels: [{}] }}", many.join(", "))).unwrap_err().to_string();
    assert!(refused.contains("33 labels, at most 32"), "{refused}");
}

#[test]
fn of_how_many_flows_one_is_looked_at_is_the_probes_own_unless_it_is_said() {
    let sampling = |text| load_yaml(text).unwrap().probes["netdev"].sampling;
    assert_eq!((sampling("{}"), sampling("probes: { netdev: { sampling: 16 } }")), (4, 16));
    assert_eq!(load_yaml("{}").unwrap().probes["packetloss"].sampling, 1);
    let refused = load_yaml("probes: { netdev: { sampling: 0 } }").unwrap_err().to_string();
    assert!(refused.contains("probes.netdev.sampling") && refused.contains("1 to 65536"), "{refused}");
}

#[test]
fn a_threshold_is_the_probes_own_unless_it_is_said() {
    let threshold = |text| load_yaml(text).unwrap().probes["netdev"].threshold;
    assert_eq!(threshold("{}"), Some(Duration::from_millis(10)));
    assert_eq!(threshold("probes: { netdev: { threshold: 250ms } }"), Some(Duration::from_millis(250)));
    assert_eq!(load_yaml("{}").unwrap().probes["packetloss"].threshold, None);
    let refused = load_yaml("probes: { netdev: { threshold: 10m } }").unwrap_err().to_string();
    assert!(refused.contains("probes.netdev.threshold") && refused.contains("1m"), "{refused}");
}
