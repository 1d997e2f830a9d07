//! The command as a child process, its output, polling with a deadline.

use std::{
    ffi::OsStr,
    fs::{self, File},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use jitterscope::probe::PROBES;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// The command under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_jitterscope");

/// How long anything may take before a test fails; long, for others may load the machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// Whether the test can run; without root it says so, and fails under CI.
pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "needs root");
    if !root {
        println!("skipped: needs root for eBPF programs and namespaces");
    }
    root
}

/// Polls until `look` finds something.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The probes that the tests of the command look at.
const LOOKED_AT: [&str; 4] = ["packetloss", "tcp", "udp", "netdev"];

/// Lets all other probes be collected once and again after two seconds, for tests collect five times a second.
fn seldom(command: &mut Command) {
    for probe in PROBES.iter().filter(|probe| !LOOKED_AT.contains(&probe.name)) {
        command.env(format!("JITTERSCOPE__PROBES__{}__INTERVAL", probe.name.to_uppercase()), "1h");
    }
}

/// An address on loopback that nobody listens on.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A configuration file in a directory of its own.
pub(crate) struct Configuration {
    folder: TempDir,
}

impl Configuration {
    /// A YAML file with this text.
    pub(crate) fn new(text: &str) -> Self {
        let configuration = Self { folder: tempfile::tempdir().unwrap() };
        configuration.write(text);
        configuration
    }

    /// Where it is.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("jitterscope.yaml")
    }

    /// Writes it anew: beside and renamed over, as editors do.
    pub(crate) fn write(&self, text: &str) {
        let beside = self.folder.path().join("next");
        fs::write(&beside, text).unwrap();
        fs::rename(beside, self.path()).unwrap();
    }
}

/// What a command that has ended left.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A running command; killed with the value.
pub(crate) struct Receiver {
    child: Child,
    output: TempDir,
}

impl Receiver {
    /// Starts the command with these arguments.
    pub(crate) fn start<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Self {
        Self::spawn(Command::new(BINARY).args(arguments))
    }

    /// Starts `run` with OTLP/JSON on standard output and a configuration file.
    pub(crate) fn run(configuration: &Configuration) -> Self {
        let path = configuration.path();
        Self::start(["run", "--format", "json", "-c"].map(OsStr::new).into_iter().chain([path.as_os_str()]))
    }

    /// Starts a prepared command, its output into files. Variables that would configure it are not passed on.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        seldom(command);
        let output = tempfile::tempdir().unwrap();
        let file = |name: &str| File::create(output.path().join(name)).unwrap();
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("OTEL_") || name.starts_with("JITTERSCOPE__") {
                command.env_remove(name);
            }
        }
        let command = command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("stderr"));
        Self { child: command.spawn().unwrap(), output }
    }

    /// Standard output so far.
    pub(crate) fn stdout(&self) -> String {
        read(&self.output.path().join("stdout"))
    }

    /// Standard error so far.
    pub(crate) fn stderr(&self) -> String {
        read(&self.output.path().join("stderr"))
    }

    /// Waits until standard error contains a text, so many times.
    pub(crate) fn says(&self, text: &str, times: usize) {
        until(&format!("{times} times {text:?} in {}", self.stderr()), || {
            (self.stderr().matches(text).count() >= times).then_some(())
        });
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ended {
        let child = &mut self.child;
        let status = until("the command's end", || child.try_wait().unwrap());
        Ended { code: status.code(), stdout: self.stdout(), stderr: self.stderr() }
    }

    /// Asks it to end and waits.
    pub(crate) fn terminate(self) -> Ended {
        self.signal(Signal::TERM);
        self.end()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command to its end.
pub(crate) fn outcome<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Ended {
    Receiver::start(arguments).end()
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned()
}
