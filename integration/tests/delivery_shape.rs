//! Totals at one destination and differences at another, of the same receiver: the differences of each series add up to its
//! total, and the kernel's counter says the same. Explicit buckets hold what the exponential ones do.

use std::collections::BTreeMap;

use jitterscope_integration::collector::Collector;
use jitterscope_integration::kernel::counter;
use jitterscope_integration::netns::Netns;
use jitterscope_integration::network::Family;
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::telemetry::{Attributes, Point, Telemetry, attributes, has};
use jitterscope_integration::traffic::{CLOSED_PORT, flood, requests, serve};
use jitterscope_integration::{poll, requirements};
use jitterscope_semconv::{attribute as key, metric};
use opentelemetry_proto::tonic::metrics::v1::{HistogramDataPoint, metric::Data};

/// Metric, entity and attributes.
type Series = (String, Attributes, Attributes);

/// The end of a histogram: what was counted, added up in nanoseconds, and the counts by the number of an explicit bucket.
#[derive(Clone, Debug, Default, PartialEq)]
struct Distribution {
    count: u64,
    nanos: i64,
    buckets: Vec<u64>,
}

impl Distribution {
    fn add(&mut self, point: &HistogramDataPoint) {
        assert_eq!(point.explicit_bounds.len() + 1, point.bucket_counts.len());
        assert_eq!(point.bucket_counts.iter().sum::<u64>(), point.count);
        self.count += point.count;
        self.nanos += nanos(point.sum);
        self.buckets.resize(point.bucket_counts.len(), 0);
        self.buckets.iter_mut().zip(&point.bucket_counts).for_each(|(sum, count)| *sum += count);
    }
}

fn nanos(seconds: Option<f64>) -> i64 {
    (seconds.unwrap_or_default() * 1e9).round() as i64
}

/// The differences of each histogram, added up.
fn added_up(telemetry: &Telemetry) -> BTreeMap<Series, Distribution> {
    let mut all: BTreeMap<Series, Distribution> = BTreeMap::new();
    for (resource, metric) in telemetry.metrics() {
        assert!(!matches!(metric.data, Some(Data::ExponentialHistogram(_))), "{metric:?}");
        if let Some(Data::Histogram(histogram)) = &metric.data {
            assert_eq!(histogram.aggregation_temporality, 1, "{metric:?}");
            for point in &histogram.data_points {
                let series =
                    (metric.name.clone(), attributes(&resource.attributes), attributes(&point.attributes));
                all.entry(series).or_default().add(point);
            }
        }
    }
    all
}

fn is_of(netns: &Netns) -> impl Fn(&Point) -> bool {
    move |point| has(&point.resource, key::NETNS_NAME.key, netns.name())
}

#[test]
fn differences_add_up_to_the_totals_of_the_kernel() {
    if !requirements::met(&["ip", "nstat"]) {
        return;
    }
    let (Some(mut totals), Some(mut differences)) =
        (Collector::start().unwrap(), Collector::start().unwrap())
    else {
        return;
    };
    let set = format!(
        "export.otlp=[{{endpoint: '{}'}}, {{endpoint: '{}', temporality: delta, histograms: explicit}}]",
        totals.endpoint(),
        differences.endpoint()
    );
    let mut receiver = Receiver::start(&["--set", &set, "--set", "interval=300ms"]).unwrap();
    let netns = Netns::new("delta").unwrap();
    for _ in 0..5 {
        for family in Family::BOTH {
            flood(&netns, (family.loopback(), CLOSED_PORT).into(), 7).unwrap();
            let server = serve(&netns, family.loopback()).unwrap();
            requests(&netns, server, 3).unwrap();
        }
        let before = differences.received().unwrap().points(metric::PACKET_DROPS.name).count();
        poll::until("a collection", || {
            let now = differences.received().unwrap().points(metric::PACKET_DROPS.name).count();
            (now > before).then_some(())
        })
        .unwrap();
    }
    receiver.stop().unwrap();
    totals.stop().unwrap();
    differences.stop().unwrap();
    let (totals, differences) = (totals.received().unwrap(), differences.received().unwrap());

    let kernel = counter(&netns, "UdpNoPorts").unwrap() + counter(&netns, "Udp6NoPorts").unwrap();
    let told: f64 =
        differences.points(metric::PACKET_DROPS.name).filter(is_of(&netns)).map(|point| point.value).sum();
    assert_eq!((kernel, told as u64), (70, 70));
    assert_eq!(totals.total(metric::PACKET_DROPS.name, is_of(&netns)), 70);
    check_windows(&differences, &netns);
    check_counters(&totals, &differences, &netns);
    check_histograms(&totals, &differences, &netns);
}

/// The times of a series' differences follow each other without gap and overlap.
fn check_windows(differences: &Telemetry, netns: &Netns) {
    let mut ends: BTreeMap<Attributes, u64> = BTreeMap::new();
    for point in differences.points(metric::PACKET_DROPS.name).filter(is_of(netns)) {
        assert!(point.start < point.time, "{point:?}");
        if let Some(end) = ends.insert(point.attributes.clone(), point.time) {
            assert_eq!(point.start, end, "{point:?}");
        }
    }
    assert!(!ends.is_empty());
}

/// What procfs counts of the namespace: from the second collection of it on, for nobody knows since when it counted.
fn check_counters(totals: &Telemetry, differences: &Telemetry, netns: &Netns) {
    for metric in [metric::UDP_DATAGRAMS.name, metric::TCP_SEGMENTS.name] {
        let mut sums: BTreeMap<Attributes, f64> = BTreeMap::new();
        for point in differences.points(metric).filter(is_of(netns)) {
            *sums.entry(point.attributes).or_default() += point.value;
        }
        let mut firsts: BTreeMap<Attributes, Point> = BTreeMap::new();
        for point in totals.points(metric).filter(is_of(netns)) {
            firsts.entry(point.attributes.clone()).or_insert(point);
        }
        let lasts = totals.last(metric).into_iter().filter(|point| is_of(netns)(point));
        let lasts: BTreeMap<_, _> = lasts.map(|point| (point.attributes, point.value)).collect();
        assert_eq!(sums.len(), lasts.len(), "{metric}");
        for (series, sum) in sums {
            let first = &firsts[&series];
            let before = if first.start == first.time { first.value } else { 0.0 };
            assert_eq!(sum, lasts[&series] - before, "{metric} {series:?}");
        }
    }
}

fn check_histograms(totals: &Telemetry, differences: &Telemetry, netns: &Netns) {
    let sums = added_up(differences);
    let mut compared = 0;
    let distributions: BTreeMap<_, _> = totals
        .distributions(metric::TCP_HANDSHAKE_DURATION.name)
        .map(|one| ((one.resource, one.attributes), one.point))
        .collect();
    for ((resource, attributes), point) in distributions {
        if !has(&resource, key::NETNS_NAME.key, netns.name()) {
            continue;
        }
        let of = (metric::TCP_HANDSHAKE_DURATION.name.to_owned(), resource, attributes);
        let sum = &sums[&of];
        assert_eq!((sum.count, sum.nanos), (point.count, nanos(point.sum)), "{of:?}");
        // Handshakes on loopback are within the bounds, where four explicit buckets are to each doubling too.
        let buckets = point.positive.unwrap_or_default();
        let exponential: Vec<u64> = buckets.bucket_counts.into_iter().filter(|count| *count > 0).collect();
        let explicit: Vec<u64> = sum.buckets.iter().copied().filter(|count| *count > 0).collect();
        assert_eq!(explicit, exponential, "{of:?}");
        compared += point.count;
    }
    assert!(compared >= 30, "{compared}");
}
