//! jitterscope: what the kernel knows about every container's network, as OTLP.

pub mod account;
pub mod batch;
pub mod capabilities;
pub mod cli;
pub mod clock;
pub mod config;
pub mod export;
pub mod health;
pub mod logging;
pub mod node;
pub mod pods;
pub mod probe;
pub mod round;
pub mod supervisor;
pub mod telemetry;
