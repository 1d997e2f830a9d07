//! The events of `conntrackevents` are those that `conntrack -E` shows inside each namespace; none is unaccounted for, however
//! many there are; and a namespace that is deleted is really gone, although it was listened to.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Stdio};
use std::thread::spawn;
use std::time::Duration;

use jitterscope_integration::netns::{Netns, connect};
use jitterscope_integration::network::{Family, Network};
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::telemetry::{Record, Telemetry, has};
use jitterscope_integration::{kernel, poll, requirements, traffic};
use jitterscope_semconv::{attribute as key, event};
use tempfile::TempDir;

const ON: &str = "probes.conntrackevents.enabled=true";
const UNLIMITED: [&str; 4] = [
    "--set",
    "probes.conntrackevents.events.rate=100000",
    "--set",
    "probes.conntrackevents.events.burst=100000",
];

/// Groups of connections and expectations, as `/proc/net/netlink` shows a member of all.
const GROUPS: &str = "0000003f";

/// How soon a deleted namespace is gone: two scans, and what the kernel itself needs.
const SOON: Duration = Duration::from_secs(10);

fn start(arguments: &[&str]) -> Receiver {
    let common = ["--format", "json", "--set", ON];
    Receiver::start(&[&common[..], arguments].concat()).unwrap()
}

/// Tracks connections from now on, those to port 21 with a helper.
fn track(netns: &Netns) {
    let lines = [
        "add table inet t",
        "add ct helper inet t ftp-help { type \"ftp\" protocol tcp; }",
        "add chain inet t c { type filter hook prerouting priority 0; }",
        "add rule inet t c ct state invalid counter",
        "add rule inet t c tcp dport 21 ct helper set \"ftp-help\"",
    ];
    lines.iter().for_each(|line| drop(netns.sh(&format!("nft '{line}'")).unwrap()));
}

/// What a process listens with inside, to groups that `are` the wanted ones: the receivers of other tests do too.
fn listeners(pid: u32, netns: &Netns, are: impl Fn(&str) -> bool) -> Vec<String> {
    let sockets = netns.sh("cat /proc/net/netlink").unwrap();
    let inode = |line: &str| {
        let cells: Vec<&str> = line.split_whitespace().collect();
        are(cells[3]).then(|| format!("socket:[{}]", cells[9]))
    };
    let mut inside: Vec<String> = sockets.lines().skip(1).filter_map(inode).collect();
    let held = held(pid);
    inside.retain(|socket| held.contains(socket));
    inside
}

/// What the descriptors of a process refer to.
fn held(pid: u32) -> BTreeSet<String> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let files = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    files.map(|file| file.to_string_lossy().into_owned()).collect()
}

fn listener(receiver: &Receiver, netns: &Netns) -> Vec<String> {
    listeners(receiver.pid(), netns, |groups| groups == GROUPS)
}

fn is_listened_to(receiver: &Receiver, netns: &Netns) -> bool {
    !listener(receiver, netns).is_empty()
}

fn wait_for_listener(receiver: &Receiver, netns: &Netns) {
    poll::until("the receiver listens", || is_listened_to(receiver, netns).then_some(())).unwrap();
}

/// `conntrack -E` inside a namespace.
struct Witness {
    process: Child,
    directory: TempDir,
}

impl Witness {
    /// `what` is nothing for connections, or `expect`.
    fn start(netns: &Netns, what: &[&str]) -> Self {
        let directory = TempDir::new().unwrap();
        let output = File::create(directory.path().join("events")).unwrap();
        let mut command = netns.command("conntrack");
        command.arg("-E").args(what);
        if what.is_empty() {
            command.args(["-b", "33554432"]);
        }
        let process = command.stdout(output).stderr(Stdio::null()).spawn().unwrap();
        let ready = || listeners(process.id(), netns, |groups| groups != "00000000").pop();
        poll::until("conntrack listens", ready).unwrap();
        Self { process, directory }
    }

    fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(self.directory.path().join("events")).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        // It has ended already if this fails.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An event in the words of conntrack(8): what happened, protocol, state of TCP, and the first of its tuples.
fn words(record: &Record) -> String {
    let text = |key: &str| record.attributes.get(key).cloned().unwrap_or_default();
    let transport = text(key::NETWORK_TRANSPORT.key).replace("ipv6-icmp", "icmpv6");
    let state = text(key::CONNTRACK_STATE.key).to_ascii_uppercase();
    let ends = [text(key::SOURCE_ADDRESS.key), text(key::DESTINATION_ADDRESS.key)].join(" ");
    let ports = [text(key::SOURCE_PORT.key), text(key::DESTINATION_PORT.key)].join(" ");
    format!("{} {transport} {state} {ends} {ports}", text(key::CONNTRACK_CHANGE.key))
}

/// The same of a line of `conntrack -E`, which does not tell the state of what ended.
fn words_of_line(line: &str) -> String {
    let cells: Vec<&str> = line.split_whitespace().collect();
    let change = cells[0].trim_matches(['[', ']']).to_ascii_lowercase();
    let after = |name: &str| {
        let cell = cells.iter().find_map(|cell| cell.strip_prefix(name)).unwrap_or_default();
        cell.to_owned()
    };
    let is_state =
        |cell: &&&str| cell.chars().all(|c| c.is_ascii_uppercase() || c == '_' || c.is_ascii_digit());
    let state = cells[3..5].iter().filter(is_state).find(|cell| cell.contains(char::is_alphabetic));
    let state = if cells[1] == "tcp" { state.copied().unwrap_or_default() } else { "" };
    let ends = [after("src="), after("dst=")].join(" ");
    let ports = [after("sport="), after("dport=")].join(" ");
    format!("{change} {} {state} {ends} {ports}", cells[1])
}

fn records(telemetry: &Telemetry, netns: &Netns, event: &str) -> Vec<Record> {
    let here =
        |record: &Record| record.event == event && has(&record.resource, key::NETNS_NAME.key, netns.name());
    telemetry.records().filter(here).collect()
}

#[test]
fn events_in_two_namespaces_at_once_are_those_that_conntrack_shows() {
    if !requirements::met(&["ip", "nft", "conntrack", "ping"]) {
        return;
    }
    let network = Network::new().unwrap();
    let tracked = [&network.b, &network.router];
    tracked.iter().for_each(|netns| track(netns));
    let mut receiver = start(&UNLIMITED);
    tracked.iter().for_each(|netns| wait_for_listener(&receiver, netns));
    let witnesses = tracked.map(|netns| Witness::start(netns, &[]));
    for family in Family::BOTH {
        let server = traffic::serve(&network.b, family.address(2, 2)).unwrap();
        traffic::requests(&network.a, server, 5).unwrap();
        network.a.sh(&format!("ping -c 2 -i 0.2 {}", family.address(2, 2))).unwrap();
    }
    tracked.iter().for_each(|netns| drop(netns.sh("conntrack -F").unwrap()));
    for (netns, witness) in tracked.into_iter().zip(&witnesses) {
        poll::until("every event", || {
            let told = records(&receiver.printed().unwrap(), netns, event::CONNTRACK_CHANGED.name);
            (told.len() >= witness.lines().len()).then_some(())
        })
        .unwrap_or_default();
    }
    receiver.stop().unwrap();
    let telemetry = receiver.printed().unwrap();
    for (netns, witness) in tracked.into_iter().zip(&witnesses) {
        let mut told: Vec<_> =
            records(&telemetry, netns, event::CONNTRACK_CHANGED.name).iter().map(words).collect();
        let mut seen: Vec<_> = witness.lines().iter().map(|line| words_of_line(line)).collect();
        for words in told.iter_mut().chain(&mut seen).filter(|words| words.starts_with("destroy")) {
            *words = words.split(' ').enumerate().filter(|(at, _)| *at != 2).map(|(_, word)| word).collect();
        }
        told.sort();
        seen.sort();
        assert_eq!(told, seen, "{}", netns.name());
        // Each connection at least begins, changes and ends.
        assert!(seen.len() >= 3 * 2 * (5 + 1 + 1), "{seen:#?}");
    }
    let account = receiver.account("conntrackevents").unwrap();
    assert_eq!((account.seen, account.lost, account.suppressed), (account.sum(), 0, 0), "{account:?}");
}

/// Has the helper expect the connection that a client of FTP announces (RFC 2428).
fn announce(network: &Network, family: Family, port: u16) {
    let server = SocketAddr::new(family.address(2, 2), 21);
    let listener = network.b.inside(|| Ok(TcpListener::bind(server)?)).unwrap();
    let echo = spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = [0; 256];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            stream.write_all(&buffer[..length]).unwrap();
        }
    });
    let mut stream = network.a.inside(|| Ok(TcpStream::connect(server)?)).unwrap();
    let number = if family == Family::V4 { 1 } else { 2 };
    // The helper looks for commands after the first end of a line that it sees.
    for line in ["USER x\r\n".to_owned(), format!("EPRT |{number}|{}|{port}|\r\n", family.address(1, 2))] {
        stream.write_all(line.as_bytes()).unwrap();
        stream.read_exact(&mut vec![0; line.len()]).unwrap();
    }
    drop(stream);
    echo.join().unwrap();
}

#[test]
fn what_a_helper_expects_is_told_with_its_end() {
    if !requirements::met(&["ip", "nft", "conntrack", "ping"]) {
        return;
    }
    let network = Network::new().unwrap();
    track(&network.b);
    let mut receiver = start(&UNLIMITED);
    wait_for_listener(&receiver, &network.b);
    let witness = Witness::start(&network.b, &["expect"]);
    for (family, port) in [(Family::V4, 2001), (Family::V6, 2002)] {
        announce(&network, family, port);
    }
    network.b.sh("conntrack -F expect").unwrap();
    let name = event::CONNTRACK_EXPECTATION_CHANGED.name;
    let all = || records(&receiver.printed().unwrap(), &network.b, name);
    poll::until("both expectations and their ends", || (all().len() >= 4).then_some(())).unwrap();
    receiver.stop().unwrap();
    let told = records(&receiver.printed().unwrap(), &network.b, name);
    assert_eq!(told.len(), witness.lines().len(), "{:#?}", witness.lines());
    for (family, port) in [(Family::V4, "2001"), (Family::V6, "2002")] {
        let to = family.address(1, 2).to_string();
        let is_it = |record: &&Record| {
            has(&record.attributes, key::DESTINATION_ADDRESS.key, &to)
                && has(&record.attributes, key::DESTINATION_PORT.key, port)
                && has(&record.attributes, key::CONNTRACK_HELPER.key, "ftp")
        };
        let changes: Vec<_> =
            told.iter().filter(is_it).map(|one| one.attributes[key::CONNTRACK_CHANGE.key].clone()).collect();
        assert_eq!(changes, ["new", "destroy"], "{told:#?}");
        assert!(
            told.iter().find(is_it).unwrap().attributes[key::CONNTRACK_MASTER.key].contains(":21"),
            "{told:#?}"
        );
    }
}

/// How many connections are tracked: where none ends and none is answered, each made one event.
fn entries(netns: &Netns) -> u64 {
    kernel::conntrack(netns).unwrap()["entries"]
}

/// One tracked connection for each destination port.
fn connections(netns: &Netns, family: Family, count: u16) {
    let make = || {
        let socket = UdpSocket::bind((family.loopback(), 0))?;
        for number in 0..count {
            // Nobody listens there; a refusal of an earlier one is no surprise.
            let _ = socket.send_to(b"x", (family.loopback(), 10_000 + number));
        }
        Ok(())
    };
    netns.inside(make).unwrap();
}

/// A namespace that is the receiver's whole node: nobody else's connections are seen.
fn alone() -> (Netns, Receiver) {
    let host = Netns::new("alone").unwrap();
    track(&host);
    // None ends by itself while it is looked at.
    host.sh("cd /proc/sys/net/netfilter && for f in nf_conntrack_udp_timeout*; do echo 3600 >$f; done")
        .unwrap();
    let limit =
        ["--set", "probes.conntrackevents.events.rate=5", "--set", "probes.conntrackevents.events.burst=10"];
    let others =
        ["--format", "json", "--set", ON, "--set", "entities.netns=false", "--set", "entities.cri=off"];
    let receiver = Receiver::start_on(&host, &[&others[..], &limit].concat()).unwrap();
    wait_for_listener(&receiver, &host);
    (host, receiver)
}

#[test]
fn events_over_the_limit_are_suppressed_and_every_one_is_accounted_for() {
    if !requirements::met(&["ip", "nft", "conntrack", "unshare"]) {
        return;
    }
    let (host, mut receiver) = alone();
    Family::BOTH.iter().for_each(|family| connections(&host, *family, 300));
    receiver.stop().unwrap();
    let account = receiver.account("conntrackevents").unwrap();
    assert_eq!((account.seen, account.lost, account.dropped), (entries(&host), 0, 0), "{account:?}");
    assert_eq!(account.seen, account.sum(), "{account:?}");
    assert!(account.suppressed > 500 && account.exported >= 10, "{account:?}");
    let telemetry = receiver.printed().unwrap();
    let events = telemetry.records().filter(|record| record.event == event::CONNTRACK_CHANGED.name);
    let unique: BTreeSet<_> = events.collect();
    assert_eq!(unique.len() as u64, account.exported);
}

#[test]
fn events_that_overrun_the_socket_are_lost_to_the_unit() {
    if !requirements::met(&["ip", "nft", "conntrack", "unshare"]) {
        return;
    }
    let (host, mut receiver) = alone();
    receiver.freeze().unwrap();
    Family::BOTH.iter().for_each(|family| connections(&host, *family, 4000));
    receiver.wake().unwrap();
    // After the overrun it goes on.
    let goes_on = || {
        connections(&host, Family::V4, 1);
        let telemetry = receiver.printed().unwrap();
        telemetry.records().max_by_key(|record| record.time).map(|record| record.time)
    };
    let first = poll::until("the first events", goes_on).unwrap();
    poll::until("later events", || goes_on().filter(|last| *last > first + 1_000_000_000)).unwrap();
    receiver.stop().unwrap();
    let account = receiver.account("conntrackevents").unwrap();
    assert!(account.lost > 1000, "{account:?}");
    assert_eq!((account.seen, account.dropped), (entries(&host), 0), "{account:?}");
    assert_eq!(account.seen, account.sum(), "{account:?}");
}

#[test]
fn a_deleted_namespace_is_gone_soon_although_it_was_listened_to() {
    if !requirements::met(&["ip", "nft"]) {
        return;
    }
    let (kept, deleted) = (Netns::new("kept").unwrap(), Netns::new("deleted").unwrap());
    connect((&kept, "here"), (&deleted, "there")).unwrap();
    let mut receiver = start(&[]);
    for netns in [&kept, &deleted] {
        wait_for_listener(&receiver, netns);
    }
    receiver.settle().unwrap();
    let inside = listener(&receiver, &deleted);
    drop(deleted);
    // A namespace that something keeps alive keeps its devices.
    let gone = || kept.ip("link show here").is_err().then_some(());
    poll::within(SOON, "the other end is gone with its namespace", gone).unwrap();
    let now = held(receiver.pid());
    assert!(inside.iter().all(|socket| !now.contains(socket)), "{inside:?}, {now:?}");
    assert!(is_listened_to(&receiver, &kept));
    receiver.stop().unwrap();
}
