//! A real Loki: what it was sent is queried.

use std::fs::File;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use crate::network::free_addresses;
use crate::{poll, tools, web};

/// A running Loki. Dropping it kills it.
#[derive(Debug)]
pub struct Loki {
    process: Child,
    address: String,
    _directory: TempDir,
}

impl Loki {
    /// Starts it on free ports of the loopback; `None` and a reason on standard error where it is not built, a failure in
    /// continuous integration.
    ///
    /// # Errors
    /// It is not ready in time; its log is in the message.
    pub fn start() -> Result<Option<Self>> {
        let Some(program) = tools::path_or_skip("loki", "loki") else { return Ok(None) };
        let [address, grpc] = free_addresses()?;
        let port = |address: &str| address.rsplit(':').next().unwrap_or_default().to_owned();
        let directory = TempDir::new()?;
        let log = directory.path().join("log");
        let process = Command::new(program)
            .arg("-config.file")
            .arg(tools::repository().join("integration/src/loki.yaml"))
            .arg("-config.expand-env=true")
            .env("HTTP_PORT", port(&address))
            .env("GRPC_PORT", port(&grpc))
            .env("DIRECTORY", directory.path())
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .context("cannot start Loki")?;
        let loki = Self { process, address, _directory: directory };
        let is_ready = || web::get(&loki.address, "/ready").ok();
        poll::until("Loki is ready", is_ready)
            .with_context(|| std::fs::read_to_string(&log).unwrap_or_default())?;
        Ok(Some(loki))
    }

    /// Its OTLP endpoint, without the path of a signal.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}/otlp", self.address)
    }

    /// The lines of the last hour that a query finds, each as its labels and structured metadata.
    ///
    /// # Errors
    /// It is refused; what Loki says is in the message.
    pub fn find(&self, query: &str) -> Result<Vec<Value>> {
        let target = format!("/loki/api/v1/query_range?since=1h&limit=5000&query={}", web::encoded(query));
        let answer: Value = serde_json::from_str(&web::get(&self.address, &target)?)?;
        let streams = answer.pointer("/data/result").and_then(Value::as_array).context("no streams")?;
        let lines = |stream: &Value| {
            let lines = stream["values"].as_array().map_or(0, Vec::len);
            vec![stream["stream"].clone(); lines]
        };
        Ok(streams.iter().flat_map(lines).collect())
    }
}

impl Drop for Loki {
    fn drop(&mut self) {
        // It can only fail when it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
