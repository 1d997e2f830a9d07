//! The health endpoint, asked as the kubelet asks.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
};

use serde_json::Value;

use crate::receiver::{BINARY, Receiver, free_address, is_root, until};

/// Status code and body of one request.
fn get(address: SocketAddr, path: &str) -> Option<(u16, Value)> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.to_lowercase().contains("content-type: application/json"), "{head}");
    let code = head.split_whitespace().nth(1).unwrap().parse().unwrap();
    Some((code, serde_json::from_str(body).unwrap()))
}

fn start(address: SocketAddr, more: &[&str]) -> Receiver {
    let setting = format!("--set=health.endpoint={address}");
    let receiver = Receiver::start(["run", &setting].iter().chain(more));
    until("the endpoint", || get(address, "/livez"));
    receiver
}

#[test]
fn a_running_receiver_is_alive_and_ready() {
    let address = free_address();
    let receiver = start(address, &[]);
    for path in ["/livez", "/readyz"] {
        assert_eq!(get(address, path).unwrap().0, 200, "{path}");
    }
    let (code, body) = get(address, "/unknown").unwrap();
    assert_eq!(code, 404, "{body}");
    assert_eq!(receiver.terminate().code, Some(0));
}

#[test]
fn the_status_has_the_shape_of_the_collectors_health_check() {
    let address = free_address();
    let receiver = start(address, &["--set=probes.udp.enabled=false"]);
    let (code, short) = get(address, "/status").unwrap();
    assert_eq!((code, &short["healthy"], &short["status"]), (200, &Value::Bool(true), &"StatusOK".into()));
    assert!(short["start_time"].is_string() && short["status_time"].is_string(), "{short}");
    assert_eq!(short["components"], Value::Null);
    let (_, long) = get(address, "/status?verbose").unwrap();
    let probes = &long["components"]["probes"]["components"];
    assert_eq!((&probes["tcp"]["state"], &probes["tcp"]["healthy"]), (&"running".into(), &Value::Bool(true)));
    assert_eq!(probes["udp"]["state"], "disabled");
    assert_eq!(long["components"]["exporters"]["components"]["stdout"]["healthy"], true);
    assert_eq!(receiver.terminate().code, Some(0));
}

#[test]
fn the_reason_of_a_skipped_probe_is_in_the_status() {
    if !is_root() {
        return;
    }
    let address = free_address();
    let hide = "mount -t tmpfs none /sys/kernel/btf && exec \"$0\" \"$@\"";
    let setting = format!("--set=health.endpoint={address}");
    let mut command = Command::new("unshare");
    let receiver = Receiver::spawn(command.args(["--mount", "sh", "-c", hide, BINARY, "run", &setting]));
    let (_, status) = until("the endpoint", || get(address, "/status?verbose"));
    let probe = &status["components"]["probes"]["components"]["packetloss"];
    assert_eq!(probe["state"], "skipped");
    assert!(probe["error"].as_str().unwrap().contains("no kernel type information"), "{probe}");
    assert_eq!(receiver.terminate().code, Some(0));
}

#[test]
fn a_destination_that_does_not_answer_is_told_in_the_status_and_the_receiver_stays_ready() {
    let (address, dead) = (free_address(), free_address());
    let endpoint = format!("--endpoint=http://{dead}");
    // No probe with events: they would be tried first, and the metrics only wait.
    let probes = ["--set=profile=none", "--set=probes.udp.enabled=true"];
    let receiver = start(address, &[&endpoint, "--set=shutdown.grace=100ms", probes[0], probes[1]]);
    let destination = until("the failing destination", || {
        let (_, status) = get(address, "/status?verbose")?;
        let destination = status["components"]["exporters"]["components"][format!("http://{dead}/")].clone();
        (destination["healthy"] == false).then_some(destination)
    });
    assert_eq!(destination["status"], "StatusRecoverableError");
    assert!(destination["error"].as_str().unwrap().contains("Connection refused"), "{destination}");
    let terms = &destination["metrics"];
    let term = |name: &str| terms[name].as_u64().unwrap();
    let dropped = terms["dropped"].as_object().unwrap().values().map(|cause| cause.as_u64().unwrap());
    assert_eq!(term("produced"), term("delivered") + term("queued") + dropped.sum::<u64>(), "{terms}");
    assert!(term("queued") > 0 && term("retries") > 0, "{terms}");
    assert_eq!(get(address, "/readyz").unwrap().0, 200);
    assert_eq!(receiver.terminate().code, Some(0));
}

#[test]
fn by_default_the_endpoint_is_on_loopback_alone() {
    let text = std::io::read_to_string(
        std::fs::File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/config.md")).unwrap(),
    );
    assert!(text.unwrap().contains("endpoint: 127.0.0.1:13134"));
    let receiver = Receiver::start(["run"]);
    receiver.says("running probe=\"tcp\"", 1);
    // Either it listens there, or another receiver does and it says so.
    let listens = || listeners(receiver.pid()) == ["127.0.0.1:13134"];
    let taken = || receiver.stderr().contains("no health endpoint");
    until("the endpoint", || (listens() || taken()).then_some(()));
    assert_eq!(receiver.terminate().code, Some(0));
}

/// Addresses on which a process listens for TCP.
fn listeners(pid: u32) -> Vec<String> {
    let output = Command::new("ss").args(["-Htlnp"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let own = text.lines().filter(|line| line.contains(&format!("pid={pid},")));
    own.map(|line| line.split_whitespace().nth(3).unwrap().to_owned()).collect()
}
