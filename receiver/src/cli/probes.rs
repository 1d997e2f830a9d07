//! The table of probes, for people, scripts and the documentation.

use jitterscope_ebpf::Form;
use serde_json::{Value, json};

use super::TableFormat;
use crate::{
    node::once::Tried,
    probe::{Definition, Overhead, Source},
};

/// What a probe can do on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Whether it can run here; else why not.
    pub can_run: Result<(), String>,
    /// What it cannot see here although it runs.
    pub limitation: Option<String>,
    /// Hooks of the kernel that its programs are attached to, and the form of each.
    pub hooks: Vec<(String, Form)>,
}

impl State {
    /// What opening the probe showed.
    #[must_use]
    pub fn of(tried: &Tried) -> Self {
        use crate::account::State::{Running, Skipped};
        let can_run = match &tried.state {
            Skipped(skip) => Err(skip.to_string()),
            _ => Ok(()),
        };
        let limitation = if let Running(limitation) = &tried.state { limitation.clone() } else { None };
        Self { can_run, limitation, hooks: tried.usage.hooks.clone() }
    }
}

/// The table. Markdown is for the documentation and leaves out what depends on the machine.
#[must_use]
pub fn table(format: TableFormat, probes: &[(&Definition, State)]) -> String {
    match format {
        TableFormat::Text => text(probes),
        TableFormat::Json => format!("{:#}\n", probes.iter().map(object).collect::<Value>()),
        TableFormat::Markdown => markdown(probes),
    }
}

fn text(probes: &[(&Definition, State)]) -> String {
    let line = |columns: [&str; 6]| {
        let [name, source, overhead, default, here, note] = columns;
        format!("{name:<16} {source:<8} {overhead:<9} {default:<8} {here:<5} {note}\n")
    };
    let row = |(probe, state): &(&Definition, State)| {
        let (here, reason) = match (&state.can_run, &state.limitation) {
            (Ok(()), None) => ("yes", String::new()),
            (Ok(()), Some(limitation)) => ("part", format!(" (here {limitation})")),
            (Err(reason), _) => ("no", format!(" (cannot run here: {reason})")),
        };
        let note = format!("{}{reason}", probe.use_when);
        line([probe.name, source(probe), overhead(probe), switch(probe), here, &note])
    };
    let head = line(["PROBE", "SOURCE", "OVERHEAD", "DEFAULT", "HERE", "USE WHEN"]);
    head + &probes.iter().map(row).collect::<String>()
}

/// The keys stay as they are: scripts read them.
fn object((probe, state): &(&Definition, State)) -> Value {
    let metrics: Vec<&str> = probe.metrics.iter().map(|metric| metric.name).collect();
    let events: Vec<&str> = probe.events.iter().map(|event| event.name).collect();
    json!({
        "name": probe.name,
        "use_when": probe.use_when,
        "source": source(probe),
        "overhead": overhead(probe),
        "default": probe.default,
        "capabilities": probe.capabilities,
        "metrics": metrics,
        "events": events,
        "can_run": state.can_run.is_ok(),
        "reason": state.can_run.as_ref().err(),
        "limitation": state.limitation,
        "hooks": state.hooks.iter().map(hook).collect::<Value>(),
    })
}

fn hook((hook, form): &(String, Form)) -> Value {
    json!({ "hook": hook, "form": form.name() })
}

fn markdown(probes: &[(&Definition, State)]) -> String {
    let row = |(probe, _): &(&Definition, State)| {
        let signals: Vec<&str> = probe
            .metrics
            .iter()
            .map(|metric| metric.name)
            .chain(probe.events.iter().map(|event| event.name))
            .collect();
        let columns = [
            format!("`{}`", probe.name),
            probe.use_when.replace('|', "\\|"),
            source(probe).to_owned(),
            overhead(probe).to_owned(),
            switch(probe).to_owned(),
            code(probe.capabilities),
            shortened(&signals),
        ];
        format!("| {} |\n", columns.join(" | "))
    };
    let head = "| probe | use when | source | overhead | default | capabilities | metrics and events |\n|---|---|---|---|---|---|---|\n";
    head.to_owned() + &probes.iter().map(row).collect::<String>()
}

/// Names that a table of the documentation has room for; the telemetry schema lists all.
const SHOWN: usize = 12;

fn shortened(signals: &[&str]) -> String {
    match signals.split_at_checked(SHOWN) {
        Some((shown, rest)) if !rest.is_empty() => format!("{} and {} more", code(shown), rest.len()),
        _ => code(signals),
    }
}

fn code(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

fn source(probe: &Definition) -> &'static str {
    match probe.source {
        Source::Procfs => "procfs",
        Source::Netlink => "netlink",
        Source::Ebpf => "ebpf",
    }
}

fn overhead(probe: &Definition) -> &'static str {
    match probe.overhead {
        Overhead::Low => "low",
        Overhead::Medium => "medium",
        Overhead::High => "high",
    }
}

fn switch(probe: &Definition) -> &'static str {
    if probe.default { "on" } else { "off" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::PACKETLOSS;

    const TCP: Definition = Definition {
        name: "tcp",
        use_when: "connections fail | stall",
        source: Source::Procfs,
        capabilities: &["CAP_SYS_PTRACE", "CAP_BPF"],
        ..PACKETLOSS
    };

    fn rows() -> Vec<(&'static Definition, State)> {
        vec![
            (
                &TCP,
                State { can_run: Ok(()), limitation: None, hooks: vec![("tcp_probe".into(), Form::TpBtf)] },
            ),
            (&TCP, State { can_run: Err("no BTF".into()), limitation: None, hooks: Vec::new() }),
        ]
    }

    #[test]
    fn people_see_a_line_a_probe_with_the_reason_when_it_cannot_run() {
        let text = table(TableFormat::Text, &rows());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert_eq!(
            lines[1].split_whitespace().take(5).collect::<Vec<_>>(),
            ["tcp", "procfs", "low", "on", "yes"]
        );
        assert!(lines[2].contains(" no ") && lines[2].ends_with("(cannot run here: no BTF)"), "{text}");
    }

    #[test]
    fn what_a_probe_cannot_see_here_is_told() {
        let state = State { can_run: Ok(()), limitation: Some("without hook x".into()), hooks: Vec::new() };
        let rows = [(&TCP, state)];
        let text = table(TableFormat::Text, &rows);
        assert!(text.contains(" part ") && text.trim_end().ends_with("(here without hook x)"), "{text}");
        let value: Value = serde_json::from_str(&table(TableFormat::Json, &rows)).unwrap();
        assert_eq!(value[0]["limitation"], "without hook x");
    }

    #[test]
    fn scripts_get_every_key_of_every_probe() {
        let value: Value = serde_json::from_str(&table(TableFormat::Json, &rows())).unwrap();
        assert_eq!(value[0]["name"], "tcp");
        assert_eq!(value[0]["can_run"], true);
        assert_eq!(value[0]["reason"], Value::Null);
        assert_eq!(value[0]["hooks"], json!([{ "hook": "tcp_probe", "form": "tp_btf" }]));
        assert_eq!(value[1]["can_run"], false);
        assert_eq!(value[1]["reason"], "no BTF");
        assert_eq!(value[1]["capabilities"][1], "CAP_BPF");
    }

    #[test]
    fn a_probe_of_very_many_signals_does_not_fill_the_page() {
        assert_eq!(shortened(&["a"; SHOWN]), code(&["a"; SHOWN]));
        assert_eq!(shortened(&["a"; SHOWN + 3]), format!("{} and 3 more", code(&["a"; SHOWN])));
    }

    #[test]
    fn the_documentation_says_nothing_of_this_machine() {
        let here = table(TableFormat::Markdown, &rows()[..1]);
        assert_eq!(here, table(TableFormat::Markdown, &rows()[1..]));
        assert!(here.contains("| `tcp` | connections fail \\| stall | procfs | low | on |"), "{here}");
    }
}
