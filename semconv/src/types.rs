//! What the registry says of a metric, event, attribute or entity. Instances exist only as the generated statics, so
//! two of a kind are equal when their names are.

use std::fmt;
use std::hash::{Hash, Hasher};

/// How a metric's values are recorded (OpenTelemetry metrics API, "Instrument").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Instrument {
    /// A monotonic sum.
    Counter,
    /// A sum that can fall.
    UpDownCounter,
    /// A reading that makes no sense as a sum.
    Gauge,
    /// A distribution.
    Histogram,
}

/// The type of a metric's values on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Number {
    /// `as_int`.
    Int,
    /// `as_double`; the type of every histogram's sum.
    Double,
}

/// The type of an attribute's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ValueType {
    /// Text.
    String,
    /// A 64-bit signed integer.
    Int,
    /// A 64-bit floating-point number.
    Double,
    /// True or false.
    Boolean,
    /// A list of texts.
    StringArray,
    /// A list of integers.
    IntArray,
    /// Text, and the key is only the beginning of the one on the wire: `k8s.pod.label` of `k8s.pod.label.app`.
    StringTemplate,
    /// Text out of the listed values. The list is complete for our own attributes and open for imported ones.
    Enum(&'static [&'static str]),
}

/// How binding an attribute is on a signal (OpenTelemetry, "Attribute requirement levels").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequirementLevel {
    /// Always there.
    Required,
    /// There whenever the condition holds.
    ConditionallyRequired(&'static str),
    /// There when it is known; the condition is empty when there is none.
    Recommended(&'static str),
    /// Only when the user asked for it; the condition is empty when there is none.
    OptIn(&'static str),
}

/// What may still change of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stability {
    /// Anything.
    Development,
    /// Anything, but it works.
    Alpha,
    /// Little.
    Beta,
    /// Nothing, unless a mistake is found.
    ReleaseCandidate,
    /// Nothing.
    Stable,
}

/// An attribute of a data point, log record or resource.
#[derive(Debug)]
pub struct Attribute {
    /// Key on the wire.
    pub key: &'static str,
    /// Type of the value.
    pub kind: ValueType,
    /// What it says, in a sentence; markdown.
    pub brief: &'static str,
    /// What may still change.
    pub stability: Stability,
    /// Whether OpenTelemetry owns the name.
    pub imported: bool,
}

/// An attribute in its place on a metric, event or entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttributeRef {
    /// The attribute.
    pub attribute: &'static Attribute,
    /// How binding it is here.
    pub level: RequirementLevel,
}

/// A metric.
#[derive(Debug)]
pub struct Metric {
    /// Name on the wire.
    pub name: &'static str,
    /// Unit on the wire, in UCUM: `s`, `By`, `{packet}`.
    pub unit: &'static str,
    /// How values are recorded.
    pub instrument: Instrument,
    /// Type of the values.
    pub number: Number,
    /// Description on the wire; markdown.
    pub brief: &'static str,
    /// What may still change.
    pub stability: Stability,
    /// The attributes that its data points can have.
    pub attributes: &'static [AttributeRef],
    /// The entities that it is emitted for, any one of them; empty when OpenTelemetry names none.
    pub entities: &'static [&'static Entity],
    /// Whether OpenTelemetry owns the name.
    pub imported: bool,
}

/// An event: a log record with an `event_name`.
#[derive(Debug)]
pub struct Event {
    /// `event_name` on the wire.
    pub name: &'static str,
    /// `severity_number` on the wire (OpenTelemetry logs data model).
    pub severity: i32,
    /// What happened, in a sentence; markdown.
    pub brief: &'static str,
    /// What may still change.
    pub stability: Stability,
    /// The attributes that its records can have.
    pub attributes: &'static [AttributeRef],
    /// The entities that it is emitted for, any one of them.
    pub entities: &'static [&'static Entity],
    /// Whether OpenTelemetry owns the name.
    pub imported: bool,
}

/// What a resource describes.
#[derive(Debug)]
pub struct Entity {
    /// Type of the entity on the wire.
    pub name: &'static str,
    /// What it is, in a sentence; markdown.
    pub brief: &'static str,
    /// What may still change.
    pub stability: Stability,
    /// The resource attributes that tell one from another.
    pub identifying: &'static [AttributeRef],
    /// The resource attributes that only describe.
    pub descriptive: &'static [AttributeRef],
    /// Whether OpenTelemetry owns the name.
    pub imported: bool,
}

/// Equality, hashing and display by name, and the look-up of a name that came over the wire.
macro_rules! named {
    ($type:ident, $name:ident, $all:ident) => {
        impl $type {
            /// The declaration of that name, if the registry has one.
            pub fn find(name: &str) -> Option<&'static Self> {
                let index = crate::$all.binary_search_by_key(&name, |declared| declared.$name).ok()?;
                crate::$all.get(index).copied()
            }
        }

        impl PartialEq for $type {
            fn eq(&self, other: &Self) -> bool {
                self.$name == other.$name
            }
        }

        impl Eq for $type {}

        impl Hash for $type {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.$name.hash(state);
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.$name)
            }
        }
    };
}

named!(Attribute, key, ATTRIBUTES);
named!(Metric, name, METRICS);
named!(Event, name, EVENTS);
named!(Entity, name, ENTITIES);

impl Attribute {
    /// Whether a key on the wire is this attribute's.
    pub fn is_key(&self, key: &str) -> bool {
        match self.kind {
            ValueType::StringTemplate => {
                key.strip_prefix(self.key).is_some_and(|end| end.len() > 1 && end.starts_with('.'))
            }
            _ => key == self.key,
        }
    }

    /// The values that are allowed, if the attribute is an enum of our own; others are open.
    pub fn closed_values(&self) -> Option<&'static [&'static str]> {
        match self.kind {
            ValueType::Enum(values) if !self.imported => Some(values),
            _ => None,
        }
    }
}

impl fmt::Display for Instrument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Counter => "counter",
            Self::UpDownCounter => "updowncounter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        })
    }
}
