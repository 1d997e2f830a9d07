//! Processes that hold sockets and descriptors in a namespace, until they are told to end: the test program itself,
//! started again to run its ignored test `hold`. And what `ss` and `/proc` say of them.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use jitterscope_ebpf::Kernel;
use jitterscope_ebpf::abi::{descriptor_sums, entity as holder, socket_key, socket_sums};
use jitterscope_ebpf::sockets::{Options, Sockets};

use crate::common::Namespace;

/// What a holder holds, by name, in the environment of the process.
const WANTED: &str = "JITTERSCOPE_HOLD";

/// A process that holds what it was told to; ends when dropped.
pub(crate) struct Holder {
    child: Child,
    input: Option<ChildStdin>,
    /// Kept open: the test program goes on writing.
    _output: BufReader<ChildStdout>,
    pub(crate) pid: u32,
    pub(crate) said: String,
}

impl Holder {
    /// Starts one in `namespace` and waits until it holds `what`, a list of `name=number`.
    pub(crate) fn new(namespace: &Namespace, what: &str) -> Self {
        Self::with(namespace, what, "")
    }

    /// Like [`Self::new`], after a shell command.
    pub(crate) fn with(namespace: &Namespace, what: &str, before: &str) -> Self {
        let program = std::env::current_exe().unwrap();
        // The command comes before the namespace: `ip netns exec` mounts another /sys, without the cgroups.
        let script = format!(
            "{before}exec ip netns exec {} '{}' --ignored --exact hold --nocapture --test-threads=1",
            namespace.name,
            program.display()
        );
        let mut command = Command::new("sh");
        command.args(["-c", &script]).env(WANTED, what);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("holding ") {
            line.clear();
            assert!(output.read_line(&mut line).unwrap() > 0, "the holder of {what} ended");
        }
        let said = line.split_once("holding ").unwrap().1.trim().to_owned();
        let input = child.stdin.take();
        Self { pid: child.id(), child, input, _output: output, said }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.input.take());
        // It may have ended by itself.
        let _ = self.child.wait();
    }
}

/// A process that is killed with the value.
pub(crate) struct Killed(pub(crate) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Both fail only for a process that has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The body of the ignored test: holds what the environment says until its input ends.
pub(crate) fn hold(special: impl Fn(&str, usize) -> Box<dyn std::any::Any>) {
    let wanted = std::env::var(WANTED).unwrap_or_default();
    let mut held: Vec<Box<dyn std::any::Any>> = Vec::new();
    for (name, number) in wanted.split_whitespace().filter_map(|item| item.split_once('=')) {
        let number = number.parse().unwrap();
        held.push(match name {
            "tcp4" => Box::new(connections("127.0.0.1", "127.0.0.1", number)),
            "tcp6" => Box::new(connections("::1", "::1", number)),
            "mapped" => Box::new(connections("::", "127.0.0.1", number)),
            "udp4" => Box::new(many(number, || UdpSocket::bind("127.0.0.1:0").unwrap())),
            "udp6" => Box::new(many(number, || UdpSocket::bind("[::1]:0").unwrap())),
            "unix" => Box::new(many(number, || UnixStream::pair().unwrap())),
            "files" => Box::new(many(number, || File::open("/dev/null").unwrap())),
            _ => special(name, number),
        });
    }
    println!("\nholding {}", std::process::id());
    std::io::stdout().flush().unwrap();
    let _ = std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

fn many<T>(number: usize, make: impl Fn() -> T) -> Vec<T> {
    (0..number).map(|_| make()).collect()
}

/// A listener at `at` and so many accepted connections to it by `to`.
fn connections(at: &str, to: &str, number: usize) -> (TcpListener, Vec<(TcpStream, TcpStream)>) {
    let listener = TcpListener::bind((at.parse::<IpAddr>().unwrap(), 0)).unwrap();
    let target = SocketAddr::new(to.parse().unwrap(), listener.local_addr().unwrap().port());
    let connect = || (TcpStream::connect(target).unwrap(), listener.accept().unwrap().0);
    let connections = many(number, connect);
    (listener, connections)
}

/// The program as it is, of the running kernel.
pub(crate) fn open(options: &Options) -> Sockets {
    Sockets::open(&Kernel::read(None).unwrap(), options).unwrap()
}

/// Sums over the sockets of one namespace and several cgroups, by (protocol, family, state).
pub(crate) type Sums = BTreeMap<(u16, u8, u8), socket_sums>;

/// What the last pass said of a namespace; kinds without any socket are left out.
pub(crate) fn sums(pass: &Sockets, inode: u32) -> Sums {
    let mut all = Sums::new();
    pass.sockets(|key: &socket_key, sums| {
        if key.entity.netns == inode && sums.sockets + sums.subflows > 0 {
            let kind = if key.family == 0 { key.domain } else { key.protocol };
            let total = all.entry((kind, key.family, key.state)).or_default();
            total.sockets += sums.sockets;
            total.subflows += sums.subflows;
            total.receive_queue += sums.receive_queue;
            total.transmit_queue += sums.transmit_queue;
            total.unacked += sums.unacked;
            total.window += sums.window;
            total.backlog += sums.backlog;
            total.backlog_limit += sums.backlog_limit;
            total.requests += sums.requests;
        }
    })
    .unwrap();
    all
}

/// The descriptors of the processes of a namespace.
pub(crate) fn descriptors(pass: &Sockets, inode: u32) -> descriptor_sums {
    let mut all = descriptor_sums::default();
    pass.descriptors(|holder: &holder, sums| {
        if holder.netns == inode {
            all.open.iter_mut().zip(sums.open).for_each(|(sum, more)| *sum += more);
            all.fullest_open = all.fullest_open.max(sums.fullest_open);
            all.fullest_limit = all.fullest_limit.max(sums.fullest_limit);
        }
    })
    .unwrap();
    all
}

/// Descriptors of a process by kind as its links in `/proc/<pid>/fd` tell.
pub(crate) fn links(pid: u32) -> [u64; 5] {
    let mut kinds = [0; 5];
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let link = fs::read_link(entry.unwrap().path()).unwrap();
        let link = link.to_string_lossy();
        let kind = match link.as_ref() {
            link if link.starts_with("socket:") => 0,
            link if link.starts_with('/') && !link.starts_with("/memfd:") => 1,
            link if link.starts_with("pipe:") => 2,
            "anon_inode:[eventpoll]" => 3,
            _ => 4,
        };
        kinds[kind] += 1;
    }
    kinds
}

/// A row of `ss --tcp --all --numeric --extended --info` that belongs to a descriptor.
struct Row {
    state: u8,
    family: u8,
    receive: u64,
    transmit: u64,
    window: u64,
    unacked: u64,
}

impl Row {
    /// `None` for what has no descriptor: time-wait, orphans, and connections that wait to be accepted.
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let states = [
            "",
            "ESTAB",
            "SYN-SENT",
            "SYN-RECV",
            "FIN-WAIT-1",
            "FIN-WAIT-2",
            "TIME-WAIT",
            "UNCONN",
            "CLOSE-WAIT",
            "LAST-ACK",
            "LISTEN",
            "CLOSING",
        ];
        let state = states.iter().position(|name| *name == words[0])? as u8;
        words.iter().any(|word| word.starts_with("ino:") && *word != "ino:0").then_some(())?;
        let peer = if state == 10 { words[3] } else { words[4] };
        let family = if peer.starts_with("[::ffff:") || !peer.starts_with(['[', '*']) { 4 } else { 6 };
        let field = |name: &str| {
            let word = words.iter().find_map(|word| word.strip_prefix(name));
            word.map_or(0, |word| word.parse().unwrap())
        };
        let number = |at: usize| words[at].parse::<u64>().unwrap();
        let (receive, transmit) = (number(1), number(2));
        Some(Self { state, family, receive, transmit, window: field("cwnd:"), unacked: field("unacked:") })
    }
}

/// The TCP sockets of a namespace as `ss` lists them inside, added up as the pass does.
pub(crate) fn listed(namespace: &Namespace) -> Sums {
    let text = namespace.sh("ss --no-header --oneline --tcp --all --numeric --extended --info");
    let mut all = Sums::new();
    for row in text.lines().filter_map(Row::parse) {
        let sums = all.entry((6, row.family, row.state)).or_default();
        sums.sockets += 1;
        if row.state == 10 {
            sums.backlog += row.receive;
            sums.backlog_limit += row.transmit;
        } else {
            sums.receive_queue += row.receive;
            sums.transmit_queue += row.transmit;
            sums.window += row.window;
            sums.unacked += row.unacked;
        }
    }
    all
}
