//! The receiver's own log, on standard error.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::{Layer, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{Log, LogFormat};

/// Starts logging as configured. A second call changes nothing: the first decides for the life of the process.
pub fn apply(log: Log) {
    let color = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let layer = tracing_subscriber::fmt::layer().with_writer(stderr).with_ansi(color).with_target(false);
    let layer = match log.format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().boxed(),
    };
    // It fails only when logging has begun before.
    let _ = tracing_subscriber::registry().with(layer.with_filter(log.level)).try_init();
}
