//! Metrics as protobuf, written from the end to the beginning: the length of a message stands before it, and is known only
//! here when it is written. The generated code counts each message once for every message around it instead.
//!
//! What is rare in requests is left to the generated code, which a property test holds all of this against.

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value as Any},
    metrics::v1::{
        ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Metric, NumberDataPoint, ResourceMetrics,
        ScopeMetrics, Sum, metric::Data, number_data_point::Value,
    },
};
use prost::Message;

/// The request as protobuf.
pub(super) fn metrics(request: &ExportMetricsServiceRequest, size: usize) -> Vec<u8> {
    let ExportMetricsServiceRequest { resource_metrics } = request;
    let mut writer = Writer::new(size);
    for of in resource_metrics.iter().rev() {
        writer.nested(1, |writer| resource(writer, of));
    }
    writer.finish()
}

fn resource(writer: &mut Writer, of: &ResourceMetrics) {
    let ResourceMetrics { resource, scope_metrics, schema_url } = of;
    writer.text(3, schema_url);
    for one in scope_metrics.iter().rev() {
        writer.nested(2, |writer| scope(writer, one));
    }
    writer.generated(1, resource.as_ref());
}

fn scope(writer: &mut Writer, of: &ScopeMetrics) {
    let ScopeMetrics { scope, metrics, schema_url } = of;
    writer.text(3, schema_url);
    for one in metrics.iter().rev() {
        writer.nested(2, |writer| metric(writer, one));
    }
    writer.generated(1, scope.as_ref());
}

fn metric(writer: &mut Writer, of: &Metric) {
    let Metric { name, description, unit, metadata, data } = of;
    metadata.iter().rev().for_each(|one| writer.generated(12, Some(one)));
    match data {
        Some(Data::Gauge(data)) => writer.nested(5, |writer| gauge(writer, data)),
        Some(Data::Sum(data)) => writer.nested(7, |writer| sum(writer, data)),
        Some(Data::Histogram(data)) => writer.generated(9, Some(data)),
        Some(Data::ExponentialHistogram(data)) => writer.nested(10, |writer| exponential(writer, data)),
        Some(Data::Summary(data)) => writer.generated(11, Some(data)),
        None => {}
    }
    writer.text(3, unit);
    writer.text(2, description);
    writer.text(1, name);
}

fn gauge(writer: &mut Writer, of: &Gauge) {
    let Gauge { data_points } = of;
    data_points.iter().rev().for_each(|point| writer.nested(1, |writer| number(writer, point)));
}

fn sum(writer: &mut Writer, of: &Sum) {
    let Sum { data_points, aggregation_temporality, is_monotonic } = of;
    writer.number(3, u64::from(*is_monotonic));
    writer.number(2, i64::from(*aggregation_temporality).cast_unsigned());
    data_points.iter().rev().for_each(|point| writer.nested(1, |writer| number(writer, point)));
}

fn exponential(writer: &mut Writer, of: &ExponentialHistogram) {
    let ExponentialHistogram { data_points, aggregation_temporality } = of;
    writer.number(2, i64::from(*aggregation_temporality).cast_unsigned());
    data_points.iter().rev().for_each(|point| writer.nested(1, |writer| durations(writer, point)));
}

fn number(writer: &mut Writer, of: &NumberDataPoint) {
    let NumberDataPoint { attributes, start_time_unix_nano, time_unix_nano, exemplars, flags, value } = of;
    writer.number(8, u64::from(*flags));
    attributes.iter().rev().for_each(|one| writer.nested(7, |writer| attribute(writer, one)));
    exemplars.iter().rev().for_each(|one| writer.generated(5, Some(one)));
    // The generated code writes both at the place of the lower number.
    match value {
        Some(Value::AsDouble(value)) => writer.fixed_always(4, value.to_bits()),
        Some(Value::AsInt(value)) => writer.fixed_always(6, value.cast_unsigned()),
        None => {}
    }
    writer.fixed(3, *time_unix_nano);
    writer.fixed(2, *start_time_unix_nano);
}

fn durations(writer: &mut Writer, of: &ExponentialHistogramDataPoint) {
    let ExponentialHistogramDataPoint {
        attributes,
        start_time_unix_nano,
        time_unix_nano,
        count,
        sum,
        scale,
        zero_count,
        positive,
        negative,
        flags,
        exemplars,
        min,
        max,
        zero_threshold,
    } = of;
    writer.fixed(14, zero_threshold.to_bits());
    max.iter().for_each(|max| writer.fixed_always(13, max.to_bits()));
    min.iter().for_each(|min| writer.fixed_always(12, min.to_bits()));
    exemplars.iter().rev().for_each(|one| writer.generated(11, Some(one)));
    writer.number(10, u64::from(*flags));
    writer.generated(9, negative.as_ref());
    writer.generated(8, positive.as_ref());
    writer.fixed(7, *zero_count);
    writer.number(6, u64::from(((*scale << 1) ^ (*scale >> 31)).cast_unsigned()));
    sum.iter().for_each(|sum| writer.fixed_always(5, sum.to_bits()));
    writer.fixed(4, *count);
    writer.fixed(3, *time_unix_nano);
    writer.fixed(2, *start_time_unix_nano);
    attributes.iter().rev().for_each(|one| writer.nested(1, |writer| attribute(writer, one)));
}

fn attribute(writer: &mut Writer, of: &KeyValue) {
    let KeyValue { key, value, key_strindex } = of;
    writer.number(3, i64::from(*key_strindex).cast_unsigned());
    if let Some(AnyValue { value }) = value {
        writer.nested(2, |writer| any_value(writer, value.as_ref()));
    }
    writer.text(1, key);
}

fn any_value(writer: &mut Writer, of: Option<&Any>) {
    match of {
        Some(Any::StringValue(text)) => writer.bytes(1, text.as_bytes()),
        Some(Any::BoolValue(truth)) => writer.number_always(2, u64::from(*truth)),
        Some(Any::IntValue(number)) => writer.number_always(3, number.cast_unsigned()),
        Some(Any::DoubleValue(number)) => writer.fixed_always(4, number.to_bits()),
        Some(Any::ArrayValue(list)) => writer.generated(5, Some(list)),
        Some(Any::KvlistValue(list)) => writer.generated(6, Some(list)),
        Some(Any::BytesValue(bytes)) => writer.bytes(7, bytes),
        Some(Any::StringValueStrindex(index)) => {
            writer.number_always(8, i64::from(*index).cast_unsigned());
        }
        None => {}
    }
}

/// How a field is written (protobuf's "wire types").
const VARINT: u64 = 0;
const FIXED: u64 = 1;
const LENGTH: u64 = 2;

/// Bytes that grow towards the beginning.
struct Writer {
    /// What is written is at its end.
    buffer: Vec<u8>,
    free: usize,
}

impl Writer {
    /// With room for `size` bytes; more is made when it is needed.
    fn new(size: usize) -> Self {
        Self { buffer: vec![0; size], free: size }
    }

    fn finish(mut self) -> Vec<u8> {
        self.buffer.drain(..self.free);
        self.buffer
    }

    fn put(&mut self, bytes: &[u8]) {
        if bytes.len() > self.free {
            let more = self.buffer.len().max(bytes.len());
            self.buffer.splice(0..0, std::iter::repeat_n(0, more));
            self.free += more;
        }
        let end = self.free;
        self.free -= bytes.len();
        self.buffer[self.free..end].copy_from_slice(bytes);
    }

    fn varint(&mut self, mut value: u64) {
        let (mut bytes, mut length) = ([0; 10], 0);
        while value >= 0x80 {
            bytes[length] = value as u8 | 0x80;
            value >>= 7;
            length += 1;
        }
        bytes[length] = value as u8;
        self.put(&bytes[..=length]);
    }

    fn tag(&mut self, field: u64, kind: u64) {
        self.varint(field << 3 | kind);
    }

    fn length_from(&mut self, field: u64, end: usize) {
        self.varint((self.buffer.len() - self.free - end) as u64);
        self.tag(field, LENGTH);
    }

    fn nested(&mut self, field: u64, write: impl FnOnce(&mut Self)) {
        let end = self.buffer.len() - self.free;
        write(self);
        self.length_from(field, end);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.put(bytes);
        self.varint(bytes.len() as u64);
        self.tag(field, LENGTH);
    }

    fn text(&mut self, field: u64, text: &str) {
        if !text.is_empty() {
            self.bytes(field, text.as_bytes());
        }
    }

    fn number_always(&mut self, field: u64, value: u64) {
        self.varint(value);
        self.tag(field, VARINT);
    }

    fn number(&mut self, field: u64, value: u64) {
        if value != 0 {
            self.number_always(field, value);
        }
    }

    fn fixed_always(&mut self, field: u64, value: u64) {
        self.put(&value.to_le_bytes());
        self.tag(field, FIXED);
    }

    fn fixed(&mut self, field: u64, value: u64) {
        if value != 0 {
            self.fixed_always(field, value);
        }
    }

    /// A message by the generated code.
    fn generated(&mut self, field: u64, message: Option<&impl Message>) {
        if let Some(message) = message {
            self.bytes(field, &message.encode_to_vec());
        }
    }
}

#[cfg(test)]
mod tests;
