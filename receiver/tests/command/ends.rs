//! How a run ends: by time, by signal, with nobody who reads, with nobody who answers.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    receiver::{BINARY, Configuration, Receiver, free_address, is_root, outcome, until},
    telemetry,
};

const QUIET: &str = "--set=health.endpoint=off";

#[test]
fn a_run_ends_by_itself_after_its_time_with_exit_code_0() {
    let began = Instant::now();
    let ended = outcome(["run", "--for", "1s", "--format", "json", QUIET]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert!(times(&ended.stdout).len() > 1, "{}", ended.stdout);
}

#[test]
fn a_signal_ends_a_run_after_a_last_collection_with_exit_code_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let receiver = Receiver::start(["run", "--format", "json", "--set=interval=1h", QUIET]);
        // The second collection comes with the rates of the start, the third would take an hour.
        let collections = |output: &str| times(output).len();
        until("a collection", || (collections(&receiver.stdout()) > 0).then_some(()));
        let before = times(&receiver.stdout()).into_iter().max().unwrap();
        receiver.signal(signal);
        let ended = receiver.end();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(times(&ended.stdout).into_iter().max().unwrap() > before);
        assert!(ended.stderr.contains("account"), "{}", ended.stderr);
    }
}

/// When each collection of the counters was made.
fn times(output: &str) -> Vec<u64> {
    let points = telemetry::points(output, "jitterscope.tcp.segments");
    points.iter().map(|point| point.point.time_unix_nano).collect()
}

/// A process that does not outlive its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_run_whose_reader_has_gone_ends_quietly() {
    let mut command = Command::new(BINARY);
    command.args(["run", "--format", "json", "--set=interval=200ms", QUIET]).stdout(Stdio::piped());
    let mut child = Killed(command.stderr(Stdio::piped()).spawn().unwrap());
    let mut reader = BufReader::new(child.0.stdout.take().unwrap());
    reader.read_line(&mut String::new()).unwrap();
    drop(reader);
    let status = until("the end", || child.0.try_wait().unwrap());
    let stderr = std::io::read_to_string(child.0.stderr.take().unwrap()).unwrap();
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert!(!stderr.contains("panicked") && !stderr.contains("ERROR"), "{stderr}");
}

#[test]
fn a_run_without_an_answering_endpoint_goes_on_and_ends_within_the_grace_period() {
    let endpoint = format!("--endpoint=http://{}", free_address());
    let began = Instant::now();
    let ended = outcome(["run", "--for=2s", "--set=shutdown.grace=1s", QUIET, &endpoint]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(began.elapsed() >= Duration::from_secs(2), "it ended before its time");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    assert!(ended.stderr.contains("trying again"), "{}", ended.stderr);
    let left = ended.stderr.lines().find(|line| line.contains("not delivered within the grace period"));
    let items = left.and_then(|line| line.rsplit_once("items=")).expect("what remained is said").1;
    assert!(items.trim().parse::<u64>().unwrap() > 0);
}

#[test]
fn the_account_at_the_end_adds_up_without_an_answering_endpoint() {
    if !is_root() {
        return;
    }
    let endpoint = format!("http://{}", free_address());
    let configuration = Configuration::new("health: {endpoint: off}\nshutdown: {grace: 500ms}\n");
    let path = configuration.path();
    let arguments = ["run", "--set=probes.packetloss.events.rate=100000", "--endpoint", &endpoint, "-c"];
    let receiver = Receiver::spawn(Command::new(BINARY).args(arguments).arg(path));
    receiver.says("trying again", 1);
    let netns = crate::netns::Netns::new();
    netns.drop_datagrams(500);
    let ended = receiver.terminate();
    let account = ended.stderr.lines().find(|line| line.contains("account")).unwrap();
    let term = |name: &str| {
        let text = account.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        text.unwrap().parse::<u64>().unwrap()
    };
    assert!(term("seen") >= 500, "{account}");
    assert_eq!(
        term("seen"),
        term("exported") + term("suppressed") + term("lost") + term("dropped"),
        "{account}"
    );
    assert_eq!(term("exported"), 0, "{account}");
}
