//! The receiver's own log, on standard error: level and form can change while it runs.

use std::io::{IsTerminal, stderr};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer, Registry,
    layer::{Layered, SubscriberExt},
    reload,
    util::SubscriberInitExt,
};

use crate::config::{Log, LogFormat};

/// What writes the lines.
type Writer = Box<dyn Layer<Registry> + Send + Sync>;

/// The log of the process, to be changed.
pub struct Logging {
    writer: reload::Handle<Writer, Registry>,
    level: reload::Handle<LevelFilter, Layered<reload::Layer<Writer, Registry>, Registry>>,
}

impl Logging {
    /// Starts logging as configured. A process has one log: a second one writes nothing, and the first goes on.
    pub fn start(log: Log) -> Self {
        let (layer, writer) = reload::Layer::new(written(log.format));
        let (filter, level) = reload::Layer::new(log.level);
        // It fails only when logging has begun before.
        let _ = tracing_subscriber::registry().with(layer).with(filter).try_init();
        Self { writer, level }
    }

    /// Logs as configured from now on.
    pub fn change(&self, log: Log) {
        // They fail only when another log is the process's.
        let _ = self.writer.reload(written(log.format));
        let _ = self.level.reload(log.level);
    }
}

fn written(format: LogFormat) -> Writer {
    let color = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let layer = tracing_subscriber::fmt::layer().with_writer(stderr).with_ansi(color).with_target(false);
    match format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().boxed(),
    }
}
