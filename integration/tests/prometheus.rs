//! Totals and differences, exponential and explicit buckets, as a real Prometheus has them: counts, rates, sums and quantiles
//! of two pods equal what is known of them, the pods share no series, and what has ended is shown no longer.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::sync::Arc;

use jitterscope::batch::attributes::key_value;
use jitterscope::batch::{Batch, Series};
use jitterscope::clock::Clock;
use jitterscope::export::Payload;
use jitterscope::pods::{Entity, EntityKind};
use jitterscope_ebpf::abi::histogram;
use jitterscope_ebpf::histogram::Range;
use jitterscope_integration::otlp::Signal;
use jitterscope_integration::otlp::deliver::{Bed, given_up, terms};
use jitterscope_integration::poll;
use jitterscope_integration::prometheus::Prometheus;
use jitterscope_semconv::{attribute as key, metric};
use opentelemetry_proto::tonic::resource::v1::Resource;

/// Nanoseconds between two collections.
const INTERVAL: u64 = 5_000_000_000;
/// Collections in which both pods are there.
const COLLECTIONS: u64 = 24;
/// Segments that each pod counts in an interval.
const SEGMENTS: [u64; 2] = [50, 120];
/// Durations that each pod counts in an interval, in nanoseconds: 100 of them, evenly up to the last.
const LAST: [u64; 2] = [100_000_000, 7_000_000];
const DURATIONS: u64 = 100;

const COUNTER: &str = "jitterscope_tcp_segments_total";
const DURATION: &str = "jitterscope_tcp_handshake_duration_seconds";

/// A pod by its name alone: two nodes can have told of it.
fn pod(number: u64) -> Arc<Entity> {
    let name = format!("pod-{number}");
    let attributes = [
        (&key::K8S_POD_UID, format!("uid-{number}")),
        (&key::K8S_POD_NAME, name.clone()),
        (&key::K8S_NAMESPACE_NAME, "shop".to_owned()),
    ];
    let attributes = attributes.iter().map(|(key, value)| key_value(key, value.as_str())).collect();
    let resource = Resource { attributes, ..Resource::default() };
    Arc::new(Entity { kind: EntityKind::Pod, key: number, pod: None, name, resource, pending_until: None })
}

/// What both pods have counted after so many intervals.
fn collection(series: &mut Series, began: u64, number: u64, pods: &[usize]) -> Option<Payload> {
    let mut batch = Batch::new(series, began + number * INTERVAL);
    batch.of("tcp");
    for of in pods {
        let mut durations = histogram::default();
        let bounds = Range::LATENCY.bounds();
        for ns in (1..=DURATIONS).map(|step| LAST[*of] * step / DURATIONS) {
            (0..number).for_each(|_| bounds.observe(&mut durations, ns));
        }
        let mut emit = batch.entity(&pod(*of as u64), Some(began));
        let attributes = [(&key::NETWORK_IO_DIRECTION, "receive".into())];
        emit.counter(&metric::TCP_SEGMENTS, &attributes, SEGMENTS[*of] * number);
        emit.histogram(&metric::TCP_HANDSHAKE_DURATION, &[], Range::LATENCY, &durations);
    }
    batch.finish().map(Payload::Metrics)
}

/// A query's only sample of each pod.
fn of_pods(prometheus: &Prometheus, query: &str, seconds: f64) -> Vec<f64> {
    let mut samples = prometheus.query(query, seconds).unwrap();
    samples.sort_by_key(|(labels, _)| labels["k8s_pod_name"].to_string());
    let names: Vec<_> = samples.iter().map(|(labels, _)| labels["k8s_pod_name"].as_str()).collect();
    assert_eq!(names, [Some("pod-0"), Some("pod-1")], "{query}: {samples:?}");
    samples.into_iter().map(|(_, value)| value).collect()
}

/// Checks counts, rates, sums and quantiles at the last collection in which both were there.
fn check(prometheus: &Prometheus, explicit: bool, seconds: f64, what: &str) {
    let is = |query: &str, expected: [f64; 2], tolerance: f64| {
        for (value, expected) in of_pods(prometheus, query, seconds).into_iter().zip(expected) {
            let off = (value / expected - 1.0).abs();
            assert!(off <= tolerance, "{what}: {query}: {value}, not {expected}");
        }
    };
    let (intervals, period) = (COLLECTIONS as f64, INTERVAL as f64 / 1e9);
    is(COUNTER, SEGMENTS.map(|one| one as f64 * intervals), 0.0);
    is(&format!("rate({COUNTER}[60s])"), SEGMENTS.map(|one| one as f64 / period), 1e-9);
    let count = intervals * DURATIONS as f64;
    let sums = LAST.map(|last| {
        let each: u64 = (1..=DURATIONS).map(|step| last * step / DURATIONS).sum();
        each as f64 / 1e9 * intervals
    });
    let (counts, summed, buckets) = if explicit {
        (format!("{DURATION}_count"), format!("{DURATION}_sum"), format!("rate({DURATION}_bucket[60s])"))
    } else {
        (
            format!("histogram_count({DURATION})"),
            format!("histogram_sum({DURATION})"),
            format!("rate({DURATION}[60s])"),
        )
    };
    is(&counts, [count; 2], 0.0);
    is(&summed, sums, 1e-9);
    for quantile in [0.5, 0.9, 0.99] {
        // The bucket of 2^¼ is known, and not which of its values.
        let bucket = |seconds: f64| (seconds.log2() * 4.0).ceil() as i32;
        let query = format!("histogram_quantile({quantile}, {buckets})");
        let told = of_pods(prometheus, &query, seconds);
        let known: Vec<_> = LAST.iter().map(|last| *last as f64 / 1e9 * quantile).collect();
        let all_in = |values: &[f64]| values.iter().copied().map(bucket).collect::<Vec<_>>();
        assert_eq!(all_in(&told), all_in(&known), "{what}: {query}: {told:?}, not {known:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rates_and_quantiles_of_two_pods_are_what_is_known_of_them_in_every_shape() {
    let shapes = [
        ("cumulative", "exponential"),
        ("delta", "exponential"),
        ("cumulative", "explicit"),
        ("delta", "explicit"),
    ];
    let mut servers = Vec::new();
    for _ in shapes {
        let Some(server) = Prometheus::start().unwrap() else { return };
        servers.push(server);
    }
    let settings: Vec<String> = servers
        .iter()
        .zip(shapes)
        .map(|(server, (temporality, histograms))| {
            format!(
                "endpoint: '{}', protocol: http/protobuf, signals: [metrics], temporality: {temporality}, histograms: {histograms}",
                server.endpoint()
            )
        })
        .collect();
    let bed = Bed::start(&settings.iter().map(String::as_str).collect::<Vec<_>>());
    // What had counted before a destination was told would be no difference.
    let began = Clock::read().now() + 1_000_000_000;
    let mut series = Series::default();
    // Then one of them is gone.
    let both = (1..=COLLECTIONS).map(|number| (number, &[0, 1][..]));
    let one = (COLLECTIONS + 1..=COLLECTIONS + 3).map(|number| (number, &[1][..]));
    for (number, pods) in both.chain(one) {
        bed.deliver(collection(&mut series, began, number, pods).unwrap());
    }
    let seconds = |number: u64| (began + number * INTERVAL) as f64 / 1e9;
    for (at, (server, shape)) in servers.iter().zip(shapes).enumerate() {
        let what = format!("{shape:?}");
        let account = bed.account(at);
        let sent = poll::until("everything is sent", || {
            Some(terms(&account, Signal::Metrics)).filter(|terms| terms.queued == 0)
        });
        assert_eq!(given_up(&sent.unwrap()), 0, "{what}: {:?}", account.error());
        check(server, shape.1 == "explicit", seconds(COLLECTIONS), &what);
        for name in [COUNTER.to_owned(), format!("{{__name__=~\"{DURATION}.*\"}}")] {
            let count = |at| server.query(&format!("count({name})"), at).unwrap()[0].1;
            let (before, after) = (count(seconds(COLLECTIONS)), count(seconds(COLLECTIONS + 3)));
            // What turns differences into totals there knows no ends: a series is shown for five minutes more, and stands still.
            let left = if shape.0 == "delta" { before } else { before / 2.0 };
            assert_eq!(after, left, "{what}: {name}: the series of one of two have ended");
        }
        if shape.0 == "delta" {
            let gone = server
                .query(&format!("{COUNTER}{{k8s_pod_name='pod-0'}}"), seconds(COLLECTIONS + 3))
                .unwrap();
            assert_eq!(gone[0].1, (SEGMENTS[0] * COLLECTIONS) as f64);
        }
    }
}
