//! `check`: what keeps this configuration from working here.

use std::time::Duration;

use tokio::time::timeout;

use super::once::{Tried, can_run};
use crate::{
    account::State,
    config::{Destination, Settings},
    export::Client,
    probe::Skip,
};

/// How long a Collector may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(2);

/// Every problem of the environment, one sentence each.
pub async fn problems(settings: &Settings) -> Vec<String> {
    let mut problems = Vec::new();
    for Tried { name, state, .. } in can_run(settings) {
        let Some(wanted) = settings.probes.get(name).filter(|probe| probe.enabled) else { continue };
        let State::Skipped(skip) = state else { continue };
        // That the machine has none of what a probe watches is a problem only for who says that it must.
        if wanted.required || !matches!(skip, Skip::Absent(_)) {
            problems.push(format!("probe {name} cannot run: {skip}"));
        }
    }
    for destination in &settings.export.otlp {
        if let Err(error) = reach(destination).await {
            problems.push(format!("export.otlp: {} cannot be reached: {error}", destination.endpoint));
        }
    }
    if let Some(address) = settings.health
        && let Err(error) = std::net::TcpListener::bind(address)
    {
        problems.push(format!("health.endpoint: {address} cannot be bound: {error}"));
    }
    problems
}

/// Connects as a request would, by the same proxy and with the same certificates.
async fn reach(destination: &Destination) -> Result<(), String> {
    let client = Client::new(destination).map_err(|error| error.to_string())?;
    timeout(CONNECT, client.reach()).await.unwrap_or_else(|_| Err("no connection in time".to_owned()))
}
