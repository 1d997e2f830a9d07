//! The client of one destination, whichever protocol it speaks: one connection that is made, and made again, when it
//! is needed; one time limit; certificates that are read again when their files change.

use std::sync::Arc;

use prost::bytes::Bytes;
use tokio::time::timeout;

use super::{Signal, answer::Accepted, connect::Connector, grpc, http, retry::Refusal, trust::Trust};
use crate::config::{Destination, Protocol};

/// What the receiver calls itself to servers and proxies.
pub(super) const USER_AGENT: &str = concat!("jitterscope/", env!("CARGO_PKG_VERSION"));

/// A destination cannot be built from its settings.
#[derive(Debug, thiserror::Error)]
#[error("{endpoint}: {reason}")]
pub struct BuildError {
    endpoint: String,
    reason: String,
}

/// A client of one destination.
pub struct Client {
    settings: Arc<Destination>,
    trust: Option<Trust>,
    transport: Transport,
}

#[derive(Clone)]
enum Transport {
    Grpc(Box<grpc::Transport>),
    Http(Box<http::Transport>),
}

impl Client {
    /// A client by its settings.
    ///
    /// # Errors
    /// The transport refuses the endpoint or its TLS material.
    pub fn new(settings: &Destination) -> Result<Self, BuildError> {
        let refused = |reason: String| BuildError { endpoint: settings.endpoint.to_string(), reason };
        let trust = Trust::of(settings).map_err(|error| refused(chain(&error)))?;
        let settings = Arc::new(settings.clone());
        let transport = transport(&settings, trust.as_ref());
        Ok(Self { settings, trust, transport })
    }

    /// Sends one encoded request, on behalf of whoever waits for the future; the client itself stays free.
    pub fn export(
        &self,
        signal: Signal,
        bytes: Bytes,
    ) -> impl Future<Output = Result<Accepted, Refusal>> + Send + 'static {
        let transport = self.transport.clone();
        let limit = self.settings.timeout;
        async move {
            let answer = async {
                match transport {
                    Transport::Grpc(grpc) => grpc.export(signal, bytes, limit).await,
                    Transport::Http(http) => http.export(signal, bytes).await,
                }
            };
            let late = |_| Err(Refusal::Unheard(format!("no answer within {limit:?}")));
            timeout(limit, answer).await.unwrap_or_else(late)
        }
    }

    /// Makes a connection and leaves it.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn reach(&self) -> Result<(), String> {
        let connector = Connector::new(&self.settings, self.trust.as_ref().map(Trust::config));
        connector.connect().await.map(drop).map_err(|error| chain(error.as_ref()))
    }

    /// The next request goes over a new connection, to an address that is looked up again. For a server that takes
    /// connections and never answers: what is open to it is worth nothing.
    pub fn reconnect(&mut self) {
        self.transport = transport(&self.settings, self.trust.as_ref());
    }

    /// Takes over certificates whose files have changed; the next request goes over a new connection then.
    ///
    /// # Errors
    /// The new files cannot be used; the former certificates stay, and it is tried again the next time.
    pub fn follow_certificates(&mut self) -> Result<(), String> {
        let Some(trust) = &mut self.trust else { return Ok(()) };
        if trust.follow().map_err(|error| chain(&error))? {
            tracing::info!(destination = %self.settings.endpoint, "certificates were read again");
            self.reconnect();
        }
        Ok(())
    }
}

fn transport(settings: &Destination, trust: Option<&Trust>) -> Transport {
    let connector = Connector::new(settings, trust.map(Trust::config));
    match settings.protocol {
        Protocol::Grpc => Transport::Grpc(Box::new(grpc::Transport::new(settings, connector))),
        Protocol::HttpProtobuf => Transport::Http(Box::new(http::Transport::new(settings, connector))),
    }
}

/// An error with its causes, for the transport's own text says little.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.dedup();
    texts.join(": ")
}
