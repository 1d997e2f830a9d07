//! Network namespaces of a test: made by name, deleted when dropped, also after a panic.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Numbers the namespaces of this process, so that tests run side by side.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A named network namespace with its loopback up.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes one with a name that no other test has; `label` is part of it.
    ///
    /// # Errors
    /// No privilege, or no `ip`.
    pub fn new(label: &str) -> Result<Self> {
        Self::named(&format!("jst{}-{}-{label}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    /// Makes one with this very name.
    ///
    /// # Errors
    /// The name is taken, no privilege, or no `ip`.
    pub fn named(name: &str) -> Result<Self> {
        run(Command::new("ip").args(["netns", "add", name]))?;
        let netns = Self { name: name.to_owned() };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// Its name, as `ip netns` shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Its inode number.
    ///
    /// # Errors
    /// It is gone.
    pub fn inode(&self) -> Result<u64> {
        Ok(fs::metadata(self.path())?.ino())
    }

    /// `program`, to be run inside by a process of its own.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs a shell command inside and gives its standard output.
    ///
    /// # Errors
    /// It fails; its standard error is in the message.
    pub fn sh(&self, command: &str) -> Result<String> {
        run(self.command("sh").args(["-c", command]))
    }

    /// Runs `ip` on it.
    ///
    /// # Errors
    /// It fails; its standard error is in the message.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        run(Command::new("ip").args(["-n", &self.name]).args(arguments.split_whitespace()))
    }

    /// Drops what matches an nftables rule at a netfilter hook, for as long as the namespace lives.
    ///
    /// # Errors
    /// No `nft`, or it does not understand the rule.
    pub fn refuse(&self, hook: &str, rule: &str) -> Result<()> {
        let chain = format!("add chain inet t c {{ type filter hook {hook} priority 0; }}");
        for line in ["add table inet t", &chain, &format!("add rule inet t c {rule} drop")] {
            run(self.command("nft").arg(line))?;
        }
        Ok(())
    }

    /// Lets pass again what [`Self::refuse`] drops.
    ///
    /// # Errors
    /// Nothing was refused.
    pub fn allow(&self) -> Result<()> {
        run(self.command("nft").arg("delete table inet t")).map(drop)
    }

    /// Runs `body` on a thread inside; sockets that it opens stay inside, wherever they go.
    ///
    /// # Errors
    /// The namespace cannot be entered, or `body` fails or panics.
    pub fn inside<T: Send>(&self, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        inside(&self.path(), body)
    }
}

/// Runs `body` on a thread inside the namespace of a process.
///
/// # Errors
/// The process is gone, or `body` fails or panics.
pub fn inside_of<T: Send>(pid: u32, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    inside(Path::new(&format!("/proc/{pid}/ns/net")), body)
}

fn inside<T: Send>(path: &Path, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let file = fs::File::open(path).with_context(|| format!("{} is gone", path.display()))?;
    let enter = || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
        body()
    };
    std::thread::scope(|scope| scope.spawn(enter).join())
        .map_err(|_| anyhow!("panicked in {}", path.display()))?
}

impl Drop for Netns {
    fn drop(&mut self) {
        // Nothing is left to do about a failure, least of all during a panic.
        let _ = run(Command::new("ip").args(["netns", "del", &self.name]));
    }
}

/// Connects two namespaces: a device of this name in each, up, without addresses.
///
/// # Errors
/// A name is taken in its namespace, or `ip` fails.
pub fn connect(one: (&Netns, &str), other: (&Netns, &str)) -> Result<()> {
    let line = format!(
        "link add {} netns {} type veth peer name {} netns {}",
        one.1, one.0.name, other.1, other.0.name
    );
    run(Command::new("ip").args(line.split_whitespace()))?;
    for (netns, device) in [one, other] {
        netns.ip(&format!("link set {device} up"))?;
    }
    Ok(())
}

/// Runs a command and gives its standard output.
///
/// # Errors
/// It cannot be run or fails; its standard error is in the message.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {error}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}
