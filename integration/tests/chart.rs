//! The Helm chart: it lints, what it renders is valid for Kubernetes, and it asks for the privileges that are needed and no others.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::path::PathBuf;
use std::process::{Command, Output};

use jitterscope::config::default_file;
use jitterscope::probe::PROBES;
use jitterscope_integration::tools;

/// Every capability that the chart adds without being asked for more.
const CAPABILITIES: [&str; 5] = ["BPF", "PERFMON", "NET_ADMIN", "SYS_PTRACE", "SYSLOG"];

/// Every optional part of the chart at once.
const FULL_VALUES: &str = r#"
image: { repository: registry.example/jitterscope, tag: test, pullPolicy: Always }
imagePullSecrets: [{ name: pull }]
fullnameOverride: scope
config: { interval: 5s, probes: { packetloss: { required: true }, qdisc: { exclude_interfaces: ["veth*"] } }, entities: { labels: [app.kubernetes.io/name] }, export: { otlp: [{ endpoint: "http://a:1" }, { endpoint: "http://b:1", queue: { disk: { path: /var/lib/scope } } }] } }
health: { port: 23134 }
cri: { directory: /run/k3s/containerd }
namespacesWithoutProcesses: true
extraCapabilities: [SYS_RESOURCE]
seccompProfile: { type: RuntimeDefault }
resources: { limits: { cpu: 100m, memory: 256Mi } }
tolerations: [{ key: dedicated, operator: Equal, value: edge, effect: NoSchedule }]
nodeSelector: { node.kubernetes.io/instance-type: small }
affinity: { nodeAffinity: { requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms: [{ matchExpressions: [{ key: zone, operator: In, values: [a] }] }] } } }
priorityClassName: system-node-critical
serviceAccount: { create: true, name: observer, annotations: { team: network } }
env: [{ name: OTEL_RESOURCE_ATTRIBUTES, value: "deployment.environment.name=test" }]
podAnnotations: { example.org/note: x }
podLabels: { tier: node }
"#;

#[test]
fn the_chart_passes_helm_lint_in_strict_mode() {
    let Some(helm) = Helm::find() else { return };
    let output = helm.run(&["lint", "--strict"], "");
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn what_the_chart_renders_is_valid_for_kubernetes() {
    let Some(helm) = Helm::find() else { return };
    for values in ["", FULL_VALUES, "serviceAccount: { create: false }", "cri: { directory: '' }"] {
        let rendered = helm.render(values);
        let checked = helm.validate(&rendered);
        assert!(checked.status.success(), "with values {values:?}:\n{}\n{rendered}", text(&checked));
    }
}

#[test]
fn a_misspelt_field_would_not_pass_as_valid() {
    let Some(helm) = Helm::find() else { return };
    let broken = helm.render("").replace("hostPID:", "hostPid:");
    assert!(!helm.validate(&broken).status.success());
}

#[test]
fn the_container_is_not_privileged_and_adds_exactly_the_needed_capabilities() {
    let Some(helm) = Helm::find() else { return };
    let rendered = helm.render("");
    assert_eq!(added_capabilities(&rendered), CAPABILITIES);
    for line in [
        "privileged: false",
        "allowPrivilegeEscalation: false",
        "readOnlyRootFilesystem: true",
        "drop: [ALL]",
        "hostPID: true",
        "hostNetwork: true",
        "automountServiceAccountToken: false",
    ] {
        assert!(rendered.contains(line), "no `{line}` in\n{rendered}");
    }
    assert!(!rendered.contains("ClusterRole"), "the receiver does not talk to the API server");
}

#[test]
fn more_capabilities_come_only_with_the_values_that_ask_for_them() {
    let Some(helm) = Helm::find() else { return };
    let expected: Vec<_> = CAPABILITIES.into_iter().chain(["SYS_ADMIN", "SYS_RESOURCE"]).collect();
    assert_eq!(added_capabilities(&helm.render(FULL_VALUES)), expected);
}

#[test]
fn nothing_of_the_node_is_mounted_writable() {
    let Some(helm) = Helm::find() else { return };
    let rendered = helm.render("");
    let mounts = rendered.matches("mountPath:").count();
    assert_eq!(mounts, 5);
    assert_eq!(rendered.matches("readOnly: true").count(), mounts);
}

#[test]
fn a_queue_on_disk_is_a_directory_of_the_node_that_outlives_the_pod() {
    let Some(helm) = Helm::find() else { return };
    assert!(
        !helm
            .render("config: { export: { otlp: [{ endpoint: 'http://a:1', queue: } ] } }")
            .contains("queue-")
    );
    let rendered = helm.render(FULL_VALUES);
    assert_eq!(rendered.matches("name: queue-1").count(), 2, "{rendered}");
    assert!(rendered.contains("mountPath: \"/var/lib/scope\""), "{rendered}");
    assert!(rendered.contains("path: \"/var/lib/scope\"\n            type: DirectoryOrCreate"), "{rendered}");
}

#[test]
fn configuration_and_health_probes_agree_on_the_port() {
    let Some(helm) = Helm::find() else { return };
    let rendered = helm.render(FULL_VALUES);
    assert!(rendered.contains("endpoint: 127.0.0.1:23134"), "{rendered}");
    assert_eq!(rendered.matches("port: 23134").count(), 2);
    assert_eq!(rendered.matches("host: 127.0.0.1").count(), 2);
    assert!(rendered.contains("path: /livez") && rendered.contains("path: /readyz"));
    assert!(rendered.contains("interval: 5s"), "the configuration is passed on as it is");
    assert!(rendered.contains("args: [run, -c, /etc/jitterscope/config.yaml]"));
}

#[test]
fn values_that_the_chart_does_not_know_are_refused() {
    let Some(helm) = Helm::find() else { return };
    for values in [
        "imag: {}",
        "health: { port: 0 }",
        "extraCapabilities: [ALL]",
        "config: { health: { endpoint: '[::]:80' } }",
        "config: { intervall: 5s }",
        "config: { probes: { packetlos: { enabled: true } } }",
        "config: { probes: { packetloss: { event: { rate: 1 } } } }",
        "config: { export: { otlp: [{ endpont: 'http://127.0.0.1:4317' }] } }",
        "config: { log: { level: loud } }",
        "config: { probes: { packetloss: { stack: 3 } } }",
        "config: { interval: [5s] }",
    ] {
        for command in [&["template", "test"][..], &["lint"]] {
            let output = helm.run(command, values);
            assert!(!output.status.success(), "{values} was taken:\n{}", text(&output));
        }
    }
}

#[test]
fn every_setting_of_the_receiver_but_its_health_endpoint_is_taken() {
    let Some(helm) = Helm::find() else { return };
    let file = default_file(PROBES);
    let (before, health) = file.split_once("health:").unwrap();
    let (_, after) = health.split_once("\nlog:").unwrap();
    let indented: String = format!("{before}log:{after}").lines().map(|line| format!("  {line}\n")).collect();
    let output = helm.run(&["lint", "--strict"], &format!("config:\n{indented}"));
    assert!(output.status.success(), "{}", text(&output));
    helm.render(
        "config: { export: { otlp: [{ endpoint: 'http://127.0.0.1:4317', headers: { a: b }, tls: } ] } }",
    );
}

/// The two programs and the chart.
struct Helm {
    helm: PathBuf,
    validate: PathBuf,
    chart: PathBuf,
}

impl Helm {
    fn find() -> Option<Self> {
        Some(Self {
            helm: tools::path_or_skip("helm", "helm")?,
            validate: tools::path_or_skip("kubernetes-validate", "bin/kubernetes-validate")?,
            chart: tools::repository().join("helm/jitterscope"),
        })
    }

    fn run(&self, arguments: &[&str], values: &str) -> Output {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("values.yaml");
        std::fs::write(&file, values).unwrap();
        let mut command = Command::new(&self.helm);
        command.args(arguments).arg(&self.chart).arg("--values").arg(file);
        command.env("HOME", directory.path()).output().unwrap()
    }

    fn render(&self, values: &str) -> String {
        let output = self.run(&["template", "test", "--namespace", "observability"], values);
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn validate(&self, manifests: &str) -> Output {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("manifests.yaml");
        std::fs::write(&file, manifests).unwrap();
        Command::new(&self.validate).arg("--strict").arg(file).output().unwrap()
    }
}

/// The list below `add:` of the only container.
fn added_capabilities(rendered: &str) -> Vec<&str> {
    let lines = rendered.lines().map(str::trim).skip_while(|line| *line != "add:").skip(1);
    lines.map_while(|line| line.strip_prefix("- ")).collect()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
