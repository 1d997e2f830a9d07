//! The receiver as a process whose time and memory are read from `/proc` (proc(5)).

use std::{
    fs::{self, File},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use jitterscope_integration::{poll, receiver, telemetry::Telemetry};
use rustix::{
    process::{Pid, Signal, kill_process},
    time::{ClockId, clock_gettime},
};
use tempfile::TempDir;

use crate::sink::Sink;

/// In place of a setting: requests are not compressed. The destination of a flag has that from the environment.
pub(crate) const UNCOMPRESSED: &str = "compression=none";

/// A running receiver; killed with the value.
pub(crate) struct Receiver {
    child: Child,
    folder: TempDir,
}

impl Receiver {
    /// Starts one that sends to a sink, or prints OTLP/JSON without one.
    pub(crate) fn start(sink: Option<&Sink>, settings: &[&str]) -> Result<Self> {
        let folder = TempDir::new()?;
        let mut command = Command::new(receiver::binary()?);
        command.args(["run", "--format=json", "--set=health.endpoint=off"]);
        command.args(
            settings
                .iter()
                .filter(|setting| **setting != UNCOMPRESSED)
                .map(|setting| format!("--set={setting}")),
        );
        command.args(sink.map(|sink| format!("--endpoint=http://{}", sink.address)));
        if settings.contains(&UNCOMPRESSED) {
            command.env("OTEL_EXPORTER_OTLP_COMPRESSION", "none");
        }
        let file = |name: &str| File::create(folder.path().join(name));
        command.stdin(Stdio::null()).stdout(file("stdout")?).stderr(file("stderr")?);
        Ok(Self { child: command.spawn()?, folder })
    }

    /// Waits until all probes run.
    pub(crate) fn running(&self) -> Result<()> {
        let log = || fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default();
        poll::until("the receiver runs", || log().contains("probe=\"netdev\"").then_some(()))
    }

    /// Waits until those probes run that are to run.
    pub(crate) fn follows(&self) -> Result<()> {
        let log = || fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default();
        poll::until("the receiver runs", || log().contains("running version=").then_some(()))
    }

    /// Processor time in user and kernel mode so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        cpu(&self.child.id().to_string())
    }

    /// A row of `/proc/pid/status`, in KiB.
    pub(crate) fn memory(&self, row: &str) -> Result<u64> {
        memory(self.child.id(), row)
    }

    /// What it has printed.
    pub(crate) fn printed(&self) -> Result<Telemetry> {
        let mut telemetry = Telemetry::default();
        telemetry.read(&self.folder.path().join("stdout"))?;
        Ok(telemetry)
    }

    /// Asks it to end, with its last collection, and waits.
    pub(crate) fn end(&mut self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no process id")?;
        kill_process(pid, Signal::TERM)?;
        poll::until("the receiver ends", || self.child.try_wait().transpose())??;
        Ok(())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Both fail only for a process that has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A row of `/proc/pid/status`, in KiB.
pub(crate) fn memory(process: u32, row: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(row)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()).context("no such row")?;
    Ok(number.parse()?)
}

/// Processor time that this thread, or this process, has had so far, by the clock of that.
pub(crate) fn spent(clock: ClockId) -> Duration {
    let now = clock_gettime(clock);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}

/// Processor time of a process, `self` for this one; in steps of a clock tick.
pub(crate) fn cpu(process: &str) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The command name stands in parentheses and may hold blanks; user and kernel time are fields 14 and 15.
    let (_, after) = stat.rsplit_once(") ").context("no command name")?;
    let mut fields = after.split_whitespace().skip(11);
    let mut ticks = || -> Result<u64> { Ok(fields.next().context("too few fields")?.parse()?) };
    let ticks = ticks()? + ticks()?;
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}
