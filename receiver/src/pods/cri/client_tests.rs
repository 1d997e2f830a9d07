//! How the runtime's lists become names.

use std::collections::HashMap;

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
    let names = names("containerd", &[], sandboxes, ListContainersResponse::default());
    assert_eq!(
        names.pods["u"],
        PodName { name: "n".to_owned(), namespace: "k".to_owned(), labels: Vec::new() }
    );
    assert_eq!(names.sandboxes["s"], "u");
}

#[test]
fn a_container_belongs_to_the_pod_of_its_sandbox() {
    let sandboxes = ListPodSandboxResponse::decode(SANDBOXES).unwrap();
    let containers = vec![container("c", "s"), container("stray", "gone")];
    let names = names("containerd", &[], sandboxes, ListContainersResponse { containers });
    assert_eq!(names.containers["c"], ContainerName { name: "app".to_owned(), pod: "u".to_owned() });
    assert!(!names.containers.contains_key("stray"));
}

#[test]
fn a_sandbox_without_uid_is_passed_over() {
    let nameless = PodSandbox {
        id: "s".to_owned(),
        metadata: Some(PodSandboxMetadata::default()),
        labels: HashMap::new(),
    };
    let sandboxes = ListPodSandboxResponse { items: vec![nameless] };
    assert_eq!(names("", &[], sandboxes, ListContainersResponse::default()), Names::default());
}

#[test]
fn labels_that_are_wanted_are_kept_and_no_others() {
    // Field 5: a map of two entries, "a" to "1" and "b" to "2", beside what the sandbox above has.
    let labels = [0x2a, 6, 0x0a, 1, b'a', 0x12, 1, b'1', 0x2a, 6, 0x0a, 1, b'b', 0x12, 1, b'2'];
    let mut bytes = SANDBOXES.to_vec();
    bytes[1] += labels.len() as u8;
    bytes.extend(labels);
    let wanted = ["b".to_owned(), "c".to_owned()];
    let sandboxes = ListPodSandboxResponse::decode(&*bytes).unwrap();
    let names = names("containerd", &wanted, sandboxes, ListContainersResponse::default());
    assert_eq!(names.pods["u"].labels, [("b".to_owned(), "2".to_owned())]);
}
