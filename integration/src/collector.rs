//! The real Collector, with `otel-config/file.yaml`: what it receives is in files; or with `otel-config/forward.yaml`: it
//! goes on to a server of the test.

use std::fs::{self, File};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::network::free_addresses;
use crate::telemetry::Telemetry;
use crate::{poll, tools};

/// A Collector and what it has received. Dropping it kills it.
#[derive(Debug)]
pub struct Collector {
    process: Option<Child>,
    address: String,
    http_address: String,
    directory: TempDir,
    configuration: &'static str,
    /// Further arguments and variables.
    arguments: Vec<String>,
    variables: Vec<(&'static str, String)>,
}

impl Collector {
    /// Starts it on a free port of the loopback; `None` and a reason on standard error where it is not built, a failure in
    /// continuous integration.
    ///
    /// # Errors
    /// It does not listen in time.
    pub fn start() -> Result<Option<Self>> {
        Self::start_with("file.yaml", Vec::new(), Vec::new())
    }

    /// Starts one that passes everything on to `backend` and answers what that answered. Each of `settings` is put on top
    /// of its configuration, as `a::b: value`.
    ///
    /// # Errors
    /// It does not listen in time.
    pub fn forward(backend: &str, settings: &[String]) -> Result<Option<Self>> {
        let arguments =
            settings.iter().flat_map(|setting| ["--config".to_owned(), format!("yaml:{setting}")]);
        let variables = vec![("BACKEND_ENDPOINT", backend.to_owned())];
        Self::start_with("forward.yaml", arguments.collect(), variables)
    }

    /// Starts one that passes spans on to `traces` (gRPC, host and port), metrics and logs to these URLs of OTLP over HTTP.
    ///
    /// # Errors
    /// It does not listen in time.
    pub fn links(traces: &str, metrics: &str, logs: &str) -> Result<Option<Self>> {
        let set = |variable: &'static str, value: &str| (variable, value.to_owned());
        let variables = vec![
            set("TRACES_ENDPOINT", traces),
            set("TRACES_INSECURE", "true"),
            set("METRICS_ENDPOINT", metrics),
            set("LOGS_ENDPOINT", logs),
        ];
        Self::start_with("links.yaml", Vec::new(), variables)
    }

    /// Starts one that sends a copy of the spans to a receiver's tap (host and port) too.
    ///
    /// # Errors
    /// It does not listen in time.
    pub fn with_tap(address: &str) -> Result<Option<Self>> {
        let tap = tools::repository().join("otel-config/tap.yaml").display().to_string();
        let variables = vec![("TAP_ENDPOINT", format!("http://{address}"))];
        Self::start_with("file.yaml", vec!["--config".to_owned(), tap], variables)
    }

    fn start_with(
        configuration: &'static str,
        arguments: Vec<String>,
        variables: Vec<(&'static str, String)>,
    ) -> Result<Option<Self>> {
        if tools::path_or_skip("collector", "otelcol").is_none() {
            return Ok(None);
        }
        let [address, http_address] = free_addresses()?;
        let directory = TempDir::new()?;
        let mut collector =
            Self { process: None, address, http_address, directory, configuration, arguments, variables };
        collector.resume()?;
        Ok(Some(collector))
    }

    /// Sets a variable of its environment from the next start on.
    pub fn set(&mut self, variable: &'static str, value: &str) {
        self.variables.push((variable, value.to_owned()));
    }

    /// Starts it again, on the same port; what it received before stays.
    ///
    /// # Errors
    /// It does not listen in time; its log is in the message.
    pub fn resume(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.directory.path().join("log"))?;
        // The Collector begins its files anew, so each run has its own.
        let run = self.directory.path().join(fs::read_dir(self.directory.path())?.count().to_string());
        fs::create_dir(&run)?;
        let mut process = Command::new(tools::path("collector", "otelcol")?)
            .arg("--config")
            .arg(tools::repository().join("otel-config").join(self.configuration))
            .args(&self.arguments)
            .envs(self.variables.iter().cloned())
            .env("OTLP_ENDPOINT", &self.address)
            .env("OTLP_HTTP_ENDPOINT", &self.http_address)
            .env("OUTPUT_DIR", &run)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start the Collector")?;
        let listening = poll::until("the Collector listens", || match process.try_wait() {
            Ok(None) => {
                let listens = |address: &str| TcpStream::connect(address).is_ok();
                (listens(&self.address) && listens(&self.http_address)).then_some(true)
            }
            _ => Some(false),
        });
        self.process = Some(process);
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        ensure!(listening?, "the Collector ended: {log}");
        Ok(())
    }

    /// The endpoint for the receiver.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The endpoint for OTLP over HTTP.
    #[must_use]
    pub fn http_endpoint(&self) -> String {
        format!("http://{}", self.http_address)
    }

    /// Where OTLP over HTTP listens, host and port.
    #[must_use]
    pub fn http_address(&self) -> &str {
        &self.http_address
    }

    /// Its log so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Kills it, with all that it has not passed on.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// Ends it; it writes what it has.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        let pid = i32::try_from(process.id()).ok().and_then(Pid::from_raw).context("no process id")?;
        kill_process(pid, Signal::TERM)?;
        poll::until("the Collector ends", || process.try_wait().transpose())??;
        Ok(())
    }

    /// Everything that it has received so far, in all its runs.
    ///
    /// # Errors
    /// A line is no OTLP/JSON.
    pub fn received(&self) -> Result<Telemetry> {
        let mut telemetry = Telemetry::default();
        let mut runs: Vec<_> =
            fs::read_dir(self.directory.path())?.flatten().map(|entry| entry.path()).collect();
        runs.sort();
        for run in runs.iter().filter(|path| path.is_dir()) {
            for file in ["metrics.json", "logs.json", "traces.json"] {
                telemetry.read(&run.join(file))?;
            }
        }
        Ok(telemetry)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // It can only fail when it has ended already.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
