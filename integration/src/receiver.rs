//! The built receiver as a process of its own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, ensure};
use jitterscope::probe::PROBES;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::netns::{Netns, run};
use crate::poll;
use crate::telemetry::Telemetry;

/// What every test says: collections every second, no port of its own, a log that can be parsed.
const COMMON: [&str; 7] =
    ["run", "--set", "interval=1s", "--set", "health.endpoint=off", "--set", "log.format=json"];

/// A running receiver. Dropping it kills it.
#[derive(Debug)]
pub struct Receiver {
    process: Child,
    /// The receiver itself, which is a child of `process` when it has namespaces of its own.
    pid: u32,
    directory: TempDir,
}

/// The account of a probe, as the receiver reports it at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Everything that could have become an event.
    pub seen: u64,
    /// Taken by a destination.
    pub exported: u64,
    /// Rate limited.
    pub suppressed: u64,
    /// No room in the ring.
    pub lost: u64,
    /// Given up in user space.
    pub dropped: u64,
}

/// The account of a destination and signal, as the receiver reports it at its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Which destination.
    pub destination: String,
    /// Which signal.
    pub signal: String,
    /// Given to it.
    pub produced: u64,
    /// Left by an earlier process.
    pub recovered: u64,
    /// Taken by the server.
    pub delivered: u64,
    /// Left on disk.
    pub queued: u64,
    /// Given up.
    pub dropped: u64,
}

impl Account {
    /// What `seen` must be.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.exported + self.suppressed + self.lost + self.dropped
    }
}

impl Receiver {
    /// Starts it with these arguments beyond the common ones, and waits until its probes run.
    ///
    /// # Errors
    /// It is not built, or ends at once; its log is in the message.
    pub fn start(arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(binary()?);
        command.args(COMMON).args(arguments);
        Self::spawn(&mut command, false)
    }

    /// Starts it as on a node whose host is `host`: its first process and its root namespaces are the receiver's own.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_on(host: &Netns, arguments: &[&str]) -> Result<Self> {
        let mut command = host.command("unshare");
        command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]).arg(binary()?);
        command.args(COMMON).args(arguments);
        Self::spawn(&mut command, true)
    }

    /// Starts it with settings that switch all probes off, for now, and waits until it follows their changes.
    ///
    /// # Errors
    /// It is not built, or ends at once.
    pub fn start_without_probes(arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(binary()?);
        command.args(COMMON).args(arguments);
        let receiver = Self::begin(&mut command)?;
        let follows = || receiver.log().contains("\"message\":\"running\"").then_some(());
        poll::until("the receiver runs", follows)?;
        Ok(receiver)
    }

    /// Starts it by a command that ends in running what follows it, as `unshare` and `env` do.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_by(mut command: Command, arguments: &[&str]) -> Result<Self> {
        command.arg(binary()?).args(COMMON).args(arguments);
        Self::spawn(&mut command, false)
    }

    fn begin(command: &mut Command) -> Result<Self> {
        let directory = TempDir::new()?;
        let file = |name: &str| File::create(directory.path().join(name));
        command.stdin(Stdio::null()).stdout(file("stdout")?).stderr(file("stderr")?);
        let process = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
        Ok(Self { pid: process.id(), process, directory })
    }

    fn spawn(command: &mut Command, nested: bool) -> Result<Self> {
        let mut receiver = Self::begin(command)?;
        // Probes start in this order, and each says that it runs or why not.
        let last = PROBES.iter().rfind(|probe| probe.default).context("no default probe")?;
        let last = format!("\"probe\":\"{}\"", last.name);
        poll::until("the receiver runs", || match receiver.process.try_wait() {
            Ok(None) => receiver.log().contains(&last).then_some(Ok(())),
            ended => Some(Err(ended)),
        })?
        .map_err(|ended| anyhow::anyhow!("the receiver ended: {ended:?}: {}", receiver.log()))?;
        if nested {
            receiver.pid = child_of(receiver.pid)?;
        }
        Ok(receiver)
    }

    /// Waits until it has loaded all that its default probes load: the walk of namespaces comes last, with the second
    /// collection. What it holds is compared from then on.
    ///
    /// # Errors
    /// The walk is not loaded in time.
    pub fn settle(&self) -> Result<()> {
        poll::until("the walk is loaded", || self.log().contains("come from a walk").then_some(()))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Where its standard output and its log are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its log so far: one JSON object a line.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("stderr")).unwrap_or_default()
    }

    /// Warnings and errors in its log so far, but those of probes that cannot run here.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let complains = |line: &&str| {
            ["WARN", "ERROR"].iter().any(|level| line.contains(&format!("\"level\":\"{level}\"")))
        };
        let skips = |line: &&str| line.contains("\"message\":\"skipped\"");
        self.log().lines().filter(complains).filter(|line| !skips(line)).map(str::to_owned).collect()
    }

    /// What it has printed so far, for a receiver with `--format json` and no destination.
    ///
    /// # Errors
    /// A line is no OTLP/JSON.
    pub fn printed(&self) -> Result<Telemetry> {
        let mut telemetry = Telemetry::default();
        telemetry.read(&self.directory.path().join("stdout"))?;
        Ok(telemetry)
    }

    /// Gives each request that it has printed to `visit`, one at a time: for a receiver that printed a lot. Those lines
    /// that do not have `text` in them are left out unread.
    ///
    /// # Errors
    /// A line is no OTLP/JSON.
    pub fn each_printed(&self, text: &str, mut visit: impl FnMut(&Telemetry)) -> Result<()> {
        let printed = BufReader::new(File::open(self.directory.path().join("stdout"))?);
        for line in printed.lines() {
            let line = line?;
            if line.contains(text) {
                let mut one = Telemetry::default();
                one.read_line(&line)?;
                visit(&one);
            }
        }
        Ok(())
    }

    /// Waits until `text` was printed in so many more requests than now.
    ///
    /// # Errors
    /// It was not in time.
    pub fn prints(&self, text: &str, times: usize) -> Result<()> {
        let count = || {
            let printed = fs::read_to_string(self.directory.path().join("stdout")).unwrap_or_default();
            printed.lines().filter(|line| line.contains(text)).count()
        };
        let before = count();
        poll::until(&format!("{text} printed"), || (count() >= before + times).then_some(()))
    }

    /// Stops its process, so that what happens waits for it, until [`Self::wake`].
    ///
    /// # Errors
    /// It has ended.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// It has ended.
    pub fn wake(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Tells it to read its configuration file again.
    ///
    /// # Errors
    /// It has ended.
    pub fn reload(&self) -> Result<()> {
        self.signal(Signal::HUP)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).context("no process id")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Tells it to end and waits for that: it makes a last collection and delivers what there is.
    ///
    /// # Errors
    /// It does not end in time, or not with exit code 0.
    pub fn stop(&mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let status: ExitStatus = poll::until("the receiver ends", || self.process.try_wait().transpose())??;
        ensure!(status.success(), "{status}: {}", self.log());
        Ok(())
    }

    /// The account of a probe in the log of a receiver that has ended.
    ///
    /// # Errors
    /// There is none.
    pub fn account(&self, probe: &str) -> Result<Account> {
        let fields = self.accounts().into_iter().find(|fields| fields["probe"] == probe);
        let fields = fields.with_context(|| format!("no account of {probe} in {}", self.log()))?;
        Ok(Account {
            seen: term(&fields, "seen")?,
            exported: term(&fields, "exported")?,
            suppressed: term(&fields, "suppressed")?,
            lost: term(&fields, "lost")?,
            dropped: term(&fields, "dropped")?,
        })
    }

    /// The accounts of the destinations in the log of a receiver that has ended.
    ///
    /// # Errors
    /// One of them is not complete.
    pub fn deliveries(&self) -> Result<Vec<Delivered>> {
        let of = |fields: &Value| {
            Ok(Delivered {
                destination: fields["destination"].as_str().unwrap_or_default().to_owned(),
                signal: fields["signal"].as_str().unwrap_or_default().to_owned(),
                produced: term(fields, "produced")?,
                recovered: term(fields, "recovered")?,
                delivered: term(fields, "delivered")?,
                queued: term(fields, "queued")?,
                dropped: term(fields, "dropped")?,
            })
        };
        let accounts = self.accounts();
        accounts.iter().filter(|fields| fields["destination"].is_string()).map(of).collect()
    }

    /// The fields of all accounts in the log.
    fn accounts(&self) -> Vec<Value> {
        let log = self.log();
        let fields = log.lines().map(|line| {
            let mut line: Value = serde_json::from_str(line).unwrap_or_default();
            line["fields"].take()
        });
        fields.filter(|fields| fields["message"] == "account").collect()
    }
}

/// A number of a line of the log.
fn term(fields: &Value, name: &str) -> Result<u64> {
    fields[name].as_u64().with_context(|| format!("no {name} in {fields}"))
}

/// The probes that the built receiver can run on this kernel, as `jitterscope probes` tells.
///
/// # Errors
/// It cannot run at all.
pub fn runnable() -> Result<Vec<String>> {
    let can_run = |probe: &&Value| probe["can_run"] == true;
    let name = |probe: &Value| Some(probe["name"].as_str()?.to_owned());
    Ok(listed()?.iter().filter(can_run).filter_map(name).collect())
}

/// The probes that the built receiver cannot run on this kernel, with the reasons, as `jitterscope probes` tells.
///
/// # Errors
/// It cannot run at all.
pub fn skipped() -> Result<BTreeMap<String, String>> {
    let text = |probe: &Value, key: &str| probe[key].as_str().unwrap_or_default().to_owned();
    let skipped = |probe: &&Value| probe["can_run"] == false;
    Ok(listed()?.iter().filter(skipped).map(|probe| (text(probe, "name"), text(probe, "reason"))).collect())
}

/// What `jitterscope once` prints of one probe alone; the inner error is why it cannot run here, with its exit code.
///
/// # Errors
/// The receiver is not built, or prints no OTLP/JSON.
pub fn once(probe: &str) -> Result<Result<Telemetry, (ExitStatus, String)>> {
    let output = Command::new(binary()?).args(["once", probe, "--format", "json"]).output()?;
    if !output.status.success() {
        return Ok(Err((output.status, String::from_utf8(output.stderr)?)));
    }
    let mut telemetry = Telemetry::default();
    String::from_utf8(output.stdout)?.lines().try_for_each(|line| telemetry.read_line(line))?;
    Ok(Ok(telemetry))
}

/// What `jitterscope probes` tells of each probe.
///
/// # Errors
/// The receiver is not built, or cannot run at all.
pub fn listed() -> Result<Vec<Value>> {
    let listed = run(Command::new(binary()?).args(["probes", "--format", "json"]))?;
    Ok(serde_json::from_str(&listed)?)
}

/// What a probe of the built receiver cannot see on this kernel, as `jitterscope probes` tells; empty: nothing.
///
/// # Errors
/// It cannot run at all, or there is no such probe.
pub fn limitation(probe: &str) -> Result<String> {
    let listed = listed()?;
    let found = listed.iter().find(|one| one["name"] == probe).context("no such probe")?;
    ensure!(found["can_run"] == true, "{found}");
    Ok(found["limitation"].as_str().unwrap_or_default().to_owned())
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Neither can fail but for a process that has ended already. Its namespace's first process ends with `unshare`.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `$JITTERSCOPE_BIN`, or the program that was built beside the test.
///
/// # Errors
/// It is not there: `cargo build -p jitterscope` makes it.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("JITTERSCOPE_BIN") {
        return Ok(path.into());
    }
    // target/debug/deps/<test>
    let test = std::env::current_exe()?;
    let path = test.parent().and_then(Path::parent).context("no target directory")?.join("jitterscope");
    ensure!(path.exists(), "{} is missing: run cargo build -p jitterscope", path.display());
    Ok(path)
}

/// The only child of a process.
fn child_of(pid: u32) -> Result<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    fs::read_to_string(&path)?.trim().parse().with_context(|| path)
}
