//! Which layer wins, and what each accepts.

use std::time::Duration;

use super::*;

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

/// What the destinations of an environment are, in short.
fn standard(variables: &[(&str, &str)]) -> Vec<(String, Protocol, Signals, bool)> {
    let settings = environment(variables).load(TWO).unwrap();
    let short = |one: &Destination| (one.endpoint.to_string(), one.protocol, one.signals, one.append_path);
    settings.export.otlp.iter().map(short).collect()
}

const METRICS: Signals = Signals { metrics: true, logs: false, traces: false };
const LOGS: Signals = Signals { metrics: false, logs: true, traces: false };

#[test]
fn the_standard_endpoint_of_one_signal_goes_before_the_general_one_and_is_its_whole_url() {
    let general = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:4318/base");
    let protocol = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    let logs = ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "https://logs/in");
    let http = Protocol::HttpProtobuf;
    let url = |text: &str| text.to_owned();
    assert_eq!(standard(&[general, protocol]), [(url("http://otel:4318/base"), http, Signals::ALL, true)]);
    assert_eq!(
        standard(&[general, protocol, logs]),
        [
            (url("http://otel:4318/base"), http, Signals { logs: false, ..Signals::ALL }, true),
            (url("https://logs/in"), http, LOGS, false)
        ]
    );
    assert_eq!(standard(&[protocol, logs]), [(url("https://logs/in"), http, LOGS, false)]);
    // The same for two is still the whole URL of each.
    let metrics = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "https://logs/in");
    assert_eq!(
        standard(&[protocol, logs, metrics]),
        [(url("https://logs/in"), http, METRICS, false), (url("https://logs/in"), http, LOGS, false)]
    );
    let split = [general, ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/protobuf")];
    assert!(environment(&split).load(TWO).is_err(), "gRPC takes no path");
    let grpc = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:1"), split[1]];
    assert_eq!(
        standard(&grpc),
        [
            (url("http://otel:1/"), http, METRICS, true),
            (url("http://otel:1/"), Protocol::Grpc, Signals { metrics: false, ..Signals::ALL }, true)
        ]
    );
}

#[test]
fn an_endpoint_of_grpc_without_scheme_is_encrypted_unless_it_is_said_to_be_insecure() {
    let bare = ("OTEL_EXPORTER_OTLP_ENDPOINT", "otel:4317");
    let insecure = |value| ("OTEL_EXPORTER_OTLP_INSECURE", value);
    let grpc = |url: &str| [(url.to_owned(), Protocol::Grpc, Signals::ALL, true)];
    assert_eq!(standard(&[bare]), grpc("https://otel:4317/"));
    assert_eq!(standard(&[bare, insecure("True")]), grpc("http://otel:4317/"));
    assert_eq!(standard(&[bare, insecure("false")]), grpc("https://otel:4317/"));
    let written = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://otel:4317");
    assert_eq!(standard(&[written, insecure("true")]), grpc("https://otel:4317/"));
    let http = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    assert!(environment(&[bare, http]).load(TWO).is_err());
}

#[test]
fn every_standard_option_has_a_general_form_and_one_for_a_signal() {
    let certificate = written("c.pem", "-----BEGIN CERTIFICATE-----\n");
    let key = written("k.pem", "-----BEGIN PRIVATE KEY-----\n");
    let (certificate, key) = (certificate.path.display().to_string(), key.path.display().to_string());
    let settings = environment(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://otel:4317"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=1"),
        ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "b=2"),
        ("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "zstd"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1000"),
        ("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", "2000"),
        ("OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", &certificate),
        ("OTEL_EXPORTER_OTLP_LOGS_CLIENT_CERTIFICATE", &certificate),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &certificate),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &key),
    ]);
    let settings = settings.load(TWO).unwrap();
    let [metrics, logs, traces] = &settings.export.otlp[..] else { panic!("{settings:?}") };
    assert_eq!((metrics.signals, logs.signals), (METRICS, LOGS));
    assert_eq!(traces.signals, Signals { traces: true, metrics: false, logs: false });
    assert_eq!((traces.headers.get("a").is_some(), traces.timeout.as_secs()), (true, 1));
    assert_eq!((metrics.headers.get("a").is_some(), metrics.headers.len()), (true, 1));
    assert_eq!((logs.headers.get("b").is_some(), logs.headers.len()), (true, 1));
    assert_eq!((metrics.compression, logs.compression), (Compression::Zstd, Compression::Gzip));
    assert_eq!((metrics.timeout.as_secs(), logs.timeout.as_secs()), (1, 2));
    assert_eq!((metrics.tls.ca.is_some(), logs.tls.ca.is_some()), (true, false));
    let own = Some((certificate.into(), key.clone().into()));
    assert_eq!((&metrics.tls.client, &logs.tls.client), (&own, &own));
    // Set for a whole machine, they are no error of a plain destination.
    let plain = environment(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:4317"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &key),
    ]);
    assert_eq!(plain.load(TWO).unwrap().export.otlp[0].tls, Tls::default());
}

#[test]
fn the_standard_preferences_of_metrics_are_settings_of_the_one_destination() {
    let preferred = |temporality: &str, aggregation: &str| {
        let settings = environment(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:4317"),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", temporality),
            ("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", aggregation),
        ]);
        settings.load(TWO).map(|settings| {
            let [only] = &settings.export.otlp[..] else { panic!("{settings:?}") };
            (only.temporality, only.histograms)
        })
    };
    let (delta, explicit) = (Temporality::Delta, Histograms::Explicit);
    assert_eq!(preferred("", ""), Ok((Temporality::Cumulative, Histograms::Exponential)));
    assert_eq!(preferred("Delta", "explicit_bucket_histogram"), Ok((delta, explicit)));
    assert_eq!(
        preferred("LOWMEMORY", "base2_exponential_bucket_histogram"),
        Ok((Temporality::LowMemory, Histograms::Exponential))
    );
    let wrong = preferred("sometimes", "none").unwrap_err().to_string();
    assert!(wrong.contains("allowed: cumulative | delta | lowmemory"), "{wrong}");
    assert!(wrong.contains("allowed: explicit_bucket_histogram"), "{wrong}");
}

#[test]
fn the_sdk_is_disabled_by_the_word_true_alone() {
    let silent =
        |text| environment(&[("OTEL_SDK_DISABLED", text)]).load(TWO).map(|settings| settings.resource.silent);
    assert_eq!((silent("TRUE"), silent("false"), silent("")), (Ok(true), Ok(false), Ok(false)));
    assert!(silent("1").is_err());
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
    let all = [
        "ENDPOINT",
        "PROTOCOL",
        "HEADERS",
        "COMPRESSION",
        "TIMEOUT",
        "CERTIFICATE",
        "INSECURE",
        "CLIENT_KEY",
        "METRICS_ENDPOINT",
        "LOGS_TIMEOUT",
    ];
    let mut sources = environment(&[("OTEL_METRIC_EXPORT_INTERVAL", ""), ("OTEL_RESOURCE_ATTRIBUTES", "")]);
    sources.environment.extend(all.map(|name| (format!("OTEL_EXPORTER_OTLP_{name}"), String::new())));
    assert_eq!(sources.load(TWO), Ok(defaults()));
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
fn variables_of_others_are_passed_over() {
    let variables =
        [("PATH", "/bin"), ("JITTERSCOPE_PORT", "tcp://10.0.0.1:80"), ("JITTERSCOPE__INTERVAL", "3s")];
    let sources =
        Sources::default().with_environment(variables.map(|(a, b)| (a.into(), b.into())).into_iter());
    assert_eq!(sources.environment, pairs(&[("JITTERSCOPE__INTERVAL", "3s")]));
    assert_eq!(sources.load(TWO).unwrap().interval, Duration::from_secs(3));
}

#[test]
fn an_empty_file_and_one_of_comments_are_the_defaults() {
    for text in ["", "\n", "# nothing\n  # at all\n", "---\n", "{}"] {
        assert_eq!(load_yaml(text), Ok(defaults()), "{text:?}");
    }
}

#[test]
fn values_of_variables_and_flags_do_not_show_in_debug_output() {
    let mut sources = environment(&[("OTEL_EXPORTER_OTLP_HEADERS", "key=secret")]);
    sources.set = pairs(&[("export.otlp", "[{headers: {key: secret}}]")]);
    assert!(!format!("{sources:?}").contains("secret"));
}
