//! Command lines as people type them, and what they are told.

use crate::config::tests::PACKETLOSS;

use super::*;

const NETDEV: Definition = Definition { name: "netdev", use_when: "an interface is suspected", ..PACKETLOSS };

fn read(line: &str) -> Result<Command, clap::Error> {
    parse(line.split_whitespace().map(OsString::from), &[&NETDEV]).map(|cli| cli.command)
}

/// What is printed, and the exit code.
fn refused(line: &str) -> (String, u8) {
    let error = read(line).unwrap_err();
    (error.to_string(), exit_code(&error))
}

#[test]
fn run_takes_all_its_flags() {
    let line = "jitterscope run -c a.yaml --endpoint http://[::1]:4317 --set a.b=c=d --set e= --for 10s --format json";
    let expected = Run {
        config: Some("a.yaml".into()),
        endpoint: Some("http://[::1]:4317".into()),
        set: vec![("a.b".into(), "c=d".into()), ("e".into(), String::new())],
        duration: Some(Duration::from_secs(10)),
        format: Format::Json,
    };
    assert_eq!(read(line).unwrap(), Command::Run(expected));
}

#[test]
fn run_needs_no_flags() {
    let none = Run { config: None, endpoint: None, set: vec![], duration: None, format: Format::Text };
    assert_eq!(read("jitterscope run").unwrap(), Command::Run(none));
}

#[test]
fn flags_of_run_become_sources_of_the_configuration() {
    let sources =
        read("jitterscope run -c a.yaml --endpoint http://a:1 --set b=c").unwrap().sources().unwrap();
    assert_eq!(sources.file, Some("a.yaml".into()));
    assert_eq!(sources.endpoint.as_deref(), Some("http://a:1"));
    assert_eq!(sources.set, [("b".to_owned(), "c".to_owned())]);
    assert_eq!(read("jitterscope check -c b.yaml").unwrap().sources().unwrap().file, Some("b.yaml".into()));
    assert_eq!(read("jitterscope probes").unwrap().sources(), None);
}

#[test]
fn once_takes_probes_by_name_and_suggests_the_nearest() {
    let Command::Once(once) = read("jitterscope once netdev --format json").unwrap() else { panic!() };
    assert_eq!((once.probes, once.format), (vec!["netdev".to_owned()], Format::Json));
    let (text, code) = refused("jitterscope once netdv");
    assert_eq!(code, 64);
    assert!(text.contains("netdv") && text.contains("a similar value exists: 'netdev'"), "{text}");
}

#[test]
fn the_help_of_once_says_when_to_use_each_probe() {
    let (text, code) = refused("jitterscope once --help");
    assert_eq!(code, 0);
    assert!(text.contains("netdev") && text.contains("an interface is suspected"), "{text}");
}

#[test]
fn the_help_of_run_lists_the_settings() {
    let (text, code) = refused("jitterscope run --help");
    assert_eq!(code, 0);
    for setting in ["probes.PROBE.interval", "export.otlp[].endpoint", "health.endpoint", "127.0.0.1:13134"] {
        assert!(text.contains(setting), "{setting} in {text}");
    }
}

#[test]
fn help_and_version_are_no_failures() {
    assert_eq!(refused("jitterscope --help").1, 0);
    let (text, code) = refused("jitterscope --version");
    assert_eq!((text.trim(), code), (concat!("jitterscope ", env!("CARGO_PKG_VERSION")), 0));
}

#[test]
fn no_command_is_a_wrong_command_line_answered_with_the_help() {
    let (text, code) = refused("jitterscope");
    assert_eq!(code, 64);
    for command in ["run", "once", "probes", "check", "completions"] {
        assert!(text.contains(command), "{text}");
    }
}

#[test]
fn a_wrong_command_line_exits_with_64() {
    for line in [
        "jitterscope runn",
        "jitterscope run --endpont http://a:1",
        "jitterscope run --for 10",
        "jitterscope run --set interval",
        "jitterscope run --set =5s",
        "jitterscope run --format markdown",
        "jitterscope run extra",
        "jitterscope probes --format yaml",
        "jitterscope check --set a=b",
        "jitterscope completions",
        "jitterscope completions tcsh",
    ] {
        assert_eq!(refused(line).1, 64, "{line}");
    }
}

#[test]
fn completions_name_the_commands_and_where_the_shell_can_the_probes() {
    for (shell, names_probes) in [(Shell::Bash, true), (Shell::Zsh, true), (Shell::Fish, false)] {
        let mut text = Vec::new();
        completions(shell, &[&NETDEV], &mut text);
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("once") && text.contains("check"), "{shell}");
        assert_eq!(text.contains("netdev"), names_probes, "{shell}");
    }
}

#[test]
fn the_definition_of_the_commands_is_sound() {
    command(&[&NETDEV]).debug_assert();
}
