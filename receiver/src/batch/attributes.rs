//! Attributes of points and events, from registry keys and plain values to OTLP.

use jitterscope_semconv::Attribute;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, any_value};

/// An attribute's value, borrowed where it can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Value<'a> {
    /// A string.
    Str(&'a str),
    /// A 64-bit signed integer.
    Int(i64),
    /// A truth value.
    Bool(bool),
}

impl std::fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Str(text) => f.write_str(text),
            Self::Int(number) => write!(f, "{number}"),
            Self::Bool(truth) => write!(f, "{truth}"),
        }
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(value: &'a str) -> Self {
        Self::Str(value)
    }
}

impl From<i64> for Value<'_> {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<bool> for Value<'_> {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<Value<'_>> for AnyValue {
    fn from(value: Value<'_>) -> Self {
        Self {
            value: Some(match value {
                Value::Str(text) => any_value::Value::StringValue(text.to_owned()),
                Value::Int(number) => any_value::Value::IntValue(number),
                Value::Bool(truth) => any_value::Value::BoolValue(truth),
            }),
        }
    }
}

/// One attribute of a point: a key of the registry and its value.
pub type Pair<'a> = (&'static Attribute, Value<'a>);

/// One OTLP attribute.
pub fn key_value<'a>(attribute: &Attribute, value: impl Into<Value<'a>>) -> KeyValue {
    KeyValue { key: attribute.key.to_owned(), value: Some(value.into().into()), ..KeyValue::default() }
}

/// One OTLP attribute whose value is no whole number. Points are not told apart by such values.
pub fn key_double(attribute: &Attribute, value: f64) -> KeyValue {
    let value = Some(AnyValue { value: Some(any_value::Value::DoubleValue(value)) });
    KeyValue { key: attribute.key.to_owned(), value, ..KeyValue::default() }
}

/// One OTLP attribute whose value is a list of strings.
pub fn key_strings(attribute: &Attribute, values: impl IntoIterator<Item = String>) -> KeyValue {
    let values = values
        .into_iter()
        .map(|text| AnyValue { value: Some(any_value::Value::StringValue(text)) })
        .collect();
    KeyValue {
        key: attribute.key.to_owned(),
        value: Some(AnyValue { value: Some(any_value::Value::ArrayValue(ArrayValue { values })) }),
        ..KeyValue::default()
    }
}

/// The OTLP attributes of a point.
pub fn key_values(pairs: &[Pair<'_>]) -> Vec<KeyValue> {
    pairs.iter().map(|(attribute, value)| key_value(attribute, *value)).collect()
}
