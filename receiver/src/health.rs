//! Liveness, readiness and the state of each component over HTTP, in the shape of the Collector's health check
//! extension (version 2): `/livez`, `/readyz`, `/status`, `/status?verbose`.

use std::{collections::BTreeMap, future::ready, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use jitterscope_semconv::value::ExporterDropCause;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

use crate::{
    account::{Accounts, State},
    clock::Clock,
    export::{DestinationAccount, Signal},
    web::{self, Manner},
};

/// Kubelet and a person or two.
const MANNER: Manner =
    Manner { name: "health endpoint", patience: Duration::from_secs(5), keep_alive: false };

/// Whose state is told.
#[derive(Clone)]
pub struct Health {
    /// The probes.
    pub accounts: Accounts,
    /// The destinations.
    pub destinations: Arc<ArcSwap<Vec<Arc<DestinationAccount>>>>,
    /// When the receiver started, in nanoseconds since the epoch.
    pub started: u64,
}

/// Binds the address.
///
/// # Errors
/// The address is taken or not of this machine.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, health: Health) {
    web::serve(listener, MANNER, move |request| ready(health.answer(&request))).await;
}

impl Health {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let verbose =
            request.uri().query().is_some_and(|query| query.split('&').any(|key| key.starts_with("verbose")));
        let (status, body) = match request.uri().path() {
            "/livez" => (StatusCode::OK, json!({ "status": "ok" })),
            "/readyz" => (StatusCode::OK, json!({ "status": "ok" })),
            "/status" => (StatusCode::OK, self.status(verbose)),
            _ => (
                StatusCode::NOT_FOUND,
                json!({ "error": "known paths: /livez /readyz /status /status?verbose" }),
            ),
        };
        let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
        *response.status_mut() = status;
        let json = http::HeaderValue::from_static("application/json");
        response.headers_mut().insert(http::header::CONTENT_TYPE, json);
        response
    }

    fn status(&self, verbose: bool) -> Value {
        let mut status = json!({
            "healthy": true,
            "status": "StatusOK",
            "start_time": time(self.started),
            "status_time": time(Clock::read().now()),
        });
        if verbose {
            let probes = self
                .accounts
                .iter()
                .map(|account| (account.definition.name.to_owned(), probe(&account.state.load())));
            let destinations = self.destinations.load();
            let exporters = destinations.iter().map(|account| (account.name.clone(), destination(account)));
            status["components"] = json!({
                "probes": { "components": probes.collect::<Map<_, _>>() },
                "exporters": { "components": exporters.collect::<Map<_, _>>() },
            });
        }
        status
    }
}

fn probe(state: &State) -> Value {
    let (healthy, status) = match state {
        State::Running(_) => (true, "StatusOK"),
        State::Disabled => (true, "StatusStopped"),
        State::Skipped(_) => (true, "StatusStopped"),
        State::Failed(_) => (false, "StatusRecoverableError"),
    };
    let mut value = json!({ "healthy": healthy, "status": status, "state": state.name().as_str() });
    if let Some(reason) = state.reason() {
        value["error"] = reason.into();
    }
    value
}

/// The account of a destination, each signal's terms of one instant.
fn destination(account: &DestinationAccount) -> Value {
    let of = |signal: Signal| {
        let terms = account.terms(signal);
        let dropped = ExporterDropCause::ALL.iter().map(|cause| (cause.as_str(), terms.dropped(*cause)));
        json!({
            "produced": terms.produced,
            "recovered": terms.recovered,
            "delivered": terms.delivered,
            "queued": terms.queued,
            "on_disk": terms.on_disk,
            "dropped": dropped.collect::<BTreeMap<_, _>>(),
            "retries": terms.retries,
        })
    };
    // A disk that fails is no reason to stop, and one to be told.
    let error = account.error().or_else(|| account.disk_error());
    let status = if error.is_some() { "StatusRecoverableError" } else { "StatusOK" };
    let mut value = json!({
        "healthy": error.is_none(),
        "status": status,
        "metrics": of(Signal::Metrics),
        "logs": of(Signal::Logs),
        "traces": of(Signal::Traces),
    });
    if let Some(error) = error {
        value["error"] = error.into();
    }
    if let Some((bytes, limit)) = account.disk() {
        let failures = account.disk_failures();
        value["disk"] =
            json!({ "bytes": bytes, "limit": limit, "failures": failures, "error": account.disk_error() });
    }
    value
}

fn time(unix_nano: u64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(unix_nano)).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}
