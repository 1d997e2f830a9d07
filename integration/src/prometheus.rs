//! A real Prometheus with `otel-config/prometheus.yml`: what it was sent is queried.

use std::fs::File;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use crate::network::free_addresses;
use crate::{poll, tools, web};

/// A running Prometheus. Dropping it kills it.
#[derive(Debug)]
pub struct Prometheus {
    process: Child,
    address: String,
    _directory: TempDir,
}

/// A sample of an answer: its labels, and its value.
pub type Sample = (Value, f64);

impl Prometheus {
    /// Starts it on a free port of the loopback; `None` and a reason on standard error where it is not built, a failure in
    /// continuous integration.
    ///
    /// # Errors
    /// It is not ready in time; its log is in the message.
    pub fn start() -> Result<Option<Self>> {
        let Some(program) = tools::path_or_skip("prometheus", "prometheus") else { return Ok(None) };
        let [address] = free_addresses()?;
        let directory = TempDir::new()?;
        let log = directory.path().join("log");
        let process = Command::new(program)
            .arg("--config.file")
            .arg(tools::repository().join("otel-config/prometheus.yml"))
            .arg("--storage.tsdb.path")
            .arg(directory.path().join("data"))
            .args(["--web.listen-address", &address, "--web.enable-otlp-receiver"])
            .arg("--enable-feature=otlp-deltatocumulative,exemplar-storage")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .context("cannot start Prometheus")?;
        let prometheus = Self { process, address, _directory: directory };
        let is_ready = || web::get(&prometheus.address, "/-/ready").ok();
        poll::until("Prometheus is ready", is_ready)
            .with_context(|| std::fs::read_to_string(&log).unwrap_or_default())?;
        Ok(Some(prometheus))
    }

    /// Its OTLP endpoint, without the path of a signal.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}/api/v1/otlp", self.address)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The exemplars of all series that a selector takes, of the last hour: name and labels of the series, and the exemplar
    /// with its labels, its value and its time.
    ///
    /// # Errors
    /// It is refused; what Prometheus says is in the message.
    pub fn exemplars(&self, selector: &str) -> Result<Vec<(Value, Value)>> {
        let now = std::time::UNIX_EPOCH.elapsed()?.as_secs();
        let query = format!("query={}&start={}&end={}", web::encoded(selector), now - 3600, now + 60);
        let answer = web::post_form(&self.address, "/api/v1/query_exemplars", &query)?;
        let answer: Value = serde_json::from_str(&answer)?;
        let series = answer.pointer("/data").and_then(Value::as_array).cloned().unwrap_or_default();
        let of = |series: Value| {
            let exemplars = series["exemplars"].as_array().cloned().unwrap_or_default();
            exemplars.into_iter().map(move |exemplar| (series["seriesLabels"].clone(), exemplar))
        };
        Ok(series.into_iter().flat_map(of).collect())
    }

    /// Evaluates a query at a time in seconds since the epoch.
    ///
    /// # Errors
    /// It is refused; what Prometheus says is in the message.
    pub fn query(&self, query: &str, seconds: f64) -> Result<Vec<Sample>> {
        let body = format!("query={}&time={seconds}", web::encoded(query));
        let answer =
            web::post_form(&self.address, "/api/v1/query", &body).with_context(|| query.to_owned())?;
        let answer: Value = serde_json::from_str(&answer)?;
        let samples = answer.pointer("/data/result").and_then(Value::as_array).context("no vector")?;
        let sample = |sample: &Value| {
            Some((sample.get("metric")?.clone(), sample.pointer("/value/1")?.as_str()?.parse().ok()?))
        };
        samples.iter().map(|one| sample(one).with_context(|| format!("no number: {one}"))).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It can only fail when it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
