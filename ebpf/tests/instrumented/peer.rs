//! Another process that does what it is told (`peer.c`), in each form that a program or library can have.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use tempfile::TempDir;

use crate::common::Namespace;
use crate::common::http::Ids;

const SOURCE: &str = include_str!("peer.c");

/// The accesses to thread-local variables that the specification asks for, which are not the default everywhere.
const DESCRIPTORS: &str =
    if cfg!(target_arch = "aarch64") { "-mtls-dialect=desc" } else { "-mtls-dialect=gnu2" };

/// How it is compiled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    pub(crate) name: &'static str,
    pub(crate) compiler: &'static str,
    program: &'static [&'static str],
    /// A library that it loads when it is told, which has the variable then.
    library: Option<&'static [&'static str]>,
}

const BARE: &[&str] = &["-DBARE"];

/// All forms.
pub(crate) const FORMS: [Form; 8] = [
    Form { name: "a program", compiler: "cc", program: &[], library: None },
    Form { name: "a program at a fixed address", compiler: "cc", program: &["-no-pie"], library: None },
    Form { name: "a static program", compiler: "cc", program: &["-static"], library: None },
    Form { name: "a static program anywhere", compiler: "cc", program: &["-static-pie"], library: None },
    Form {
        name: "a small library",
        compiler: "cc",
        program: BARE,
        library: Some(&[DESCRIPTORS, "-DLIBRARY=8"]),
    },
    LARGE,
    Form {
        name: "a library with calls of __tls_get_addr",
        compiler: "cc",
        program: BARE,
        library: Some(&["-DLIBRARY=65536"]),
    },
    Form { name: "a static program of musl", compiler: "musl-gcc", program: &["-static"], library: None },
];

/// Its threads have the variable once they touch it.
pub(crate) const LARGE: Form = Form {
    name: "a large library",
    compiler: "cc",
    program: BARE,
    library: Some(&[DESCRIPTORS, "-DLIBRARY=65536"]),
};

/// The blocks of modules are kept otherwise than by glibc.
pub(crate) const MUSL_LIBRARY: Form = Form {
    name: "a library of musl",
    compiler: "musl-gcc",
    program: BARE,
    library: Some(&["-DLIBRARY=65536"]),
};

/// Programs and libraries as they were compiled.
#[derive(Debug)]
pub(crate) struct Built {
    directory: TempDir,
    form: Form,
}

impl Built {
    /// `None`: there is no such compiler.
    pub(crate) fn new(form: Form) -> Option<Self> {
        Command::new(form.compiler).arg("--version").stdout(Stdio::null()).status().ok()?;
        let built = Self { directory: TempDir::new().unwrap(), form };
        fs::write(built.path("peer.c"), SOURCE).unwrap();
        built.compile("peer", form.program);
        if let Some(options) = form.library {
            built.compile("library.so", &[&["-shared", "-fPIC"], options].concat());
        }
        Some(built)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn compile(&self, name: &str, options: &[&str]) {
        let mut command = Command::new(self.form.compiler);
        command.args(["-O1", "-Wall", "-Werror", "-pthread", "-rdynamic", "-o"]).arg(self.path(name));
        let output = command.args(options).arg(self.path("peer.c")).arg("-ldl").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", self.form.name);
    }

    /// Starts it, and lets it load its library.
    pub(crate) fn start(&self, within: &Namespace) -> Peer {
        let mut peer = self.start_bare(within);
        if self.form.library.is_some() {
            self.load(&mut peer);
        }
        peer
    }

    pub(crate) fn load(&self, peer: &mut Peer) {
        peer.must(&format!("load {}", self.path("library.so").display()));
    }

    /// Starts it without its library.
    pub(crate) fn start_bare(&self, within: &Namespace) -> Peer {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &within.name]).arg(self.path("peer"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut peer = Peer { child, to, from, pid: 0 };
        peer.pid = peer.answer() as i32;
        peer
    }
}

/// A process that runs. It ends when this is dropped.
pub(crate) struct Peer {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    /// Who does what it is told.
    pub(crate) pid: i32,
}

impl Peer {
    /// Lets it do something; what came of it.
    pub(crate) fn tell(&mut self, what: &str) -> i64 {
        writeln!(self.to, "{what}").unwrap();
        self.answer()
    }

    fn answer(&mut self) -> i64 {
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        line.trim_end().parse().unwrap()
    }

    /// The same of what cannot fail.
    pub(crate) fn must(&mut self, what: &str) {
        assert_eq!(self.tell(what), 0, "{what}");
    }

    pub(crate) fn enter(&mut self, ids: &Ids) {
        self.must(&format!("enter {}{}", ids.trace_text(), ids.span_text()));
    }

    /// Another process does what it is told from now on.
    pub(crate) fn fork(&mut self) {
        self.pid = self.tell("fork") as i32;
    }

    /// Its connection to a port.
    pub(crate) fn connect(&mut self, port: u16) -> TcpStream {
        let descriptor = self.tell(&format!("connect {port}"));
        let process = pidfd_open(Pid::from_raw(self.pid).unwrap(), PidfdFlags::empty()).unwrap();
        let of_peer = descriptor.try_into().unwrap();
        let ours: OwnedFd = pidfd_getfd(process, of_peer, PidfdGetfdFlags::empty()).unwrap();
        TcpStream::from(ours)
    }

    pub(crate) fn send(&mut self) {
        assert_eq!(self.tell("send"), 1);
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Who does what it is told ends with it, and those who wait for that one too.
        let _ = writeln!(self.to, "end");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
