//! A real Jaeger with its traces in memory: what it was sent is queried.

use std::fs::File;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use crate::network::free_addresses;
use crate::{poll, tools, web};

/// A running Jaeger. Dropping it kills it.
#[derive(Debug)]
pub struct Jaeger {
    process: Child,
    address: String,
    query: String,
    _directory: TempDir,
}

/// A span as Jaeger tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its name.
    pub name: String,
    /// Its id, in hexadecimal digits.
    pub id: String,
    /// That of its parent; empty: it has none.
    pub parent: String,
    /// What was asked for, if the span says so.
    pub url: String,
    /// When it began, in microseconds since the epoch.
    pub start: u64,
    /// How long it took, in microseconds.
    pub duration: u64,
}

impl Jaeger {
    /// Starts it on free ports of the loopback; `None` and a reason on standard error where it is not built, a failure in
    /// continuous integration.
    ///
    /// # Errors
    /// It is not ready in time; its log is in the message.
    pub fn start() -> Result<Option<Self>> {
        let Some(program) = tools::path_or_skip("jaeger", "jaeger") else { return Ok(None) };
        let [address, query, query_grpc] = free_addresses()?;
        let directory = TempDir::new()?;
        let log = directory.path().join("log");
        let process = Command::new(program)
            .arg("--config")
            .arg(tools::repository().join("integration/src/jaeger.yaml"))
            .env("OTLP_ENDPOINT", &address)
            .env("QUERY_ENDPOINT", &query)
            .env("QUERY_GRPC_ENDPOINT", query_grpc)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .context("cannot start Jaeger")?;
        let jaeger = Self { process, address, query, _directory: directory };
        let is_ready = || web::get(&jaeger.query, "/api/services").ok();
        poll::until("Jaeger is ready", is_ready)
            .with_context(|| std::fs::read_to_string(&log).unwrap_or_default())?;
        Ok(Some(jaeger))
    }

    /// Where its OTLP receiver listens, host and port: gRPC.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its pages.
    #[must_use]
    pub fn page(&self) -> String {
        format!("http://{}", self.query)
    }

    /// The page of a trace.
    #[must_use]
    pub fn link(&self, trace: &str) -> String {
        format!("{}/trace/{trace}", self.page())
    }

    /// The spans of a trace, by its id in hexadecimal digits.
    ///
    /// # Errors
    /// It knows none.
    pub fn spans(&self, trace: &str) -> Result<Vec<Span>> {
        let answer: Value = serde_json::from_str(&web::get(&self.query, &format!("/api/traces/{trace}"))?)?;
        let spans = answer.pointer("/data/0/spans").and_then(Value::as_array).context("no such trace")?;
        Ok(spans.iter().map(span).collect())
    }
}

fn span(span: &Value) -> Span {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let tag = |key: &str| {
        let mut tags = span["tags"].as_array().into_iter().flatten();
        tags.find(|tag| tag["key"] == key).map(|tag| text(&tag["value"]))
    };
    let mut references = span["references"].as_array().into_iter().flatten();
    let parent = references.find(|reference| reference["refType"] == "CHILD_OF");
    Span {
        name: text(&span["operationName"]),
        id: text(&span["spanID"]),
        parent: parent.map(|parent| text(&parent["spanID"])).unwrap_or_default(),
        url: tag("url.full").or_else(|| tag("url.path")).unwrap_or_default(),
        start: span["startTime"].as_u64().unwrap_or_default(),
        duration: span["duration"].as_u64().unwrap_or_default(),
    }
}

impl Drop for Jaeger {
    fn drop(&mut self) {
        // It can only fail when it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
