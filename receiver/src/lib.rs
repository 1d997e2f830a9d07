//! jitterscope: what the kernel knows about every container's network, as OTLP.

pub mod config;
pub mod pods;
pub mod probe;
