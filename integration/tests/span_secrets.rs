//! Requests carry secrets beside their `traceparent`: none of them is in anything that the receiver tells or keeps, in any of
//! its outputs, in its log, or in its maps in the kernel.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use jitterscope_integration::collector::Collector;
use jitterscope_integration::netns::run;
use jitterscope_integration::network::{Family, Network};
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::telemetry::{Telemetry, hex};
use jitterscope_integration::{poll, requirements};
use serde_json::Value;

/// One for each place of a request. No two have four bytes in common, so that a piece of one is found too.
const SECRETS: [(&str, &str); 6] = [
    ("path", "Qk7ZpathW3xV"),
    ("query", "Rm4YquerH8uT"),
    ("authorization", "Sn6XauthJ2oL"),
    ("cookie", "Tp9WcookF5eD"),
    ("header after it", "Uv3NlastG7iK"),
    ("body", "Vb8MbodyC1aS"),
];
/// Bytes of a secret that are looked for together.
const PIECE: usize = 6;

fn request(trace: &str) -> String {
    let [path, query, authorization, cookie, last, body] = SECRETS.map(|(_, secret)| secret);
    let filler = "o".repeat(100);
    format!(
        "POST /{path}?q={query} HTTP/1.1\r\nHost: shop\r\nAuthorization: Bearer {authorization}\r\n\
         Cookie: session={cookie}; {filler}\r\ntraceparent: 00-{trace}-0102030405060708-01\r\nX-Last: {last}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// What of the secrets is in these bytes, which may be many.
fn found_in(bytes: &[u8]) -> Vec<&'static str> {
    let pieces = SECRETS
        .iter()
        .flat_map(|(place, secret)| secret.as_bytes().windows(PIECE).map(move |piece| (piece, *place)));
    let pieces: HashMap<&[u8], &str> = pieces.collect();
    let mut starts = [false; 256];
    pieces.keys().for_each(|piece| starts[usize::from(piece[0])] = true);
    let mut found = BTreeSet::new();
    for at in 0..bytes.len().saturating_sub(PIECE - 1) {
        if starts[usize::from(bytes[at])] {
            found.extend(pieces.get(&bytes[at..at + PIECE]));
        }
    }
    found.into_iter().collect()
}

/// Both ends of a connection with a request whose packet was lost on the way, and that came in the end.
fn hit(network: &Network, family: Family, trace: &str, told: impl Fn() -> bool) -> [TcpStream; 2] {
    let listener = network.b.inside(|| Ok(TcpListener::bind((family.address(2, 2), 0))?)).unwrap();
    let to = listener.local_addr().unwrap();
    let mut client = network.a.inside(|| Ok(TcpStream::connect(to)?)).unwrap();
    let mut server = listener.accept().unwrap().0;
    let port = client.local_addr().unwrap().port();
    network.router.refuse("forward", &format!("tcp sport {port} meta length > 200")).unwrap();
    client.write_all(request(trace).as_bytes()).unwrap();
    poll::until("it is told that it was sent again", || told().then_some(())).unwrap();
    network.router.allow().unwrap();
    // A part is read: closed like this, the connection is reset.
    server.read_exact(&mut [0; 20]).unwrap();
    [client, server]
}

fn has_trace(told: &Telemetry, trace: &str, event: &str) -> bool {
    told.records().any(|record| record.trace == trace && record.event.ends_with(event))
}

/// What is in the maps that a process holds, keys and values, and of storage of sockets what these have there.
fn maps(pid: u32, sockets: &[TcpStream]) -> Vec<(String, Vec<u8>)> {
    let listed: Value =
        serde_json::from_str(&run(Command::new("bpftool").args(["-j", "map", "show"])).unwrap()).unwrap();
    let held = map_ids(pid);
    let held = listed.as_array().unwrap().iter().filter(|map| held.contains(&map["id"].to_string()));
    held.flat_map(|map| dump(map, sockets)).collect()
}

/// As the descriptors of a process tell them.
fn map_ids(pid: u32) -> HashSet<String> {
    let infos = fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap().flatten();
    let infos = infos.filter_map(|info| fs::read_to_string(info.path()).ok());
    let id =
        |info: String| Some(info.lines().find_map(|line| line.strip_prefix("map_id:"))?.trim().to_owned());
    infos.filter_map(id).collect()
}

fn dump(map: &Value, sockets: &[TcpStream]) -> Vec<(String, Vec<u8>)> {
    let (id, name) = (map["id"].to_string(), map["name"].to_string());
    let read = |arguments: &[&str], socket: Stdio| {
        let mut command = Command::new("bpftool");
        let output = command.args(["-j", "map"]).args(arguments).stdin(socket).output().unwrap();
        let mut bytes = Vec::new();
        flatten(&serde_json::from_slice(&output.stdout).ok()?, &mut bytes);
        Some((name.clone(), bytes))
    };
    if map["type"] == "sk_storage" {
        // The key is a descriptor of the socket: standard input.
        let socket = |socket: &TcpStream| Stdio::from(OwnedFd::from(socket.try_clone().unwrap()));
        let lookup = ["lookup", "id", &id, "key", "0", "0", "0", "0"];
        return sockets.iter().filter_map(|one| read(&lookup, socket(one))).collect();
    }
    read(&["dump", "id", &id], Stdio::null()).into_iter().collect()
}

/// The bytes that bpftool writes as texts such as "0x1f"; each list of them in order.
fn flatten(value: &Value, bytes: &mut Vec<u8>) {
    match value {
        Value::Array(list) => list.iter().for_each(|one| flatten(one, bytes)),
        Value::Object(fields) => {
            // What bpftool makes of the type says the same again.
            let raw = fields.iter().filter(|(key, _)| *key != "formatted");
            raw.for_each(|(_, field)| flatten(field, bytes));
        }
        Value::String(text) => {
            let digits = text.strip_prefix("0x").and_then(|digits| u8::from_str_radix(digits, 16).ok());
            bytes.extend(digits);
        }
        _ => {}
    }
}

/// Everything in the files of a directory.
fn written(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.is_file())
        .map(|path| (path.display().to_string(), fs::read(&path).unwrap()))
        .collect()
}

fn check(what: &[(String, Vec<u8>)]) {
    for (name, bytes) in what {
        assert_eq!(found_in(bytes), [""; 0], "in {name}");
    }
}

#[test]
fn a_secret_that_is_there_is_found() {
    assert_eq!(found_in(request(&hex(&[1; 16])).as_bytes()).len(), SECRETS.len());
    assert_eq!(found_in(b"...auth.X.. 9WcookF"), ["cookie"]);
}

#[test]
fn nothing_of_a_request_but_its_trace_is_told_or_kept() {
    if !requirements::met(&["ip", "nft", "bpftool"]) {
        return;
    }
    let Some(mut collector) = Collector::start().unwrap() else { return };
    let endpoint = collector.endpoint();
    let common = [
        "--set",
        "interval=5s",
        "--set",
        "spans.sources.wire=true",
        "--set",
        "spans.anomaly_spans.enabled=true",
        "--set",
        "exemplars=always_on",
        "--set",
        "probes.packetloss.stack=true",
        "--set",
        "log.level=trace",
    ];
    let network = Network::new().unwrap();
    let mut over_otlp = Receiver::start(&[&common[..], &["--endpoint", &endpoint]].concat()).unwrap();
    let mut as_text = Receiver::start(&common).unwrap();
    let mut as_json = Receiver::start(&[&common[..], &["--format", "json"]].concat()).unwrap();
    for (number, family) in (1..).zip(Family::BOTH) {
        let trace = hex(&[number; 16]);
        let told = |event: &str| {
            has_trace(&collector.received().unwrap(), &trace, event)
                && has_trace(&as_json.printed().unwrap(), &trace, event)
        };
        let connection = hit(&network, family, &trace, || told("retransmitted"));
        for receiver in [&over_otlp, &as_text, &as_json] {
            let maps = maps(receiver.pid(), &connection);
            // What is kept of a socket is the trace itself, at both ends: these are the maps that matter.
            let kept = maps.iter().filter(|(_, bytes)| bytes.windows(16).any(|part| part == [number; 16]));
            assert!(kept.count() >= 2, "{:?}", maps.iter().map(|(name, _)| name).collect::<Vec<_>>());
            assert!(maps.len() > 20, "{}", maps.len());
            check(&maps);
        }
        drop(connection);
        poll::until("it is told that it was reset", || told("reset").then_some(())).unwrap();
    }
    for receiver in [&mut over_otlp, &mut as_text, &mut as_json] {
        receiver.stop().unwrap();
        let outputs = written(receiver.directory());
        assert!(outputs.iter().any(|(_, bytes)| bytes.len() > 1000), "{outputs:?}");
        check(&outputs);
    }
    collector.stop().unwrap();
    let arrived = format!("{:?}", collector.received().unwrap());
    assert!(collector.received().unwrap().spans().count() > 0);
    check(&[("the Collector".to_owned(), arrived.into_bytes())]);
}
