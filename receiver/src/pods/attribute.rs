//! Attribute keys, until the schema crate has them.

pub(super) struct Attribute {
    pub(super) key: &'static str,
}
macro_rules! keys { ($($name:ident = $key:literal;)*) => { $(pub(super) static $name: Attribute = Attribute { key: $key };)* } }
keys! {
    K8S_POD_UID = "k8s.pod.uid";
    K8S_POD_NAME = "k8s.pod.name";
    K8S_NAMESPACE_NAME = "k8s.namespace.name";
    K8S_NODE_NAME = "k8s.node.name";
    K8S_CONTAINER_NAME = "k8s.container.name";
    CONTAINER_ID = "container.id";
    CONTAINER_RUNTIME_NAME = "container.runtime.name";
    HOST_NAME = "host.name";
    HOST_ID = "host.id";
    HOST_ARCH = "host.arch";
    OS_TYPE = "os.type";
    OS_DESCRIPTION = "os.description";
    OS_VERSION = "os.version";
    JITTERSCOPE_NETNS_INODE = "jitterscope.netns.inode";
    JITTERSCOPE_NETNS_NAME = "jitterscope.netns.name";
}
