//! Whatever a request looks like, its parts together say the same.

use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::{
    ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint,
    NumberDataPoint, Sum, Summary, SummaryDataPoint,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use proptest::{collection::vec, prelude::*};

use super::*;

/// Entities, each with scopes, each with metrics, records or spans: of a kind and with so many points, or of a size.
type Shape = Vec<Vec<Vec<(u8, u16)>>>;

/// More than any single point or record of a shape takes with all that it stands in.
const ROOM: usize = 400;

fn shapes() -> impl Strategy<Value = Shape> {
    vec(vec(vec((any::<u8>(), 0..40_u16), 0..6), 0..4), 0..6)
}

proptest! {
    #[test]
    fn points_are_all_there_once_in_order_and_within_the_limit(shape in shapes(), limit in ROOM..4 * ROOM) {
        let payload = metrics(&shape);
        let (parts, too_large) = encode(&payload, limit);
        let decode = |part: &Encoded| ExportMetricsServiceRequest::decode(part.bytes.clone()).unwrap().into();
        let together: Vec<_> = parts.iter().flat_map(|part| flat(&Payload::Metrics(decode(part)))).collect();
        check(&payload, &parts, too_large, limit, &together)?;
    }

    #[test]
    fn records_are_all_there_once_in_order_and_within_the_limit(shape in shapes(), limit in ROOM..4 * ROOM) {
        let payload = logs(&shape);
        let (parts, too_large) = encode(&payload, limit);
        let decode = |part: &Encoded| ExportLogsServiceRequest::decode(part.bytes.clone()).unwrap();
        let together: Vec<_> = parts.iter().flat_map(|part| flat(&Payload::Logs(decode(part)))).collect();
        check(&payload, &parts, too_large, limit, &together)?;
    }

    #[test]
    fn spans_are_all_there_once_in_order_and_within_the_limit(shape in shapes(), limit in ROOM..4 * ROOM) {
        let payload = traces(&shape);
        let (parts, too_large) = encode(&payload, limit);
        let decode = |part: &Encoded| ExportTraceServiceRequest::decode(part.bytes.clone()).unwrap();
        let together: Vec<_> = parts.iter().flat_map(|part| flat(&Payload::Traces(decode(part)))).collect();
        check(&payload, &parts, too_large, limit, &together)?;
    }
}

fn check(
    payload: &Payload,
    parts: &[Encoded],
    too_large: u64,
    limit: usize,
    together: &[String],
) -> Result<(), TestCaseError> {
    prop_assert_eq!(too_large, 0);
    prop_assert!(parts.iter().all(|part| part.bytes.len() <= limit));
    prop_assert_eq!(parts.iter().map(|part| part.items).sum::<u64>(), together.len() as u64);
    prop_assert_eq!(payload.items(), together.len() as u64);
    prop_assert_eq!(&flat(payload), together);
    Ok(())
}

#[test]
fn what_is_too_large_on_its_own_is_counted_and_the_others_go_out() {
    let mut payload = logs(&vec![vec![vec![(10, 0), (250, 0), (10, 0)]]]);
    let (parts, too_large) = encode(&payload, 200);
    assert_eq!((too_large, parts.iter().map(|part| part.items).sum::<u64>()), (1, 2));
    payload = metrics(&vec![vec![vec![(0, 3)]]]);
    let (parts, too_large) = encode(&payload, 10);
    assert_eq!((too_large, parts.len()), (3, 0));
}

/// Points numbered in order by their times, of all kinds.
fn metrics(shape: &Shape) -> Payload {
    let mut numbers = 0..;
    let mut metric = |(kind, points): &(u8, u16)| Metric {
        name: format!("metric of {points}"),
        unit: "s".into(),
        data: Some(data(*kind, numbers.by_ref().take((*points).into()).collect())),
        ..Metric::default()
    };
    let mut scope = |metrics: &Vec<(u8, u16)>| ScopeMetrics {
        metrics: metrics.iter().map(&mut metric).collect(),
        schema_url: format!("scope of {}", metrics.len()),
        ..ScopeMetrics::default()
    };
    let mut resource = |scopes: &Vec<Vec<(u8, u16)>>| ResourceMetrics {
        scope_metrics: scopes.iter().map(&mut scope).collect(),
        schema_url: format!("resource of {}", scopes.len()),
        ..ResourceMetrics::default()
    };
    let resource_metrics = shape.iter().map(&mut resource).collect();
    Payload::Metrics(ExportMetricsServiceRequest { resource_metrics }.into())
}

/// Records numbered in order by their times, of all sizes.
fn logs(shape: &Shape) -> Payload {
    let mut numbers = 0..;
    let mut record = |(size, _): &(u8, u16)| LogRecord {
        time_unix_nano: numbers.next().unwrap_or_default(),
        event_name: "x".repeat((*size).into()),
        ..LogRecord::default()
    };
    let mut scope = |records: &Vec<(u8, u16)>| ScopeLogs {
        log_records: records.iter().map(&mut record).collect(),
        schema_url: format!("scope of {}", records.len()),
        ..ScopeLogs::default()
    };
    let mut resource = |scopes: &Vec<Vec<(u8, u16)>>| ResourceLogs {
        scope_logs: scopes.iter().map(&mut scope).collect(),
        schema_url: format!("resource of {}", scopes.len()),
        ..ResourceLogs::default()
    };
    let resource_logs = shape.iter().map(&mut resource).collect();
    Payload::Logs(ExportLogsServiceRequest { resource_logs })
}

/// Spans numbered in order by their beginnings, of all sizes.
fn traces(shape: &Shape) -> Payload {
    let mut numbers = 0..;
    let mut span = |(size, _): &(u8, u16)| Span {
        start_time_unix_nano: numbers.next().unwrap_or_default(),
        name: "x".repeat((*size).into()),
        ..Span::default()
    };
    let mut scope = |spans: &Vec<(u8, u16)>| ScopeSpans {
        spans: spans.iter().map(&mut span).collect(),
        schema_url: format!("scope of {}", spans.len()),
        ..ScopeSpans::default()
    };
    let mut resource = |scopes: &Vec<Vec<(u8, u16)>>| ResourceSpans {
        scope_spans: scopes.iter().map(&mut scope).collect(),
        schema_url: format!("resource of {}", scopes.len()),
        ..ResourceSpans::default()
    };
    let resource_spans = shape.iter().map(&mut resource).collect();
    Payload::Traces(ExportTraceServiceRequest { resource_spans })
}

/// Points of one of the five kinds with these numbers.
fn data(kind: u8, numbers: Vec<u64>) -> Data {
    macro_rules! points {
        ($point:ident) => {
            numbers.into_iter().map(|time_unix_nano| $point { time_unix_nano, ..$point::default() }).collect()
        };
    }
    let aggregation_temporality = i32::from(kind % 2) + 1;
    match kind % 5 {
        0 => Data::Gauge(Gauge { data_points: points!(NumberDataPoint) }),
        1 => Data::Sum(Sum {
            data_points: points!(NumberDataPoint),
            aggregation_temporality,
            is_monotonic: kind > 100,
        }),
        2 => Data::Histogram(Histogram { data_points: points!(HistogramDataPoint), aggregation_temporality }),
        3 => Data::ExponentialHistogram(ExponentialHistogram {
            data_points: points!(ExponentialHistogramDataPoint),
            aggregation_temporality,
        }),
        _ => Data::Summary(Summary { data_points: points!(SummaryDataPoint) }),
    }
}

/// Each point, record or span with all that it stands in, as text: everything but how a request is divided.
fn flat(payload: &Payload) -> Vec<String> {
    let mut flat = Vec::new();
    match payload {
        Payload::Metrics(metrics) => {
            for of in &metrics.request.resource_metrics {
                for scope in &of.scope_metrics {
                    for metric in &scope.metrics {
                        let around = (&of.schema_url, &scope.schema_url, &metric.name, &metric.unit);
                        let points = metric.data.as_ref().map(points_of).unwrap_or_default();
                        flat.extend(points.into_iter().map(|point| format!("{around:?} {point}")));
                    }
                }
            }
        }
        Payload::Logs(request) => {
            for of in &request.resource_logs {
                for scope in &of.scope_logs {
                    let around = (&of.schema_url, &scope.schema_url);
                    flat.extend(scope.log_records.iter().map(|record| format!("{around:?} {record:?}")));
                }
            }
        }
        Payload::Traces(request) => {
            for of in &request.resource_spans {
                for scope in &of.scope_spans {
                    let around = (&of.schema_url, &scope.schema_url);
                    flat.extend(scope.spans.iter().map(|span| format!("{around:?} {span:?}")));
                }
            }
        }
    }
    flat
}

/// Each point with what its kind says of all of them.
fn points_of(data: &Data) -> Vec<String> {
    macro_rules! points {
        ($message:ident, $what:expr) => {
            $message.data_points.iter().map(|point| format!("{:?} {point:?}", $what)).collect()
        };
    }
    match data {
        Data::Gauge(all) => points!(all, "gauge"),
        Data::Sum(all) => points!(all, ("sum", all.aggregation_temporality, all.is_monotonic)),
        Data::Histogram(all) => points!(all, ("histogram", all.aggregation_temporality)),
        Data::ExponentialHistogram(all) => points!(all, ("exponential", all.aggregation_temporality)),
        Data::Summary(all) => points!(all, "summary"),
    }
}
