//! A server of OTLP that answers as a test tells it, over gRPC and HTTP on one port each, with TLS if wanted.
#![expect(clippy::unwrap_used, reason = "a part of tests, which end at the first surprise")]
#![expect(clippy::missing_panics_doc, reason = "what it panics at is a surprise")]

mod grpc;
mod http1;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::HeaderMap;
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
    trace::v1::ExportTraceServiceRequest,
};
use prost::{Message, bytes::Bytes};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::{Protocol, Received, Signal, numbers};
use crate::telemetry::Telemetry;

/// What the server does with a request; it is read in any case.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Takes it, with this body.
    Taken(Vec<u8>),
    /// gRPC only: a status, with details.
    Status(i32, &'static str, Vec<u8>),
    /// HTTP, and a proxy before gRPC: a status, headers and a body.
    Answer(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// Never answers.
    Silent,
    /// Closes the connection.
    Cut,
    /// Announces more than it sends, and closes the connection or the stream.
    CutShort,
    /// gRPC only: ends the stream without a status.
    NoStatus,
    /// Takes it after this time.
    Late(Duration),
}

impl Reply {
    /// Takes it, with nothing to say.
    #[must_use]
    pub fn ok() -> Self {
        Self::Taken(Vec::new())
    }

    /// An answer over HTTP with a status alone.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self::Answer(status, Vec::new(), Vec::new())
    }
}

/// What has come in, and what is answered next.
#[derive(Debug, Default)]
struct State {
    script: Mutex<VecDeque<Reply>>,
    received: Mutex<Vec<Received>>,
    connections: AtomicUsize,
}

/// A server on loopback. Ends when it is dropped, with all its connections.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    protocol: Protocol,
    encrypted: bool,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl Server {
    /// Starts one on a free port.
    pub async fn start(protocol: Protocol, script: impl IntoIterator<Item = Reply>) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), protocol, None, script).await
    }

    /// Starts one at an address, with TLS if it is told how.
    pub async fn start_at(
        address: SocketAddr,
        protocol: Protocol,
        tls: Option<Arc<ServerConfig>>,
        script: impl IntoIterator<Item = Reply>,
    ) -> Self {
        let listener = until_bound(address).await;
        let state = Arc::new(State { script: Mutex::new(script.into_iter().collect()), ..State::default() });
        let address = listener.local_addr().unwrap();
        let encrypted = tls.is_some();
        let task = tokio::spawn(listen(listener, protocol, tls, Arc::clone(&state)));
        Self { address, protocol, encrypted, state, task }
    }

    /// The endpoint for a destination.
    #[must_use]
    pub fn endpoint(&self) -> String {
        if self.encrypted {
            return format!("https://localhost:{}", self.address.port());
        }
        format!("http://{}", self.address)
    }

    /// The first settings of a destination here, to which others can be added.
    #[must_use]
    pub fn destination(&self) -> String {
        format!("endpoint: '{}', protocol: {}", self.endpoint(), self.protocol.name())
    }

    /// What has come in.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.state.received.lock().unwrap().clone()
    }

    /// The numbers that have come in of one signal, in order of arrival.
    #[must_use]
    pub fn numbers(&self, signal: Signal) -> Vec<u64> {
        let received = self.received().into_iter().filter(|request| request.signal == signal);
        received.flat_map(|request| request.numbers).collect()
    }

    /// All that has come in.
    #[must_use]
    pub fn telemetry(&self) -> Telemetry {
        let mut telemetry = Telemetry::default();
        for request in self.state.received.lock().unwrap().iter() {
            let body = request.body.as_ref();
            match request.signal {
                Signal::Metrics => telemetry.metrics.push(ExportMetricsServiceRequest::decode(body).unwrap()),
                Signal::Logs => telemetry.logs.push(ExportLogsServiceRequest::decode(body).unwrap()),
                Signal::Traces => telemetry.traces.push(ExportTraceServiceRequest::decode(body).unwrap()),
            }
        }
        telemetry
    }

    /// How many connections it has taken.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.state.connections.load(Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A server that was dropped gives its port back in a moment.
async fn until_bound(address: SocketAddr) -> TcpListener {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => assert!(std::time::Instant::now() < deadline, "{address}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What TCP and TLS have in common.
trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

async fn listen(
    listener: TcpListener,
    protocol: Protocol,
    tls: Option<Arc<ServerConfig>>,
    state: Arc<State>,
) {
    // Dropped with this task, and with it all connections.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, state) = (tls.clone(), Arc::clone(&state));
        connections.spawn(async move {
            let io: Box<dyn Io> = match tls {
                None => Box::new(stream),
                Some(config) => match TlsAcceptor::from(config).accept(stream).await {
                    Ok(stream) => Box::new(stream),
                    Err(_) => return,
                },
            };
            state.connections.fetch_add(1, Relaxed);
            match protocol {
                Protocol::Grpc => grpc::serve(io, state).await,
                Protocol::Http => http1::serve(io, state).await,
            }
        });
    }
}

impl State {
    /// Notes a request; what to answer.
    fn take(&self, path: String, headers: HeaderMap, body: &[u8]) -> Reply {
        let signal = match path.to_lowercase() {
            path if path.contains("logs") => Signal::Logs,
            path if path.contains("trace") => Signal::Traces,
            _ => Signal::Metrics,
        };
        let numbers = numbers(signal, body).unwrap();
        let body = Bytes::copy_from_slice(body);
        self.received.lock().unwrap().push(Received { path, headers, signal, numbers, body });
        self.script.lock().unwrap().pop_front().unwrap_or_else(Reply::ok)
    }
}

/// The content of what was sent in this encoding.
fn decompressed(encoding: Option<&str>, body: &[u8]) -> Vec<u8> {
    match encoding {
        Some("gzip") => {
            let mut content = Vec::new();
            std::io::copy(&mut flate2::read::GzDecoder::new(body), &mut content).unwrap();
            content
        }
        Some("zstd") => zstd::stream::decode_all(body).unwrap(),
        Some(other) => panic!("an encoding that nobody asked for: {other}"),
        None => body.to_owned(),
    }
}
