//! The telemetry schema of jitterscope as typed constants, generated from `registry/*.yaml` by `build.rs`. No other
//! crate spells the name of a metric, event, attribute or entity: a misspelt name does not compile.

mod types;

pub use types::{
    Attribute, AttributeRef, Entity, Event, Instrument, Metric, Number, RequirementLevel, Stability,
    ValueType,
};

/// Name of the instrumentation scope of everything that jitterscope emits.
pub const SCOPE_NAME: &str = "jitterscope";

/// The version of OpenTelemetry's semantic conventions that the imported names were taken from; `schema_url` of
/// resources and scopes.
pub const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.44.0";

include!(concat!(env!("OUT_DIR"), "/registry.rs"));
