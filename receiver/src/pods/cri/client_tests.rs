//! How the runtime's lists become names.

use super::super::messages::{Container, ContainerMetadata, PodSandbox, PodSandboxMetadata};
use super::*;

/// Field 1 of `ListPodSandboxResponse`, written byte by byte from api.proto: a sandbox with id "s", metadata with name "n",
/// uid "u", namespace "k", and a state that we do not read.
const SANDBOXES: &[u8] = &[
    0x0a, 0x10, 0x0a, 0x01, b's', 0x12, 0x09, 0x0a, 0x01, b'n', 0x12, 0x01, b'u', 0x1a, 0x01, b'k', 0x18,
    0x01,
];

fn container(id: &str, sandbox: &str) -> Container {
    let metadata = Some(ContainerMetadata { name: "app".to_owned() });
    Container { id: id.to_owned(), pod_sandbox_id: sandbox.to_owned(), metadata }
}

#[test]
fn sandboxes_are_decoded_by_the_field_numbers_of_the_interface() {
    let sandboxes = ListPodSandboxResponse::decode(SANDBOXES).unwrap();
    let names = names("containerd", sandboxes, ListContainersResponse::default());
    assert_eq!(names.pods["u"], PodName { name: "n".to_owned(), namespace: "k".to_owned() });
    assert_eq!(names.sandboxes["s"], "u");
}

#[test]
fn a_container_belongs_to_the_pod_of_its_sandbox() {
    let sandboxes = ListPodSandboxResponse::decode(SANDBOXES).unwrap();
    let containers = vec![container("c", "s"), container("stray", "gone")];
    let names = names("containerd", sandboxes, ListContainersResponse { containers });
    assert_eq!(names.containers["c"], ContainerName { name: "app".to_owned(), pod: "u".to_owned() });
    assert!(!names.containers.contains_key("stray"));
}

#[test]
fn a_sandbox_without_uid_is_passed_over() {
    let nameless = PodSandbox { id: "s".to_owned(), metadata: Some(PodSandboxMetadata::default()) };
    let sandboxes = ListPodSandboxResponse { items: vec![nameless] };
    assert_eq!(names("", sandboxes, ListContainersResponse::default()), Names::default());
}
