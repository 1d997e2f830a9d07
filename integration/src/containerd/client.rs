//! The calls of the Container Runtime Interface that make and remove pods.

use std::path::Path;

use anyhow::{Context, Result};
use prost::Message;
use tonic::Request;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use super::PATIENCE;
use super::messages::{CreateContainerRequest, Empty, Id, PodSandboxConfig, RunPodSandboxRequest};

/// A connection that is made when it is first used.
pub(super) struct Client(Grpc<Channel>);

impl Client {
    pub(super) fn new(socket: &Path) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
        Ok(Self(Grpc::new(endpoint.timeout(PATIENCE).connect_lazy())))
    }

    pub(super) async fn version(&mut self) -> Result<()> {
        self.call("Version", Empty {}).await.map(|Empty {}| ())
    }

    pub(super) async fn run_pod_sandbox(&mut self, config: PodSandboxConfig) -> Result<String> {
        let sandbox: Id = self.call("RunPodSandbox", RunPodSandboxRequest { config: Some(config) }).await?;
        Ok(sandbox.id)
    }

    pub(super) async fn create_container(&mut self, request: CreateContainerRequest) -> Result<String> {
        let container: Id = self.call("CreateContainer", request).await?;
        Ok(container.id)
    }

    pub(super) async fn start_container(&mut self, id: &str) -> Result<()> {
        self.call("StartContainer", Id { id: id.to_owned() }).await.map(|Empty {}| ())
    }

    pub(super) async fn remove_pod_sandbox(&mut self, id: &str) -> Result<()> {
        self.call("StopPodSandbox", Id { id: id.to_owned() }).await.map(|Empty {}| ())?;
        self.call("RemovePodSandbox", Id { id: id.to_owned() }).await.map(|Empty {}| ())
    }

    async fn call<Q, A>(&mut self, method: &'static str, request: Q) -> Result<A>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let path = PathAndQuery::try_from(format!("/runtime.v1.RuntimeService/{method}"))?;
        self.0.ready().await.context(method)?;
        let answer = self.0.unary(Request::new(request), path, ProstCodec::<Q, A>::default()).await;
        Ok(answer.context(method)?.into_inner())
    }
}
