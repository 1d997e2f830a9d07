//! Whatever a request holds, it has the very bytes that the generated code writes.

use proptest::{collection::vec, prelude::*};

use super::*;

/// Bytes that make a request when they are read as one: what the generated code reads covers every field there is.
fn requests() -> impl Strategy<Value = ExportMetricsServiceRequest> {
    let attribute = (".{0,20}", 0..9_u8, any::<i64>()).prop_map(|(key, kind, number)| {
        use Any::{
            ArrayValue, BoolValue, BytesValue, DoubleValue, IntValue, KvlistValue, StringValue,
            StringValueStrindex,
        };
        let value = match kind {
            0 => Some(StringValue(key.clone())),
            1 => Some(BoolValue(number > 0)),
            2 => Some(IntValue(number)),
            3 => Some(DoubleValue(number as f64)),
            4 => Some(BytesValue(key.clone().into_bytes())),
            5 => Some(StringValueStrindex(number as i32)),
            6 => Some(ArrayValue(Default::default())),
            7 => Some(KvlistValue(Default::default())),
            _ => None,
        };
        let value = (number % 7 != 0).then_some(AnyValue { value });
        KeyValue { key, value, key_strindex: (number % 3) as i32 }
    });
    let point = (vec(attribute, 0..5), any::<u8>(), vec(any::<i64>(), 8))
        .prop_map(|(attributes, kind, numbers)| (attributes, kind, numbers));
    vec(vec(vec((0..6_u8, vec(point, 0..6)), 0..4), 0..3), 0..4).prop_map(|shape| {
        let resource_metrics = shape.into_iter().map(|scopes| ResourceMetrics {
            resource: (scopes.len() > 1).then(Default::default),
            schema_url: "u".repeat(scopes.len() * 100),
            scope_metrics: scopes
                .into_iter()
                .map(|metrics| ScopeMetrics {
                    scope: (metrics.len() > 1).then(Default::default),
                    schema_url: "s".repeat(metrics.len()),
                    metrics: metrics.into_iter().map(one).collect(),
                })
                .collect(),
        });
        ExportMetricsServiceRequest { resource_metrics: resource_metrics.collect() }
    })
}

type Point = (Vec<KeyValue>, u8, Vec<i64>);

fn one((kind, points): (u8, Vec<Point>)) -> Metric {
    let metadata = points.first().map(|point| point.0.clone()).unwrap_or_default();
    let aggregation_temporality = i32::from(kind) - 1;
    let numbers = || points.iter().map(number_of).collect();
    let data = match kind {
        0 => Some(Data::Gauge(Gauge { data_points: numbers() })),
        1 | 2 => {
            Some(Data::Sum(Sum { data_points: numbers(), aggregation_temporality, is_monotonic: kind == 1 }))
        }
        3 => Some(Data::ExponentialHistogram(ExponentialHistogram {
            data_points: points.iter().map(durations_of).collect(),
            aggregation_temporality,
        })),
        4 => Some(Data::Histogram(Default::default())),
        _ => None,
    };
    Metric { name: "n".repeat(points.len()), description: "d".into(), unit: String::new(), metadata, data }
}

fn number_of((attributes, kind, numbers): &Point) -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes.clone(),
        start_time_unix_nano: (numbers[0] % 3).unsigned_abs(),
        time_unix_nano: numbers[1].unsigned_abs(),
        exemplars: vec![Default::default(); usize::from(kind % 3)],
        flags: u32::from(kind % 2),
        value: match kind % 4 {
            0 => None,
            1 => Some(Value::AsInt(numbers[2] % 2)),
            2 => Some(Value::AsInt(numbers[2])),
            _ => Some(Value::AsDouble(numbers[2] as f64)),
        },
    }
}

fn durations_of((attributes, kind, numbers): &Point) -> ExponentialHistogramDataPoint {
    let some = |bit: u8, value: i64| (kind & bit != 0).then_some(value as f64);
    ExponentialHistogramDataPoint {
        attributes: attributes.clone(),
        start_time_unix_nano: numbers[0].unsigned_abs(),
        time_unix_nano: numbers[1].unsigned_abs(),
        count: (numbers[2] % 3).unsigned_abs(),
        sum: some(1, numbers[2]),
        scale: numbers[3] as i32,
        zero_count: (numbers[4] % 2).unsigned_abs(),
        positive: (kind & 2 != 0).then(Default::default),
        negative: (kind & 4 != 0).then(Default::default),
        flags: u32::from(*kind),
        exemplars: vec![Default::default(); usize::from(kind % 3)],
        min: some(8, numbers[5]),
        max: some(16, numbers[6]),
        zero_threshold: (numbers[7] % 2) as f64,
    }
}

proptest! {
    #[test]
    fn the_bytes_are_those_of_the_generated_code(request in requests(), size in 0..2000_usize) {
        prop_assert_eq!(metrics(&request, size), request.encode_to_vec());
    }
}
