//! Harness of the end-to-end tests: namespaces, processes, Collectors.

pub mod tools;
