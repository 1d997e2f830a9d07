//! What becomes of the series of a pod that goes away, and of a probe that is switched off: each is told once, at every
//! destination, that it has no value any more, and nothing that it counted is told again of another one.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise, in its helpers too")]

use std::collections::BTreeMap;
use std::fs;
use std::net::UdpSocket;

use jitterscope_integration::collector::Collector;
use jitterscope_integration::containerd::Containerd;
use jitterscope_integration::netns::{Netns, inside_of};
use jitterscope_integration::network::Family;
use jitterscope_integration::receiver::Receiver;
use jitterscope_integration::telemetry::{Attributes, Telemetry, attributes, has};
use jitterscope_integration::traffic::{CLOSED_PORT, flood};
use jitterscope_integration::{poll, requirements};
use jitterscope_semconv::{attribute as key, metric};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;

/// Metric, entity and attributes.
type Series = (String, Attributes, Attributes);

/// The points of a series: its times, and whether they are its end.
type Points = Vec<(u64, bool)>;

/// A configuration file with a destination that is told totals and one that is told differences, and what follows.
fn configuration(destinations: &[Collector; 2], rest: &str) -> String {
    let [totals, differences] = destinations.each_ref().map(Collector::endpoint);
    format!(
        "interval: 300ms\nexport: {{otlp: [{{endpoint: '{totals}'}}, \
         {{endpoint: '{differences}', temporality: delta, histograms: explicit}}]}}\n{rest}\n"
    )
}

fn destinations() -> Option<[Collector; 2]> {
    Some([Collector::start().unwrap()?, Collector::start().unwrap()?])
}

/// All series of the entities that are wanted, with their points.
fn series(telemetry: &Telemetry, wanted: &dyn Fn(&Attributes) -> bool) -> BTreeMap<Series, Points> {
    let mut all: BTreeMap<Series, Points> = BTreeMap::new();
    for (resource, metric) in telemetry.metrics() {
        let resource = attributes(&resource.attributes);
        if !wanted(&resource) {
            continue;
        }
        let mut add = |of: &[KeyValue], time: u64, flags: u32| {
            let series = (metric.name.clone(), resource.clone(), attributes(of));
            all.entry(series).or_default().push((time, flags == 1));
        };
        macro_rules! each {
            ($data:expr) => {
                $data.data_points.iter().for_each(|one| add(&one.attributes, one.time_unix_nano, one.flags))
            };
        }
        match metric.data.as_ref().unwrap() {
            Data::Sum(data) => each!(data),
            Data::Gauge(data) => each!(data),
            Data::Histogram(data) => each!(data),
            Data::ExponentialHistogram(data) => each!(data),
            Data::Summary(data) => each!(data),
        }
    }
    all
}

fn has_ended(points: &Points) -> bool {
    points.iter().any(|(_, end)| *end)
}

/// Waits until all series of the entities that are wanted have ended, and checks that each did so once and last.
fn ended(collector: &Collector, wanted: &dyn Fn(&Attributes) -> bool) -> BTreeMap<Series, Points> {
    let all = poll::until("all series end", || {
        let all = series(&collector.received().unwrap(), wanted);
        (!all.is_empty() && all.values().all(has_ended)).then_some(all)
    })
    .unwrap_or_else(|error| {
        let mut all = series(&collector.received().unwrap(), wanted);
        all.retain(|_, points| !has_ended(points));
        panic!("{error:#}: {all:#?}")
    });
    for (series, points) in &all {
        let (last, before) = points.split_last().unwrap();
        assert!(last.1 && before.iter().all(|(time, end)| !end && *time < last.0), "{series:?}: {points:?}");
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn every_series_of_a_pod_that_is_removed_ends_and_its_counts_are_told_of_nobody_else() {
    if !requirements::met(&["containerd", "runc", "ctr", "nsenter"]) {
        return;
    }
    let Some(destinations) = destinations() else { return };
    let mut containerd = Containerd::start().await.unwrap();
    let cri = format!("entities: {{cri: 'unix://{}'}}", containerd.socket().display());
    let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    fs::write(&file, configuration(&destinations, &cri)).unwrap();
    let mut receiver = Receiver::start(&["-c", &file.path().display().to_string()]).unwrap();
    let pod = containerd.run_pod("shop", "cart-7d9f").await.unwrap();
    let inode = fs::metadata(format!("/proc/{}/ns/net", pod.pid)).unwrap();
    let inode = std::os::unix::fs::MetadataExt::ino(&inode).to_string();
    for family in Family::BOTH {
        let lose = || {
            let socket = UdpSocket::bind((family.loopback(), 0))?;
            for _ in 0..7 {
                // The refusal of the one before is no surprise.
                let _ = socket.send_to(b"x", (family.loopback(), CLOSED_PORT));
            }
            Ok(())
        };
        inside_of(pod.pid, lose).unwrap();
    }
    let is_pod = |resource: &Attributes| has(resource, key::K8S_POD_UID.key, &pod.uid);
    for collector in &destinations {
        poll::until("counts of the pod", || {
            let received = collector.received().unwrap();
            let told = |name: &str| received.points(name).any(|point| is_pod(&point.resource));
            (told(metric::PACKET_DROPS.name) && told(metric::UDP_DATAGRAMS.name)).then_some(())
        })
        .unwrap();
    }
    containerd.remove_pod(&pod).await.unwrap();

    let [totals, differences] = destinations.each_ref().map(|collector| ended(collector, &is_pod));
    let metrics = [metric::PACKET_DROPS.name, metric::UDP_DATAGRAMS.name, metric::SOCKET_COUNT.name];
    for told in [&totals, &differences] {
        assert!(metrics.iter().all(|name| told.keys().any(|(of, ..)| of == name)), "{:?}", told.keys());
    }
    // Whoever is told differences is not told the first point of what nobody knows the beginning of.
    assert_eq!(totals.keys().collect::<Vec<_>>(), differences.keys().collect::<Vec<_>>());
    assert!(totals.values().all(|points| points.len() > 1));
    receiver.stop().unwrap();
    for collector in &destinations {
        let received = collector.received().unwrap();
        let leftover = |resource: &Attributes| has(resource, key::NETNS_INODE.key, &inode);
        let drops: Vec<_> = series(&received, &leftover).into_keys().collect();
        assert!(drops.iter().all(|(name, ..)| name != metric::PACKET_DROPS.name), "{drops:?}");
        assert_eq!(series(&received, &is_pod).len(), totals.len(), "nothing comes after the end");
    }
}

#[test]
fn the_series_of_a_probe_that_is_switched_off_end_and_begin_anew_with_it() {
    if !requirements::met(&["ip"]) {
        return;
    }
    let Some(destinations) = destinations() else { return };
    let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    fs::write(&file, configuration(&destinations, "")).unwrap();
    let mut receiver = Receiver::start(&["-c", &file.path().display().to_string()]).unwrap();
    let netns = Netns::new("off").unwrap();
    let is_netns = |resource: &Attributes| has(resource, key::NETNS_NAME.key, netns.name());
    let drops = |collector: &Collector| {
        let received = collector.received().unwrap();
        let mut points: Vec<_> = received.points(metric::PACKET_DROPS.name).collect();
        points.retain(|point| is_netns(&point.resource));
        points
    };
    let lose = |count| {
        flood(&netns, (Family::V4.loopback(), CLOSED_PORT).into(), count).unwrap();
        flood(&netns, (Family::V6.loopback(), CLOSED_PORT).into(), count).unwrap();
    };
    lose(5);
    let [totals, differences] = &destinations;
    let off = [metric::PACKET_DROPS.name, metric::UDP_DATAGRAMS.name];
    for collector in &destinations {
        poll::until("what will be switched off", || {
            let received = collector.received().unwrap();
            let is_told = |name: &&str| received.points(name).any(|point| is_netns(&point.resource));
            off.iter().all(is_told).then_some(())
        })
        .unwrap();
    }

    fs::write(
        &file,
        configuration(&destinations, "probes: {packetloss: {enabled: false}, udp: {enabled: false}}"),
    )
    .unwrap();
    receiver.reload().unwrap();
    for collector in &destinations {
        let ends = poll::until("the end of what is switched off", || {
            let received = collector.received().unwrap();
            let ends =
                off.map(|name| received.ends(name).into_iter().filter(|end| is_netns(&end.resource)).count());
            ends.iter().all(|count| *count > 0).then_some(ends)
        })
        .unwrap_or_else(|error| panic!("{error:#}: {}", receiver.log()));
        assert_eq!(ends[0], 2, "one of each family");
        assert_eq!(collector.received().unwrap().ends(metric::TCP_SEGMENTS.name).len(), 0);
    }
    let end = totals.received().unwrap().ends(off[0])[0].time;
    lose(3);
    fs::write(&file, configuration(&destinations, "")).unwrap();
    receiver.reload().unwrap();
    poll::until("the probe runs again", || {
        (receiver.log().matches("\"probe\":\"packetloss\"").count() >= 3).then_some(())
    })
    .unwrap();
    lose(4);
    let again = poll::until("drops of the second time", || {
        let again: Vec<_> = drops(totals).into_iter().filter(|point| point.time > end).collect();
        (again.iter().map(|point| point.value).fold(0.0, f64::max) >= 4.0).then_some(again)
    })
    .unwrap();
    assert!(again.iter().all(|point| point.start > end && point.value <= 4.0), "{again:?}");
    receiver.stop().unwrap();
    let told: f64 = drops(differences).iter().map(|point| point.value).sum();
    assert_eq!(told as u64, 2 * (5 + 4), "what was dropped while it was off, nobody saw");
}
