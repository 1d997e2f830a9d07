//! Wrong command lines and configurations: exit codes and messages.

use std::process::Command;

use crate::receiver::{BINARY, Configuration, Ended, Receiver, free_address, is_root, outcome};

/// Runs the three commands that read a configuration.
fn each_command(configuration: &Configuration) -> [Ended; 3] {
    let path = configuration.path();
    ["run", "once", "check"]
        .map(|command| Receiver::spawn(Command::new(BINARY).arg(command).arg("-c").arg(&path)).end())
}

#[test]
fn help_and_version_are_no_mistake() {
    for arguments in [&["--help"][..], &["--version"], &["run", "--help"], &["once", "--help"]] {
        let ended = outcome(arguments);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(ended.stdout.contains("jitterscope"), "{arguments:?}: {}", ended.stdout);
    }
}

#[test]
fn a_wrong_command_line_is_64_and_says_what_was_meant() {
    for (arguments, expected) in [
        (&["run", "--endpont", "http://127.0.0.1:4317"][..], "--endpoint"),
        (&["once", "paketloss"], "packetloss"),
        (&["rum"], "run"),
        (&["run", "--for", "5"], "a duration such as 250ms"),
        (&["run", "--set", "interval"], "KEY=VALUE"),
        (&["once", "--format", "xml"], "json"),
        (&[], "Usage"),
    ] {
        let ended = outcome(arguments);
        assert_eq!(ended.code, Some(64), "{arguments:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(expected), "{arguments:?}: {}", ended.stderr);
        assert_eq!(ended.stdout, "", "{arguments:?}");
    }
}

#[test]
fn every_problem_of_a_configuration_is_listed_with_file_key_value_and_what_is_allowed() {
    let configuration = Configuration::new(
        r"
intervall: 5s
interval: 1ms
profile: all
probes:
  packetlos: {}
  tcp: { enabled: 7 }
  packetloss: { events: { rate: 0 } }
export:
  otlp:
    - endpoint: https://127.0.0.1:4317
      tls: { ca_file: /nonexistent/ca.pem }
      queue: { memory: 1TiB }
    - endpoint: ftp://127.0.0.1
log: { level: loud }
",
    );
    let file = configuration.path().display().to_string();
    for ended in each_command(&configuration) {
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(78), ""), "{}", ended.stderr);
        for expected in [
            "10 problems",
            "intervall: unknown key, nearest: interval",
            "interval = 1ms: allowed: a duration, 100ms to 1h",
            "profile = all: allowed: monitor | troubleshoot | none",
            "probes.packetlos: unknown key, nearest: probes.packetloss",
            "probes.tcp.enabled = 7: allowed: true | false",
            "probes.packetloss.events.rate = 0: allowed: ",
            "export.otlp[0].tls.ca_file = /nonexistent/ca.pem: cannot be read: No such file",
            "export.otlp[0].queue.memory = 1TiB: allowed: a size, 1MiB to 1GiB",
            "export.otlp[1].endpoint = ftp://127.0.0.1: allowed: ",
            "log.level = loud: allowed: ",
        ] {
            assert!(ended.stderr.contains(expected), "{expected:?} is not in {}", ended.stderr);
        }
        let of_file =
            ended.stderr.lines().filter(|line| line.starts_with(&format!("  file {file}: "))).count();
        assert_eq!(of_file, 10, "{}", ended.stderr);
    }
}

#[test]
fn a_configuration_that_is_missing_or_no_yaml_is_78() {
    let configuration = Configuration::new("interval: [\n");
    for ended in each_command(&configuration) {
        assert_eq!(ended.code, Some(78), "{}", ended.stderr);
    }
    std::fs::remove_file(configuration.path()).unwrap();
    for ended in each_command(&configuration) {
        assert_eq!(ended.code, Some(78), "{}", ended.stderr);
        assert!(ended.stderr.contains(&configuration.path().display().to_string()), "{}", ended.stderr);
    }
}

#[test]
fn a_wrong_environment_variable_and_a_wrong_flag_are_78_with_their_names() {
    let mut command = Command::new(BINARY);
    command.args(["run", "--set", "log.level=loud"]);
    let mut child =
        command.env("JITTERSCOPE__INTERVAL", "soon").stderr(std::process::Stdio::piped()).spawn().unwrap();
    let stderr = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(78), "{stderr}");
    for expected in ["2 problems", "JITTERSCOPE__INTERVAL: interval = soon", "--set", "log.level = loud"] {
        assert!(stderr.contains(expected), "{expected:?} is not in {stderr}");
    }
}

#[test]
fn check_finds_an_environment_in_order_and_is_0() {
    if !is_root() {
        return;
    }
    let configuration = Configuration::new(&format!("health: {{endpoint: \"{}\"}}\n", free_address()));
    let path = configuration.path();
    let ended = Receiver::spawn(Command::new(BINARY).arg("check").arg("-c").arg(path)).end();
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains("in order"), "{}", ended.stdout);
}

#[test]
fn check_lists_every_problem_of_the_environment_and_is_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (dead, taken) = (free_address(), taken.local_addr().unwrap());
    let configuration = Configuration::new(&format!(
        "health: {{endpoint: \"{taken}\"}}\nexport: {{otlp: [{{endpoint: \"http://{dead}\"}}]}}\n"
    ));
    let path = configuration.path();
    let ended = Receiver::spawn(Command::new(BINARY).arg("check").arg("-c").arg(path)).end();
    assert_eq!(ended.code, Some(1), "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains(&format!("http://{dead}/ cannot be reached")), "{}", ended.stdout);
    assert!(ended.stdout.contains(&format!("health.endpoint: {taken} cannot be bound")), "{}", ended.stdout);
}
