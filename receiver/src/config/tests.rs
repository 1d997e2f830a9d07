//! What holds for a configuration as a whole: layers, problems, documentation.

use std::path::PathBuf;
use std::time::Duration;

use crate::probe::{Definition, Overhead, ProbeOption, Source};

use super::*;

const PACKETLOSS: Definition = Definition {
    name: "packetloss",
    use_when: "packets vanish",
    source: Source::Ebpf,
    overhead: Overhead::Low,
    default: true,
    capabilities: &["CAP_BPF"],
    options: &[ProbeOption::Events, ProbeOption::Stack],
    metrics: &[],
    events: &[],
};
const NETDEV: Definition = Definition {
    name: "netdev",
    use_when: "an interface is suspected",
    default: false,
    options: &[ProbeOption::ExcludedInterfaces],
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

#[test]
fn the_help_names_each_setting_once_for_all_probes() {
    let help = settings_help(TWO);
    assert_eq!(help.matches("probes.PROBE.interval ").count(), 1, "{help}");
    for key in ["  interval ", "probes.PROBE.events.rate", "export.otlp[].queue.memory", "16MiB"] {
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
fn later_layers_win_over_earlier_ones() {
    let (_file, mut sources) = yaml("interval: 20s");
    sources.environment = pairs(&[("OTEL_METRIC_EXPORT_INTERVAL", "10000")]);
    assert_eq!(sources.load(TWO).unwrap().interval, Duration::from_secs(20));
    sources.environment.extend(pairs(&[("JITTERSCOPE__INTERVAL", "30s")]));
    assert_eq!(sources.load(TWO).unwrap().interval, Duration::from_secs(30));
    sources.set = pairs(&[("interval", "40s"), ("interval", "50s")]);
    assert_eq!(sources.load(TWO).unwrap().interval, Duration::from_secs(50));
    sources = environment(&[("OTEL_METRIC_EXPORT_INTERVAL", "10000")]);
    assert_eq!(sources.load(TWO).unwrap().interval, Duration::from_secs(10));
}

#[test]
fn a_key_without_value_leaves_what_an_earlier_layer_said() {
    let (_file, mut sources) = yaml("interval:\nprobes:\n");
    sources.environment = pairs(&[("OTEL_METRIC_EXPORT_INTERVAL", "10000")]);
    assert_eq!(sources.load(TWO).unwrap().interval, Duration::from_secs(10));
}

#[test]
fn layers_are_merged_key_by_key_and_lists_are_replaced() {
    let (_file, mut sources) = yaml(
        "probes: {packetloss: {stack: true, events: {rate: 5}}, netdev: {exclude_interfaces: [a, b]}}\nexport: {otlp: [{endpoint: 'http://a:1'}, {endpoint: 'http://b:2'}]}",
    );
    sources.environment = pairs(&[("JITTERSCOPE__PROBES__PACKETLOSS__EVENTS__BURST", "7")]);
    sources.set = pairs(&[
        ("probes.netdev.exclude_interfaces", "[c]"),
        ("export.otlp", "[{endpoint: 'unix:///c', headers: {a: b}}]"),
    ]);
    let settings = sources.load(TWO).unwrap();
    let packetloss = &settings.probes["packetloss"];
    assert_eq!((packetloss.stack, packetloss.events), (true, Some(EventLimit { rate: 5, burst: 7 })));
    assert_eq!(settings.probes["netdev"].exclude_interfaces.len(), 1);
    assert_eq!(endpoints(&settings), ["unix:///c"]);
}

#[test]
fn the_standard_endpoint_is_the_only_destination_until_the_file_names_some() {
    let standard = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:4317"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "none"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
    ];
    let settings = environment(&standard).load(TWO).unwrap();
    let [only] = &settings.export.otlp[..] else { panic!("{settings:?}") };
    assert_eq!(only.headers["api-key"], "a b");
    assert_eq!((only.compression, only.timeout), (Compression::None, Duration::from_millis(2500)));
    assert!(!settings.prints_events());

    for (file, expected) in
        [("otlp: [{endpoint: 'http://file:1'}]", "http://file:1/"), ("otlp: []", "http://otel:4317/")]
    {
        let (_file, mut sources) = yaml(&format!("export: {{{file}}}"));
        sources.environment = pairs(&standard);
        assert_eq!(endpoints(&sources.load(TWO).unwrap()), [expected]);
    }
}

#[test]
fn the_flag_for_the_endpoint_replaces_all_destinations_and_keeps_standard_headers() {
    let (_file, mut sources) = yaml("export: {otlp: [{endpoint: 'http://a:1'}, {endpoint: 'http://b:2'}]}");
    sources.environment = pairs(&[("OTEL_EXPORTER_OTLP_HEADERS", "key=value")]);
    sources.endpoint = Some("http://[::1]:4317".into());
    let settings = sources.load(TWO).unwrap();
    assert_eq!(endpoints(&settings), ["http://[::1]:4317/"]);
    assert_eq!(settings.export.otlp[0].headers["key"], "value");
}

#[test]
fn the_standard_resource_is_read() {
    let settings = environment(&[
        ("OTEL_SERVICE_NAME", "node-net"),
        ("OTEL_RESOURCE_ATTRIBUTES", "k8s.cluster.name=a%2Cb,deployment.environment.name=test"),
    ]);
    let resource = settings.load(TWO).unwrap().resource;
    assert_eq!(resource.service_name.as_deref(), Some("node-net"));
    assert_eq!(resource.attributes["k8s.cluster.name"], "a,b");
}

#[test]
fn empty_standard_variables_count_as_not_set() {
    let all = ["ENDPOINT", "PROTOCOL", "HEADERS", "COMPRESSION", "TIMEOUT", "CERTIFICATE"];
    let mut sources = environment(&[("OTEL_METRIC_EXPORT_INTERVAL", ""), ("OTEL_RESOURCE_ATTRIBUTES", "")]);
    sources.environment.extend(all.map(|name| (format!("OTEL_EXPORTER_OTLP_{name}"), String::new())));
    assert_eq!(sources.load(TWO), Ok(defaults()));
}

#[test]
fn wrong_standard_variables_are_reported_by_name() {
    let found = problems(&environment(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "otel:4317"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "5"),
    ]));
    let variable = "environment variable OTEL_";
    assert_eq!(
        found,
        [
            format!("{variable}EXPORTER_OTLP_PROTOCOL: is \"http/protobuf\"; allowed: grpc"),
            format!("{variable}EXPORTER_OTLP_TIMEOUT: is \"10s\"; allowed: a whole number of milliseconds"),
            format!("{variable}METRIC_EXPORT_INTERVAL: interval = 5ms: allowed: a duration, 100ms to 1h"),
            format!(
                "{variable}EXPORTER_OTLP_ENDPOINT: export.otlp[0].endpoint = otel:4317: allowed: http://HOST:PORT, https://HOST:PORT, unix:///PATH"
            ),
        ]
    );
}

#[test]
fn every_problem_of_every_layer_is_reported_at_once() {
    let (file, mut sources) = yaml("intervall: 5s\ninterval: 5\nlog: {level: loud}\nprobes: {packetlos: {}}");
    sources.environment = pairs(&[("JITTERSCOPE__EVENTS__TEXT", "maybe")]);
    sources.set = pairs(&[("health.endpoint", "localhost")]);
    let origin = format!("file {}", file.path.display());
    assert_eq!(
        problems(&sources),
        [
            format!("{origin}: interval = 5: allowed: a duration, 100ms to 1h"),
            "--set health.endpoint: health.endpoint = localhost: allowed: ADDRESS:PORT | off".to_owned(),
            format!("{origin}: log.level = loud: allowed: info | error | warn | debug | trace | off"),
            "environment variable JITTERSCOPE__EVENTS__TEXT: events.text = maybe: allowed: auto | on | off"
                .to_owned(),
            format!("{origin}: probes.packetlos: unknown key, nearest: probes.packetloss"),
            format!("{origin}: intervall: unknown key, nearest: interval"),
        ]
    );
}

#[test]
fn a_file_that_cannot_be_used_is_reported_and_the_other_layers_are_still_checked() {
    for (name, text, said) in [
        ("a.yaml", "a: [", "is no valid Yaml"),
        ("a.yaml", "interval: 5s\ninterval: 6s", "duplicated key"),
        ("a.yaml", "just a text", "is no valid Yaml"),
        ("a.toml", "interval = 5s", "is no valid Toml"),
        ("a.json", "{", "is no valid Json"),
        ("a.conf", "", "allowed: .yaml, .yml, .toml, .json"),
    ] {
        let file = written(name, text);
        let mut sources = set(&[("interval", "never")]);
        sources.file = Some(file.path.clone());
        let found = problems(&sources);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains(said), "{found:?}");
    }
    let missing = Sources { file: Some("/nonexistent/a.yaml".into()), ..Sources::default() };
    assert!(problems(&missing)[0].contains("cannot be read: No such file"), "{:?}", problems(&missing));
}

#[test]
fn an_empty_file_and_one_of_comments_are_the_defaults() {
    for text in ["", "\n", "# nothing\n  # at all\n", "---\n", "{}"] {
        assert_eq!(load_yaml(text), Ok(defaults()), "{text:?}");
    }
}

#[test]
fn wrong_types_are_reported_with_what_is_there() {
    assert_eq!(
        problems_of_yaml(
            "interval: [1]\nhealth: 5\nexport: {otlp: {endpoint: 'http://a:1'}}\nentities: {netns: yes}"
        ),
        [
            "interval = a list: allowed: a duration, 100ms to 1h",
            "export.otlp = a table: allowed: a list of tables",
            "entities.netns = yes: allowed: true | false",
            "health = 5: allowed: a table of settings",
        ]
    );
    assert_eq!(
        problems_of_yaml("export: {otlp: ['http://a:1', {endpoint: 'http://a:1', headers: [a]}]}"),
        [
            "export.otlp[0] = http://a:1: allowed: a table of settings",
            "export.otlp[0].endpoint: is missing, allowed: http://HOST:PORT, https://HOST:PORT, unix:///PATH",
            "export.otlp[1].headers = a list: allowed: a table of names and texts",
        ]
    );
}

#[test]
fn values_out_of_range_are_reported_with_the_range() {
    assert_eq!(
        problems_of_yaml(
            "interval: 99ms\nprobes: {packetloss: {events: {rate: 0, burst: -1}, interval: 2h}, netdev: {exclude_interfaces: [a b]}}"
        ),
        [
            "interval = 99ms: allowed: a duration, 100ms to 1h",
            "probes.packetloss.interval = 2h: allowed: a duration, 100ms to 1h",
            "probes.packetloss.events.rate = 0: allowed: a whole number, 1 to 100000",
            "probes.packetloss.events.burst = -1: allowed: a whole number, 1 to 100000",
            "probes.netdev.exclude_interfaces[0] = a b: allowed: interface names with * and ?",
        ]
    );
}

#[test]
fn a_key_of_another_probe_or_table_is_unknown_and_the_nearest_is_named() {
    assert_eq!(
        problems_of_yaml(
            "probes: {netdev: {stak: true}, packetloss: {events: {rates: 1}}}\nlevel: info\nzzz: 1"
        ),
        [
            "probes.packetloss.events.rates: unknown key, nearest: probes.packetloss.events.rate",
            "probes.netdev.stak: unknown key, allowed: enabled, required, interval, exclude_interfaces",
            "level: unknown key, nearest: log.level",
            "zzz: unknown key, allowed: interval, profile, probes, export, entities, kernel, health, log, events, shutdown",
        ]
    );
}

#[test]
fn files_that_the_configuration_names_must_be_usable() {
    let text = "kernel: {btf: /nonexistent}\nexport: {otlp: [{endpoint: 'https://a:1', tls: {ca_file: /nonexistent/ca.pem, key_file: /}}]}";
    assert_eq!(
        problems_of_yaml(text),
        [
            "export.otlp[0].tls.ca_file = /nonexistent/ca.pem: cannot be read: No such file or directory (os error 2)",
            "export.otlp[0].tls.key_file = /: is no regular file",
            "export.otlp[0].tls.key_file: needs cert_file beside it",
            "kernel.btf = /nonexistent: cannot be read: No such file or directory (os error 2)",
        ]
    );
}

#[test]
fn certificates_without_encryption_are_refused_as_without_effect() {
    let ca = written("ca.pem", "-----BEGIN CERTIFICATE-----\n");
    let destination = |scheme: &str| {
        format!("export: {{otlp: [{{endpoint: '{scheme}://a:1', tls: {{ca_file: {}}}}}]}}", ca.path.display())
    };
    let settings = load_yaml(&destination("https")).unwrap();
    assert_eq!(settings.export.otlp[0].tls.ca.as_ref().unwrap().path, ca.path);
    assert_eq!(
        problems_of_yaml(&destination("http")),
        ["export.otlp[0].tls.ca_file: has no effect, the endpoint is not https"]
    );
}

#[test]
fn a_wrong_header_is_reported_without_its_value() {
    let found = problems_of_yaml("export: {otlp: [{endpoint: 'http://a:1', headers: {'a b': secret}}]}");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("export.otlp[0].headers.a b: allowed:"), "{found:?}");
    assert!(!found[0].contains("secret"), "{found:?}");
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
fn a_probe_cannot_be_required_and_off() {
    assert_eq!(
        problems_of_yaml("probes: {netdev: {enabled: false, required: true}}"),
        ["probes.netdev.required = true: contradicts enabled = false"]
    );
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
fn values_of_flags_and_variables_need_no_quotes_for_addresses() {
    for (text, expected) in [
        ("[::1]:13134", Some("[::1]:13134")),
        ("0.0.0.0:1", Some("0.0.0.0:1")),
        ("off", None),
        ("", None),
        ("'off'", None),
    ] {
        let settings = set(&[("health.endpoint", text)]).load(TWO).unwrap();
        assert_eq!(settings.health, expected.map(|address| address.parse().unwrap()), "{text}");
    }
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
fn variables_of_others_are_passed_over() {
    let variables =
        [("PATH", "/bin"), ("JITTERSCOPE_PORT", "tcp://10.0.0.1:80"), ("JITTERSCOPE__INTERVAL", "3s")];
    let sources =
        Sources::default().with_environment(variables.map(|(a, b)| (a.into(), b.into())).into_iter());
    assert_eq!(sources.environment, pairs(&[("JITTERSCOPE__INTERVAL", "3s")]));
    assert_eq!(sources.load(TWO).unwrap().interval, Duration::from_secs(3));
}

#[test]
fn a_setting_below_a_text_or_a_broken_key_is_a_problem_and_no_panic() {
    for key in [
        "",
        ".",
        "a..b",
        "interval.x",
        "export.otlp[x]",
        "export.otlp[99].endpoint",
        "probes[0]",
        "export[-1]",
    ] {
        assert!(set(&[(key, "1")]).load(TWO).is_err(), "{key:?}");
    }
}
