//! `once`: one collection, printed.

use std::{io::stdout, sync::Arc};

use arc_swap::ArcSwap;

use super::{Failure, Format, counters, destinations::output, identity};
use crate::{
    account::{State, accounts},
    config::Settings,
    export::{Exporters, Outbox, Sink, text::Text},
    pods,
    probe::{Machine, Opening, PROBES, Usage, task::Surroundings},
    supervisor::{Required, Supervisor},
    telemetry::Telemetry,
};

/// Collects once and prints it. `only` names the probes; empty: those that the settings enable. A probe that is
/// named is asked for: that it cannot run is a failure.
///
/// # Errors
/// Everything in [`Failure`].
pub async fn once(mut settings: Settings, format: Format, only: &[String]) -> Result<(), Failure> {
    for (name, probe) in &mut settings.probes {
        let named = only.iter().any(|wanted| wanted == name);
        probe.enabled = if only.is_empty() { probe.enabled } else { named };
        probe.required |= named;
    }
    let telemetry = Telemetry::new(&settings.resource);
    let (pods, writer) = pods::start(&identity(&settings));
    let writer = tokio::spawn(writer);
    let sink = match format {
        Format::Text => Sink::Text(Box::new(Text::totals(Box::new(stdout())))),
        Format::Json => Sink::Json(Box::new(stdout())),
    };
    let (exporters, outbox) = Exporters::start(vec![output(sink)]);
    let outbox = Arc::new(ArcSwap::from_pointee(outbox));
    let accounts = accounts(PROBES, &telemetry.collect_duration());
    let counters = counters(&settings, Arc::default());
    let around = Surroundings {
        pods: pods.clone(),
        outbox: Arc::clone(&outbox),
        counters,
        spans: Arc::default(),
        ticks: false,
    };
    pods.settled().await;
    let mut supervisor = Supervisor::new(Arc::clone(&accounts), around);
    let applied = supervisor.apply(&settings).await;
    // Ending a probe's task makes its last collection, which here is the only one that is waited for.
    supervisor.shutdown().await;
    outbox.store(Arc::new(Outbox::default()));
    exporters.drain(settings.shutdown_grace).await;
    writer.abort();
    applied.map_err(refused)
}

/// Named probes that lack privileges are a matter of privileges when it is all of them.
fn refused(required: Vec<Required>) -> Failure {
    let privileges =
        required.iter().all(|required| matches!(required.skip, crate::probe::Skip::Privilege { .. }));
    if privileges {
        let lines: Vec<String> =
            required.iter().map(|required| format!("  {}: {}", required.name, required.skip)).collect();
        return Failure::Privileges(lines.join("\n"));
    }
    Failure::Required(required)
}

/// What opening a probe showed.
pub struct Tried {
    /// Which.
    pub name: &'static str,
    /// Whether it can run here.
    pub state: State,
    /// What it has in the kernel when it runs.
    pub usage: Usage,
}

/// Whether each probe can run here: it is opened and closed again.
pub fn can_run(settings: &Settings) -> Vec<Tried> {
    let machine = Machine::new(settings.kernel.btf.as_deref());
    let try_one = |definition: &&'static crate::probe::Definition| {
        let (state, usage) = match settings.probes.get(definition.name) {
            Some(own) => {
                match (definition.open)(&Opening { settings: own, machine: &machine, spans: None }) {
                    Ok(probe) => (State::Running(probe.limitation()), probe.usage()),
                    Err(skip) => (State::Skipped(skip), Usage::default()),
                }
            }
            None => (State::Disabled, Usage::default()),
        };
        Tried { name: definition.name, state, usage }
    };
    PROBES.iter().map(try_one).collect()
}
