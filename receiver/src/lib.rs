//! jitterscope: what the kernel knows about every container's network, as OTLP.

pub mod account;
pub mod batch;
pub mod clock;
pub mod config;
pub mod export;
pub mod pods;
pub mod probe;
pub mod round;
pub mod supervisor;
pub mod telemetry;
