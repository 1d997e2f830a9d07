//! A Collector that takes everything and keeps nothing, so that its own cost stays out of the figures.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use anyhow::Result;
use http::{HeaderMap, HeaderValue, Response};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};

/// A running sink; ends with the value.
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    received: Arc<Received>,
    _runtime: Runtime,
}

/// What came so far.
#[derive(Default)]
struct Received {
    requests: AtomicU64,
    bytes: AtomicU64,
}

impl Sink {
    /// Starts one on a free port of loopback.
    pub(crate) fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let sink = Self { address: listener.local_addr()?, received: Arc::default(), _runtime: runtime };
        let received = Arc::clone(&sink.received);
        sink._runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&received)));
            }
        });
        Ok(sink)
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> u64 {
        self.received.requests.load(Relaxed)
    }

    /// Bytes of their bodies so far, compressed as they came.
    pub(crate) fn bytes(&self) -> u64 {
        self.received.bytes.load(Relaxed)
    }
}

async fn serve(stream: TcpStream, received: Arc<Received>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        // The connection must be polled on while the body comes.
        tokio::spawn(take(request, respond, Arc::clone(&received)));
    }
}

async fn take(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<prost::bytes::Bytes>,
    received: Arc<Received>,
) {
    let mut body = request.into_body();
    while let Some(Ok(data)) = body.data().await {
        received.bytes.fetch_add(data.len() as u64, Relaxed);
        // It fails only when the stream is gone, which the next read shows.
        let _ = body.flow_control().release_capacity(data.len());
    }
    received.requests.fetch_add(1, Relaxed);
    let mut head = Response::new(());
    head.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let Ok(mut answer) = respond.send_response(head, false) else { return };
    // An empty message: not compressed, length 0 (gRPC over HTTP/2, "Length-Prefixed-Message").
    let _ = answer.send_data(vec![0; 5].into(), false);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let _ = answer.send_trailers(trailers);
}
