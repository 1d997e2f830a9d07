//! A container runtime for tests: just enough HTTP/2 and gRPC to list sandboxes and to tell of events.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Response};
use prost::Message;
use prost::bytes::Bytes;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::messages::{
    ContainerEventResponse, ListContainersResponse, ListPodSandboxResponse, PodSandbox, PodSandboxMetadata,
    VersionResponse,
};

/// What the runtime knows, and how often it was asked.
#[derive(Default)]
pub(super) struct Runtime {
    sandboxes: ArcSwap<Vec<PodSandbox>>,
    lists: AtomicUsize,
    /// `None`: it has no events, as before containerd 1.7.
    events: Option<Notify>,
}

impl Runtime {
    pub(super) fn new(events: bool) -> Arc<Self> {
        Arc::new(Self { events: events.then(Notify::new), ..Self::default() })
    }

    /// Makes a pod, and tells of it if it can.
    pub(super) fn run_pod(&self, name: &str) {
        let metadata = PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid of {name}"),
            namespace: "shop".to_owned(),
        };
        let sandbox = PodSandbox {
            id: name.to_owned(),
            metadata: Some(metadata),
            labels: HashMap::from([("app".to_owned(), name.to_owned())]),
        };
        self.sandboxes.store(Arc::new(vec![sandbox]));
        self.events.iter().for_each(Notify::notify_one);
    }

    /// How often the pods were listed.
    pub(super) fn lists(&self) -> usize {
        self.lists.load(Ordering::Relaxed)
    }

    /// Serves at a socket until the task is aborted, or dropped with the runtime of the test.
    pub(super) fn serve(self: &Arc<Self>, socket: &Path) -> JoinHandle<()> {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).unwrap();
        let runtime = self.clone();
        tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(runtime.clone().converse(stream));
            }
        })
    }

    async fn converse(self: Arc<Self>, stream: UnixStream) {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let mut calls = tokio::task::JoinSet::new();
        while let Some(Ok((request, response))) = connection.accept().await {
            let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            calls.spawn(self.clone().answer(method, response));
        }
    }

    async fn answer(self: Arc<Self>, method: String, response: SendResponse<Bytes>) {
        match method.as_str() {
            "Version" => {
                let version =
                    VersionResponse { runtime_name: "fake".to_owned(), ..VersionResponse::default() };
                send(response, &version);
            }
            "ListPodSandbox" => {
                self.lists.fetch_add(1, Ordering::Relaxed);
                send(response, &ListPodSandboxResponse { items: self.sandboxes.load().to_vec() });
            }
            "ListContainers" => send(response, &ListContainersResponse::default()),
            _ => self.tell(response).await,
        }
    }

    async fn tell(&self, mut response: SendResponse<Bytes>) {
        let Some(events) = &self.events else {
            let unimplemented = answer().header("grpc-status", "12").body(()).unwrap();
            response.send_response(unimplemented, true).unwrap();
            return;
        };
        // As servers do: no header before the first message.
        events.notified().await;
        let mut stream = response.send_response(answer().body(()).unwrap(), false).unwrap();
        loop {
            stream.send_data(frame(&ContainerEventResponse {}), false).unwrap();
            events.notified().await;
        }
    }
}

fn answer() -> http::response::Builder {
    Response::builder().header("content-type", "application/grpc")
}

fn send(mut response: SendResponse<Bytes>, message: &impl Message) {
    let mut stream = response.send_response(answer().body(()).unwrap(), false).unwrap();
    stream.send_data(frame(message), false).unwrap();
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))]);
    stream.send_trailers(trailers).unwrap();
}

/// A message as gRPC frames it: not compressed, length, bytes.
fn frame(message: &impl Message) -> Bytes {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap();
    [&[0], length.to_be_bytes().as_slice(), &message].concat().into()
}
