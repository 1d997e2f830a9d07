//! Harness of the end-to-end tests: namespaces, processes, Collectors.

pub mod containerd;
pub mod tools;
