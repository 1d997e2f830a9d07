//! Names of pods and containers from the node's container runtime, over the CRI socket.

/// How urgently names are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Demand {
    /// All are known.
    #[default]
    None,
    /// Some have been unknown for long: the runtime seems not to know them.
    Idle,
    /// Some entity is new.
    Urgent,
}
