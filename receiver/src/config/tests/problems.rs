//! Every problem is found and said in full.

use super::*;

#[test]
fn wrong_standard_variables_are_reported_by_name() {
    let found = problems(&environment(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://otel:4317"),
        ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_EXPORTER_OTLP_INSECURE", "yes"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "5"),
        ("OTEL_SDK_DISABLED", "1"),
    ]));
    let variable = "environment variable OTEL_";
    let endpoints =
        "allowed: http://HOST:PORT, https://HOST:PORT, unix:///PATH; with a path for http/protobuf";
    assert_eq!(
        found,
        [
            format!("{variable}EXPORTER_OTLP_INSECURE: is \"yes\"; allowed: true | false"),
            format!("{variable}EXPORTER_OTLP_TIMEOUT: is \"10s\"; allowed: a whole number of milliseconds"),
            format!("{variable}SDK_DISABLED: is \"1\"; allowed: true | false"),
            format!("{variable}METRIC_EXPORT_INTERVAL: interval = 5ms: allowed: a duration, 100ms to 1h"),
            format!(
                "{variable}EXPORTER_OTLP_ENDPOINT: export.otlp[0].endpoint = ftp://otel:4317: {endpoints}"
            ),
            format!(
                "{variable}EXPORTER_OTLP_ENDPOINT: export.otlp[1].endpoint = ftp://otel:4317: {endpoints}"
            ),
            format!(
                "{variable}EXPORTER_OTLP_LOGS_PROTOCOL: export.otlp[1].protocol = http/json: allowed: grpc | http/protobuf"
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
            "--set: health.endpoint = localhost: allowed: ADDRESS:PORT | off".to_owned(),
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
            "export.otlp[0].endpoint: is missing, allowed: http://HOST:PORT, https://HOST:PORT, unix:///PATH; with a path for http/protobuf",
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
            "probes.netdev.stak: unknown key, allowed: enabled, required, interval, threshold, sampling, exclude_interfaces",
            "level: unknown key, nearest: log.level",
            "zzz: unknown key, allowed: interval, profile, probes, export, exemplars, spans, entities, kernel, health, log, events, shutdown",
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
    assert_eq!(settings.export.otlp[0].tls.ca.as_ref().unwrap(), &ca.path);
    assert_eq!(
        problems_of_yaml(&destination("http")),
        ["export.otlp[0].tls.ca_file: has no effect, the endpoint is not https"]
    );
}

#[test]
fn whoever_answers_is_believed_only_where_that_has_an_effect_and_no_authority_is_named() {
    let ca = written("ca.pem", "-----BEGIN CERTIFICATE-----\n");
    let text = |url: &str, more: &str| {
        format!("export: {{otlp: [{{endpoint: '{url}', tls: {{insecure_skip_verify: true{more}}}}}]}}")
    };
    assert!(load_yaml(&text("https://a:1", "")).unwrap().export.otlp[0].tls.skip_verify);
    assert_eq!(
        problems_of_yaml(&text("http://a:1", "")),
        ["export.otlp[0].tls.insecure_skip_verify: has no effect, the endpoint is not https"]
    );
    assert_eq!(
        problems_of_yaml(&text("https://a:1", &format!(", ca_file: {}", ca.path.display()))),
        ["export.otlp[0].tls.ca_file: has no effect with insecure_skip_verify"]
    );
}

#[test]
fn an_endpoint_that_the_protocol_cannot_use_is_refused_with_the_reason() {
    let problems = |destination: &str| problems_of_yaml(&format!("export: {{otlp: [{{{destination}}}]}}"));
    let grpc = |endpoint: &str| problems(&format!("endpoint: '{endpoint}'"));
    let path = "a path is for protocol http/protobuf, gRPC has no use for it";
    assert_eq!(grpc("http://a:1/x"), [format!("export.otlp[0].endpoint = http://a:1/x: {path}")]);
    assert!(grpc("http://a")[0].contains("has no usual port"));
    let http = |more: &str| problems(&format!("protocol: http/protobuf, {more}"));
    assert!(http("endpoint: 'unix:///a'")[0].contains("a Unix socket is for protocol grpc"));
    assert_eq!(
        problems("endpoint: 'http://a:1', protocol: http/json"),
        ["export.otlp[0].protocol = http/json: allowed: grpc | http/protobuf"]
    );
    let url = "false needs protocol http/protobuf and a single signal";
    let whole = "endpoint: 'http://a/b', append_path: false";
    assert_eq!(http(whole), [format!("export.otlp[0].append_path: {url}")]);
    assert_eq!(
        load_yaml(&format!("export: {{otlp: [{{protocol: http/protobuf, {whole}, signals: [logs]}}]}}"))
            .unwrap()
            .export
            .otlp[0]
            .signals,
        Signals { metrics: false, logs: true, traces: false }
    );
}

#[test]
fn signals_are_a_list_of_known_ones_that_is_not_empty() {
    let signals = |text: &str| {
        problems_of_yaml(&format!("export: {{otlp: [{{endpoint: 'http://a:1', signals: {text}}}]}}"))
    };
    assert_eq!(
        signals("[metrics, profiles]"),
        ["export.otlp[0].signals[1] = profiles: allowed: metrics, logs, traces"]
    );
    assert_eq!(
        signals("[]"),
        ["export.otlp[0].signals: names none, allowed: a list of metrics, logs, traces"]
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
#[test]
fn a_probe_cannot_be_required_and_off() {
    assert_eq!(
        problems_of_yaml("probes: {netdev: {enabled: false, required: true}}"),
        ["probes.netdev.required = true: contradicts enabled = false"]
    );
}

#[test]
fn a_queue_on_disk_needs_a_directory_of_its_own() {
    let destination = |disk: &str| format!("{{endpoint: 'http://a:1', queue: {{disk: {{{disk}}}}}}}");
    let found = |disks: &[&str]| {
        let list: Vec<String> = disks.iter().map(|disk| destination(disk)).collect();
        problems_of_yaml(&format!("export: {{otlp: [{}]}}", list.join(", ")))
    };
    assert_eq!(
        found(&["path: queue", "path: /etc/passwd", "path: /b", "path: /a, size: 1MiB, max_age: 1ms"]),
        [
            "export.otlp[0].queue.disk.path = queue: is no absolute path",
            "export.otlp[1].queue.disk.path = /etc/passwd: is no directory",
            "export.otlp[3].queue.disk.size = 1MiB: allowed: a size, 16MiB to 1024GiB",
            "export.otlp[3].queue.disk.max_age = 1ms: allowed: a duration, 1s to 720h",
        ]
    );
    assert_eq!(
        found(&["path: /a/b", "path: /a//b/"]),
        ["export.otlp = /a/b: two destinations have their queue.disk.path here, each needs its own"]
    );
}
