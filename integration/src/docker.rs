//! A Docker daemon of the test's own: own directories, socket and bridge, an image made on the spot, everything removed
//! afterwards, also after a failure. Needs root, and Debian's docker.io and busybox-static.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::clean_up::{cgroups, remember_cgroup, remove_cgroups, run as try_to_run, unmount_below};
use crate::containerd::{Container, unique};
use crate::netns::run;
use crate::poll;

/// Debian's programs: a `docker` that comes first in `PATH` may be of another version than the daemon.
pub const PROGRAMS: [&str; 2] = ["/usr/sbin/dockerd", "/usr/bin/docker"];

/// Where Docker puts containers in each cgroup hierarchy.
const CGROUP: &str = "/docker";

/// Name of the image.
const IMAGE: &str = "jitterscope:test";

/// How long a daemon that was told to end may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running daemon. Dropping it ends it and its containers, and removes what they made.
pub struct Docker {
    directory: TempDir,
    bridge: String,
    daemon: Child,
    containers: Vec<String>,
}

impl Docker {
    /// Starts a daemon that leaves the machine's firewall and forwarding alone, and gives it an image with busybox.
    ///
    /// # Errors
    /// Something that it needs is not installed, or it does not answer in time; its log is in the message.
    pub fn start() -> Result<Self> {
        let directory = TempDir::new()?;
        let (bridge, network) = unique(directory.path());
        make_bridge(&bridge, network)?;
        let daemon = daemon(directory.path(), &bridge)?;
        let docker = Self { directory, bridge, daemon, containers: Vec::new() };
        remember_cgroup(docker.directory.path(), CGROUP)?;
        let ready = || docker.docker(&["version"]).ok();
        poll::until("the Docker daemon answers", ready).with_context(|| docker.log())?;
        docker.import()?;
        Ok(docker)
    }

    /// Runs busybox with these arguments in a container on the bridge, with IPv6 on its loopback.
    ///
    /// # Errors
    /// The daemon refuses it.
    pub fn run(&mut self, arguments: &[&str]) -> Result<Container> {
        let options =
            ["run", "--detach", "--sysctl", "net.ipv6.conf.lo.disable_ipv6=0", IMAGE, "/bin/busybox"];
        let id = self.docker(&[&options, arguments].concat())?.trim().to_owned();
        self.containers.push(id.clone());
        let pid = self.docker(&["inspect", "--format", "{{.State.Pid}}", &id])?;
        Ok(Container { pid: pid.trim().parse()?, id })
    }

    /// Runs busybox with these arguments as a further process of a container, to its end.
    ///
    /// # Errors
    /// It fails.
    pub fn exec(&self, container: &Container, arguments: &[&str]) -> Result<String> {
        self.docker(&[&["exec", &container.id, "/bin/busybox"], arguments].concat())
    }

    fn docker(&self, arguments: &[&str]) -> Result<String> {
        run(Command::new(PROGRAMS[1]).arg("--host").arg(self.address()).args(arguments))
    }

    fn address(&self) -> String {
        format!("unix://{}", self.directory.path().join("d.sock").display())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn import(&self) -> Result<()> {
        let layer = self.directory.path().join("layer");
        fs::create_dir_all(layer.join("bin"))?;
        fs::copy("/usr/bin/busybox", layer.join("bin/busybox")).context("busybox-static is not installed")?;
        let archive = self.directory.path().join("layer.tar");
        run(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&layer).arg("."))?;
        self.docker(&["import", &archive.display().to_string(), IMAGE]).map(drop)
    }

    /// Waits for the end of the daemon, which removes its own containerd; one that hangs is killed.
    fn end(&mut self) {
        let ended = |daemon: &mut Child| daemon.try_wait().is_ok_and(|status| status.is_some());
        try_to_run("kill", &["-TERM", &self.daemon.id().to_string()]);
        let deadline = Instant::now() + PATIENCE;
        while !ended(&mut self.daemon) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        for container in &self.containers {
            let _ = self.docker(&["rm", "--force", container]);
        }
        self.end();
        unmount_below(self.directory.path());
        remove_cgroups(&cgroups(self.directory.path()));
        try_to_run("ip", &["link", "delete", &self.bridge]);
    }
}

fn make_bridge(name: &str, network: u8) -> Result<()> {
    run(Command::new("ip").args(["link", "add", name, "type", "bridge"]))?;
    // Set aside for tests (RFC 2544), and not what the pods of other tests have.
    let address = format!("198.19.{network}.1/24");
    run(Command::new("ip").args(["address", "add", &address, "dev", name]))?;
    run(Command::new("ip").args(["link", "set", name, "up"])).map(drop)
}

fn daemon(directory: &Path, bridge: &str) -> Result<Child> {
    let below = |name: &str| directory.join(name);
    // No configuration of the machine's own.
    fs::write(below("daemon.json"), "{}")?;
    let log = fs::File::create(below("log"))?;
    let paths: [(&str, PathBuf); 4] = [
        ("--config-file", below("daemon.json")),
        ("--data-root", below("data")),
        ("--exec-root", below("exec")),
        ("--pidfile", below("pid")),
    ];
    let mut command = Command::new(PROGRAMS[0]);
    for (option, path) in &paths {
        command.arg(option).arg(path);
    }
    command.arg("--host").arg(format!("unix://{}", below("d.sock").display()));
    command.args(["--bridge", bridge, "--iptables=false", "--ip6tables=false", "--ip-masq=false"]);
    command.args(["--ip-forward=false", "--userland-proxy=false", "--storage-driver=vfs"]);
    command.args(["--exec-opt=native.cgroupdriver=cgroupfs", "--oom-score-adjust=0"]);
    let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
    let mut child = child.with_context(|| format!("cannot start {}", PROGRAMS[0]))?;
    ensure!(child.try_wait()?.is_none(), "the Docker daemon ended");
    Ok(child)
}
