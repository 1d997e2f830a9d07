//! The telemetry schema of jitterscope as typed constants.

/// A metric of the registry.
#[derive(Debug)]
pub struct Metric {
    /// Name on the wire.
    pub name: &'static str,
}

/// An event of the registry.
#[derive(Debug)]
pub struct Event {
    /// `event_name` on the wire.
    pub name: &'static str,
}
