//! What the container runtime knows by heart and the kernel does not: names of pods and containers.

use std::collections::HashMap;

/// A pod's names.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct PodName {
    /// `k8s.pod.name`
    pub(super) name: String,
    /// `k8s.namespace.name`
    pub(super) namespace: String,
}

/// A container's name, and the pod that it is in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct ContainerName {
    /// `k8s.container.name`
    pub(super) name: String,
    /// Uid of its pod.
    pub(super) pod: String,
}

/// All names of one runtime at one moment. Published whole, never changed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Names {
    /// Name of the runtime, as `container.runtime.name`; empty: not told.
    pub(super) runtime: String,
    /// Pods by uid.
    pub(super) pods: HashMap<String, PodName>,
    /// Containers by id, without sandboxes.
    pub(super) containers: HashMap<String, ContainerName>,
    /// Uid of the pod by the id of its sandbox: the container that only holds the namespaces.
    pub(super) sandboxes: HashMap<String, String>,
}
