//! A client of one container runtime's socket: every call has a deadline, every answer a size limit.

use std::path::Path;
use std::time::Duration;

use http::uri::PathAndQuery;
use prost::Message;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::messages::{
    ContainerEventResponse, GetEventsRequest, ListContainersRequest, ListContainersResponse,
    ListPodSandboxRequest, ListPodSandboxResponse, VersionRequest, VersionResponse,
};
use crate::pods::names::{ContainerName, Names, PodName};

/// Deadline of each call. Lists of 1,000 containers take a runtime some tens of milliseconds; one that needs longer than
/// this is in trouble, and names are not worth waiting for it.
const DEADLINE: Duration = Duration::from_secs(2);

/// Largest answer: 16,000 containers at 1 KiB each. kubelet's own limit is the same.
const MAX_ANSWER: usize = 16 << 20;

/// Why the runtime did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CriError {
    /// No connection.
    #[error("cannot connect to {path}")]
    Connect {
        path: String,
        #[source]
        source: tonic::transport::Error,
    },
    /// A call failed, took too long or was too large.
    #[error("{method} failed: {}: {}", status.code(), status.message())]
    Call { method: &'static str, status: Box<Status> },
}

/// A connection to the runtime. Cheap to clone.
#[derive(Clone)]
pub(super) struct Client {
    grpc: Grpc<Channel>,
}

impl Client {
    /// Connects to a Unix socket.
    ///
    /// Errors: there is nobody who listens, or we may not.
    pub(super) async fn connect(socket: &Path) -> Result<Self, CriError> {
        let path = socket.display().to_string();
        let failed = |source| CriError::Connect { path: path.clone(), source };
        let endpoint = Endpoint::from_shared(format!("unix://{path}")).map_err(failed)?;
        let channel = endpoint.connect_timeout(DEADLINE).connect().await.map_err(failed)?;
        Ok(Self { grpc: Grpc::new(channel).max_decoding_message_size(MAX_ANSWER) })
    }

    /// Name of the runtime, in the words of `container.runtime.name`.
    pub(super) async fn runtime(&mut self) -> Result<String, CriError> {
        let path = PathAndQuery::from_static("/runtime.v1.RuntimeService/Version");
        let version: VersionResponse = self.call("Version", path, VersionRequest {}).await?;
        Ok(version.runtime_name)
    }

    /// Names of all pods and containers, and these labels of pods: two calls, however many there are.
    pub(super) async fn names(&mut self, runtime: &str, labels: &[String]) -> Result<Names, CriError> {
        let path = PathAndQuery::from_static("/runtime.v1.RuntimeService/ListPodSandbox");
        let sandboxes: ListPodSandboxResponse =
            self.call("ListPodSandbox", path, ListPodSandboxRequest {}).await?;
        let path = PathAndQuery::from_static("/runtime.v1.RuntimeService/ListContainers");
        let containers: ListContainersResponse =
            self.call("ListContainers", path, ListContainersRequest {}).await?;
        Ok(names(runtime, labels, sandboxes, containers))
    }

    /// A message whenever a container changes state; containerd has this from 1.7 on. Opening it can take until the first
    /// one, for servers send no header before.
    ///
    /// Errors: the runtime does not have it (`Unimplemented`), or the connection is lost.
    pub(super) async fn events(&mut self) -> Result<Streaming<ContainerEventResponse>, Status> {
        let path = PathAndQuery::from_static("/runtime.v1.RuntimeService/GetContainerEvents");
        self.ready().await?;
        let answer = self.grpc.server_streaming(Request::new(GetEventsRequest {}), path, codec()).await?;
        Ok(answer.into_inner())
    }

    async fn call<Q, A>(
        &mut self,
        method: &'static str,
        path: PathAndQuery,
        request: Q,
    ) -> Result<A, CriError>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let call = async {
            self.ready().await?;
            self.grpc.unary(Request::new(request), path, codec()).await
        };
        let answer = tokio::time::timeout(DEADLINE, call).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| CriError::Call { method, status: Box::new(status) })
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.grpc.ready().await.map_err(|error| Status::new(Code::Unavailable, error.to_string()))
    }
}

fn codec<Q, A>() -> ProstCodec<Q, A> {
    ProstCodec::default()
}

/// The runtime's two lists as one table of names. A container whose sandbox is not listed has no pod any more.
fn names(
    runtime: &str,
    labels: &[String],
    sandboxes: ListPodSandboxResponse,
    containers: ListContainersResponse,
) -> Names {
    let mut names = Names { runtime: runtime.to_owned(), ..Names::default() };
    for sandbox in sandboxes.items {
        let Some(pod) = sandbox.metadata.filter(|pod| !pod.uid.is_empty()) else { continue };
        names.sandboxes.insert(sandbox.id, pod.uid.clone());
        let wanted = labels.iter().filter_map(|name| sandbox.labels.get_key_value(name));
        let labels = wanted.map(|(name, value)| (name.clone(), value.clone())).collect();
        names.pods.insert(pod.uid, PodName { name: pod.name, namespace: pod.namespace, labels });
    }
    for container in containers.containers {
        let (Some(metadata), Some(pod)) =
            (container.metadata, names.sandboxes.get(&container.pod_sandbox_id))
        else {
            continue;
        };
        names.containers.insert(container.id, ContainerName { name: metadata.name, pod: pod.clone() });
    }
    names
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
