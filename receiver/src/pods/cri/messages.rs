//! The few messages of the Container Runtime Interface that names need, with only the fields that are read. Numbers from
//! `runtime.v1` in k8s.io/cri-api, pkg/apis/runtime/v1/api.proto; unknown fields are skipped when decoding.

use std::collections::HashMap;

use prost::Message;

/// `VersionRequest`
#[derive(Clone, PartialEq, Message)]
pub(super) struct VersionRequest {}

/// `VersionResponse`
#[derive(Clone, PartialEq, Message)]
pub(super) struct VersionResponse {
    #[prost(string, tag = "2")]
    pub(super) runtime_name: String,
    #[prost(string, tag = "3")]
    pub(super) runtime_version: String,
}

/// `ListPodSandboxRequest`, without a filter: all of them.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ListPodSandboxRequest {}

/// `ListPodSandboxResponse`
#[derive(Clone, PartialEq, Message)]
pub(super) struct ListPodSandboxResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) items: Vec<PodSandbox>,
}

/// `PodSandbox`
#[derive(Clone, PartialEq, Message)]
pub(super) struct PodSandbox {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(message, optional, tag = "2")]
    pub(super) metadata: Option<PodSandboxMetadata>,
    /// The pod's labels, as they were when it began.
    #[prost(map = "string, string", tag = "5")]
    pub(super) labels: HashMap<String, String>,
}

/// `PodSandboxMetadata`: what makes a pod, too.
#[derive(Clone, PartialEq, Message)]
pub struct PodSandboxMetadata {
    /// Name of the pod.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Kubernetes' uid of it.
    #[prost(string, tag = "2")]
    pub uid: String,
    /// Kubernetes namespace.
    #[prost(string, tag = "3")]
    pub namespace: String,
}

/// `ListContainersRequest`, without a filter: all of them.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ListContainersRequest {}

/// `ListContainersResponse`
#[derive(Clone, PartialEq, Message)]
pub(super) struct ListContainersResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) containers: Vec<Container>,
}

/// `Container`
#[derive(Clone, PartialEq, Message)]
pub(super) struct Container {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, tag = "2")]
    pub(super) pod_sandbox_id: String,
    #[prost(message, optional, tag = "3")]
    pub(super) metadata: Option<ContainerMetadata>,
}

/// `ContainerMetadata`: what makes a container, too.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerMetadata {
    /// Name of the container within its pod.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// `GetEventsRequest`
#[derive(Clone, PartialEq, Message)]
pub(super) struct GetEventsRequest {}

/// `ContainerEventResponse`. That something happened is all that is taken from it: the lists say what.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ContainerEventResponse {}

/// Reads an answer as each of those that are read.
#[cfg(any(test, fuzzing))]
pub(in crate::pods) fn read(bytes: &[u8]) {
    let sandboxes = ListPodSandboxResponse::decode(bytes).is_ok();
    let containers = ListContainersResponse::decode(bytes).is_ok();
    std::hint::black_box((sandboxes, containers, VersionResponse::decode(bytes).is_ok()));
}
