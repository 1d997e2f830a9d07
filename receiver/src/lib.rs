//! jitterscope: what the kernel knows about every container's network, as OTLP.

pub mod cli;
pub mod config;
pub mod probe;
