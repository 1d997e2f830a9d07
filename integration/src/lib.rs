//! Harness of the end-to-end tests: namespaces, processes, Collectors.

mod clean_up;
pub mod collector;
pub mod containerd;
pub mod counters;
pub mod disk;
pub mod docker;
pub mod faults;
pub mod jaeger;
pub mod join;
pub mod kernel;
pub mod netns;
pub mod network;
pub mod objects;
pub mod otlp;
pub mod packet;
pub mod poll;
pub mod prometheus;
pub mod random;
pub mod receiver;
pub mod requirements;
pub mod shop;
pub mod tcp;
pub mod telemetry;
pub mod tmpfs;
pub mod tools;
pub mod traffic;
pub mod web;
