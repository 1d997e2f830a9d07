//! What is served over HTTP/1: accepting, and limits for who asks.

use std::{convert::Infallible, future::Future, sync::Arc, time::Duration};

use http::{Request, Response};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tracing::{debug, warn};

/// Connections served at a time. Further ones wait.
const CONNECTIONS: usize = 16;

/// How an endpoint is served.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// For the receiver's log.
    pub name: &'static str,
    /// How long a client may take to send the head of a request.
    pub patience: Duration,
    /// Whether a connection serves more than one request.
    pub keep_alive: bool,
}

/// Serves until it is dropped; its connections end with it.
pub async fn serve<A, F>(listener: TcpListener, manner: Manner, answer: A)
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(converse(stream, manner, answer.clone(), place));
            }
            Err(error) => warn!(%error, "{}", manner.name),
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn converse<A, F>(stream: TcpStream, manner: Manner, answer: A, _place: OwnedSemaphorePermit)
where
    A: Fn(Request<Incoming>) -> F + Sync,
    F: Future<Output = Response<Full<Bytes>>> + Send,
{
    let service = service_fn(|request| {
        let answer = answer(request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(manner.patience).keep_alive(manner.keep_alive);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        debug!(%error, "{}", manner.name);
    }
}
