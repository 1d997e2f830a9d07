//! A server that takes OTLP over gRPC and counts: HTTP/2 and the message frame, nothing of what comes in it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use http::{HeaderMap, Response};
use tokio::net::{TcpListener, TcpStream};

/// A Collector on loopback; ends with its runtime.
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    requests: Arc<AtomicUsize>,
}

impl Collector {
    /// Starts one.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let collector = Self { address: listener.local_addr().unwrap(), requests: Arc::default() };
        let requests = Arc::clone(&collector.requests);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&requests)));
            }
        });
        collector
    }

    /// Requests that were taken so far.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Relaxed)
    }
}

async fn serve(stream: TcpStream, requests: Arc<AtomicUsize>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let requests = Arc::clone(&requests);
        // The connection must be polled on while the body comes.
        tokio::spawn(async move {
            let mut body = request.into_body();
            while let Some(Ok(data)) = body.data().await {
                let _ = body.flow_control().release_capacity(data.len());
            }
            requests.fetch_add(1, Relaxed);
            let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            let Ok(mut answer) = respond.send_response(head, false) else { return };
            // An empty message: not compressed, length 0 (gRPC over HTTP/2, "Length-Prefixed-Message").
            let _ = answer.send_data(vec![0; 5].into(), false);
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            let _ = answer.send_trailers(trailers);
        });
    }
}
