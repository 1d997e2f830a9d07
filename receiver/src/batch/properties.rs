//! Whatever probes emit stands once in the request, with its value, and is read again from the bytes that are sent as it was.

use std::collections::BTreeMap;

use jitterscope_ebpf::abi::histogram;
use jitterscope_semconv::{attribute as key, metric};
use opentelemetry_proto::tonic::{
    common::v1::{KeyValue, any_value::Value as Any},
    metrics::v1::{metric::Data, number_data_point::Value as Number},
    resource::v1::Resource,
};
use proptest::{collection::vec, prelude::*};
use prost::Message;

use super::{attributes::key_value, *};
use crate::pods::EntityKind;

/// What a probe emits: for which entity, which kind of value, how its series is told apart, how much.
type Emission = (u8, u8, u8, u64);

/// Entity, metric and attributes.
type Name = (String, String, Vec<String>);

fn entity(number: u8) -> Arc<Entity> {
    let name = format!("entity {number}");
    let attributes = vec![key_value(&key::NETNS_NAME, name.as_str())];
    let resource = Resource { attributes, ..Resource::default() };
    let kind = EntityKind::Netns;
    Arc::new(Entity { kind, key: number.into(), pod: None, name, resource, pending_until: None })
}

/// Values of a kind, as text, so that all kinds can be compared.
fn emit(batch: &mut Batch<'_>, (of, kind, series, value): Emission) -> (Name, String) {
    let text = format!("series {series}");
    let all: [Pair<'_>; 3] = [
        (&key::NETWORK_INTERFACE_NAME, text.as_str().into()),
        (&key::SOURCE_PORT, i64::from(series).into()),
        (&key::NETNS_HOST, (series % 2 == 0).into()),
    ];
    let attributes = &all[..=usize::from(series % 3)];
    let mut emitter = batch.entity(&entity(of), Some(50));
    let (metric, told): (&Metric, _) = match kind {
        0 => {
            emitter.counter(&metric::TCP_SEGMENTS, attributes, value >> 1);
            (&metric::TCP_SEGMENTS, format!("{:?}", Number::AsInt((value >> 1).cast_signed())))
        }
        1 => {
            emitter.amount(&metric::TCP_CONNECTION_ESTABLISHED, attributes, value.cast_signed());
            (&metric::TCP_CONNECTION_ESTABLISHED, format!("{:?}", Number::AsInt(value.cast_signed())))
        }
        2 => {
            let time = Duration::from_nanos(value);
            emitter.time(&metric::PRESSURE_TIME, attributes, time);
            (&metric::PRESSURE_TIME, format!("{:?}", Number::AsDouble(time.as_secs_f64())))
        }
        _ => {
            let mut durations = histogram { sum: value, ..histogram::default() };
            durations.buckets[usize::from(series) % durations.buckets.len()] = value >> 8;
            emitter.histogram(&metric::TCP_HANDSHAKE_DURATION, attributes, Range::LATENCY, &durations);
            (&metric::TCP_HANDSHAKE_DURATION, format!("{} {:?}", value >> 8, Some(value as f64 / 1e9)))
        }
    };
    let attributes =
        attributes.iter().map(|(attribute, value)| shown(&key_value(attribute, *value))).collect();
    ((entity(of).name.clone(), metric.name.to_owned(), attributes), told)
}

fn shown(attribute: &KeyValue) -> String {
    format!("{} {:?}", attribute.key, attribute.value.as_ref().and_then(|value| value.value.as_ref()))
}

/// Every point of a request by its name.
fn told(request: &ExportMetricsServiceRequest) -> Vec<(Name, String)> {
    let mut told = Vec::new();
    for of in &request.resource_metrics {
        let name = of.resource.as_ref().and_then(|resource| resource.attributes[0].value.clone());
        let Some(Any::StringValue(entity)) = name.and_then(|name| name.value) else { panic!("no name") };
        for metric in &of.scope_metrics[0].metrics {
            let mut add = |attributes: &[KeyValue], value| {
                let attributes = attributes.iter().map(shown).collect();
                told.push(((entity.clone(), metric.name.clone(), attributes), value));
            };
            match metric.data.as_ref().expect("data") {
                Data::Sum(sum) => sum.data_points.iter().for_each(|point| {
                    add(&point.attributes, format!("{:?}", point.value.expect("a value")));
                }),
                Data::ExponentialHistogram(all) => all.data_points.iter().for_each(|point| {
                    let buckets = point.positive.as_ref().expect("buckets");
                    assert_eq!(buckets.bucket_counts.iter().sum::<u64>(), point.count);
                    add(&point.attributes, format!("{} {:?}", point.count, point.sum));
                }),
                other => panic!("{other:?}"),
            }
        }
    }
    told
}

proptest! {
    #[test]
    fn what_is_emitted_is_what_is_read_from_the_bytes(
        emissions in vec((0..4_u8, 0..4_u8, any::<u8>(), any::<u64>()), 0..200)
    ) {
        let mut series = Series::default();
        let mut batch = Batch::new(&mut series, 100);
        // A series has one value in a collection.
        let unique: BTreeMap<_, _> =
            emissions.into_iter().map(|one| ((one.0, one.1, one.2), one)).collect();
        let mut expected: Vec<_> = unique.into_values().map(|one| emit(&mut batch, one)).collect();
        let request = batch.finish().unwrap_or_default().request;
        let read = ExportMetricsServiceRequest::decode(request.encode_to_vec().as_slice()).expect("protobuf");
        prop_assert_eq!(&read, &request);
        let mut told = told(&read);
        expected.sort();
        told.sort();
        prop_assert_eq!(told, expected);
    }
}
